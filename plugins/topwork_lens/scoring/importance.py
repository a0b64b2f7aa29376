"""How much each attention head matters to a loss: gradients of gates, leaving one out, entropy, chance.

Scores are means over *row losses*, each as if the row were alone, so batch size, order and the number of processes
change nothing. Parameters need no gradient: with them frozen, one backward pass gives every row's gate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from topwork import AttentionLayer, Batch, UsageError, fast_products, unknown
from topwork_lens.capture.interception import no_strangers
from topwork_lens.gates import GateHook, factors_of, gated, module_at, output_projection, split_heads
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import device_of, frozen
from topwork_lens.refusals import refuse
from topwork_lens.scoring.entropy import sharpness
from topwork_lens.scoring.memory import Divided, TooMuch, most_kept
from topwork_lens.scoring.row_independence import Alone, RowLosses, by_row, independent, one_run
from topwork_lens.scoring.shapley import Shapley

Means = dict[str, Sequence[float] | None]
Reduction = Literal["example", "token", "batch"]
METHODS = ("michel", "taylor", "leave_one_out", "shapley", "entropy", "random")
REDUCTIONS = ("example", "token", "batch")


class Sums:
    """Sums over rows, by layer; sums of several processes add up."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_layer: dict[str, torch.Tensor] = {}

    def add(self, path: str, values: torch.Tensor) -> None:
        """Add [heads] to a layer's sum (float64, on the CPU)."""
        values = values.detach().double().cpu()
        self.by_layer[path] = self.by_layer[path] + values if path in self.by_layer else values

    def means(self, gather: Callable[[Any], list[Any]]) -> tuple[int, Means]:
        """Rows and means over the rows of all processes."""
        total, paths = 0, dict[str, torch.Tensor]()
        for rows, sums in gather((self.rows, self.by_layer)):
            total += rows
            for path, values in sums.items():
                paths[path] = paths[path] + values if path in paths else values
        if not total:
            raise UsageError("there are no rows to score attention heads on", hint="give at least one batch of rows")
        for path, values in paths.items():
            if not values.isfinite().all():
                raise UsageError("the gradient of some attention head is no finite number", place=path)
        return total, {path: (values / max(total, 1)).tolist() for path, values in paths.items()}


def score(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batches: Iterable[Batch],
    row_losses: RowLosses,
    method: str = "michel",
    *,
    reduction: Reduction = "example",
    seed: int = 0,
    orders: int = 8,
    known: Sequence[AttentionLayer] | None = None,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> tuple[int, Means]:
    """Rows seen, and by path a score for each attention head that a layer has now; layers that never ran are left out.

    michel: E_x |dL(x)/dgate| (Michel, Levy & Neubig 2019, section 4.1). reduction "example" takes the absolute value
    for each row, as the paper's equation 2, "token" for each position, as its authors' code, "batch" for the mean of
    each batch, as transformers' run_bertology. taylor: E_x (dL(x)/dgate)^2 (Molchanov et al. 2019, equation 8).
    leave_one_out: E_x [L(x) without the attention head - L(x)]. shapley: see
    `shapley.py`; over `orders` random orders. entropy: ln(keys) - entropy, the mean over queries of the nats by which
    attention is sharper than uniform. random: uniform numbers.

    The gradient is the one that trains. Where a model stops it (DETR's successors between the layers of their decoder,
    and in the weights of their losses), it is not the slope of the loss; leave_one_out sees what the loss does.
    A batch that would keep too much memory for its backward pass is scored in parts, but with reduction "batch".

    Args:
        layers: those that are scored; `known` are all that the model has, where these are fewer.
    """
    if method not in METHODS:
        raise unknown("importance method", method, METHODS)
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        seen = gather(sum(batch.row_count for batch in batches))
        return sum(seen), {one.path: torch.rand(len(one.kept or ()), generator=generator).tolist() for one in layers}
    if not layers:
        raise refuse("unknown_layout", "no attention layer was found in this model")
    sums = Sums()
    device = device_of(model)
    # "batch" takes the absolute value of the sum over all rows of a batch
    divided = Divided(model, most_kept(device) if reduction != "batch" else None)
    precision = "bf16" if torch.is_autocast_enabled(device.type) else "float32"
    add = _adding(model, layers, row_losses, sums, method, reduction, seed, orders, divided)
    with frozen(model), fast_products(device, precision, frozen=True):
        for number, batch in enumerate(batches):
            # Whatever computes attention runs in the first batch as well; watching all of them takes time.
            with nullcontext() if number else no_strangers(model, known or layers):
                add(batch)
            sums.rows += batch.row_count
    return sums.means(gather)


def _adding(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    row_losses: RowLosses,
    sums: Sums,
    method: str,
    reduction: Reduction,
    seed: int,
    orders: int,
    divided: Divided,
) -> Callable[[Batch], None]:
    """What adds a batch to the sums, by the method."""
    seeded = by_row(row_losses, seed)
    if method in ("michel", "taylor"):
        alone = Alone(model, row_losses)
        return lambda batch: _by_parts(
            model, layers, batch, seeded, sums, reduction, method == "taylor", alone, divided
        )
    if method == "leave_one_out":
        return lambda batch: _leave_one_out(model, layers, batch, seeded, sums)

    def entropies(batch: Batch) -> dict[str, torch.Tensor]:
        with one_run(model, batch):
            return sharpness(model, layers, batch, seeded)

    found = entropies if method == "entropy" else Shapley(model, layers, seeded, orders, seed).batch

    def add(batch: Batch) -> None:
        for path, values in found(batch).items():
            sums.add(path, values)

    return add


def _by_parts(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    row_losses: RowLosses,
    sums: Sums,
    reduction: Reduction,
    squared: bool,
    alone: Alone,
    divided: Divided,
) -> None:
    waiting = [batch]
    while waiting:
        part, *rest = divided.parts(waiting.pop(0))
        waiting = [*rest, *waiting]
        limited = divided.measured(part)
        try:
            _gradients(model, layers, part, row_losses, sums, reduction, squared, alone.known, limited)
        except TooMuch:
            waiting = [*divided.halves(part), *waiting]
            continue
        if part.row_count > 1 and not alone.known:
            alone.note()


class _Ones:
    """Makes gates of 1 that need a gradient: for each entry of the context's first dimension, or each position."""

    def __init__(self, layer: AttentionLayer, items: int, by_token: bool) -> None:
        self.layer, self.items, self.by_token = layer, items, by_token
        self.leaves: list[torch.Tensor] = []

    def __call__(self, context: torch.Tensor) -> torch.Tensor:
        heads = split_heads(self.layer, context)
        if self.by_token:
            shape = heads.shape[:-1]
        elif self.leaves:
            # A shared module runs several times: all of its runs share one gate.
            return self.leaves[0]
        else:
            shape = torch.Size((self.items, heads.shape[-2]))
        leaf = torch.ones(shape, dtype=context.dtype, device=context.device, requires_grad=True)
        self.leaves.append(leaf)
        return leaf


def _gradients(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    row_losses: RowLosses,
    sums: Sums,
    reduction: Reduction,
    squared: bool,
    alone: bool,
    limited: AbstractContextManager[None],
) -> None:
    ones = {layer.path: _Ones(layer, len(batch), reduction == "token") for layer in layers if layer.kept}
    with _running(model, layers, ones) as ran, one_run(model, batch), limited:
        losses = row_losses(model, batch)
    if losses.shape != (batch.row_count,):
        raise refuse("batch_coupled", f"row_losses answered {tuple(losses.shape)} for {batch.row_count} rows")
    leaves = [leaf for path in ran for leaf in ones[path].leaves]
    if not leaves or not losses.requires_grad:
        raise refuse("no_gradient", "the loss does not depend on any attention head")
    if batch.row_count > 1 and not alone:
        independent(losses, leaves, batch)
    found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    gradients = {id(leaf): gradient for leaf, gradient in zip(leaves, found, strict=True)}
    for path in ran:
        for leaf in ones[path].leaves:
            gradient = gradients[id(leaf)]
            value = torch.zeros_like(leaf) if gradient is None else gradient
            sums.add(path, _reduced(value.detach().double(), batch, reduction, squared))


def _reduced(gradient: torch.Tensor, batch: Batch, reduction: Reduction, squared: bool) -> torch.Tensor:
    """[items, heads] or [entries, ..., heads] -> [heads]: the sum over the rows of the batch."""
    if reduction == "token":
        return (gradient.square() if squared else gradient.abs()).flatten(0, -2).sum(0)
    by_row = rows_of_items(gradient, batch)
    if reduction == "batch":
        by_row = by_row.sum(0, keepdim=True)
    if squared:
        return by_row.square().sum(0)
    return by_row.abs().sum(0)


def rows_of_items(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[items, heads] -> [rows, heads]: sums over the items of each row."""
    index = torch.tensor(batch.rows, device=values.device)
    return values.new_zeros(batch.row_count, *values.shape[1:]).index_add(0, index, values)


@contextmanager
def _running(model: nn.Module, layers: Sequence[AttentionLayer], ones: dict[str, _Ones]) -> Iterator[list[str]]:
    """Gates of 1 on all layers; afterwards the list has the paths of those that ran."""
    ran: list[str] = []
    hooks: dict[str, GateHook] = {}
    with ExitStack() as stack:
        stack.enter_context(unfolded([module_at(model, path) for path in ones]))
        for layer in layers:
            if layer.path in ones:
                hook = hooks[layer.path] = GateHook(layer, ones[layer.path])
                stack.callback(output_projection(model, layer).register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield ran
        ran += [path for path, hook in hooks.items() if hook.calls]


def _leave_one_out(
    model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, row_losses: RowLosses, sums: Sums
) -> None:
    with torch.no_grad():
        plain = row_losses(model, batch).double()
        for layer in layers:
            kept = layer.kept or ()
            changes = []
            for number in kept:
                with gated(model, {layer.path: (layer, factors_of(layer, [number]))}):
                    changes.append((row_losses(model, batch).double() - plain).sum())
            if changes:
                sums.add(layer.path, torch.stack(changes))


def single_items(inputs: Mapping[str, torch.Tensor]) -> Iterator[Batch]:
    """A batch of tensors as batches of one row each, so that every row is scored as if it were alone."""
    from topwork import Item

    count = len(next(iter(inputs.values())))
    for item in range(count):
        yield Batch({name: value[item : item + 1] for name, value in inputs.items()}, [Item(0, {})])


def own_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """[1]: the loss that a plain transformers model computes itself, for a batch of one row."""
    loss = getattr(model(**batch.inputs), "loss", None)
    if loss is None:
        raise refuse("no_gradient", f"{type(model).__name__} gave no loss", hint="give labels, or row_losses=...")
    return loss.reshape(1)
