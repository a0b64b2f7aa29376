"""Trainings that FSDP2 divides among processes: the run of one process, its checkpoints and its folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import sharded_runs
import torch
from safetensors import safe_open
from torch import nn

import topwork
from topwork.engines import requested_sharding
from topwork.training.sharding import check_sharding

ROOT = Path(__file__).parents[2]
ASKED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Runs of two processes under FSDP2, and the one of a single process that they should equal."""
    folder = tmp_path_factory.mktemp("sharded")
    topwork.run(sharded_runs.recipe(folder), folder=folder / "alone", quiet=True)
    sharded_runs.stopped(folder, folder / "taken")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", sharded_runs.__file__, str(folder)]
    paths = [ROOT / "tests" / "helpers", ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    topwork.resume(folder / "stopped", quiet=True)
    return folder


def result(root: Path, name: str) -> dict:
    (file,) = root.glob(f"stages/{name}/result.json")
    return json.loads(file.read_text())["result"]


@pytest.mark.faults
@pytest.mark.parametrize("run", ["whole", "stopped", "taken"])
def test_a_divided_training_is_that_of_one_process_wherever_it_went_on(run, runs):
    """`stopped` went on in one process, `taken` was begun by one; two processes cannot share nine rows evenly."""
    for stage in ("01-train", "04-train"):
        expected, got = result(runs / "alone", stage), result(runs / run, stage)
        for key in ("loss", "best") if stage == "01-train" else ("loss",):
            assert got[key] == pytest.approx(expected[key], rel=1e-6, abs=2e-6), (stage, key)
        losses = [[log["loss"] for log in found["history"] if "loss" in log] for found in (expected, got)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-6, abs=2e-6)
        assert got["trained_parameters"] == expected["trained_parameters"]
    expected, got = (result(runs / name, "05-evaluate")["metrics"] for name in ("alone", run))
    assert got == pytest.approx(expected, rel=1e-6, abs=2e-6)


@pytest.mark.faults
def test_importance_and_pruning_after_a_divided_training_have_the_whole_model(runs):
    expected, got = (result(runs / name, "02-head_importance") for name in ("alone", "whole"))
    scores = [[layer["scores"] for layer in found["layers"]] for found in (expected, got)]
    assert numpy.allclose(scores[1], scores[0], rtol=1e-4, atol=1e-6)
    after = [result(runs / name, "03-prune_heads")["heads_after"] for name in ("alone", "whole")]
    assert after[0] == after[1]


@pytest.mark.faults
def test_folders_that_were_saved_after_a_divided_training_are_those_of_one_process(runs):
    names = []
    for run in ("alone", "whole"):
        with safe_open(runs / run / "model" / "topwork.safetensors", "pt") as stored:
            names.append({key: stored.get_slice(key).get_shape() for key in stored.keys()})  # noqa: SIM118
    assert names[0] == names[1]
    rows = [{"text": "good fine"}, {"text": "odd dull weak"}]
    first, second = (list(topwork.load(runs / run / "model").predict(rows)) for run in ("alone", "whole"))
    scores = [[part["score"] for part in prediction] for prediction in (*first, *second)]
    assert numpy.allclose(scores[:2], scores[2:], atol=1e-3)


def test_settings_of_fsdp_that_would_be_ignored_are_refused_by_name():
    refused = {
        "FSDP_VERSION": "1",
        "FSDP_OFFLOAD_PARAMS": "true",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "FSDP_IGNORED_MODULES": "embeddings",
    }
    for name, value in refused.items():
        with pytest.raises(topwork.UsageError, match=f"{name}: FSDP was asked for with `{value}`, which would not be"):
            requested_sharding({**ASKED, name: value}, "MULTI_CPU")


def test_what_fsdp_was_asked_for_is_known_to_every_process_that_is_started():
    environment = {**ASKED, "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer, BertEmbeddings"}
    options = requested_sharding(environment, "MULTI_CPU")
    assert options is not None and options.blocks == ("BertLayer", "BertEmbeddings") and options.reshard_after_forward
    assert "ACCELERATE_USE_FSDP" not in environment  # accelerate would run DDP on CPUs
    assert requested_sharding(environment, "MULTI_CPU") == options
    assert requested_sharding(environment, "NO") is None and requested_sharding({}, "MULTI_CPU") is None
    kept = requested_sharding({**ASKED, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "MULTI_GPU")
    assert kept is not None and not kept.reshard_after_forward


class Plain(nn.Module):
    """A model with what FSDP can or cannot divide."""

    def __init__(self, **config: float) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.config = SimpleNamespace(**config)


def scalar() -> Plain:
    model = Plain()
    model.scale = nn.Parameter(torch.ones(()))
    return model


def mixed() -> Plain:
    model = Plain()
    model.other = nn.Linear(2, 2).bfloat16()
    return model


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        (
            {"freeze": ["all"], "unfreeze": {1: ["all"]}},
            Plain(),
            "unfreeze: which parameters are trained cannot change under FSDP",
        ),
        ({"optimizer": "adafactor"}, Plain(), "optimizer: `adafactor` needs whole parameters"),
        ({"compile": True}, Plain(), "compile: a divided model is not compiled"),
        ({"precision": "fp16"}, Plain(), "precision: FSDP trains in bf16 or float32"),
        ({"teacher": "before", "teacher_hidden": 0.5}, Plain(), "teacher_hidden: layers of a divided model"),
        ({}, Plain(encoder_layerdrop=0.1), "encoder_layerdrop: `encoder_layerdrop` leaves layers out at random"),
        ({}, scalar(), "FSDP: `scale` is a single number"),
        ({}, mixed(), "several dtypes .bfloat16, float32."),
        ({}, Plain(encoder_layerdrop=0.0), None),
    ],
)
def test_what_a_divided_model_cannot_have_is_refused_before_the_training(options, model, message):
    stage = topwork.load_plugins().stages["train"](**options)
    run = SimpleNamespace(model=model)
    if message is None:
        check_sharding(stage, run)
        return
    with pytest.raises(topwork.UsageError, match=message):
        check_sharding(stage, run)
