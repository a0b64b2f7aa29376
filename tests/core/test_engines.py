"""Engines of several processes: the one that was asked for runs or is refused; a process that dies ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_plugin
import pytest
import torch
import yaml

import topwork
from topwork.cli import main
from topwork.engines import check_engine
from topwork.system.errors import translate_system_error

HELPERS = Path(__file__).parents[1] / "helpers"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.mark.parametrize(
    ("variable", "running", "message"),
    [
        ("ACCELERATE_USE_FSDP", "MULTI_CPU", "FSDP was asked for, but DDP on CPUs would run"),
        ("ACCELERATE_USE_FSDP", "NO", "FSDP was asked for, but one process would run"),
        ("ACCELERATE_USE_DEEPSPEED", "MULTI_CPU", "DeepSpeed was asked for, but DDP on CPUs would run"),
        ("ACCELERATE_USE_DEEPSPEED", "MULTI_GPU", "DeepSpeed was asked for, but MULTI_GPU would run"),
        ("ACCELERATE_USE_MEGATRON_LM", "MULTI_CPU", "Megatron-LM was asked for"),
        ("ACCELERATE_USE_FSDP", "MULTI_GPU", None),
        ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED", None),
    ],
)
def test_another_engine_than_the_one_that_was_asked_for_is_an_error(variable, running, message):
    check_engine({variable: "false"}, running)
    if message is None:
        check_engine({variable: "true"}, running)
        return
    with pytest.raises(topwork.UsageError, match=f"{variable}: {message}"):
        check_engine({variable: "true"}, running)


def test_a_run_says_so_before_anything_is_computed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart"]) == 2
    assert "FSDP was asked for, but one process would run" in capsys.readouterr().err
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_process_that_cannot_be_reached_is_no_fault_of_topwork(monkeypatch):
    error = RuntimeError("[/src/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer")
    assert translate_system_error(error) is None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    translated = translate_system_error(error)
    assert translated is not None and "another process of this run has ended" in translated.cause
    assert "topwork resume" in translated.hint


@pytest.mark.faults
def test_a_model_that_is_divided_among_processes_is_refused_by_name(tmp_path):
    code = f"""
import torch, topwork
from torch.distributed.fsdp import fully_shard
from topwork.process import is_sharded
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
from tiny_bases import BASES
rows = topwork.load_plugins().task("text-classification").example_rows()
work = topwork.build("text-classification", BASES["text-classification"], rows=rows)
assert not is_sharded(work.model)
fully_shard(work.model)
assert is_sharded(work.model)
for call in (lambda: work.evaluate(rows), lambda: work.apply("head_importance", {{"calibrate": rows}}), work.look):
    try:
        call()
    except topwork.UsageError as error:
        print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr[-3000:]
    lines = shown.stdout.splitlines()
    assert len(lines) == 3 and all("divided among" in line for line in lines), lines
    assert lines[1].startswith("stage head_importance: ")


def environment() -> dict[str, str]:
    source = HELPERS.parents[1]
    paths = [HELPERS, source / "core", source / "plugins", os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(map(str, paths))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def write_recipe(folder: Path, steps: int) -> Path:
    rows = engine_plugin.point_rows(101)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "points",
        "base": {"config": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}},
        "data": {role: str(folder / "rows.jsonl") for role in ("train", "evaluate")},
        "stages": [{"train": {"steps": steps, "batch_size": 8, "checkpoint_every": 20}}, "evaluate", "save"],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def process_of_rank(rank: int, marks: str) -> int | None:
    """Return the id of the process of a launch that has this rank, None as long as there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables and marks.encode() in command:
            return int(folder.name)
    return None


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not show processes")
def test_a_process_that_is_killed_ends_the_run_which_goes_on_on_another_number_of_processes(tmp_path):
    root = tmp_path / "run"
    plugin = ["-m", "topwork", "--plugin", str(HELPERS / "engine_plugin.py")]
    line = [*LAUNCH, "--multi_gpu", *plugin, "run", str(write_recipe(tmp_path, 3000)), "--folder", str(root)]
    with (tmp_path / "log.txt").open("w") as log:
        launched = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 240
        while not list(root.glob("stages/*/checkpoints/checkpoint-*/whole")):
            assert launched.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            assert time.monotonic() < limit
            time.sleep(0.05)
        victim = process_of_rank(1, str(root))
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert launched.wait(timeout=60) != 0
    finally:
        launched.kill()
        launched.wait()
    assert process_of_rank(0, str(root)) is None
    said = (tmp_path / "log.txt").read_text()
    assert "was not foreseen" not in said  # the launcher may end the other process before it says anything
    assert not (root / "stages/01-train/result.json").exists()
    line = [sys.executable, *plugin, "resume", str(root)]
    shown = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert "going on from checkpoint-" in shown.stderr + shown.stdout
    result = json.loads((root / "stages/01-train/result.json").read_text())["result"]
    assert result["steps"] == 3000 and (root / "model" / "topwork.json").is_file()
