"""`WholeLayerAccess`: what `topwork.look(model)` can do with whole layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch

from topwork_lens.blocks.access import BlockAccess
from topwork_lens.blocks.discovery import find_blocks, neurons_by_block
from topwork_lens.blocks.whole.bypass import block_influence, bypassed
from topwork_lens.blocks.whole.discovery import find_whole_layers, whole_layer_at
from topwork_lens.blocks.whole.leaving_out import leave_out
from topwork_lens.blocks.whole.whole_layer import WholeLayer
from topwork_lens.layers.discovery import heads_by_layer
from topwork_lens.pruning.probes import call_on
from topwork_lens.pruning.prune import Pruned, count_heads, count_parameters, prune
from topwork_lens.pruning.soft import living_layers

#: an original index, where the model has one list of layers; an original path; or the path of a list, and an index
LayerKey = int | str | tuple[str, int]


#: original indices of attention heads by layer, or pairs of a layer and an index; see `Look` for how a layer is named
Heads = Mapping[Any, Sequence[int]] | Sequence[tuple[Any, int]] | torch.Tensor


class WholeLayerAccess(BlockAccess):
    """Whole layers of a model: what can be left out, and what changes without it; and pruning of all kinds at once."""

    @property
    def layers_whole(self) -> list[WholeLayer]:
        """The whole layers as they stand now, found on a random batch; those that must stay have a reason."""
        return self.find_layers_whole()

    def find_layers_whole(self, check: Any = None) -> list[WholeLayer]:
        """Find the whole layers of the model by a run.

        Args:
            check: the batch that is run, as for `prune`.
        """
        with torch.inference_mode(False):
            return find_whole_layers(self.model, call_on(self.model, check))

    @contextmanager
    def bypass_layers(self, layers: Sequence[LayerKey], *, check: Any = None) -> Iterator[None]:
        """Make whole layers give what they are given, for a block.

        Args:
            layers: original indices or paths.
            check: as of `find_layers_whole`.
        """
        present = self.find_layers_whole(check)
        with bypassed(self.model, [whole_layer_at(present, key) for key in layers]):
            yield

    def block_influence(self, batches: Sequence[Any]) -> dict[str, float]:
        """Return by original path how much each whole layer turns what it is given: 0 for one that changes nothing.

        Args:
            batches: dicts of inputs, or functions that run the model.
        """
        runs = [call_on(self.model, batch) for batch in batches]
        layers = find_whole_layers(self.model, runs[0])
        return dict(zip((layer.path for layer in layers), block_influence(self.model, layers, runs), strict=True))

    def prune(
        self,
        heads: Heads | None = None,
        neurons: Mapping[Any, Sequence[int]] | None = None,
        layers: Sequence[LayerKey] | None = None,
        *,
        check: Any = None,
    ) -> Pruned:
        """Remove attention heads, feed-forward neurons and whole layers for good, proved equal to masking them.

        Args:
            heads: as of `prune_heads`.
            neurons: original indices by index or path of a block (see `blocks`).
            layers: original indices or paths of whole layers (see `layers_whole`); what is named inside of them goes
                with them.
            check: as of `prune_heads`.

        Raises:
            Refused: they do not agree, or cannot; the model is then as it was.
        """
        with torch.inference_mode(False):
            call = call_on(self.model, check)
            blocks = find_blocks(self.model, call, self.plugins) if neurons else []
            chosen = {path: indices for path, (_, indices) in neurons_by_block(blocks, neurons or {}).items()}
            if not layers:
                return prune(self.model, cast(Any, {} if heads is None else heads), call, self.plugins, blocks, chosen)
            present = find_whole_layers(self.model, call)
            left_out = list({layer.path: layer for layer in (whole_layer_at(present, key) for key in layers)}.values())
            standing = living_layers(self.model, self.plugins)
            named = {
                path: indices for path, (_, indices) in heads_by_layer(standing, {} if heads is None else heads).items()
            }
            heads_before, parameters_before = count_heads(standing), count_parameters(self.model)
            modules = {path: self.model.get_submodule(path) for path in (*named, *chosen)}
            comparison, restore = leave_out(self.model, left_out, call)
            try:
                paths = {id(module): path for path, module in self.model.named_modules()}
                now = {path: paths[id(module)] for path, module in modules.items() if id(module) in paths}
                blocks = find_blocks(self.model, call, self.plugins) if neurons else []
                named = {now[path]: indices for path, indices in named.items() if path in now}
                chosen = {now[path]: indices for path, indices in chosen.items() if path in now}
                result = prune(self.model, named, call, self.plugins, blocks, chosen)
            except BaseException:
                restore()
                raise
        return replace(
            result,
            heads_before=heads_before,
            parameters_before=parameters_before,
            left_out=[layer.path for layer in left_out],
            check=result.check or comparison,
        )
