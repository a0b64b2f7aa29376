"""`Look`: everything that the lens can do with one model, behind `topwork.look(model)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from topwork import AttentionLayer, Batch, Json, TopworkError, UsageError
from topwork_lens.capture.capture import Capture
from topwork_lens.capture.result import Captured
from topwork_lens.capture.undescribed import all_described
from topwork_lens.gates import factors_of, gated, keep_gates, kept_gates, now_of
from topwork_lens.layers.discovery import Key, find_layers, heads_by_layer, layer_at, numbered
from topwork_lens.layers.state import gather
from topwork_lens.pruning.prune import Pruned, lines, prune
from topwork_lens.pruning.random_inputs import probe_inputs
from topwork_lens.pruning.soft import living_layers
from topwork_lens.refusals import refuse
from topwork_lens.scoring.importance import own_loss, score, single_items
from topwork_lens.scoring.row_independence import RowLosses
from topwork_lens.scoring.selection import Importance, Normalise, importance_of, in_groups

if TYPE_CHECKING:
    import torch

    from topwork_lens.scoring.gradients import Reduction

#: original numbers of attention heads by layer; see `Look` for how a layer is named
Heads = Mapping[Any, Sequence[int]]


class Look:
    """What there is to see and to change in the attention of a model.

    A layer is named by its number (when the model has one kind of attention), by (group, number) with group
    "encoder", "decoder", "cross" or "backbone", by "group.number", or by its module path. Attention heads have the
    numbers that they had before anything was pruned.

    Args:
        model: any `nn.Module`, or an object with a `.model` that is one.
        plugins: who is asked for attention layers besides the built-in rows; None for those alone.
    """

    def __init__(self, model: Any, plugins: Any = None) -> None:
        self.model: nn.Module = _bare(model)
        self.plugins = plugins
        gather(self.model)

    @property
    def layers(self) -> list[AttentionLayer]:
        """The attention layers as they stand now, in the order of the module tree."""
        return living_layers(self.model, self.plugins)

    def active_layers(self) -> list[AttentionLayer]:
        """The attention layers without the attention heads that a kept gate of 0 has switched off."""
        found = []
        for layer in self.layers:
            factors = kept_gates(self.model, layer) or [1.0] * layer.heads
            found.append(replace(layer, kept=tuple(number for number in layer.kept or () if factors[number] != 0)))
        return found

    def __getitem__(self, key: Key) -> AttentionLayer:
        return layer_at(self.layers, key)

    def table(self) -> list[dict[str, Json]]:
        """One line a layer: path, group, number, heads, kept, groups, width, form, prunable, why, gates."""
        found = []
        layers = self.layers
        for layer, entry in zip(numbered(layers).values(), lines(self.model, layers), strict=True):
            entry |= {"groups": layer.groups, "width": layer.width, "prunable": layer.prunable, "why": layer.why}
            found.append({**entry, "gates": kept_gates(self.model, layer)})
        return found

    # ------------------------------------------------------------------ seeing

    @contextmanager
    def capture(
        self,
        *what: str,
        layers: Key | Sequence[Key] | None = None,
        heads: Sequence[int] | Heads | None = None,
        keys: Sequence[int] | None = None,
        places: torch.Tensor | None = None,
        block: int = 32,
        memory: int = 2**31,
        device: Any = "cpu",
        folder: str | Path | None = None,
    ) -> Iterator[Captured]:
        """Watch the model: `with look.capture("entropy") as seen: model(**batch)`, then `seen["entropy", 0]`.

        Args:
            what: any of "entropy", "information", "distance" (in self-attention), "mass", "argmax", "max" ([items,
                heads, queries]; float32 at least),
                "mean" ([items, heads, keys]: over queries that are no padding), "weights" ([items, heads, queries,
                keys]), "quantised" (those as 8-bit integers: 255 times the weight), "context", "context_gradient"
                ([items, queries, heads, width]), "weights_gradient", "hidden" (what each block answers).
            layers: which attention layers; None for all, then attention in any module that is not described is refused.
            heads: which attention heads, by original number; by layer, those layers alone; None for all.
            keys: positions for "mass".
            places: [positions, d] coordinates for "distance", NaN for a position that stands nowhere.
            block: queries whose weights exist at a time.
            memory: bytes that may be kept.
            device: where what was captured is kept.
            folder: write what was captured there, a safetensors file each, and keep nothing; it is read when asked for.

        Where that is faster, products of float32 go through oneDNN while gradients are off and weights are asked for:
        the model's numbers may then differ in their last digits.

        Raises:
            UsageError: what is asked for is not known, or there is none of it.
            Refused: something that ran cannot be seen.
        """
        found = find_layers(self.model, self.plugins)  # what is gone softly is still computed
        if isinstance(layers, int | str):
            layers = [layers]
        if isinstance(heads, Mapping):
            layers = list(heads) if layers is None else layers
        chosen = found if layers is None else [layer_at(found, key) for key in layers]
        by_path = None
        if heads is not None:
            asked = heads if isinstance(heads, Mapping) else {layer.path: heads for layer in chosen}
            by_path = {path: numbers for path, (_, numbers) in heads_by_layer(found, asked).items()}
        options: dict[str, Any] = {"heads": by_path, "keys": keys, "places": places, "block": block, "folder": folder}
        capture = Capture(self.model, chosen, what, memory=memory, device=device, known=found, **options)
        # Who names layers has left the others out on purpose.
        complete = all_described(self.model, found) if layers is None else nullcontext()
        with complete, capture.run() as seen:
            yield seen

    # ------------------------------------------------------------------ masking

    @contextmanager
    def mask_heads(self, heads: Heads) -> Iterator[None]:
        """Switch attention heads off for a block: their output is multiplied by 0."""
        asked = heads_by_layer(self.layers, heads)
        with gated(self.model, {path: (layer, factors_of(layer, gone)) for path, (layer, gone) in asked.items()}):
            yield

    @contextmanager
    def gates(self, gates: Mapping[Any, Any]) -> Iterator[None]:
        """Multiply the output of attention heads by factors for a block; gradients flow into the factors.

        With a leaf tensor of ones that needs a gradient, that gradient is dL/dgate, which importance is made of.

        Args:
            gates: by layer, a tensor or a sequence with a factor for each original attention head in its last
                dimension: [heads], or [items, heads], or [items, positions, heads].
        """
        chosen = {}
        layers = self.layers
        for key, factors in gates.items():
            layer = layer_at(layers, key)
            chosen[layer.path] = (layer, now_of(layer, factors))
        with gated(self.model, chosen):
            yield

    def keep_masked(self, heads: Heads, factor: float = 0.0) -> dict[str, list[int]]:
        """Switch attention heads off for good, without cutting: the gates stay on the model and are saved with it.

        Gates that are there already stay; returns the original numbers of those switched off now, by path.

        Args:
            factor: what their output is multiplied by.
        """
        done = {}
        for path, (layer, gone) in heads_by_layer(self.layers, heads).items():
            factors = list(kept_gates(self.model, layer) or [1.0] * layer.heads)
            for number in gone:
                factors[number] = factor
            keep_gates(self.model, layer, factors)
            done[path] = gone
        return done

    def set_gates(self, gates: Mapping[Any, Sequence[float]]) -> None:
        """Put any factors on the attention heads of layers, one for each original number; they stay and are saved."""
        layers = self.layers
        for key, factors in gates.items():
            layer = layer_at(layers, key)
            if len(factors) != layer.heads:
                raise UsageError(f"{len(factors)} gates for {layer.heads} attention heads", place=layer.path)
            keep_gates(self.model, layer, factors)

    # ------------------------------------------------------------------ pruning

    def prune_heads(self, heads: Heads, *, check: Any = None) -> Pruned:
        """Remove attention heads for good: the weights become smaller.

        Where the code of a layer cannot be cut, its parameters become compact and are scattered to their full width
        when they are read: that saves parameters and disk, no time. The result says which form each layer got, and why.

        Args:
            heads: original numbers by layer; what is gone already is passed over.
            check: the batch on which masked and pruned model must agree: a dict of inputs, or a function that runs
                the model; None makes a random one.

        Raises:
            Refused: they do not agree, or cannot; the model is then as it was.
        """
        return prune(self.model, heads, self.call(check), self.plugins)

    def call(self, check: Any) -> Callable[[], Any]:
        """Runs the model on a batch: a dict of inputs, a `Batch`, a function that runs it; None for a random one."""
        if callable(check):
            return check
        made: dict[str, Any] = {}

        def call() -> Any:
            if not made:
                made.update(check.inputs if isinstance(check, Batch) else check or probe_inputs(self.model))
                if "use_cache" in inspect.signature(self.model.forward).parameters:
                    # A cache would be filled by one run and read by the next.
                    made.setdefault("use_cache", False)
            try:
                return self.model(**made)
            except Exception as error:
                if check is not None or isinstance(error, TopworkError):
                    raise
                cause = f"{type(self.model).__name__} does not run on a random batch ({type(error).__name__}: {error})"
                raise refuse("check_failed", cause, hint="give one: prune_heads(heads, check=batch)") from error

        return call

    # ------------------------------------------------------------------ scoring

    def importance(
        self,
        batches: Iterable[Mapping[str, Any] | Batch],
        method: str = "michel",
        *,
        row_losses: RowLosses | None = None,
        reduction: Reduction = "example",
        normalise: Normalise = "layer",
        seed: int = 0,
        orders: int = 8,
        groups: Sequence[str] | None = None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> Importance:
        """Score every attention head; see `importance.score` for the methods.

        Args:
            batches: dicts of tensors (with labels) for a model that computes its own loss, one row at a time; or
                `Batch` objects together with `row_losses`.
            row_losses: (model, batch) -> [rows].
            orders: for "shapley": over how many random orders.
            groups: score only "encoder", "decoder", "cross", "backbone" attention; the others have no scores then.
        """
        layers = self.layers
        scored = in_groups(layers, groups)
        if row_losses is None:
            batches = (one for batch in batches for one in single_items(_inputs(batch)))
        rows, raw = score(
            self.model,
            scored,
            batches,  # type: ignore[arg-type]
            row_losses or own_loss,
            method,
            reduction=reduction,
            seed=seed,
            orders=orders,
            known=layers,
            gather=gather,
        )
        return importance_of(layers, raw, method, rows, normalise)


def _bare(model: Any) -> nn.Module:
    """The module itself: of an object that has one, of a compiled model, of a wrapper for several devices."""
    found = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    while True:
        if isinstance(found, nn.DataParallel | nn.parallel.DistributedDataParallel):
            found = found.module
        elif isinstance(inner := getattr(found, "_orig_mod", None), nn.Module):
            found = inner
        elif isinstance(found, nn.Module):
            return found
        else:
            raise UsageError(
                f"a {type(model).__name__} is no model", hint="give an nn.Module, or what topwork.build made"
            )


def _inputs(batch: Mapping[str, Any] | Batch) -> Mapping[str, Any]:
    return batch.inputs if isinstance(batch, Batch) else batch
