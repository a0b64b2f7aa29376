"""Ablations of attention heads: their output becomes zero, its mean over rows, or that of random other positions.

Zero is what pruning does. Mean and resample keep the usual size of what the rest of the model receives, so that it is
not hurt by an input that it never sees (Chan et al. 2022, causal scrubbing; Zhang and Nanda 2024). Entry points:
`Donors.collect` and `ablation_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from topwork import AttentionLayer, UsageError, unknown
from topwork_analyses.head_effects.effects import Ablation
from topwork_lens.look import Look

if TYPE_CHECKING:
    from topwork import Run

Kind = Literal["zero", "mean", "resample"]
KINDS: tuple[Kind, ...] = ("zero", "mean", "resample")
#: positions that are kept of each layer for "resample", and of one row
KEPT, KEPT_OF_ROW = 512, 16


@dataclass
class Donors:
    """Outputs of attention heads on some rows, by layer path: their means, and some of them.

    Args:
        means: [heads, width].
        kept: [positions, heads, width].
        counts: positions that the means are of.
    """

    means: dict[str, torch.Tensor] = field(default_factory=dict)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def collect(cls, run: Run, role: str, layers: Sequence[AttentionLayer], rows: int) -> Donors:
        """Collect the outputs of attention heads on the first rows of a role; every process collects all of them."""
        look = Look(run.model, run.plugins)
        paths = [layer.path for layer in layers]
        parts: list[tuple[int, dict[str, torch.Tensor]]] = []
        for batch in run.loss_batches(role, limit=rows, batch_size=1):
            with torch.no_grad(), look.capture("context", layers=paths) as captured:
                run.task.row_losses(run.model, batch)
            contexts = captured.values.get("context", {})
            outputs = {path: torch.cat([value.flatten(0, -3) for value in contexts[path]]) for path in contexts}
            parts.append((min(batch.row_numbers), outputs))
        donors = cls()
        generator = torch.Generator().manual_seed(run.seed)
        gathered = [part for process in run.process.gather(parts) for part in process]
        for _, part in sorted(gathered, key=_row):
            for path, context in part.items():
                donors._add(path, context.float(), generator)
        return donors

    def _add(self, path: str, context: torch.Tensor, generator: torch.Generator) -> None:
        before, count = self.counts.get(path, 0), len(context)
        mean = self.means.get(path, torch.zeros_like(context[0]))
        self.counts[path] = before + count
        self.means[path] = mean + (context.mean(0) - mean) * (count / (before + count))
        known = self.kept.get(path, context[:0])
        if len(known) < KEPT:
            chosen = torch.randperm(count, generator=generator)[:KEPT_OF_ROW]
            self.kept[path] = torch.cat([known, context[chosen]])


def _row(part: tuple[int, dict[str, torch.Tensor]]) -> int:
    return part[0]


def ablation_of(kind: Kind, look: Look, donors: Donors | None, seed: int) -> Ablation:
    """Return what makes a block in which attention heads are ablated.

    "resample" draws for each position the output at a random position of the donors' rows; the draws begin anew with
    each block. Rows must come in the same batches for the same draws.

    Args:
        kind: "zero", "mean" or "resample".
        look: of the model.
        donors: for "mean" and "resample".
        seed: of the draws.

    Raises:
        UsageError: the kind is not known, or needs donors.
    """
    if kind not in KINDS:
        raise unknown("ablation", kind, KINDS)
    if kind == "zero":
        return lambda layer, heads: look.mask_heads({layer.path: list(heads)})
    if donors is None:
        raise UsageError(f"ablation `{kind}` needs outputs of attention heads on some rows")

    def ablated(layer: AttentionLayer, heads: Sequence[int]) -> AbstractContextManager[Any]:
        if layer.path not in donors.means:
            raise UsageError("no output of this layer was seen", place=layer.path, hint="ablate with zero")
        positions = [layer.kept.index(head) for head in sorted(heads)]
        generator = torch.Generator().manual_seed(seed)
        mean, kept = donors.means[layer.path][positions], donors.kept[layer.path][:, positions]

        def edit(part: torch.Tensor) -> torch.Tensor:
            if kind == "mean":
                return mean.to(part).expand_as(part)
            drawn = torch.randint(len(kept), part.shape[:-2], generator=generator)
            return kept[drawn].to(part)

        return look.patch("context", edit, heads={layer.path: sorted(heads)})

    return ablated
