"""What is no fault of a recipe, said without a traceback: a full disk, a folder in use, damaged records, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import engine_plugin
import pytest
import torch
from safetensors import SafetensorError

import topwork
from topwork import CheckpointError, Stage, TopworkError, UsageError, hookimpl
from topwork.cli.app import main
from topwork.files import write_whole
from topwork.runs.lock import locking
from topwork.system.errors import translate_system_error

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
RAISED: list[BaseException] = []


class Raises(Stage):
    """Raises what the test wants."""

    name = "raises"

    def __call__(self, run):
        raise RAISED.pop()


class Unlogged(Stage):
    """Raises what the test wants, and nothing can be written into the log any more."""

    name = "unlogged"

    def __call__(self, run):
        (run.root / "log.txt").unlink()
        (run.root / "log.txt").mkdir()
        raise RAISED.pop()


class Bad:
    @hookimpl
    def register_stages(self):
        return [Raises, Unlogged]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in engine_plugin.point_rows(12)))
    return {"name": "demo", "task": "points", "base": BASE, "data": {"train": str(rows)}, "stages": ["draw"]}


def refused_memory() -> RuntimeError:
    """Return the error of torch's allocator when the system has too little memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**17, dtype=torch.uint8)
    return caught.value


FAULTS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), "a/b: No space left on device; free some space"),
    (PermissionError(errno.EACCES, "Permission denied", "c"), "c: Permission denied; choose a folder"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "No space left on device; free some space"),
    (MemoryError(), "out of memory; take a smaller `batch_size`"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory (CUDA out of memory"),
    (refused_memory(), "out of memory ([enforce fail"),
    (RuntimeError("cannot write (os error 13)"), "Permission denied; choose a folder"),
]


@pytest.mark.parametrize(("error", "text"), FAULTS, ids=lambda value: type(value).__name__)
def test_what_the_machine_refuses_is_said_with_its_stage(error, text, recipe):
    RAISED[:] = [error]
    recipe["stages"] = ["raises"]
    with pytest.raises(TopworkError) as caught:
        topwork.run(recipe, plugins=topwork.load_plugins(extra=[engine_plugin, Bad()]), quiet=True)
    assert str(caught.value).startswith(f"stage 1, raises, {text}" if ": " in text else f"stage 1, raises: {text}")
    assert "failed: " in Path("runs/demo-1/log.txt").read_text()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), TopworkError("no")])
def test_a_log_that_cannot_be_written_does_not_hide_the_first_error(error, recipe):
    RAISED[:] = [error]
    recipe["stages"] = ["unlogged"]
    with (
        pytest.warns(RuntimeWarning, match="hook run_failed"),
        pytest.raises(TopworkError, match=r"stage 1, unlogged(, a/b: No space|: no)"),
    ):
        topwork.run(recipe, plugins=topwork.load_plugins(extra=[engine_plugin, Bad()]), quiet=True)


def test_what_a_plugin_does_wrong_is_left_alone():
    assert translate_system_error(OSError("cannot identify image file")) is None  # PIL's, of a damaged picture
    assert translate_system_error(ValueError("wrong")) is None
    assert translate_system_error(RuntimeError("No space left on device, says a plugin")) is None


def test_a_run_folder_has_one_run_at_a_time(recipe, engine, tmp_path):
    run = topwork.run(recipe, plugins=engine, quiet=True, folder="one")
    with locking(run.root), pytest.raises(UsageError, match="another process is at work"):
        topwork.resume(run.root, plugins=engine, quiet=True)
    assert topwork.resume(run.root, plugins=engine, quiet=True).results == run.results
    with pytest.raises(UsageError, match="holds a run already"):
        topwork.run(recipe, plugins=engine, quiet=True, folder="one")
    (tmp_path / "two").mkdir()
    with locking(tmp_path / "two"), pytest.raises(UsageError, match="another process is at work"):
        topwork.run(recipe, plugins=engine, quiet=True, folder="two")
    with pytest.raises(UsageError, match="file of that name"):
        topwork.run(recipe, plugins=engine, quiet=True, folder="rows.jsonl")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path):
    """Workers of a data loader notice the death of a killed run some seconds later."""
    import multiprocessing

    forks = multiprocessing.get_context("fork")
    begun, never = forks.Event(), forks.Event()

    def work():
        begun.set()
        never.wait(60)

    with locking(tmp_path):
        worker = forks.Process(target=work, daemon=True)
        worker.start()
        assert begun.wait(60)
    try:
        with locking(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", "3"),
        ("run.json", "{}"),
        ("run.json", '{"plugin_files": 5}'),
        ("run.json", '{"plugin_files": [], "begun": [1]}'),
        ("run.json", '{"plugin_files": [], "begun": "x"}'),
        ("run.json", '{"plugin_files": [], "begun": {"01-draw": 5}}'),
        ("run.json", '{"plugin_files": [], "kernels": "x"}'),
        ("run.json", "[" * 99999),
        ("stages/01-draw/result.json", "{"),
        ("stages/01-draw/result.json", '{"stage": 5, "index": "a", "folder": 5, "seconds": null, "result": []}'),
        ("stages/01-draw/result.json", '{"stage": "draw"}'),
    ],
)
def test_a_damaged_run_folder_is_named(file, content, recipe, engine):
    run = topwork.run(recipe, plugins=engine, quiet=True)
    (run.root / file).write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        topwork.resume(run.root, plugins=engine, quiet=True)


def test_nothing_goes_by_the_words_of_an_error():
    """Words may change; codes and types decide. Gloo's errors alone have neither."""
    core = Path(topwork.__file__).parent
    files = [*core.rglob("*.py"), *(core.parents[1] / "plugins").rglob("*.py")]
    compared = re.compile(r"[\"'] (in|==) (str\((error|exception|failure)\)|(error|exception|failure)\.(cause|args)\b)")
    hits = [f"{file.name}: {line.strip()}" for file in files for line in _lines(file) if compared.search(line)]
    assert [hit for hit in hits if "/gloo/transport/" not in hit] == []


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_seeds_are_not_negative(engine):
    with pytest.raises(UsageError, match="0 or more"):
        topwork.build("points", BASE, rows=engine_plugin.point_rows(9), plugins=engine, seed=-1)


# ------------------------------------------------------------------ on the command line


@pytest.fixture
def shell(monkeypatch, tmp_path, capsys):
    """A command that raises what the test wants: its exit code and what it prints to stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPWORK_PLUGINS", "console")
    (tmp_path / "bad.py").write_text(
        "from topwork import hookimpl\nimport errno\n"
        "def full(): raise OSError(errno.ENOSPC, 'No space left on device', 'x')\n"
        "def bug(): raise ZeroDivisionError('oh')\n"
        "def stopped(): raise KeyboardInterrupt\n"
        "@hookimpl\ndef register_commands(): return [full, bug, stopped]\n"
    )

    def call(*arguments):
        code = main([*arguments, "--plugin", "bad.py"])
        return code, capsys.readouterr().err

    return call


def test_exit_codes(shell):
    code, err = shell("full")
    hint = "free some space, or write elsewhere: `--folder` of a run, `--output` of other commands"
    assert (code, err) == (1, f"x: No space left on device; {hint}\n")
    assert "Traceback" in shell("full", "--debug")[1]
    code, err = shell("bug")
    assert (code, "ZeroDivisionError: oh" in err, "please report it" in err) == (1, True, True)
    assert shell("stopped") == (130, "interrupted\n")


def test_ctrl_c_while_plugins_are_loaded(shell, tmp_path):
    (tmp_path / "bad.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    code, err = shell("list")
    assert (code, err.startswith("interrupted while the plugin bad (")) == (130, True)


def test_a_plugin_that_raises_ctrl_c_itself_is_at_fault(shell, tmp_path):
    (tmp_path / "bad.py").write_text("raise KeyboardInterrupt")
    code, err = shell("list")
    assert (code, "cannot load the plugin: KeyboardInterrupt (bad.py:1)" in err) == (2, True)


def test_what_cannot_be_written_is_named(shell, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "r.yaml").write_text("task: x\n")
    code, err = shell("cp", "r.yaml", "file/below/r.yaml")
    assert (code, err.count("\n"), "Traceback" in err, "file" in err) == (1, 1, False, True)


def test_a_full_disk_says_which_file_was_written(tmp_path):
    """`write` and `flush` raise without a name."""
    for number, place in ((errno.ENOSPC, str(tmp_path / "scores.csv")), (errno.EIO, None)):
        with pytest.raises(OSError) as raised, write_whole(tmp_path / "scores.csv"):
            raise OSError(number, os.strerror(number))
        translated = translate_system_error(raised.value)
        assert translated is not None and translated.place == place
