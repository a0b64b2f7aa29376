"""Real processes: runs that are killed and go on end as if nothing had happened, and two processes train as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import engine_plugin
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tolerance import about

import conftest
import topwork

pytestmark = pytest.mark.faults

HELPERS = Path(__file__).parents[1] / "helpers"
PLUGIN = HELPERS / "engine_plugin.py"
ROWS = engine_plugin.point_rows(101)
WORDS = {"good": ["fine", "lovely", "great"], "bad": ["awful", "poor", "dull"], "odd": ["strange", "weird", "queer"]}


def environment():
    source = HELPERS.parents[1]
    paths = [HELPERS, source / "core", source / "plugins", os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


def topwork_line(*arguments):
    return [sys.executable, "-m", "topwork", "--plugin", str(PLUGIN), *map(str, arguments)]


def finish(arguments, cwd):
    done = subprocess.run(arguments, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def kill_when(found, arguments, cwd):
    """Start a run and kill -9 it as soon as `found()` is true."""
    with open(cwd / "output.txt", "w") as out:
        process = subprocess.Popen(arguments, cwd=cwd, env=environment(), stdout=out, stderr=out)
    try:
        limit = time.monotonic() + 300
        while not found():
            assert process.poll() is None, (cwd / "output.txt").read_text()[-4000:]
            assert time.monotonic() < limit
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def results(root):
    # sizes are rounded: what a resumed run notes of its model may be some bytes longer
    timed = ("items_per_second", "rows_per_second", "seconds", "output_seconds", "megabytes")
    files = sorted((root / "stages").glob("*/result.json"))
    records = [json.loads(file.read_text()) for file in files]
    return [(record["stage"], {k: v for k, v in record["result"].items() if k not in timed}) for record in records]


def same_files(first, second):
    left, right = (next((root / "model").glob("*.safetensors")) for root in (first, second))
    left, right = load_file(left), load_file(right)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(folder, recipe):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_killed_in_the_middle_of_training(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
    train = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": 4, "evaluate_every": "epoch"}
    recipe = {
        "task": {"name": "points", "dropout": 0.2, "augment": True, "pause": 0.05},
        "base": {"config": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}},
        "data": {"train": str(tmp_path / "rows.jsonl"), "evaluate": {"cut": 0.2}, "calibrate": {"cut": 20}},
        "stages": [{"train": {**train, "checkpoint_every": 4}}, "evaluate", "save"],
    }
    file = write_recipe(tmp_path, recipe)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(topwork_line("run", file, "--folder", whole), tmp_path)
    checkpoints = killed / "stages/01-train/checkpoints"
    kill_when(
        lambda: list(checkpoints.glob("*/whole")) and list(checkpoints.glob("checkpoint-8")),
        topwork_line("run", file, "--folder", killed),
        tmp_path,
    )
    assert not (killed / "stages/01-train/result.json").exists()
    finish(topwork_line("resume", killed), tmp_path)
    assert "going on from checkpoint-" in (killed / "log.txt").read_text()
    assert results(killed) == results(whole) and same_files(whole, killed)
    assert dict(results(whole))["train"]["steps"] == 24 and not checkpoints.exists()


def test_killed_right_after_pruning(tmp_path):
    rows = [
        {"text": f"{word} {other} thing {number}", "label": label}
        for label, words in WORDS.items()
        for number, word in enumerate(words * 4)
        for other in words[:2]
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    train = {"epochs": 2, "batch_size": 8, "learning_rate": 0.002}
    config = {**conftest.TINY_BERT, "vocab_size": 200}
    stages = [
        {"train": train},
        "head_importance",
        {"prune_heads": {"share": 0.4}},
        {"train": {**train, "epochs": 6}},
        "evaluate",
        "save",
    ]
    recipe = {
        "task": "text-classification",
        "base": {"config": config},
        "data": {"train": str(tmp_path / "rows.jsonl"), "evaluate": {"cut": 0.2}},
        "stages": stages,
    }
    file = write_recipe(tmp_path, recipe)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    topwork.run(str(file), folder=whole, quiet=True)
    pruned = killed / "stages/03-prune_heads/result.json"
    kill_when(pruned.exists, topwork_line("run", file, "--folder", killed), tmp_path)
    assert not (killed / "stages/04-train/result.json").exists()
    finish(topwork_line("resume", killed), tmp_path)
    assert "going on from stages/03-prune_heads/model" in (killed / "log.txt").read_text()
    assert results(killed) == results(whole) and same_files(whole, killed)
    assert [stage for stage, _ in results(whole)][2] == "prune_heads"


def test_two_processes_train_as_one(tmp_path):
    """101 rows do not divide by two: every row is seen once an epoch, all processes end with the same weights, and
    what they report together is what one process finds."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    train = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "evaluate_every": "epoch", "keep": "best"}
    recipe = {
        "task": {"name": "points", "sink": str(tmp_path / "seen")},
        "base": {"config": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}},
        "data": {role: str(tmp_path / "rows.jsonl") for role in ("train", "calibrate", "evaluate")},
        "stages": [
            {"train": train},
            "agree",
            {"train": {"epochs": 1, "batch_size": 8, "freeze": ["backbone"]}},
            "agree",
            {"evaluate": {"loss": True}},
            {"predict": {"role": "evaluate"}},
            "save",
        ],
    }
    file = write_recipe(tmp_path, recipe)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["-m", "topwork", "--plugin", str(PLUGIN), "run", str(file), "--folder", str(tmp_path / "two")]
    os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        finish(launch, tmp_path)
    finally:
        del os.environ["ACCELERATE_USE_CPU"]
    found = results(tmp_path / "two")
    assert found[0][1]["steps"] == 14 and found[0][1]["items"] == 101
    assert [result for stage, result in found if stage == "agree"] == [{"processes": 2, "agree": True}] * 2

    passes = 3 + 1  # three epochs of training, and the loss of the evaluation
    shares = [Counter(share.read_text().split()) for share in tmp_path.glob("seen.*")]
    seen, expected = sum(shares, Counter()), Counter({str(row["x"][0]): passes for row in ROWS})
    assert not expected - seen
    assert len(seen - expected) <= 2  # the rows on which each stored model proves that it loads
    assert len(shares) == 2 and all(sum(share.values()) > 150 for share in shares)

    plugins = topwork.load_plugins(files=[PLUGIN])
    work = topwork.load(tmp_path / "two/model", plugins=plugins)
    work.task.options.sink = None
    alone = work.apply("evaluate", {"evaluate": ROWS}, loss=True)
    assert alone["metrics"] == about(found[4][1]["metrics"])
    assert alone["rows"] == found[4][1]["rows"] == 101
    lines = (tmp_path / "two/stages/06-predict/predictions.jsonl").read_text().splitlines()
    predicted = [json.loads(line) for line in lines]
    assert [line["row"] for line in predicted] == list(range(101))
    for line, expected in zip(predicted, work.predict(ROWS)):
        assert line["prediction"]["label"] == expected["label"]
        assert line["prediction"]["score"] == about(expected["score"])
    run = json.loads((tmp_path / "two/run.json").read_text())
    assert run["processes"] == 2
