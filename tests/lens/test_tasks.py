"""Importance on the own loss of every installed task: each row as if it were alone, however the rows are cut."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import dense_models
import pytest
import torch
from detector_configs import RT_DETR
from tiny_bases import BASES
from tolerance import close

import topwork
from topwork import Batch, load_plugins
from topwork.data.loop import Settings, loss_batches
from topwork_lens.look import Look

PLUGINS = load_plugins()
ALONE = SimpleNamespace(index=0, count=1)
#: rows of the example rows, in two other orders
ORDERS = ((5, 1, 3, 0, 4, 2), (2, 4, 0, 3, 1, 5))
#: besides the base of every task: a loss with random points, one normalised over the boxes of a batch, two encoders ...
MORE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mask2former": ("image-segmentation", {"config": dense_models.MASK2FORMER}, {"kind": "instance"}),
    "rt-detr": ("object-detection", {"config": RT_DETR}, {}),
    "t5": ("translation", {"config": {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1,
                                      "num_heads": 4}}, {}),
}  # fmt: skip
CASES = {**{name: (name, base, {}) for name, base in BASES.items()}, **MORE}
#: those with too many attention heads to leave out each one here
SLOW = ("mask2former", "rt-detr", "object-detection", "depth-estimation")
_MADE: dict[str, topwork.TaskModel] = {}


def made(case: str) -> topwork.TaskModel:
    if case not in _MADE:
        task, base, options = CASES[case]
        rows = PLUGINS.task(task).example_rows()
        _MADE[case] = topwork.build(task, copy.deepcopy(base), rows=rows, plugins=PLUGINS, seed=3, **options)
        precise(_MADE[case])
    return _MADE[case]


def precise(work: Any) -> None:
    """In float64, so that rounding does not hide what depends on the batch; and attention that does something: random
    weights of the usual size hardly change an output."""
    with torch.no_grad():
        for layer in Look(work.model, PLUGINS).layers:
            for parameter in work.model.get_submodule(layer.path).parameters():
                if parameter.dim() == 2:
                    parameter.mul_(4)
    if work.task.single_row_losses:  # the rows are alone anyway, and some of these losses take float32 only
        return
    work.model.double()
    own = work.task.collate

    def collate(items: Any, mode: Any) -> Batch:
        batch = own(items, mode)
        return Batch({name: topwork.map_tensors(value, wide) for name, value in batch.inputs.items()}, batch.items)

    work.task.collate = collate


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def scores(work: topwork.TaskModel, batches: Iterable[Batch], method: str = "michel", **options: Any) -> torch.Tensor:
    options = {"row_losses": work.task.row_losses, "normalise": "none", "seed": 7, **options}
    found = Look(work.model, PLUGINS).importance(batches, method, **options)
    values = [score for layer in found.layers for score in layer.scores]
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)


def cut(work: topwork.TaskModel, rows: list[Any], items: int, process: Any = ALONE) -> Iterable[Batch]:
    return loss_batches(work.task, work.model, rows, Settings(items=items, cost=0), process)


def same(found: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> None:
    """Equal but for the rounding of float32, in which some models compute; `least` is what the scores are made of."""
    scale = max(float(expected.nan_to_num().abs().max()), least)
    close(found, expected, dtype=torch.float32, scale=scale, equal_nan=True)


@pytest.mark.parametrize(
    ("case", "method"),
    [(case, method) for case in CASES for method in ("michel", "leave_one_out", "entropy") if not (
        method == "leave_one_out" and case in SLOW)],
)  # fmt: skip
def test_batch_size_and_processes_change_nothing(case: str, method: str) -> None:
    """Rows one by one, three and eight at a time, and shared by two processes; padded differently each time."""
    work = made(case)
    rows = PLUGINS.task(work.task.name).example_rows()[:6]
    alone = scores(work, cut(work, rows, 1), method)
    assert alone.nan_to_num().abs().max() > 0
    least = 1.0 if method == "entropy" else 0.0  # nats
    if method == "leave_one_out":  # a difference of losses
        with torch.no_grad():
            least = max(float(work.task.row_losses(work.model, batch).abs().max()) for batch in cut(work, rows, 8))
    for items in (3, 8):
        same(scores(work, cut(work, rows, items), method), alone, least)
    heard: list[Any] = []
    shares = [cut(work, rows, 2, SimpleNamespace(index=index, count=2)) for index in (0, 1)]
    scores(work, shares[0], method, gather=lambda value: [heard.append(value) or value])
    same(scores(work, shares[1], method, gather=lambda value: [*heard, value]), alone, least)


@pytest.mark.parametrize("case", list(CASES))
def test_order_changes_nothing(case: str) -> None:
    work = made(case)
    rows = PLUGINS.task(work.task.name).example_rows()[:6]
    batches = list(cut(work, rows, 1))
    same(scores(work, [batches[number] for number in ORDERS[0]]), scores(work, batches))
    same(scores(work, cut(work, [rows[number] for number in ORDERS[1]], 3)), scores(work, batches))


@pytest.mark.parametrize("case", list(CASES))
def test_the_score_is_the_mean_over_rows_as_if_alone(case: str) -> None:
    work = made(case)
    rows = PLUGINS.task(work.task.name).example_rows()[:3]
    each = torch.stack([scores(work, [batch]) for batch in cut(work, rows, 1)])
    same(scores(work, cut(work, rows, 3)), each.mean(0))


def test_what_a_loss_draws_is_seeded_by_row() -> None:
    """Mask2Former's loss looks at random points: a row's own, whatever its place, and whatever was drawn before."""
    work = made("mask2former")
    rows = PLUGINS.task("image-segmentation").example_rows()[:4]
    each = [scores(work, [batch]) for batch in cut(work, rows, 1)]
    torch.rand(17)
    same(scores(work, cut(work, rows[2:3], 4), seed=8), each[2])
    with pytest.raises(AssertionError):
        same(each[1], each[2])
    drawn = torch.random.get_rng_state()
    scores(work, cut(work, rows, 4))
    assert torch.equal(drawn, torch.random.get_rng_state())


@pytest.mark.parametrize("task", list(BASES))
def test_a_copy_of_a_task_model_is_pruned_alone(task: str) -> None:
    rows = PLUGINS.task(task).example_rows()
    work = topwork.build(task, copy.deepcopy(BASES[task]), rows=rows, plugins=PLUGINS, seed=3)
    copied = copy.deepcopy(work)
    before = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}
    layer = Look(copied).layers[0]
    batch = next(iter(cut(copied, rows[:3], 8)))
    Look(copied).prune_heads({layer.path: [layer.heads - 1]}, check=batch)
    assert Look(copied).layers[0].removed != Look(work).layers[0].removed
    assert all(torch.equal(tensor, before[name]) for name, tensor in work.model.state_dict().items())
    with torch.no_grad():
        assert copied.task.row_losses(copied.model, batch).isfinite().all()
