"""Ways of pruning one layer, the best first: each prunes the layer and notes it; `job` checks whether it is right.

Entry point: `Strategies`. The order is: hard, as the description of the layer says; hard in one of its variants (see
`layout_search`); hard but for the last attention head, which is soft (when a whole layer is removed and its module
cannot be empty); soft; soft for those parameters alone that nothing else depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, cast

from torch import nn
from torch.nn.utils import parametrize

from topwork import AttentionLayer, Refused
from topwork_lens.gates import refresh_gates
from topwork_lens.layers.description import resolve
from topwork_lens.layers.discovery import describe_one, find_layers
from topwork_lens.layers.state import write
from topwork_lens.layers.variant import with_variant
from topwork_lens.pruning.layout_search import Variant, candidates
from topwork_lens.pruning.reshapes import FittedForward
from topwork_lens.pruning.slicing import Undo, by_parameter, cut, groups_of
from topwork_lens.pruning.soft import soft_entry, soften, surviving
from topwork_lens.refusals import refuse

#: prunes the layer; is given a list for what takes that back, and why the first way failed
Strategy = Callable[[list[Undo], str], None]


class Strategies:
    """The ways of pruning one layer.

    Args:
        removed: original numbers of the attention heads that are removed.
        check: raises `Refused` when the layer does not compute what it computes masked.
        run: runs the layer on inputs whose sizes have nothing in common with the numbers of attention heads.
        is_weighed: returns whether the context is seen to be weights @ values, attention head by attention head.
        only: the parameters that become compact, and no other way is tried; None: all ways.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: AttentionLayer,
        removed: Sequence[int],
        plugins: Any,
        check: Callable[[], Any],
        run: Callable[[], Any],
        is_weighed: Callable[[], bool],
        only: Sequence[str] | None = None,
    ) -> None:
        self.model, self.layer, self.plugins, self.only = model, layer, plugins, only
        self.check, self.run, self.is_weighed = check, run, is_weighed
        self.removed, self.kept = set(removed), list(layer.kept)

    def all(self, search: Callable[[], list[Variant]]) -> Iterator[tuple[Strategy, Variant | None]]:
        """Yield the ways, with the variant of the layer that each of them uses.

        Args:
            search: returns the variants to try; called when the description itself has failed.
        """
        if self.only is not None:
            yield partial(self.soft, only=self.only), None
            return
        if self.layer.prunable == "hard":
            yield self.hard, None
            variants = search()
            yield from ((partial(self.hard, variant=variant), variant) for variant in variants)
            if set(self.kept) <= self.removed and len(self.kept) > 1:
                yield self.nearly_all, None
                yield from ((partial(self.nearly_all, variant=variant), variant) for variant in variants)
        # Two layouts can agree on where some attention heads lie; only further attention heads distinguish them.
        fused: list[Any] = [partial(self.soft, fused=layout) for layout in candidates(self.model, self._standing())]
        before = soft_entry(self.model, self.layer.path)
        yield from ((strategy, None) for strategy in ([self.soft, *fused] if before else [*fused, self.soft]))
        if before is None:
            yield self.piecewise, None

    def hard(self, undos: list[Undo], why: str, leave: Sequence[int] = (), variant: Variant | None = None) -> None:
        """Slice the parameters."""
        varied = with_variant(self.model, self.layer, variant)
        heads, groups, left = plan(varied, self.removed - set(leave))
        undos.append(cut(self.model, varied, heads, groups))
        if varied.variant and varied.variant.get("fit"):
            varied.variant = {**varied.variant, "sites": self._sites()}
        note(self.model, varied, [self.kept[index] for index in heads], left)
        self._refresh(varied)

    def _sites(self) -> dict[str, list[list[int]]]:
        """Decide, once and for all, which sizes the reshapes of the layer mean."""
        forward = self.model.get_submodule(self.layer.path).forward
        assert isinstance(forward, FittedForward)
        with forward.recording() as sites:
            self.run()
        return sites

    def nearly_all(self, undos: list[Undo], why: str, variant: Variant | None = None) -> None:
        """Slice all but one attention head, which is soft."""
        self.hard(undos, why, leave=self.kept[:1], variant=variant)
        self.soft(undos, why)

    def soft(self, undos: list[Undo], why: str, only: Sequence[str] | None = None, fused: Any = None) -> None:
        """Make parameters compact; they are scattered to full width at run time."""
        standing = self._standing()
        before = soft_entry(self.model, self.layer.path) or {"gone": [], "only": only, "fused": fused}
        removed = sorted(self.removed & set(standing.kept) | set(before["gone"]))
        reason = self.layer.why or why or "asked for"
        undos.append(soften(self.model, standing, removed, reason, only or before["only"], fused or before["fused"]))
        self._refresh(self.layer)

    def piecewise(self, undos: list[Undo], why: str) -> None:
        """Make only those parameters compact that nothing else depends on, such as a norm over all attention heads.

        An output projection alone always agrees. When nothing before it can go, and its slices are not seen to be what
        the attention heads give, what one of them computes may reach the output through the slices of others.
        """
        names = [parameter for parameter, _ in by_parameter(self.layer)]
        chosen = [name for name in names if name.rpartition(".")[0] == self.layer.output]
        self.soft(undos, why, chosen)
        self.check()
        for name in reversed([name for name in names if name not in chosen]):
            self.soft(undos, why, [*chosen, name])
            try:
                self.check()
                useful = _is_compact(self.model, self.layer, name)
            except Refused:
                useful = False
            if useful:
                chosen.append(name)
            else:
                undos.pop().restore()
        shrunk = any(name.endswith("weight") for name in chosen if name.rpartition(".")[0] != self.layer.output)
        if not shrunk and not self.is_weighed():
            cause = "nothing shows that a slice of the context is the output of one attention head"
            raise refuse("not_a_head", cause, place=self.layer.path, hint="its weights and context can be captured")

    def _standing(self) -> AttentionLayer:
        """Return the layer with every attention head that its module computes, softly removed ones among them."""
        layers = find_layers(self.model, self.plugins)
        return next(layer for layer in layers if layer.path == self.layer.path)

    def _refresh(self, layer: AttentionLayer) -> None:
        """Make the kept gates of a layer that has just changed fit it again."""
        now = describe_one(layer.path, self.model.get_submodule(layer.path), self.model, self.plugins)
        refresh_gates(self.model, surviving(self.model, now or layer))


def _is_compact(model: nn.Module, layer: AttentionLayer, parameter: str) -> bool:
    """Return whether a parameter has lost something: a key/value group goes when its last attention head goes."""
    owner_path, _, name = parameter.rpartition(".")
    owner = resolve(model.get_submodule(layer.path), owner_path)
    return parametrize.is_parametrized(cast(nn.Module, owner), name)


def plan(layer: AttentionLayer, removed: Collection[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the indices to keep of attention heads and of key/value groups, and the original groups then left.

    With grouped-query attention the groups stay shared when every group that is left loses equally many attention
    heads; otherwise each kept attention head gets a copy of its group's keys and values.
    """
    numbers = list(layer.kept)
    left = groups_of(layer)
    kept = [index for index, number in enumerate(numbers) if number not in set(removed)]
    ratio = len(numbers) // len(left) if left else 1
    of_head = [index // ratio for index in kept]
    counts = {group: of_head.count(group) for group in of_head}
    groups = sorted(counts) if len(set(counts.values())) <= 1 else of_head
    return kept, groups, [left[group] for group in groups]


def note(model: nn.Module, layer: AttentionLayer, kept: Sequence[int], left: Sequence[int]) -> None:
    """Note which attention heads and key/value groups a layer still has."""
    record = {
        "kept": list(kept),
        "heads": layer.heads,
        "form": "hard",
        "width": layer.width,
        "groups": layer.groups,
        "groups_left": list(left),
    }
    if layer.variant:
        record["variant"] = dict(layer.variant)
    write(model, "layers", layer, record)
