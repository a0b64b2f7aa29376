"""The stage `head_roles`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json, Stage, UsageError

if TYPE_CHECKING:
    from topwork import AttentionLayer, Batch, Run, Units
    from topwork_analyses.attention_patterns.statistics_of_heads import Means
    from topwork_lens.look import Look


class HeadRoles(Stage):
    """Name roles of attention heads by the keys they attend to most; each must hold again on the other half of rows."""

    name: ClassVar[str] = "head_roles"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "heads", "roles", "confirmed")

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")
    rows: PositiveInt = Field(200, ge=4, description="rows that are looked at, half of them to confirm roles")
    tokens: list[str] = Field(default_factory=list, description="further tokens that may make a role, such as `.`")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.attention_patterns.key_sets import require_tokens
        from topwork_analyses.attention_patterns.statistics_of_heads import Means
        from topwork_analyses.head_roles.roles import role_lines
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        layers = look.layers
        counts = self._token_counts(run)
        halves = (Means(), Means())
        seen: set[int] = set()
        for batch in run.progress(run.loss_batches(self.role, limit=self.rows, batch_size=1), self.rows, "head roles"):
            for item in batch.items:
                single = batch if len(batch.items) == 1 else run.task.collate([item], "loss").to(run.device)
                self._add(run, look, layers, single, run.task.units(item), counts, halves[item.row % 2])
                seen.add(item.row)
        (first, second), rows = self._gathered(run, halves, seen)
        if len(rows) < 4:
            raise UsageError(f"roles of {len(rows)} rows cannot be confirmed", hint="give four rows or more")
        require_tokens(self.tokens, [*first.names(), *second.names()], f"stage {self.name}, tokens")
        lines = role_lines(first, second, layers)
        having = {(line["group"], line["layer"], line["head"]) for line in lines if line["confirmed"]}
        heads = sum(len(layer.kept) for layer in layers)
        confirmed = sum(line["confirmed"] for line in lines)
        result = {"rows": len(rows), "heads": heads, "roles": len(lines), "confirmed": confirmed}
        return {**result, "heads_with_role": len(having), "tables": {"Roles of attention heads": lines}}

    def _token_counts(self, run: Run) -> Counter[str]:
        """Count how often each token stands in the rows, for tasks whose positions have names."""
        counts: Counter[str] = Counter()
        for batch in run.loss_batches(self.role, limit=self.rows):
            for item in batch.items:
                counts.update(run.task.units(item).names)
        return sum(run.process.gather(counts), Counter())

    def _add(
        self,
        run: Run,
        look: Look,
        layers: list[AttentionLayer],
        batch: Batch,
        units: Units,
        counts: Counter[str],
        means: Means,
    ) -> None:
        """Add the most attended keys of one item."""
        import torch

        from topwork_analyses.attention_patterns.key_sets import key_sets
        from topwork_analyses.attention_patterns.rows_of_weights import decoder_reads_input
        from topwork_analyses.head_roles.roles import rare_keys, role_shares

        with torch.no_grad(), look.capture("argmax", "max", "mean") as captured:
            run.task.row_losses(run.model, batch)
        reads = decoder_reads_input(layers)
        for layer in layers:
            calls = [captured.values.get(name, {}).get(layer.path, ()) for name in ("argmax", "max", "mean", "valid")]
            if not layer.kept or not all(len(values) for values in calls):
                continue
            numbers: dict[str, list[torch.Tensor]] = {}
            for argmax, largest, mean, valid in zip(*calls, strict=True):
                queries, keys = argmax.shape[-1], mean.shape[-1]
                sets = key_sets(units, layer, queries, keys, decoder_names=reads, tokens=self.tokens)
                is_input = layer.kind == "self" and (reads or layer.side != "decoder")
                if is_input and (rarest := rare_keys(units, counts, queries, keys)) is not None:
                    sets.append(rarest)
                for window in range(len(argmax)):
                    mask = valid[min(window, len(valid) - 1)]
                    if not bool(mask.any()):
                        continue
                    for name, values in role_shares(argmax[window], largest[window], mask, sets).items():
                        numbers.setdefault(name, []).append(values)
            means.add(layer.path, {name: torch.stack(values).mean(0) for name, values in numbers.items()})

    def _gathered(self, run: Run, halves: tuple[Means, Means], seen: set[int]) -> tuple[tuple[Means, Means], set[int]]:
        (kept, rows), *others = run.process.gather((halves, seen))
        for means, more in others:
            for half, part in zip(kept, means, strict=True):
                half.merge(part)
            rows |= more
        return kept, rows
