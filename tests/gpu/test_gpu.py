"""Every task on a GPU: the numbers of the CPU, in training, prediction, importance, pruning and compression."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_bases import BASES
from undisturbed import undisturbed, weights_of

import topwork

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that CUDA can use"),
]

TEXTS = "text-classification"
#: one step on all rows, whose size is that of the gradient
STEP = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "clip": 0, "batch_size": 64}


def made(task: str, plugins: Any) -> tuple[Any, list[Any]]:
    torch.manual_seed(0)
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, BASES[task], rows=rows)
    work.model.eval()
    return work, rows


def on_gpu(work: Any) -> Any:
    work.model.to("cuda")
    return work


def numbers(value: Any) -> list[float]:
    """All finite numbers in a result, times apart, in their order."""
    if isinstance(value, dict):
        pairs = sorted((str(key), inner) for key, inner in value.items())
        return [number for key, inner in pairs if "second" not in key for number in numbers(inner)]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def relative(here: torch.Tensor, there: torch.Tensor) -> float:
    here, there = here.detach().double().cpu(), there.detach().double().cpu()
    return float((here - there).norm() / there.norm().clamp(min=1e-12))


@pytest.mark.parametrize("task", BASES)
def test_losses_and_metrics_are_those_of_the_cpu(task, plugins):
    work, rows = made(task, plugins)
    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        expected = work.task.row_losses(work.model, batch)
    metrics = work.evaluate(rows)
    on_gpu(work)
    with torch.no_grad():
        losses = work.task.row_losses(work.model, batch.to(torch.device("cuda")))
    assert losses.device.type == "cuda"
    assert relative(losses, expected) < 1e-4
    assert numbers(work.evaluate(rows)) == pytest.approx(numbers(metrics), rel=1e-3, abs=1e-3)


@contextmanager
def without_gpu() -> Iterator[None]:
    """Make accelerate choose the CPU inside the block, as it does by this variable in a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("task", BASES)
def test_a_step_of_training_is_that_of_the_cpu(task, plugins):
    steps = []
    for chosen in (nullcontext(), without_gpu()):
        work, rows = made(task, plugins)
        before = weights_of(undisturbed(work.model))
        with chosen:
            work.train(rows, **STEP, precision="float32")
        steps.append((next(work.model.parameters()).device.type, weights_of(work.model).cpu() - before))
    (device, step), (other, expected) = steps
    assert (device, other) == ("cuda", "cpu")
    assert float(expected.norm()) > 0
    assert relative(step, expected) < 1e-3


@pytest.mark.parametrize("precision", ["auto", "fp16", "float32"])
@pytest.mark.parametrize("task", BASES)
def test_every_precision_trains_and_the_folder_is_loaded_on_the_cpu(task, precision, plugins, tmp_path):
    """`auto` is bf16 here."""
    work, rows = made(task, plugins)
    before = weights_of(work.model)
    result = work.train(rows, steps=6, batch_size=8, learning_rate=1e-3, precision=precision)
    assert result["history"] and all(math.isfinite(number) for number in numbers(result["history"]))
    after = weights_of(work.model).cpu()
    assert torch.isfinite(after).all() and not torch.equal(after, before)
    loaded = topwork.load(work.save(tmp_path / "model"))
    assert next(loaded.model.parameters()).device.type == "cpu"
    assert loss_of(loaded, rows) == pytest.approx(loss_of(work, rows), rel=1e-3)


def loss_of(work: Any, rows: list[Any]) -> float:
    work.model.eval()
    device = next(work.model.parameters()).device
    with torch.no_grad():
        batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss").to(device)
        return float(work.task.row_losses(work.model, batch).mean())


@pytest.mark.parametrize("task", BASES)
def test_importance_is_that_of_the_cpu(task, plugins):
    work, rows = made(task, plugins)
    scores = [work.apply("head_importance", {"calibrate": rows})]
    on_gpu(work)
    scores.append(work.apply("head_importance", {"calibrate": rows}))
    there, here = ([layer["scores"] for layer in result["layers"]] for result in scores)
    assert numbers(here) == pytest.approx(numbers(there), rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("task", BASES)
def test_pruned_on_the_gpu_is_pruned_on_the_cpu(task, plugins, tmp_path):
    """The proof that masked and pruned model agree runs on the GPU; the folder is loaded on the CPU."""
    work, rows = made(task, plugins)
    on_gpu(work)
    batch = work.task.collate(work.task.encode(rows[:3], "loss", 0), "loss").to(torch.device("cuda"))
    layers = topwork.look(work).layers
    path = next(layer.path for layer in layers if layer.prunable != "no" and layer.heads > 1)
    assert topwork.prune_heads(work.model, {path: [0]}, check=dict(batch.inputs))
    expected = loss_of(work, rows)
    assert loss_of(topwork.load(work.save(tmp_path / "model")), rows) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("task", BASES)
def test_compression_on_the_gpu(task, plugins, tmp_path):
    work, rows = made(task, plugins)
    on_gpu(work)
    result = work.apply("compress", {"train": rows, "calibrate": rows, "evaluate": rows}, macs=0.8)
    assert result["macs_after"] < result["macs_before"]
    expected = loss_of(work, rows)
    assert loss_of(topwork.load(work.save(tmp_path / "model")), rows) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("capture", ["entropy", "weights", "hidden", "head_output", "mlp_activation"])
def test_captures_are_those_of_the_cpu(capture, plugins):
    work, rows = made(TEXTS, plugins)
    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    parts = []
    for device in ("cpu", "cuda"):
        work.model.to(device)
        with torch.no_grad(), topwork.look(work).capture(capture) as seen:
            work.model(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
        parts.append([part for calls in seen.found[capture].values() for part in calls])
    for here, there in zip(*parts, strict=True):
        torch.testing.assert_close(here.cpu(), there.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("compiled", ["inductor", "cudagraphs"])
def test_compiled_training(compiled, plugins):
    work, rows = made(TEXTS, plugins)
    before = loss_of(work, rows)
    work.train(rows, steps=10, batch_size=8, learning_rate=2e-3, compile=compiled, precision="auto")
    assert loss_of(work, rows) < before


def test_a_run_stopped_on_the_gpu_goes_on_there_with_the_same_numbers(plugins, tmp_path):
    work, rows = made(TEXTS, plugins)
    twin = copy.deepcopy(work.model)
    options = {"batch_size": 4, "learning_rate": 1e-3, "precision": "float32", "checkpoint_every": 4}
    work.train(rows, **options, steps=8, run_folder=tmp_path / "whole")
    whole = weights_of(work.model)
    work.model = twin
    work.train(rows, **options, steps=8, run_folder=tmp_path / "again")
    assert torch.equal(weights_of(work.model), whole)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_quantised_by_bitsandbytes_is_trained_by_lora_and_is_plain_afterwards(bits, plugins, tmp_path):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    rows = plugins.task(TEXTS).example_rows()
    config = {**BASES[TEXTS]["config"], "hidden_size": 64, "intermediate_size": 128}
    folder = str(topwork.build(TEXTS, {"config": config}, rows=rows).save(tmp_path / "base"))
    work, twin = (
        topwork.build(TEXTS, {"model": folder, "quantize": {"method": "bitsandbytes", "bits": bits}}, rows=rows)
        for _ in range(2)
    )
    query = work.model.bert.encoder.layer[0].attention.self.query
    assert type(query).__module__.startswith("bitsandbytes")
    assert len(work.predict(rows)) == len(rows)
    with pytest.raises(topwork.UsageError, match=r"is quantised, and is not trained in full.*lora"):
        work.train(rows, steps=1)
    with pytest.raises(topwork.CheckpointError, match="quantised"):
        work.save(tmp_path / "quantised")
    lora = {"targets": "all", "save": "adapter"}
    result = work.train(rows, steps=3, batch_size=2, learning_rate=0.02, lora=lora, run_folder=tmp_path / "run")
    assert result["check"]["difference"] <= result["check"]["tolerance"]
    assert {type(tensor) for tensor in work.model.state_dict().values()} == {torch.Tensor}
    loaded = topwork.load(work.save(tmp_path / "model"))
    for name, tensor in work.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name].cpu(), tensor.cpu()), name
    twin.apply("load_adapter", {}, folder=str(tmp_path / "run" / result["adapter_folder"]))
    for name, tensor in work.model.state_dict().items():
        torch.testing.assert_close(twin.model.state_dict()[name].cpu(), tensor.cpu(), rtol=1e-3, atol=1e-4)
    work.train(rows, steps=2)
    assert topwork.prune_heads(work.model, {0: [1]})
