"""Several runs side by side, and the page of a run that goes on."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import report_run

import topwork
from topwork import UsageError
from topwork_report import step_log
from topwork_report.command import report
from topwork_report.page import write_page
from topwork_report.pages import live
from topwork_report.pages.compare import write_comparison

fcntl = pytest.importorskip("fcntl")  # locks of folders
EVIL = "</script><script>alert('x')</script>"


def small_run(root: Path, accuracy: float, rate: float, seed: int = 0) -> Path:
    result = {"metrics": {"accuracy": accuracy}, "primary": "accuracy", "higher_is_better": True, "measures": "model"}
    losses = [{"step": step, "loss": rate / step} for step in (1, 2, 3)]
    report_run.stage(root, 1, "train", 2.0, {"history": losses, "change": "training"})
    report_run.stage(root, 2, "evaluate", 1.0, result)
    report_run.stage(root, 3, "probe", 1.0, {"metrics": {"accuracy": 0.123}})
    report_run.write(root / "run.json", {"name": EVIL, "task": "text-classification", "seed": seed})
    stages = [{"train": {"learning_rate": rate, "epochs": 2}}, "evaluate"]
    report_run.write(root / "recipe.yaml", json.dumps({"task": "x", "seed": seed, "stages": stages}))
    return root


def compared(file: Path, *folders: Path) -> report_run.Reader:
    assert write_comparison(list(folders), file)["page"] == str(file)
    return report_run.Reader(file.read_text(encoding="utf-8"))


def test_metrics_curves_and_recipes_stand_side_by_side(tmp_path: Path) -> None:
    first, second = small_run(tmp_path / "a", 0.8, 0.5), small_run(tmp_path / "b", 0.9, 0.25)
    write_page(second)
    reader = compared(tmp_path / "compare.html", first, second)
    assert "evaluate 1 accuracy 0.8 0.9" in reader.text and "0.123" not in reader.text
    assert reader.count("td", class_="best") == 1
    assert "stages 1.train.learning_rate 0.5 0.25" in reader.text and "epochs" not in reader.text
    assert reader.count("path", class_="curve") == 2
    assert [found["href"] for tag, found in reader.tags if tag == "a"] == ["b/report.html"] * 3
    assert reader.count("script") == 2 and EVIL not in reader.text


def test_repetitions_are_one_column_with_intervals(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / f"seeds/seed-{seed}", 0.7 + seed / 10, 0.5, seed) for seed in (0, 1)]
    number = {
        "stage": "02-evaluate",
        "name": "accuracy",
        "mean": 0.75,
        "interval": [0.625, 0.875],
        "values": [0.7, 0.8],
    }
    summary = {"kind": "seeds", "runs": [run.name for run in runs], "numbers": [number]}
    report_run.write(tmp_path / "seeds/summary.json", summary)
    reader = compared(tmp_path / "c.html", tmp_path / "seeds", small_run(tmp_path / "alone", 0.9, 0.5))
    assert "evaluate 1 accuracy 0.75 [ 0.625 , 0.875 ] 0.9" in reader.text
    assert "repetitions 2 –" in reader.text


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path / "a", 0.8, 0.5)
    with pytest.raises(UsageError, match="named twice"):
        write_comparison([run, run], tmp_path / "c.html")
    with pytest.raises(UsageError, match="not a run"):
        write_comparison([run, tmp_path], tmp_path / "c.html")
    with pytest.raises(UsageError, match="single run"):
        report([run, run], live=True)
    with pytest.raises(UsageError, match=r"report\.html"):
        report([run], out=tmp_path / "c.html")
    report_run.write(tmp_path / "seeds/summary.json", "{")
    with pytest.raises(UsageError, match="damaged"):
        write_comparison([run, tmp_path / "seeds"], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


@contextmanager
def held(folder: Path):
    """Hold a run folder as a run does."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_run_that_goes_on_is_written_again_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path / "run", 0.8, 0.5)
    training = run / "stages/04-train"
    step_log.note_step(training, 10, {"loss": 0.625, "note": "text"})
    step_log.note_step(training, 20, {"loss": 0.375})
    (training / "checkpoints/logged.jsonl").open("a").write('{"step": 30, "lo')  # being written
    lock, pages = held(run), []
    lock.__enter__()

    def sleep(seconds: float) -> None:
        pages.append((run / "report.html").read_text(encoding="utf-8"))
        if len(pages) == 2:
            report_run.stage(run, 4, "train", 2.0, {"history": [{"step": 20, "loss": 0.375}]})
            lock.__exit__(None, None, None)

    monkeypatch.setattr(live.time, "sleep", sleep)
    said: list[str] = []
    written = live.watch(run, 7, said.append)
    assert len(pages) == 2 and "written again every 7 s" in said[0]
    for page in pages:
        reader = report_run.Reader(page)
        assert reader.count("meta", content="7") == 1 and "The run goes on" in reader.text
        assert "4 · train" in reader.text and "Not everything could be shown" not in reader.text
        assert reader.count("path", class_="curve") == 2
    last = (run / "report.html").read_text(encoding="utf-8")
    assert written["problems"] == [] and 'http-equiv="refresh"' not in last and "The run goes on" not in last


def test_a_training_leaves_no_log_behind(tmp_path: Path) -> None:
    recipe = {
        "task": "text-classification",
        "base": {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                            "intermediate_size": 8}},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "stages": [{"train": {"epochs": 1, "batch_size": 2}}],
    }  # fmt: skip
    rows = [{"text": f"{word} film", "label": word} for word in ("good", "bad", "dull") * 4]
    report_run.write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    seen: list[list[dict]] = []

    class Watching:
        @topwork.hookimpl
        def step_logged(self, run):
            seen.append(step_log.logged_steps(run.folder))

    run = topwork.run(recipe, folder=tmp_path / "run", plugins=topwork.load_plugins(extra=[Watching()]), quiet=True)
    assert max(map(len, seen)) >= 2 and all("loss" in steps[0] for steps in seen if steps)
    assert not (run.root / "stages/01-train/checkpoints").exists()


def test_runs_of_different_tasks_are_not_ranked_nor_laid_over_each_other(tmp_path: Path) -> None:
    first, second = small_run(tmp_path / "a", 0.8, 0.5), small_run(tmp_path / "b", 0.9, 0.25)
    report_run.write(second / "run.json", {"name": "b", "task": "image-classification", "seed": 0})
    reader = compared(tmp_path / "compare.html", first, second)
    assert reader.count("td", class_="best") == 0 and "evaluate 1 accuracy 0.8 0.9" in reader.text
    assert "text-classification, train 1: loss" in reader.text and "image-classification, train 1: loss" in reader.text
    assert reader.count("svg", class_="chart") == 2


def test_a_training_that_was_killed_keeps_its_curve(tmp_path: Path) -> None:
    run = small_run(tmp_path / "a", 0.8, 0.5)
    training = run / "stages/04-train"
    for step in (1, 2):
        step_log.note_step(training, step, {"loss": 1 / step})
    write_page(run)
    reader = report_run.Reader((run / "report.html").read_text(encoding="utf-8"))
    assert "4 · train" in reader.text and "not finished" in reader.text and "did not finish" in reader.text
    assert reader.count("path", class_="curve") == 2
