"""Checkpoints of a training: whatever is absent, cut short, changed or of another training is refused by its file."""

from __future__ import annotations

import errno
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import engine_plugin
import pytest

import topwork
from topwork import CheckpointError, TopworkError

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "topwork.safetensors")


class Stopped(BaseException):
    """Ends a training as a kill does."""


def recipe(folder: Path, **train) -> dict:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in engine_plugin.point_rows(40)))
    options = {"steps": 12, "batch_size": 4, "checkpoint_every": 4, "learning_rate": 0.01, **train}
    return {
        "task": {"name": "points", "dropout": 0.2},
        "base": BASE,
        "data": {"train": str(rows)},
        "stages": [{"train": options}],
    }


def interrupt(made: dict, root: Path, plugins, step: int = 10) -> Path:
    """Run until a step, and return the newest checkpoint."""
    from topwork.training import trainer

    real = trainer.TaskTrainer.compute_loss

    def compute_loss(self, *arguments, **options):
        if self.state.global_step == step:
            raise Stopped
        return real(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.TaskTrainer, "compute_loss", compute_loss)
        with pytest.raises(Stopped):
            topwork.run(made, folder=root, plugins=plugins, quiet=True)
    folders = root.glob("stages/01-train/checkpoints/checkpoint-*")
    return max(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))


@pytest.fixture(scope="module")
def interrupted(engine, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    interrupt(recipe(folder), folder / "run", engine)
    return folder / "run"


@pytest.fixture(scope="module")
def other(engine, tmp_path_factory) -> Path:
    """The newest checkpoint of a training with another seed and learning rate."""
    folder = tmp_path_factory.mktemp("other")
    return interrupt({**recipe(folder, learning_rate=0.02), "seed": 1}, folder / "run", engine)


@pytest.fixture
def root(interrupted, tmp_path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def newest(root: Path) -> Path:
    return root / "stages/01-train/checkpoints/checkpoint-8"


def test_every_file_that_trainer_writes_is_known(root):
    assert sorted(path.name for path in newest(root).iterdir()) == sorted([*FILES, "whole"])


def test_an_untouched_checkpoint_gives_the_model_of_the_uninterrupted_run(root, tmp_path, engine):
    whole = topwork.run(recipe(tmp_path), folder=tmp_path / "whole", plugins=engine, quiet=True)
    resumed = topwork.resume(root, plugins=engine, quiet=True)
    for name, tensor in whole.model.state_dict().items():
        assert (tensor == resumed.model.state_dict()[name]).all(), name


def test_processes_that_prepare_rows_change_nothing_of_a_training_nor_of_its_resumption(tmp_path, engine):
    """Training and resumption reach a second epoch, whose iterator draws from the same generator as dropout does."""
    runs = [
        topwork.run(recipe(tmp_path, workers=workers), folder=tmp_path / f"whole-{workers}", plugins=engine, quiet=True)
        for workers in (0, 1)
    ]
    interrupt(recipe(tmp_path, workers=1), tmp_path / "run", engine)
    runs.append(topwork.resume(tmp_path / "run", plugins=engine, quiet=True))
    expected = runs[0].model.state_dict()
    for run in runs[1:]:
        assert all((tensor == expected[name]).all() for name, tensor in run.model.state_dict().items())


def remove(file: Path) -> None:
    file.unlink()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [remove, cut_short, empty, flip])
def test_a_damaged_file_is_named(damage, name, root, engine):
    damage(newest(root) / name)
    with pytest.raises(CheckpointError, match=rf"checkpoint-8/{name}.*(missing|cut short or changed|was changed)"):
        topwork.resume(root, plugins=engine, quiet=True)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_training_is_named(name, root, other, engine):
    shutil.copy(other / name, newest(root) / name)
    with pytest.raises(CheckpointError, match=name):
        topwork.resume(root, plugins=engine, quiet=True)


def test_a_whole_checkpoint_of_another_training_is_refused(root, other, engine):
    shutil.rmtree(newest(root))
    shutil.copytree(other, newest(root))
    with pytest.raises(CheckpointError, match="of another training"):
        topwork.resume(root, plugins=engine, quiet=True)


MARK = '{"finished": false, "training": "x", "files": {"optimizer.pt": %s}}'
ENTRIES = ["5", "{}", '{"size": 1}', '{"size": "x", "sha256": "y"}', "null", "[]"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "finished", "[" * 99999, *(MARK % entry for entry in ENTRIES)]
)
def test_a_damaged_mark_is_named(content, root, engine):
    (newest(root) / "whole").write_text(content)
    with pytest.raises(CheckpointError, match="checkpoint-8/whole: the mark"):
        topwork.resume(root, plugins=engine, quiet=True)


def test_without_its_newest_checkpoint_the_training_goes_on_from_the_one_before(root, tmp_path, engine):
    shutil.rmtree(newest(root))
    whole = topwork.run(recipe(tmp_path), folder=tmp_path / "whole", plugins=engine, quiet=True)
    resumed = topwork.resume(root, plugins=engine, quiet=True)
    assert all((tensor == resumed.model.state_dict()[name]).all() for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize("is_full", [True, False])
def test_a_full_disk_while_torch_writes_is_said(is_full, tmp_path, engine, monkeypatch):
    """torch.save does not say why it failed: the system is asked whether the folder can be written at all."""
    import torch

    from topwork import files

    def failing(*arguments, **options):
        raise RuntimeError("unexpected pos 960 vs 854")

    def refusing(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", failing)
    if is_full:
        monkeypatch.setattr(files.os, "fsync", refusing)
        monkeypatch.setattr(files, "flush_to_disk", lambda path: None)
    message = "stage 1, train: No space left on device; free some space" if is_full else "unexpected pos"
    with pytest.raises(TopworkError if is_full else RuntimeError, match=message):
        topwork.run(recipe(tmp_path), folder=tmp_path / "run", plugins=engine, quiet=True)


def test_losses_stand_in_windows_of_equal_length(tmp_path, engine):
    """Checkpoints, ends of epochs and evaluations between two logs make no window shorter."""
    from topwork.training.history import equal_windows

    made = recipe(tmp_path, steps=173, checkpoint_every=7)
    often = topwork.run(made, folder=tmp_path / "often", plugins=engine, quiet=True).results[0]["result"]
    never = recipe(tmp_path, steps=173, checkpoint_every="never")
    plain = topwork.run(never, folder=tmp_path / "never", plugins=engine, quiet=True).results[0]["result"]
    steps = [log["step"] for log in often["history"]]
    assert {after - before for before, after in pairwise(steps[:-1])} == {3}
    assert steps == [log["step"] for log in plain["history"]]
    for ours, theirs in zip(often["history"], plain["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    logs = [{"step": 4, "loss": 1.0}, {"step": 5, "loss": 6.0}, {"step": 6, "eval_f1": 1.0}, {"step": 10, "loss": 2.0}]
    assert equal_windows(logs, 5) == [{"step": 5, "loss": 2.0}, {"step": 6, "eval_f1": 1.0}, {"step": 10, "loss": 2.0}]
    assert equal_windows([*logs, {"step": 11, "loss": 8.0}], 5)[-1] == {"step": 11, "loss": 3.0}
