"""Pruning of attention heads: smaller weights, and the proof that the model computes what the masked one computes.

Entry point: `prune`. Each layer is run masked on the inputs that it has in the model, pruned, run again and compared;
at the end the whole model is. Where slicing fails, the soft form is tried, with the failure as its reason. What is kept
is noted in the model's alterations by original numbers, never in the caller's config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from topwork import AttentionLayer, Block, Json, Removal
from topwork_lens.capture.head_slices import require_heads
from topwork_lens.flops import Flops, count_flops
from topwork_lens.layers.context import Unit
from topwork_lens.layers.discovery import heads_by_layer, numbered
from topwork_lens.pruning.equivalence import Comparison
from topwork_lens.pruning.job import PruningJob
from topwork_lens.pruning.preconditions import none_found, not_plain
from topwork_lens.pruning.replaced import restoring_modules
from topwork_lens.pruning.slicing import shared_elsewhere
from topwork_lens.pruning.soft import living_layers, soft_entry
from topwork_lens.refusals import refuse
from topwork_lens.tables import brief_indices, brief_list

Call = Callable[[], Any]


@dataclass
class Pruned:
    """Result of pruning.

    Args:
        removed: original numbers of the removed attention heads, by module path.
        layers: of every layer of the model: group, number, side, kind, path, form ("whole", "hard", "soft", or "hard
            and soft": all but one attention head cut, the last one soft), why it is soft, kept numbers, heads.
        check: how masked and pruned model compare; None when nothing was removed.
        by_layer: the same for each layer alone.
        flops: floating-point operations on the batch that it was checked with, before and after.
        removed_neurons: original numbers of the removed neurons, by path of their block.
        neurons_before: neurons of all blocks that were looked for; 0 when none were.
        neurons_after: those that are left.
        left_out: original paths of whole layers that were left out.
    """

    removed: dict[str, list[int]]
    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    layers: list[dict[str, Json]]
    check: Comparison | None
    flops: tuple[Flops, Flops]
    by_layer: dict[str, Comparison] = field(default_factory=dict)
    removed_neurons: dict[str, list[int]] = field(default_factory=dict)
    neurons_before: int = 0
    neurons_after: int = 0
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def merged(cls, steps: Sequence[Pruned]) -> Pruned:
        """Return several prunings of one model as one; the check of the whole model is the last that was made."""
        first, last = steps[0], steps[-1]
        removed: dict[str, list[int]] = {}
        by_layer: dict[str, Comparison] = {}
        for step in steps:
            by_layer |= step.by_layer
            for path, heads in step.removed.items():
                removed[path] = sorted([*removed.get(path, ()), *heads])
        counts = (first.heads_before, last.heads_after, first.parameters_before, last.parameters_after)
        check = next((step.check for step in reversed(steps) if step.check), None)
        return cls(removed, *counts, last.layers, check, (first.flops[0], last.flops[1]), by_layer)

    def __repr__(self) -> str:
        counts = [f"heads {self.heads_before} -> {self.heads_after}"]
        if self.neurons_before:
            counts.append(f"neurons {self.neurons_before} -> {self.neurons_after}")
        counts.append(f"parameters {self.parameters_before} -> {self.parameters_after}")
        parts = [", ".join(counts)]
        for name, removed in (("removed", self.removed), ("removed_neurons", self.removed_neurons)):
            if removed:
                parts.append(f"{name} {brief_indices(removed)}")
        if self.left_out:
            parts.append(f"left out {brief_list(self.left_out)}")
        return f"Pruned({'; '.join(parts)}; {self.check})"

    def removal(self) -> Removal:
        """Return what was taken away, as the result of a stage says it.

        The counts are those of attention heads; of neurons where they alone were removed.
        """
        if self.removed_neurons and not self.removed:
            return {
                "how": "pruned",
                "unit": "neurons",
                "before": self.neurons_before,
                "after": self.neurons_after,
                "parameters_before": self.parameters_before,
                "parameters_after": self.parameters_after,
            }
        return {
            "how": "pruned",
            "unit": "attention heads",
            "before": self.heads_before,
            "after": self.heads_after,
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "heads": self.removed,
        }

    def json(self) -> dict[str, Json]:
        """Return the form that a stage's result has."""
        counts = ("heads_before", "heads_after", "parameters_before", "parameters_after")
        check = self.check.json() if self.check else None
        if check is not None:
            check["layers"] = {path: comparison.json() for path, comparison in self.by_layer.items()}
        before, after = self.flops
        return {
            **{name: getattr(self, name) for name in counts},
            "flops_before": before.total,
            "flops_after": after.total,
            "attention_share": before.share,
            "speed_limit": before.limit(after),
            "flops": {"before": before.json(), "after": after.json()},
            "removed": self.removed,
            "layers": self.layers,
            "check": check,
            **self._neurons(),
        }

    def _neurons(self) -> dict[str, Json]:
        left_out: dict[str, Json] = {"left_out": self.left_out} if self.left_out else {}
        if not self.neurons_before:
            return left_out
        counts = {"neurons_before": self.neurons_before, "neurons_after": self.neurons_after}
        return {**counts, "removed_neurons": self.removed_neurons, **left_out}


def prune(
    model: nn.Module,
    heads: Mapping[Any, Sequence[int]],
    call: Call,
    plugins: Any = None,
    blocks: Sequence[Block] = (),
    neurons: Mapping[str, Sequence[int]] | None = None,
) -> Pruned:
    """Remove attention heads and neurons by original numbers; those that are removed already are passed over.

    Args:
        model: the model.
        heads: original indices of attention heads, by path or number of the layer.
        call: runs the model on the batch that pruning is checked with.
        plugins: plugins that describe attention layers; None loads the installed ones.
        blocks: the blocks of the model, when neurons are removed.
        neurons: path of a block -> original numbers.

    Raises:
        Refused: something would be wrong; the model is then as it was.
    """
    layers = living_layers(model, plugins)
    if not layers and heads is not None and len(heads):
        raise none_found(model)
    requested = heads_by_layer(layers, heads)
    removed = {path: [n for n in numbers if n in layer.kept] for path, (layer, numbers) in requested.items()}
    removed = {path: numbers for path, numbers in removed.items() if numbers}
    by_path = {block.path: block for block in blocks}
    removed_neurons = {
        path: [number for number in numbers if number in set(by_path[path].kept)]
        for path, numbers in (neurons or {}).items()
    }
    removed_neurons = {path: numbers for path, numbers in removed_neurons.items() if numbers}
    chosen: list[Unit] = [requested[path][0] for path in removed]
    # A block inside of another module is cut before what changes the inputs of that module.
    chosen += sorted((by_path[path] for path in removed_neurons), key=lambda block: -len(block.inside))
    for layer in chosen:
        check_prunable(model, layer)
    heads_before, parameters_before = count_heads(layers), count_parameters(model)
    with restoring_modules(model, layers):
        flops_before = flops_after = count_flops(model, layers, call)
        check, by_layer = None, dict[str, Comparison]()
        if chosen:
            check, by_layer = PruningJob(model, removed | removed_neurons, call, plugins).prune(chosen)
            flops_after = count_flops(model, living_layers(model, plugins), call)
    layers = living_layers(model, plugins)
    counts = (heads_before, count_heads(layers), parameters_before, count_parameters(model))
    before = sum(len(block.kept) for block in blocks)
    after = before - sum(map(len, removed_neurons.values()))
    flops = (flops_before, flops_after)
    return Pruned(removed, *counts, lines(model, layers), check, flops, by_layer, removed_neurons, before, after)


def count_heads(layers: Sequence[AttentionLayer]) -> int:
    """Return the number of attention heads that a model has now."""
    return sum(len(layer.kept) for layer in layers)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def lines(model: nn.Module, layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return an entry a layer, as a result has it."""
    entries = []
    for (group, number), layer in numbered(layers).items():
        where = {"group": group, "number": number, "side": layer.side, "kind": layer.kind, "path": layer.path}
        soft = soft_entry(model, layer.path)
        form = "soft" if soft else "hard" if layer.removed else "whole"
        if soft and len(soft["gone"]) < len(layer.removed):
            form = "hard and soft"
        entries.append(
            {
                **where,
                "form": form,
                "form_reason": soft["why"] if soft else "",
                "kept": list(layer.kept),
                "heads": layer.heads,
            }
        )
    return entries


def check_prunable(model: nn.Module, layer: Unit) -> None:
    """Check that a layer or block may be pruned.

    Raises:
        Refused: it may not.
    """
    if isinstance(layer, AttentionLayer):
        require_heads([layer])
    if not layer.prunable:
        cause = layer.why or "this layer cannot be pruned"
        raise refuse(
            "shared_parameter" if isinstance(layer, AttentionLayer) else "not_a_head",
            cause,
            place=layer.path,
            hint="mask it instead",
        )
    obstacle = not_plain(model, layer)
    if obstacle is not None:
        raise obstacle
    user = shared_elsewhere(model, layer)
    if user is not None:
        raise refuse(
            "shared_parameter", f"its weights are also those of {user}", place=layer.path, hint="mask it instead"
        )
