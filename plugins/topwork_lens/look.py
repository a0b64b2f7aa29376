"""`Look`: what the lens can do with one model; `topwork.look(model)` makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Refused, Shown, UsageError
from topwork_lens.blocks.whole.access import Heads, WholeLayerAccess
from topwork_lens.capture.capture import Capture, needs_attention
from topwork_lens.capture.head_slices import require_heads, verify_heads
from topwork_lens.capture.result import Captured
from topwork_lens.capture.tokens import token_ids
from topwork_lens.capture.undescribed import all_described
from topwork_lens.gates import factors_now, factors_of, gated, keep_gates, kept_gates
from topwork_lens.layers.context import is_gateable
from topwork_lens.layers.discovery import (
    Key,
    factors_by_layer,
    find_layers,
    heads_by_layer,
    is_group_and_index,
    is_list_of_indices,
    layer_at,
    numbered,
)
from topwork_lens.layers.mixing import with_mixing
from topwork_lens.layers.state import gather
from topwork_lens.model_state import bare_model
from topwork_lens.patching.patch import patched, patches_of
from topwork_lens.pruning.probes import call_on
from topwork_lens.pruning.prune import Pruned, lines, prune
from topwork_lens.pruning.soft import living_layers
from topwork_lens.pruning.trial import tried as try_pruning
from topwork_lens.scoring.access import ScoringAccess
from topwork_lens.scoring.selection import Choice, Importance, by_scores
from topwork_lens.tables import LayerTable

if TYPE_CHECKING:
    pass


class Look(WholeLayerAccess, ScoringAccess):
    """Access to the attention of a model: capture, mask, score and prune attention heads.

    A layer is named by its index (when the model has one kind of attention; -1 is the last), by (group, index) with
    group "encoder", "decoder", "cross" or "backbone", by "group.index", or by its module path. Attention heads keep the
    indices that they had before pruning. They are chosen by layer, `{0: [1, 3]}`, or as pairs, `[(0, 1), (0, 3)]`.

    Args:
        model: any `nn.Module`, or an object with a `.model` that is one.
        plugins: describes attention layers besides the built-in patterns; None for the patterns alone.
    """

    def __init__(self, model: Any, plugins: Any = None) -> None:
        self.model: nn.Module = bare_model(model)
        self.plugins = plugins
        self.owner = model
        gather(self.model)

    def __repr__(self) -> str:
        return f"Look({type(self.model).__name__})\n{self._lines()!r}"

    def _repr_html_(self) -> str:
        return f"<p>Look: {type(self.model).__name__}</p>{self._lines()._repr_html_()}"

    @property
    def layers(self) -> list[AttentionLayer]:
        """The attention layers as they stand now, in the order of the module tree."""
        return living_layers(self.model, self.plugins)

    def active_layers(self) -> list[AttentionLayer]:
        """Return the layers that can be gated, without the attention heads that a kept gate of 0 has switched off."""
        layers = []
        for layer in filter(is_gateable, self.layers):
            factors = kept_gates(self.model, layer) or [1.0] * layer.heads
            layers.append(replace(layer, kept=tuple(index for index in layer.kept if factors[index] != 0)))
        return layers

    def __getitem__(self, key: Key) -> AttentionLayer:
        return layer_at(self.layers, key)

    def table(self, check: Any = None, tried: bool = False) -> LayerTable:
        """Return a dict for each layer; the list prints as a table, and `to_pandas()` makes a DataFrame of it.

        Columns: group, number, side, kind, path, form ("whole", "hard", "soft", "hard and soft"), form_reason, kept,
        heads, groups, width, prunable ("hard", "soft" or ""), maskable and capturable (True or False), why (of what is
        not possible), gates; and checked_with (the batches of the trial), where layers are tried.

        Args:
            check: the batch on which layers of unknown construction are verified, as for `prune_heads`; None for a
                random one, where the model takes such.
            tried: prune one attention head of each layer in a copy of the model, so that `prunable` and `why` say what
                came out; else `prunable` is the best form that the description of a layer allows.

        Raises:
            UsageError: layers are tried, and the batch is a function.
        """
        self._verify(find_layers(self.model, self.plugins), check)
        table = self._lines()
        if tried:
            trials = try_pruning(self.model, self.layers, check, self.plugins)
            for line in table:
                trial = trials.get(line["path"])
                line |= {"checked_with": trial.checked_with if trial else ""}
                if trial:
                    line |= {"prunable": trial.form, "why": trial.why or line["why"]}
        return table

    def _lines(self) -> LayerTable:
        layers = self.layers
        entries = []
        for layer, line in zip(numbered(layers).values(), lines(self.model, layers), strict=True):
            line |= {"groups": layer.groups, "width": layer.width, "prunable": layer.prunable}
            line |= {"maskable": not layer.mixed, "capturable": not layer.unseen}
            line |= {"why": layer.why or layer.unseen, "gates": kept_gates(self.model, layer)}
            entries.append(line)
        return LayerTable(entries)

    def _verify(self, layers: Sequence[AttentionLayer], check: Any = None) -> None:
        """Find out which layers mix their attention heads; what cannot run on the batch stays unknown.

        Raises:
            TopworkError: the caller's own batch cannot be run.
        """
        with suppress(Refused) if check is None else nullcontext(), torch.inference_mode(False):
            verify_heads(self.model, layers, self.call(check))

    # ------------------------------------------------------------------ seeing

    @contextmanager
    def capture(
        self,
        *what: str,
        layers: Key | Sequence[Key] | None = None,
        heads: Sequence[int] | Heads | None = None,
        keys: Any = None,
        places: torch.Tensor | None = None,
        block: int | None = None,
        memory: int = 2**31,
        device: Any = "cpu",
        folder: str | Path | None = None,
    ) -> Iterator[Captured]:
        """Watch the model: `with look.capture("entropy") as seen: model(**batch)`, then `seen["entropy", 0]`.

        Args:
            what: any of "entropy", "information", "distance" (in self-attention), "mass", "argmax", "max" ([items,
                heads, queries]; float32 at least),
                "mean" ([items, heads, keys]: over queries that are no padding), "weights" ([items, heads, queries,
                keys]), "quantised" (those as 8-bit integers: 255 times the weight), "query", "key", "value" ([items,
                heads or groups, positions, width], as they are multiplied), "scores" (before the softmax, mask and
                bias included), "context" ([items, queries, heads, width]), "attention_output", "head_output" (what
                each attention head adds to it: [items, queries, heads, width]), "hidden" (what the block around each
                layer returns), "hidden_states" (of all layers, in models without attention, too; read them by
                `seen.hidden_states()`), "embeddings", "final_norm", "head_input" (of task heads), "mlp_input",
                "mlp_activation", "mlp_output" (of feed-forward networks); and the gradients of all of these, such as
                "context_gradient", after a backward pass inside the block.
            layers: which attention layers and feed-forward networks; None for all, then attention in any module that
                is not described is refused.
            heads: which attention heads, by original number; by layer or as pairs, those layers alone; None for all.
            keys: for "mass": positions, [positions] for all rows or [rows, positions]; a mask of booleans, [keys] or
                [rows, keys]; or one or more of the names "self", "previous", "next" (counted from the query, in
                self-attention), "special" and "separator" (tokens, as the tokenizer or the config names them).
            places: [positions, d] coordinates for "distance", NaN for a position that stands nowhere.
            block: queries whose weights exist at a time; None: 32 on a CPU, as many as fit in 256 MB on a GPU.
            memory: bytes that may be kept.
            device: where what was captured is kept.
            folder: write what was captured there, a safetensors file each, and keep nothing; it is read when asked for.

        Where that is faster, products of float32 go through oneDNN while gradients are off and weights are asked for:
        the model's numbers may then differ in their last digits.

        Raises:
            UsageError: what is asked for is not known, or there is none of it.
            Refused: something that ran cannot be seen.
        """
        standing = find_layers(self.model, self.plugins)  # what is pruned softly is still computed
        if isinstance(layers, int | str) or is_group_and_index(layers):
            layers = [cast(Key, layers)]
        if heads is not None and not isinstance(heads, Mapping) and not is_list_of_indices(heads):
            heads = {path: indices for path, (_, indices) in heads_by_layer(standing, cast(Any, heads)).items()}
        if isinstance(heads, Mapping):
            layers = list(heads) if layers is None else layers
        attention = needs_attention(what)
        chosen = standing if layers is None or not attention else [layer_at(standing, key) for key in layers]
        by_path = None
        if heads is not None:
            wanted: Any = heads if isinstance(heads, Mapping) else {layer.path: heads for layer in chosen}
            by_path = {path: indices for path, (_, indices) in heads_by_layer(standing, wanted).items()}
        options: dict[str, Any] = {"heads": by_path, "keys": keys, "places": places, "block": block, "folder": folder}
        options["token_ids"] = token_ids(_tokenizer(self.owner), getattr(self.model, "config", None))
        options["networks"] = None if layers is None else list(layers)
        capture = Capture(self.model, chosen, what, memory=memory, device=device, known=standing, **options)
        # Who names layers has left the others out on purpose.
        complete = all_described(self.model, standing) if layers is None and attention else nullcontext()
        with complete, capture.run() as seen:
            yield seen

    def show(self, batch: Any, tokens: Any = None, layer: Key | None = None, head: int | None = None) -> Shown:
        """Run the model on a batch and return a page for a notebook on which attention heads are chosen.

        Args:
            batch: a dict of inputs, or a `Batch`.
            tokens: names of the positions, a list (of one item) or a list of lists, or `topwork.Units`; None for what
                the task or the tokenizer knows.
            layer: that is shown first.
            head: original index of the attention head that is shown first; None for the mean of all.

        Example:
            >>> look.show(tokenizer("a generous film", return_tensors="pt"))  # doctest: +SKIP
        """
        from topwork_lens.show import show_batch

        return show_batch(self, batch, tokens, layer, head)

    # ------------------------------------------------------------------ masking

    @contextmanager
    def mask_heads(self, heads: Heads) -> Iterator[None]:
        """Switch attention heads off for a block: their output is multiplied by 0.

        The mask is in force in the thread or task that entered the block.

        Raises:
            Refused: a layer mixes its attention heads, so that there is nothing to switch off; see `gates`.
        """
        chosen = heads_by_layer(self.layers, heads)
        gates = {path: (layer, factors_of(layer, masked)) for path, (layer, masked) in chosen.items()}
        with gated(self.model, gates):
            yield

    @contextmanager
    def gates(self, gates: Mapping[Any, Any] | torch.Tensor) -> Iterator[None]:
        """Multiply the output of attention heads by factors for a block; gradients flow into the factors.

        With a leaf tensor of ones that needs a gradient, that gradient is dL/dgate, which importance is made of.

        Args:
            gates: by layer, a tensor or a sequence with a factor for each original attention head in its last
                dimension: [heads], or [items, heads], or [items, positions, heads]; or a tensor [layers, heads], of a
                model with one kind of attention.

        Raises:
            Refused: a layer mixes its attention heads (known at the beginning or after the first run), a layer ran
                without its gates, or gradient checkpointing would run it without them after the block.
        """
        by_layer = factors_by_layer(self.layers, gates)
        chosen = {layer.path: (layer, factors_now(layer, factors)) for layer, factors in by_layer}
        with gated(self.model, chosen):
            yield

    @contextmanager
    def patch(
        self,
        what: str,
        value: Any,
        *,
        layers: Any = None,
        heads: Any = None,
        positions: int | Sequence[int] | None = None,
        neurons: int | Sequence[int] | None = None,
        seed: int = 0,
    ) -> Iterator[None]:
        """Replace an activation for a block: `with look.patch("context", 0.0, heads={2: [1]}): model(**batch)`.

        A patch is in force in the thread or task that entered the block. Patches may be nested: the last one entered
        has the last word.

        Args:
            what: an activation as `capture` names it: "embeddings", "hidden_states", "final_norm", "head_input",
                "query", "key", "value", "scores", "weights", "context", "head_output", "attention_output",
                "mlp_input", "mlp_activation", "mlp_output".
            value: a number; a tensor, of the shape of what is replaced or repeated to it; "mean", over all rows and
                positions of the batch that runs; "resample", values of another row of it; a `Captured`, whose values
                are put back run by run; a function that is given what is replaced; or any of these by layer.
            layers: one part of the model or a list, named as `seen[what, ...]` names it; None for all.
            heads: original indices of attention heads: of all layers, or by layer, or as pairs; None for all.
            positions: token positions (of scores and weights: queries); None for all.
            neurons: indices along the last dimension; None for all.
            seed: of "resample".

        Raises:
            UsageError: there is no such part, or the value does not fit it.
            Refused: the model has no such activation, it was not seen where its part ran, or single attention heads of
                a layer that mixes them are meant.

        Example:
            >>> with look.patch("hidden_states", clean, layers=3, positions=5):  # doctest: +SKIP
            ...     logits = model(**corrupt).logits
        """
        chosen: dict[str, Any] = {"keys": layers, "heads": heads, "positions": positions, "neurons": neurons}
        standing = find_layers(self.model, self.plugins)
        with patched(self.model, patches_of(self.model, what, value, standing, **chosen, seed=seed)):
            yield

    def keep_masked(self, heads: Heads, factor: float = 0.0) -> dict[str, list[int]]:
        """Switch attention heads off for good, without cutting: the gates stay on the model and are saved with it.

        Gates that are there already stay.

        Args:
            heads: original indices by layer, or pairs of a layer and an index.
            factor: what their output is multiplied by.

        Returns:
            Original indices of those switched off now, by path.

        Raises:
            Refused: a layer mixes its attention heads.
        """
        chosen = heads_by_layer(self.layers, heads)
        self._require([layer for layer, _ in chosen.values()])
        for layer, masked in chosen.values():
            factors = list(kept_gates(self.model, layer) or [1.0] * layer.heads)
            for index in masked:
                factors[index] = factor
            keep_gates(self.model, layer, factors)
        return {path: masked for path, (_, masked) in chosen.items()}

    def set_gates(self, gates: Mapping[Any, Sequence[float]] | torch.Tensor) -> None:
        """Put any factors on the attention heads of layers, one for each original index; they stay and are saved.

        Raises:
            UsageError: these are no such factors.
            Refused: a layer mixes its attention heads.
        """
        chosen = []
        for layer, factors in factors_by_layer(self.layers, gates):
            factors_now(layer, factors)
            if torch.as_tensor(factors).dim() != 1:
                hint = f"give {layer.heads} numbers, one for each attention head"
                raise UsageError("gates that stay are the same for all items", place=layer.path, hint=hint)
            chosen.append((layer, [float(factor) for factor in factors]))
        self._require([layer for layer, _ in chosen])
        for layer, numbers in chosen:
            keep_gates(self.model, layer, numbers)

    def _require(self, layers: Sequence[AttentionLayer]) -> None:
        """Refuse layers that mix their attention heads, found out on a random batch where the model takes one."""
        require_heads(layers)
        self._verify(layers)
        require_heads([with_mixing(layer, self.model.get_submodule(layer.path)) for layer in layers])

    # ------------------------------------------------------------------ pruning

    def prune_heads(
        self,
        heads: Heads | Importance,
        *,
        share: float | None = None,
        count: int | None = None,
        threshold: float | None = None,
        at_least: int = 1,
        check: Any = None,
    ) -> Pruned:
        """Remove attention heads for good: the weights become smaller.

        Where the code of a layer cannot be cut, its parameters become compact and are scattered to their full width
        when they are read: that saves parameters and disk, no time. The result says which form each layer got, and why.

        Args:
            heads: original indices by layer, or pairs of a layer and an index; what is pruned already is passed over.
                Or an `Importance`, with one of `share`, `count` and `threshold`: the least important ones.
            share: of all attention heads that there are now.
            count: how many attention heads.
            threshold: attention heads whose score is below it.
            at_least: how many attention heads every layer keeps, where they are chosen by scores.
            check: the batch on which masked and pruned model must agree: a dict of inputs, or a function that runs
                the model; None makes a random one.

        Raises:
            Refused: they do not agree, or cannot; the model is then as it was.
        """
        chosen: Any = by_scores(self.layers, heads, Choice(share, count, threshold, at_least))
        # Parameters that were made in inference mode could never be trained.
        with torch.inference_mode(False):
            return prune(self.model, chosen, self.call(check), self.plugins)

    def call(self, check: Any) -> Callable[[], Any]:
        """Return what runs the model on a batch: a dict of inputs, a `Batch`, a function; None for a random batch."""
        return call_on(self.model, check)


def _tokenizer(owner: Any) -> Any:
    """Return the tokenizer of an object that has one, or whose task has one."""
    return getattr(owner, "tokenizer", None) or getattr(getattr(owner, "task", None), "tokenizer", None)
