"""Accumulated batches are one larger batch: for every task, however many targets a row has, and over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import accumulated
import pytest
import torch
from accumulated import CASES, SIZES, steps_of

ROOT = Path(__file__).parents[2]


def close(step: torch.Tensor, whole: torch.Tensor) -> bool:
    return float((step - whole).norm() / whole.norm()) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_accumulated_batches_make_the_step_of_one_larger_batch(name, plugins):
    steps = steps_of(name, plugins)
    whole = steps.pop(None)
    assert float(whole.norm()) > 0
    for size, step in steps.items():
        assert close(step, whole), size


def launched(folder: Path, *engine: str) -> Path:
    """The steps of every case, made by two processes together."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *engine, "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [accumulated.__file__, str(folder)]
    paths = [ROOT / "tests" / "helpers", ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> Path:
    return launched(tmp_path_factory.mktemp("two"), "--multi_gpu")


@pytest.fixture(scope="module")
def of_two_divided(tmp_path_factory) -> Path:
    return launched(tmp_path_factory.mktemp("divided"), "--use_fsdp", "--fsdp_version", "2")


@pytest.mark.faults
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size or 'all'} in a batch")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_step_of_one_larger_batch(name, size, of_two_processes, plugins):
    """Weighted by the number of targets: the processes hold other rows, hence other numbers of targets."""
    whole = steps_of(name, plugins, (None,))[None]
    assert close(torch.load(of_two_processes / f"{name}.pt")[size], whole)


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_losses_of_rows_that_two_processes_cannot_share_evenly(name, of_two_processes, plugins):
    """Each process computes the losses of its own rows, one of them more often than the other: none may wait."""
    expected = accumulated.loss_of(name, plugins)
    assert torch.load(of_two_processes / f"{name}.pt")["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_fsdp_makes_the_step_of_one_process(name, of_two_divided, plugins):
    """Parameters, gradients and optimizer are divided among two processes, and batches are accumulated."""
    whole = steps_of(name, plugins, (None,))[None]
    assert close(torch.load(of_two_divided / f"{name}.pt")[1], whole)
