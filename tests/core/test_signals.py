"""Signals that ask a run to end: a checkpoint, the command that goes on, an exit code of their own."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import wraps
from pathlib import Path

import engine_plugin
import pytest
import torch
import yaml
from safetensors.torch import load_file

import topwork
from topwork.cli.app import main
from topwork.system.signals import EXIT_CODE, SIGNALS

BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
PLUGIN = Path(engine_plugin.__file__)
SLEEPS = """
import signal, time
from topwork import Stage, hookimpl

class Sleeps(Stage):
    '''Sends itself a signal.'''
    name = "sleeps"
    def __call__(self, run):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)
        return {}

@hookimpl
def register_stages():
    return [Sleeps]
"""


@pytest.fixture(autouse=True)
def usual_handlers():
    """Handle signals as a shell in front does: in the background, or under nohup, some are ignored."""
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in SIGNALS}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = engine_plugin.point_rows(40)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(stages, **train) -> str:
        options = {"steps": 12, "batch_size": 4, "checkpoint_every": "never", "learning_rate": 0.01, **train}
        made = {
            "task": {"name": "points", "dropout": 0.2},
            "base": BASE,
            "data": {"train": "rows.jsonl", "calibrate": {"cut": 8}},
            "stages": [*stages, {"train": options}, "save"],
        }
        Path("recipe.yaml").write_text(yaml.safe_dump(made))
        return "recipe.yaml"

    return write


def send_at(step: int, name: str, monkeypatch) -> None:
    """Send this process a signal in the forward pass after `step` steps, once."""
    from topwork.training.trainer import TaskTrainer

    real, sent = TaskTrainer.compute_loss, []

    def compute_loss(self, *arguments, **options):
        if self.state.global_step == step and not sent:
            sent.append(name)
            signal.raise_signal(getattr(signal, name))
        return real(self, *arguments, **options)

    monkeypatch.setattr(TaskTrainer, "compute_loss", compute_loss)


TRAININGS = {
    "no checkpoints": {},
    "every four steps": {"checkpoint_every": 4},
    "every epoch, the best": {"checkpoint_every": "epoch", "evaluate_every": "epoch", "keep": "best"},
    "accumulated": {"accumulate": 2, "steps": 8},
}


@pytest.mark.parametrize(
    ("name", "training"),
    [*((name, "no checkpoints") for name in SIGNALS), *(("SIGUSR1", training) for training in list(TRAININGS)[1:])],
)
def test_a_training_is_stopped_with_a_checkpoint_and_goes_on_to_the_same_model(
    name, training, recipe, monkeypatch, capsys
):
    file = recipe([], **TRAININGS[training])
    assert main(["run", file, "--folder", "whole", "--quiet", "--plugin", str(PLUGIN)]) == 0
    send_at(5, name, monkeypatch)
    capsys.readouterr()
    code = main(["run", file, "--folder", "stopped", "--json", "--plugin", str(PLUGIN)])
    out, err = capsys.readouterr()
    assert code == EXIT_CODE == json.loads(out)["error"]["exit_code"]
    assert f"stopped by {name}; `topwork resume stopped` goes on" in err
    assert Path("stopped/stages/01-train/checkpoints/checkpoint-6/whole").is_file()
    assert "Traceback" not in err
    assert main(["resume", "stopped", "--quiet", "--plugin", str(PLUGIN)]) == 0
    assert "going on from checkpoint-6" in Path("stopped/log.txt").read_text()
    first, second = (load_file(next(Path(folder, "model").glob("*.safetensors"))) for folder in ("whole", "stopped"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_stage_that_is_no_training_is_stopped_at_once(recipe, tmp_path, capsys):
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    start = time.monotonic()
    code = main(
        ["run", recipe(["sleeps"]), "--folder", "stopped", "--plugin", str(PLUGIN), "--plugin", "sleeps.py", "--quiet"]
    )
    assert (code, time.monotonic() - start < 4) == (EXIT_CODE, True)
    assert "stopped by SIGTERM; `topwork resume stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("count", [2, 5])
def test_signals_at_once_are_one_request(count, recipe, monkeypatch):
    """`timeout` and schedulers signal a process, and its group as well."""
    send_at(5, "SIGTERM", monkeypatch)
    monkeypatch.setattr(signal, "raise_signal", lambda number: [os.kill(os.getpid(), number) for _ in range(count)])
    assert main(["run", recipe([]), "--folder", "stopped", "--plugin", str(PLUGIN), "--quiet"]) == EXIT_CODE
    assert list(Path("stopped/stages/01-train").glob("checkpoints/*/whole"))


def test_a_later_second_signal_ends_a_training_at_once(recipe, monkeypatch):
    send_at(5, "SIGTERM", monkeypatch)
    monkeypatch.setattr("topwork.system.signals.SAME_REQUEST", 0.0)
    monkeypatch.setattr(signal, "raise_signal", lambda number: [os.kill(os.getpid(), number) for _ in range(2)])
    assert main(["run", recipe([]), "--folder", "stopped", "--plugin", str(PLUGIN), "--quiet"]) == EXIT_CODE
    assert not list(Path("stopped/stages/01-train").glob("checkpoints/*/whole"))


def test_a_signal_that_is_ignored_stays_so(recipe, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        send_at(5, "SIGHUP", monkeypatch)
        assert main(["run", recipe([]), "--folder", "whole", "--plugin", str(PLUGIN), "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_clock_that_is_set_back_loses_no_checkpoint(recipe, monkeypatch):
    """Trainer sorts checkpoints by the times of their folders: the newest would be the first to go."""
    from topwork.training import trainer

    seal = trainer.seal

    def seal_yesterday(folder, run, finished):
        seal(folder, run, finished)
        age = 86_400 + 10 * int(folder.name.rpartition("-")[2])
        os.utime(folder, (time.time() - age, time.time() - age))

    monkeypatch.setattr(trainer, "seal", seal_yesterday)
    send_at(11, "SIGTERM", monkeypatch)
    file = recipe([], checkpoint_every=2)
    assert main(["run", file, "--folder", "stopped", "--plugin", str(PLUGIN), "--quiet"]) == EXIT_CODE
    folders = sorted(path.name for path in Path("stopped/stages/01-train/checkpoints").glob("checkpoint-*"))
    assert folders == ["checkpoint-10", "checkpoint-12"]
    assert topwork.resume("stopped", plugins=topwork.load_plugins(files=[PLUGIN]), quiet=True).results


# ------------------------------------------------------------------ commands and stages that are no training

#: command -> how it says to go on
COMMANDS = {
    "predict model rows.csv --output out.jsonl": None,
    "predict model rows.csv --output shared --shards 4": "the same command goes on",
    "evaluate model rows.csv": None,
    "evaluate model rows.csv --output shared --shards 4": "the same command goes on",
    "importance model rows.csv --output shared": "the same command goes on",
    "compress model --data rows.csv --macs 0.8 --rows 4 --output smaller": None,
    "export model --format torch_export --output exported": None,
    "sweep words.yaml -s stages.0.evaluate.batch_size=4,8 --sampler grid --folder swept": "the same command goes on",
    "run words.yaml --folder r": "`topwork resume r` goes on",
    "run words.yaml --folder r -o stages=[head_importance]": "`topwork resume r` goes on",
    "run words.yaml --folder r -o stages=[attention_patterns]": "`topwork resume r` goes on",
    "run words.yaml --folder r -o stages=[compress] -o stages.compress.macs=0.8": "`topwork resume r` goes on",
    "run words.yaml --folder r -o stages=[predict] -o stages.predict.role=evaluate": "`topwork resume r` goes on",
    "run words.yaml --folder r --seeds 2": "the same command with `--folder r` goes on",
}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """A folder with a recipe, its rows and a saved model."""
    folder = tmp_path_factory.mktemp("words")
    lines = [f"{'good' if index % 2 else 'bad'} word {index},{index % 2}" for index in range(24)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    made = {
        "task": "text-classification",
        "base": {"config": {**BASE["config"], "intermediate_size": 8}},
        "data": {role: str(folder / "rows.csv") for role in ("train", "calibrate", "evaluate")},
        "stages": ["evaluate", "save"],
    }
    (folder / "words.yaml").write_text(yaml.safe_dump(made))
    assert main(["run", str(folder / "words.yaml"), "--folder", str(folder / "made"), "--quiet"]) == 0
    (folder / "made" / "model").rename(folder / "model")
    return folder


@pytest.mark.parametrize("name", ["SIGTERM"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_stopped_with_nothing_half_written_and_says_how_to_go_on(
    command, name, words, tmp_path, monkeypatch, capsys
):
    from transformers import BertModel

    monkeypatch.chdir(tmp_path)
    for path in words.iterdir():
        Path(path.name).symlink_to(path)
    real, calls = BertModel.forward, []

    @wraps(real)
    def forward(self, *arguments, **options):
        calls.append(name)
        if len(calls) == 1:
            signal.raise_signal(getattr(signal, name))
        return real(self, *arguments, **options)

    monkeypatch.setattr(BertModel, "forward", forward)
    capsys.readouterr()
    code = main([*command.split(), "--json"])
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (code, error["exit_code"], error["cause"]) == (EXIT_CODE, EXIT_CODE, f"stopped by {name}")
    assert (COMMANDS[command] or error["cause"]) in err and "Traceback" not in err
    assert not list(Path().rglob("*.partial")) and not {"out.jsonl", "smaller", "exported"} & set(os.listdir())
    again = "resume r" if command.startswith("run") and "--seeds" not in command else command
    assert main([*again.split(), "--quiet"]) == 0
