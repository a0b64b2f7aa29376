"""Fast reductions of attention over long inputs, on the CPU: by the textbook formula, one attention head at a time.

Entry point: `reduced`. Most modules compute softmax(scale * query @ key + mask). Written out, a reduction needs a third
of the passes over memory that the module's own function takes, and few enough numbers at once to stay in a processor's
cache. That a module follows the formula is verified: the weights of its last queries are compared with those of its own
function, and the weights of all queries must explain the context along a random direction. Where they do not, the
module's own function computes everything (`capture`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from topwork import accelerated
from topwork_lens.capture.attention_call import AttentionCall
from topwork_lens.capture.reductions import Reducer
from topwork_lens.capture.verification import tolerance

#: what can be had from sums over the keys, without the weights themselves
NAMES = frozenset({"entropy", "information", "distance", "mass", "argmax", "max"})
#: fewer numbers than this in one attention head: the dozen calls for each cost more than they win
LEAST = 2**14
#: numbers of one attention head that exist at a time: half a megabyte
CACHED = 2**17
#: queries whose weights are compared with those of the module's own function
COMPARED = 4
#: scores are taken to base 2: that power is four times as fast as the natural one
BASE = math.log2(math.e)
#: what is added to a score instead of minus infinity: large enough, and finite when it is multiplied
LOWEST = -1e30


def reduced(call: AttentionCall, reducer: Reducer, block: int) -> dict[str, torch.Tensor] | None:
    """Reduce one computation of attention by its formula.

    Args:
        call: a computation of attention.
        reducer: the reductions.
        block: queries, of all items and attention heads together, whose weights may exist at a time.

    Returns:
        [items, heads, queries] by name; None when the call does not follow the formula.
    """
    if not _fits(call, reducer) or not _is_the_formula(call):
        return None
    sums = _Sums(call, reducer, block)
    sums.run()
    return sums.results() if sums.explain_context() else None


def _fits(call: AttentionCall, reducer: Reducer) -> bool:
    formula = call.formula
    if formula is None or call.projected is None or call.values is None or call.dropped or not reducer.names:
        return False
    if (
        not set(reducer.names) <= NAMES
        or reducer.shifts
        or any(state.dtype != torch.float32 or state.device.type != "cpu" for state in (formula.query, formula.key))
    ):
        return False
    items, heads, queries, keys = call.shape
    groups = formula.key.shape[1]
    same = call.projected[0].shape == (items, groups, keys) and call.projected[1].shape == (items, queries, heads)
    return same and queries * keys >= LEAST and groups > 0 and heads % groups == 0


def _is_the_formula(call: AttentionCall) -> bool:
    """Return whether the module's own function gives its last queries the same weights."""
    assert call.formula is not None and call.block is not None and call.values is not None
    query, key, mask = call.formula.query, call.formula.key, call.formula.mask
    queries = call.shape[2]
    start = queries - COMPARED
    try:
        expected = call.block(start, queries, call.values[..., :0])[1]
    except RuntimeError:
        return False
    scores = query[:, :, start:].unflatten(1, (key.shape[1], -1)) @ key.unsqueeze(2).transpose(-1, -2)
    scores = scores.flatten(1, 2) * call.formula.scale
    added = mask.added(start, queries)
    weights = (scores if added is None else scores + added).softmax(-1)
    if expected.shape != weights.shape:
        return False
    gap = (expected - weights).abs().masked_fill(~call.attending[:, None, start:, None], 0)
    return bool(gap.amax() <= tolerance(weights.dtype))


class _Sums:
    """Sums over the keys: of exponentials, and of exponentials times something, for each query."""

    def __init__(self, call: AttentionCall, reducer: Reducer, block: int) -> None:
        assert call.formula is not None and call.projected is not None
        self.call, self.reducer, self.names = call, reducer, set(reducer.names)
        self.mask = call.formula.mask
        self.query, self.scale = call.formula.query.flatten(0, 1).unbind(), call.formula.scale * BASE
        self.key = call.formula.key.flatten(0, 1).contiguous().unbind()
        self.values = call.projected[0].flatten(0, 1).contiguous().unbind()
        items, heads, queries, keys = call.shape
        self.ratio = heads // call.formula.key.shape[1]
        self.rows = max(1, min(queries, CACHED // keys, block * items * heads))
        self.buffer = torch.empty(self.rows * keys)
        #: of the exponentials, and of those times something: values along the random direction, scores, distances ...
        self.sums = {name: torch.zeros(call.shape[:3]) for name in ("all", "values", "scores", "away", "chosen")}
        self.sums |= {"somewhere": torch.zeros(call.shape[:3]), "count": torch.full(call.shape[:3], float(keys))}
        self.sums["argmax"] = torch.zeros(call.shape[:3], dtype=torch.long)
        self.out = {name: sums.flatten(0, 1).unbind() for name, sums in self.sums.items()}
        chosen = torch.zeros(1, keys) if reducer.chosen is None else reducer.chosen.float()
        #: [keys] for each item
        self.chosen = chosen.expand(items, keys).unbind()
        self.heads = heads
        self.product = _product()

    def run(self) -> None:
        """Go through all queries."""
        items, heads, queries, keys = self.call.shape
        for start in range(0, queries, self.rows):
            rows = slice(start, min(queries, start + self.rows))
            between = self.reducer.between(rows.start, rows.stop, self.call.shape) if "distance" in self.names else None
            allowed = self.mask.allowed(rows.start, rows.stop) if self.mask else None
            if allowed is not None and "information" in self.names:
                count = allowed.expand(*allowed.shape[:-1], keys).sum(-1)
                self.sums["count"][:, :, rows] = count.clamp(min=1).float()
            for item in range(items):
                width, added = self._added(allowed, item, rows)
                for head in range(heads):
                    bias = None if added is None else added[min(head, len(added) - 1)]
                    self._step(item * heads + head, rows, width, bias, between)

    def _added(self, allowed: torch.Tensor | None, item: int, rows: slice) -> tuple[slice, torch.Tensor | None]:
        """Return the keys to which some queries of an item attend, and what is added to their scores there.

        The keys are those from the first to the last; what is added is [heads or 1, queries or 1, keys], to base 2.
        """
        width = slice(0, self.call.shape[3])
        if allowed is None:
            return width, None
        item_allowed = allowed[min(item, len(allowed) - 1)]
        # A query that may attend to nothing is answered like the module's own function answers it: over all keys.
        if item_allowed.any(-1).all():
            any_of = item_allowed.flatten(0, 1).any(0).nonzero()
            width = slice(int(any_of[0]), int(any_of[-1]) + 1)
        if self.mask.hides_only and bool(item_allowed[..., width].all()):
            return width, None
        added = self.mask.added(rows.start, rows.stop)
        assert added is not None
        return width, (added[min(item, len(added) - 1)][..., width].float() * BASE).clamp_(min=LOWEST)

    def _step(
        self,
        index: int,
        rows: slice,
        keys: slice,
        bias: torch.Tensor | None,
        between: tuple[torch.Tensor, torch.Tensor | None] | None,
    ) -> None:
        """Process some queries of one attention head: `index` counts items and, within them, attention heads."""
        out = {name: sums[index][rows] for name, sums in self.out.items()}
        scores = self.product(self.query[index][rows] * self.scale, self.key[index // self.ratio][keys])
        if bias is not None:
            scores.add_(bias)
        scores.sub_(scores.amax(-1, keepdim=True))
        if bias is not None:
            scores.clamp_(min=-200.0)
        powers = torch.exp2(scores, out=self.buffer[: scores.numel()].view_as(scores))
        torch.sum(powers, -1, out=out["all"])
        torch.mv(powers, self.values[index // self.ratio][keys], out=out["values"])
        if "argmax" in self.names:
            torch.argmax(scores, -1, out=out["argmax"]).add_(keys.start)
        if "mass" in self.names:
            torch.mv(powers, self.chosen[index // self.heads][keys], out=out["chosen"])
        if {"entropy", "information"} & self.names:
            torch.sum(scores.mul_(powers), -1, out=out["scores"])
        if between is not None:
            away, somewhere = between
            torch.sum(torch.mul(powers, away[:, keys], out=scores), -1, out=out["away"])
            if somewhere is not None:
                torch.mv(powers, somewhere[keys], out=out["somewhere"])

    def explain_context(self) -> bool:
        """Return whether these weights explain the context along the random direction."""
        assert self.call.projected is not None
        product = self.sums["values"] / self.sums["all"]
        gap = (self.call.projected[1].transpose(1, 2) - product).abs().masked_fill(~self.call.attending[:, None], 0)
        return bool(gap.amax() <= tolerance(product.dtype) * self.call.largest)

    def results(self) -> dict[str, torch.Tensor]:
        """Return the requested reductions by name.

        With p = 2^s / sum 2^s the entropy is ln sum 2^s - ln 2 * sum p s: two numbers that are not negative, as the
        largest score is 0.
        """
        sums, somewhere = self.sums, self.sums["somewhere"]
        if self.reducer.places is None or not bool(self.reducer.places.isnan().any()):
            somewhere = sums["all"]
        entropy = (sums["all"].log2() - sums["scores"] / sums["all"]) / BASE
        every: dict[str, Callable[[], torch.Tensor]] = {
            "entropy": lambda: entropy,
            "information": lambda: sums["count"].log() - entropy,
            "distance": lambda: self.reducer.of_somewhere(sums["away"] / somewhere, self.call.shape),
            "mass": lambda: sums["chosen"] / sums["all"],
            "argmax": lambda: sums["argmax"],
            "max": lambda: 1 / sums["all"],
        }
        return {name: every[name]() for name in self.reducer.names}


def _product() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the fastest product [queries, width] x [keys, width] -> [queries, keys].

    Modes are switched off while a model is watched, so the faster product is called by name.
    """
    mode = accelerated(torch.device("cpu"))
    return getattr(mode, "linear", linear)
