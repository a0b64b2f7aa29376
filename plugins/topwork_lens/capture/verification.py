"""Do captured weights explain the context? Weights @ values, recomputed in float64, against what the model made of it.

Two links are checked. What the recomputed product gives each attention head must be what the model's own product gave;
and that must be what the output projection receives. A gate, a norm or a convolution between the two changes the
context on its way: then only the first link can be checked, and `Captured.explained` says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from topwork_lens.refusals import refuse

if TYPE_CHECKING:
    from topwork_lens.capture.interception import Call

#: what was found: the output projection receives weights @ values; or something on the way changes them; or the module
#: attends to points, for which there is no matrix
Explained = Literal["context", "product", "points"]


def tolerance(dtype: torch.dtype) -> float:
    """Relative to the largest number: 1e-5 in float32."""
    return max(1e-5, 64 * torch.finfo(dtype).eps)


def times_values(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor | None:
    """Weights [items, heads, queries, keys] @ values [items, heads or groups, keys, width] in float64, as [items,
    queries, heads, width]; None when the shapes do not fit."""
    items, heads, queries, keys = weights.shape
    if values.dim() != 4 or values.shape[0] != items or values.shape[2] != keys or not values.shape[1]:
        return None
    if heads % values.shape[1]:
        return None
    grouped = weights.detach().double().reshape(items, values.shape[1], -1, keys)
    product = grouped @ values.detach().double()
    return product.reshape(items, heads, queries, -1).transpose(1, 2)


def projected(values: torch.Tensor | None, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Values and context [..., width] along one random direction: [...]; None when they are no float32.

    Weights explain the context only if they explain it along any direction, and what they leave unexplained shows along
    a random one (Freivalds 1977): a product with one number for each key instead of `width`.
    """
    if values is None or context is None or values.dim() != 4 or values.dtype != torch.float32:
        return None
    if values.shape[-1] != context.shape[-1]:
        return None
    direction = torch.randn(values.shape[-1], generator=torch.Generator().manual_seed(0)).to(values)
    return values.detach() @ direction, context.detach() @ direction


def quick_weights(call: Call, some: torch.Tensor, start: int) -> torch.Tensor | None:
    """Weights of some queries when a quick look says that they explain the context; None: it takes a thorough one.

    Args:
        some, start: as for `compare_contexts`.
    """
    if call.projected is None or call.values is None or call.block is None or call.dropped or call.scaled:
        return None
    values, context = call.projected
    try:
        # Only the weights are wanted: values without any width cost no product.
        weights = call.block(start, start + some.shape[1], call.values[..., :0])[1]
    except RuntimeError:
        return None
    items, heads, queries, keys = weights.shape
    if values.shape[2] != keys or not values.shape[1] or heads % values.shape[1]:
        return None
    grouped = weights.detach().reshape(items, values.shape[1], -1, keys)
    product = torch.einsum("igqk,igk->igq", grouped, values).reshape(items, heads, queries)
    own = context[:, start : start + queries].transpose(1, 2)
    gap = (own - product).abs().masked_fill(~some[:, None], 0)
    good = own.shape == product.shape and (not gap.numel() or float(gap.amax()) <= tolerance(own.dtype) * call.largest)
    return weights if good else None


def compare_contexts(call: Call, answer: tuple[torch.Tensor, torch.Tensor], some: torch.Tensor, start: int) -> None:
    """Refuse weights that do not explain the context that the model computed.

    Args:
        answer: context and weights of some queries, as the module's eager function gives them.
        some: [items, queries], True where a query may attend to something: every implementation gives another
            arbitrary answer to the others.
        start: the first of those queries.
    """
    if call.context is None or call.dropped:
        return
    own = call.context[:, start : start + some.shape[1]].detach().double()
    limit = tolerance(call.context.dtype) * call.largest + 1e-12

    def gap(other: torch.Tensor) -> float:
        difference = (own - other.detach().double().reshape(own.shape)).abs()
        return float(difference.masked_fill(~some[..., None, None], 0).amax()) if own.numel() else 0.0

    product = None if call.values is None else times_values(answer[1], call.values)
    if product is None or product.shape != own.shape:
        worst = gap(answer[0])
    else:
        worst = gap(product)
        if worst > limit:
            factor = (own * product).sum(-1, keepdim=True) / product.square().sum(-1, keepdim=True).clamp(min=1e-300)
            shares = bool((answer[1].sum(-1) <= 1 + 1e-4).all())
            # A learned sink may take a share of the attention after the product; only downwards, for a whole head.
            if shares and bool((factor[some] <= 1 + 1e-6).all()) and bool((factor[some] >= 0).all()):
                worst = max(gap(product * factor), gap(answer[0]))
                call.scaled = True
    if not worst <= limit:
        raise refuse(
            "no_weights",
            f"recomputed weights do not explain the context (difference {worst:.2g}, tolerance {limit:.2g})",
            place=call.layer.path,
            hint="use attention implementation eager",
        )


def head_numbers(weights: torch.Tensor, heads: int) -> torch.Tensor | None:
    """The attention head of each entry of weights in any of the forms of `calls.by_heads`: broadcastable numbers."""
    numbers = torch.arange(heads, device=weights.device)
    if weights.dim() == 3:
        return None if weights.shape[0] % heads else numbers.repeat(weights.shape[0] // heads).view(-1, 1, 1)
    if weights.dim() == 4 and heads not in weights.shape[1:3] and weights.shape[0] % heads == 0:
        # [items * heads, chunks, queries, keys]
        return numbers.repeat(weights.shape[0] // heads).view(-1, 1, 1, 1)
    if weights.dim() not in (4, 5) or heads not in weights.shape[1:3]:
        return None
    axis = 1 if weights.shape[1] == heads else 2
    return numbers.view([heads if place == axis else 1 for place in range(weights.dim())])


def product_by_head(
    function: Any, args: tuple, options: dict[str, Any], answer: torch.Tensor, weights: torch.Tensor, heads: int
) -> torch.Tensor | None:
    """[heads, numbers] in float64: what weights @ values gives each attention head, recomputed; None when a number
    is not that of one attention head.

    Whose a number is, is read from the same product of ones: every attention head with its own number for weights.

    Args:
        function, args, options, answer: the model's product, and what it answered.
        weights: the operand that holds the weights.

    Raises:
        ValueError: recomputed numbers differ from the answer.
    """
    numbers = head_numbers(weights, heads)
    if numbers is None:
        return None
    options = {name: value for name, value in options.items() if name != "out"}

    def again(change: Any) -> torch.Tensor:
        return function(*_changed(args, change), **_changed(options, change))

    product = again(lambda one: one.detach().double())
    worst = float((product - answer.detach().double()).nan_to_num().abs().amax()) if answer.numel() else 0.0
    largest = float(answer.detach().nan_to_num().abs().amax()) if answer.numel() else 0.0
    if worst > tolerance(answer.dtype) * largest:
        raise ValueError(f"difference {worst:.2g} of {largest:.2g}")
    # One number of the kind that is summed over stands for all of them.
    ones: dict[str, Any] = {"dtype": torch.float64, "device": weights.device}
    counted = again(lambda one: (numbers + 1.0).to(**ones).expand(one.shape) if one is weights else _ones(one, ones))
    plain = again(lambda one: _ones(one, ones))
    owners = counted / plain
    if not (owners == owners.round()).all():
        return None
    found = [product[owners == number + 1] for number in range(heads)]
    return torch.stack(found) if len({len(one) for one in found}) == 1 and found[0].numel() else None


def _ones(like: torch.Tensor, kind: dict[str, Any]) -> torch.Tensor:
    return torch.ones((), **kind).expand(like.shape)


def _changed(value: Any, change: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_changed(one, change) for one in value)
    return {name: _changed(one, change) for name, one in value.items()} if isinstance(value, dict) else value


def received(parts: list[torch.Tensor], context: torch.Tensor) -> bool:
    """True when an output projection receives, for each attention head, just what was computed for it.

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
    """True when the attention heads' shares of the whole differ though the whole is the same: their numbers stand in
    another order than is described."""
    own = torch.stack([part.double().nan_to_num().square().sum(1) for part in parts]).sum(0)
    found = context.detach().double().nan_to_num().square().movedim(-2, 0).flatten(1).sum(1)
    return bool((found.sum() - own.sum()).abs() <= 1e-4 * own.sum() and (found - own).abs().max() > 1e-2 * own.max())
