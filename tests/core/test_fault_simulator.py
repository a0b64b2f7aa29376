"""Faults at any point of a run: it ends as the unbroken one after `resume`, or is refused with the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import engine_plugin
import pytest

import topwork
from topwork import files

SIMULATOR = Path(__file__).parents[1] / "helpers" / "fault_simulator.py"
BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_fifty_seeded_faults() -> None:
    """`python tests/helpers/fault_simulator.py --seeds 500` plays more."""
    done = subprocess.run(
        [sys.executable, str(SIMULATOR), "--seeds", "50"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "50 seeds, 0 failures" in done.stdout


# ------------------------------------------------------------------ what the simulator found, each by itself


class Killed(BaseException):
    """Ends a run as a kill does."""


@pytest.fixture
def recipe(tmp_path) -> dict:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in engine_plugin.point_rows(20)))
    train = {"train": {"steps": 4, "batch_size": 4, "checkpoint_every": 2}}
    stages = [train, {"evaluate": {"role": "train"}}, "save"]
    return {"task": "points", "base": BASE, "data": {"train": str(rows)}, "stages": stages}


def killed_while_removing(name: str, recipe: dict, root: Path, engine) -> None:
    """Run until a folder of this name is removed; then remove one of its files, and die."""
    real = shutil.rmtree

    def rmtree(path, *arguments, **options):
        if Path(path).name in (name, f".{name}.{os.getpid()}.partial") and Path(path).is_dir():
            next(file for file in sorted(Path(path).rglob("*"), reverse=True) if file.is_file()).unlink()
            raise Killed
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            topwork.run(recipe, folder=root, plugins=engine, quiet=True)


@pytest.mark.parametrize("name", ["model", "checkpoints"])
def test_a_run_that_is_killed_while_it_tidies_up_is_resumed_and_leaves_nothing(name, recipe, engine, tmp_path) -> None:
    whole = topwork.run(recipe, folder=tmp_path / "whole", plugins=engine, quiet=True)
    killed_while_removing(name, recipe, tmp_path / "run", engine)
    run = topwork.resume(tmp_path / "run", plugins=engine, quiet=True)
    assert [record["stage"] for record in run.results] == ["train", "evaluate", "save"]
    names, expected = ({path.relative_to(root) for path in root.rglob("*")} for root in (run.root, whole.root))
    assert names == expected
    assert topwork.load(run.root / "model", plugins=engine).predict(engine_plugin.point_rows(2))


def test_what_was_half_written_is_removed_by_resume(recipe, engine, tmp_path) -> None:
    run = topwork.run(recipe, folder=tmp_path / "run", plugins=engine, quiet=True)
    names = sorted(run.root.rglob("*"))
    with files.write_whole(run.root / "stages/03-save/big.bin") as temporary:
        temporary.write_bytes(b"x")
        shutil.copytree(temporary.parent, temporary.parent.with_name(f"{temporary.parent.name}{files.PARTIAL}"))
    (run.root / "stages/03-save/big.bin").unlink()
    assert len(sorted(run.root.rglob("*"))) == len(names) + 2
    topwork.resume(run.root, plugins=engine, quiet=True)
    assert sorted(run.root.rglob("*")) == names


def test_what_a_run_without_records_left_is_removed_by_the_next(recipe, engine, tmp_path) -> None:
    left = tmp_path / "run" / ".run.json.abcdefgh.partial" / "run.json"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    (tmp_path / "run" / ".config").mkdir()
    topwork.run({**recipe, "stages": recipe["stages"][:1]}, folder=tmp_path / "run", plugins=engine, quiet=True)
    assert not left.parent.exists() and (tmp_path / "run" / ".config").is_dir()


def test_stages_of_another_run_are_copied_whole_or_not_at_all(recipe, engine, tmp_path, monkeypatch) -> None:
    first = topwork.run(recipe, folder=tmp_path / "first", plugins=engine, quiet=True)
    real = shutil.copytree

    def copytree(source, target, *arguments, **options):
        real(source, target, *arguments, **options)
        raise Killed

    monkeypatch.setattr(shutil, "copytree", copytree)
    with pytest.raises(Killed):
        topwork.run(recipe, folder=tmp_path / "second", plugins=engine, quiet=True, reuse=first.root)
    assert not list((tmp_path / "second").glob("stages/*/result.json"))


def test_files_of_a_checkpoint_are_on_the_disk_before_its_mark(recipe, engine, tmp_path, monkeypatch) -> None:
    flushed: list[str] = []
    real = files.flush_to_disk
    monkeypatch.setattr(
        "topwork.training.checkpoints.flush_to_disk", lambda path: (flushed.append(path.name), real(path))
    )
    topwork.run(recipe, folder=tmp_path / "run", plugins=engine, quiet=True)
    assert flushed == ["checkpoint-2", "checkpoint-4"]
