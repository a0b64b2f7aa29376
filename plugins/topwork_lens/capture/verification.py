"""Verification of captured weights: weights @ values, recomputed in float64, must be the context of the model.

Two links are checked. What the recomputed product gives each attention head must be what the model's own product gave;
and that must be what the output projection receives. A gate, a norm or a convolution between the two changes the
context on its way: then only the first link can be checked, and `Captured.explained` says so.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from topwork_lens.capture.attention_call import AttentionCall
from topwork_lens.refusals import refuse

#: how far weights explain the context: the output projection receives weights @ values; something on the way changes
#: them; the module attends to points, for which there is no matrix
Explained = Literal["context", "product", "points"]


def tolerance(dtype: torch.dtype) -> float:
    """Return the tolerance relative to the largest number: 1e-5 in float32."""
    return max(1e-5, 64 * torch.finfo(dtype).eps)


def times_values(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor | None:
    """Multiply weights with values in float64.

    Args:
        weights: [items, heads, queries, keys].
        values: [items, heads or groups, keys, width].

    Returns:
        [items, queries, heads, width]; None when the shapes do not fit.
    """
    items, heads, queries, keys = weights.shape
    if values.dim() != 4 or values.shape[0] != items or values.shape[2] != keys or not values.shape[1]:
        return None
    if heads % values.shape[1]:
        return None
    grouped = weights.detach().double().reshape(items, values.shape[1], -1, keys)
    product = grouped @ values.detach().double()
    return product.reshape(items, heads, queries, -1).transpose(1, 2)


def quick_weights(call: AttentionCall, valid: torch.Tensor, start: int) -> torch.Tensor | None:
    """Return weights of some queries if a quick test shows that they explain the context; None otherwise.

    Args:
        call: a computation of attention.
        valid: as for `compare_contexts`.
        start: the first of those queries.
    """
    if call.projected is None or call.values is None or call.block is None or call.dropped or call.scaled:
        return None
    values, context = call.projected
    try:
        # Only the weights are wanted: values without any width cost no product.
        weights = call.block(start, start + valid.shape[1], call.values[..., :0])[1]
    except RuntimeError:
        return None
    items, heads, queries, keys = weights.shape
    if values.shape[2] != keys or not values.shape[1] or heads % values.shape[1]:
        return None
    grouped = weights.detach().reshape(items, values.shape[1], -1, keys)
    product = torch.einsum("igqk,igk->igq", grouped, values).reshape(items, heads, queries)
    original = context[:, start : start + queries].transpose(1, 2)
    gap = (original - product).abs().masked_fill(~valid[:, None], 0)
    close = not gap.numel() or float(gap.amax()) <= tolerance(original.dtype) * call.largest
    return weights if original.shape == product.shape and close else None


def compare_contexts(
    call: AttentionCall, recomputed: tuple[torch.Tensor, torch.Tensor], valid: torch.Tensor, start: int
) -> None:
    """Refuse weights that do not explain the context that the model computed.

    Args:
        call: a computation of attention.
        recomputed: context and weights of some queries, as the module's eager function gives them.
        valid: [items, queries], True where a query may attend to something: every implementation gives another
            arbitrary answer to the others.
        start: the first of those queries.
    """
    if call.context is None or call.dropped:
        return
    original = call.context[:, start : start + valid.shape[1]].detach().double()
    limit = tolerance(call.context.dtype) * call.largest + 1e-12

    def gap(context: torch.Tensor) -> float:
        difference = (original - context.detach().double().reshape(original.shape)).abs()
        return float(difference.masked_fill(~valid[..., None, None], 0).amax()) if original.numel() else 0.0

    product = None if call.values is None else times_values(recomputed[1], call.values)
    if product is None or product.shape != original.shape:
        worst = gap(recomputed[0])
    else:
        worst = gap(product)
        if worst > limit:
            factor = (original * product).sum(-1, keepdim=True) / product.square().sum(-1, keepdim=True).clamp(
                min=1e-300
            )
            shares = bool((recomputed[1].sum(-1) <= 1 + 1e-4).all())
            # A learned sink may take a share of the attention after the product; only downwards, for a whole head.
            if shares and bool((factor[valid] <= 1 + 1e-6).all()) and bool((factor[valid] >= 0).all()):
                worst = max(gap(product * factor), gap(recomputed[0]))
                call.scaled = True
    if not worst <= limit:
        raise refuse(
            "no_weights",
            f"recomputed weights do not explain the context (difference {worst:.2g}, tolerance {limit:.2g})",
            place=call.layer.path,
            hint="use attention implementation eager",
        )


def head_indices(weights: torch.Tensor, heads: int, items: int | None = None) -> torch.Tensor | None:
    """Return the attention head of each element of weights in any form of `tensors.by_heads`, broadcastable.

    Args:
        weights: the weights.
        heads: attention heads of the layer.
        items: how many items the softmax had: with heads times as many, each stands for one attention head.
    """
    indices = torch.arange(heads, device=weights.device)
    chunked = heads > 1 and items is not None and weights.dim() == 4 and len(weights) == items * heads
    if weights.dim() == 3:
        return None if weights.shape[0] % heads else indices.repeat(weights.shape[0] // heads).view(-1, 1, 1)
    if chunked or (weights.dim() == 4 and heads not in weights.shape[1:3] and weights.shape[0] % heads == 0):
        # [items * heads, chunks, queries, keys]
        return indices.repeat(weights.shape[0] // heads).view(-1, 1, 1, 1)
    if weights.dim() not in (4, 5) or heads not in weights.shape[1:3]:
        return None
    axis = 1 if weights.shape[1] == heads else 2
    return indices.view([heads if dim == axis else 1 for dim in range(weights.dim())])


def product_by_head(
    function: Any,
    args: tuple,
    options: dict[str, Any],
    output: torch.Tensor,
    weights: torch.Tensor,
    heads: int,
    items: int | None = None,
) -> torch.Tensor | None:
    """Recompute what weights @ values gives each attention head.

    To which attention head a number belongs is read from the same product of ones, with the index of each attention
    head for its weights.

    Args:
        function: the model's product.
        args: its arguments.
        options: its arguments by name.
        output: what it returned.
        weights: the operand that holds the weights.
        heads: attention heads of the layer.
        items: as of `head_indices`.

    Returns:
        [heads, numbers] in float64; None when a number does not belong to one attention head.

    Raises:
        ValueError: recomputed numbers differ from the output.
    """
    owners = head_indices(weights, heads, items)
    if owners is None:
        return None
    options = {name: value for name, value in options.items() if name != "out"}

    def again(change: Any) -> torch.Tensor:
        return function(*_changed(args, change), **_changed(options, change))

    product = again(lambda operand: operand.detach().double())
    worst = float((product - output.detach().double()).nan_to_num().abs().amax()) if output.numel() else 0.0
    largest = float(output.detach().nan_to_num().abs().amax()) if output.numel() else 0.0
    if worst > tolerance(output.dtype) * largest:
        raise ValueError(f"difference {worst:.2g} of {largest:.2g}")
    # One number of the kind that is summed over stands for all of them.
    ones: dict[str, Any] = {"dtype": torch.float64, "device": weights.device}
    counted = again(
        lambda operand: (owners + 1.0).to(**ones).expand(operand.shape) if operand is weights else _ones(operand, ones)
    )
    plain = again(lambda operand: _ones(operand, ones))
    owner = counted / plain
    if not (owner == owner.round()).all():
        return None
    parts = [product[owner == index + 1] for index in range(heads)]
    return torch.stack(parts) if len({len(part) for part in parts}) == 1 and parts[0].numel() else None


def _ones(like: torch.Tensor, kind: dict[str, Any]) -> torch.Tensor:
    return torch.ones((), **kind).expand(like.shape)


def _changed(value: Any, change: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_changed(part, change) for part in value)
    return {name: _changed(part, change) for name, part in value.items()} if isinstance(value, dict) else value


def received(parts: list[torch.Tensor], context: torch.Tensor) -> bool:
    """Return True when an output projection receives, for each attention head, just what was computed for it.

    Args:
        parts: [heads, numbers] each, one for every product that was seen.
        context: [..., heads, width], what arrived.
    """
    arrived = context.detach().movedim(-2, 0).flatten(1)
    made = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if made.shape != arrived.shape:
        return False
    if made.dtype == arrived.dtype and torch.equal(made, arrived):
        return True
    made, arrived = made.nan_to_num(), arrived.nan_to_num()
    limit = tolerance(context.dtype) * float(arrived.abs().amax()) if arrived.numel() else 0.0
    if float((made - arrived).abs().amax()) <= limit:
        return True
    # Windows are merged, items and positions change places: the same numbers in another order.
    return float((made.double().sort(1).values - arrived.double().sort(1).values).abs().amax()) <= limit


def other_order(parts: list[torch.Tensor], context: torch.Tensor) -> bool:
    """Return True when the attention heads' sums of squares differ though the total is the same.

    Their numbers then stand in another order than is described.
    """
    expected = torch.stack([part.double().nan_to_num().square().sum(1) for part in parts]).sum(0)
    arrived = context.detach().double().nan_to_num().square().movedim(-2, 0).flatten(1).sum(1)
    same_sum = (arrived.sum() - expected.sum()).abs() <= 1e-4 * expected.sum()
    return bool(same_sum and (arrived - expected).abs().max() > 1e-2 * expected.max())
