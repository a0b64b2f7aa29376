"""Patches of a model: which activations are replaced, with what, and the block in which they are.

Entry point: `patched`. A patch is in force in the thread or task that entered its block; patches may be nested, and the
last one entered has the last word. Captures see what patches made. Layers that mix their attention heads are refused
where single heads of them are patched (`head_slices`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.activations.runs import Runs, checkpointing
from topwork_lens.activations.sites import NAMES, OPERANDS, Site, chosen_sites, site_at, sites_of
from topwork_lens.activations.taps import tapped
from topwork_lens.capture.head_slices import heads_verified
from topwork_lens.capture.operands import operands_tapped
from topwork_lens.capture.result import Captured
from topwork_lens.layers.discovery import heads_by_layer, is_list_of_indices, whole_number
from topwork_lens.layers.stacks import stacks_of
from topwork_lens.patching.values import Selection, replaced
from topwork_lens.scope import Scope


@dataclass
class Patch:
    """Replacement of one activation.

    Args:
        site: where it is.
        selection: the part of it that is replaced.
        given: what it is replaced with; see `values.replaced`. Or a sequence of that, one for each run of the part.
        seed: of random choices.
        calls: how often it was replaced.
        pending: as of `runs.Change`.
    """

    site: Site
    selection: Selection
    given: Any
    seed: int = 0
    calls: int = 0
    pending: int = 0
    values: Sequence[torch.Tensor] | None = field(default=None, init=False)

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Return the activation, part of it replaced.

        Raises:
            UsageError: the part ran more often than values were captured, or the value does not fit.
        """
        given = self.given
        if isinstance(given, Captured):
            if self.values is None:
                self.values = _captured(given, self.site)
            if self.calls >= len(self.values):
                cause = f"{self.site.name} was captured {len(self.values)} times, and this part runs more often"
                raise UsageError(cause, place=self.site.path, hint="capture as many forward passes")
            given = self.values[self.calls]
        self.calls += 1
        return replaced(self.site, value, self.selection, given, self.seed)


def _captured(seen: Captured, site: Site) -> Sequence[torch.Tensor]:
    if site.name == "hidden_states":
        runs = len(seen.starts.get(site.path, ()))
        return [seen.hidden_states(run)[site.path][site.index] for run in range(runs)]
    return seen.calls(site.name, site.path)


def patches_of(
    model: nn.Module,
    what: str,
    value: Any,
    layers: Sequence[AttentionLayer],
    *,
    keys: Any = None,
    heads: Any = None,
    positions: Any = None,
    neurons: Any = None,
    seed: int = 0,
) -> list[Patch]:
    """Return the patches that a caller describes; see `Look.patch` for the arguments.

    Raises:
        UsageError: there is no such activation, part of the model, attention head, position or neuron.
        Refused: the model has no such activation.
    """
    if what not in NAMES:
        raise unknown("activation", str(what), NAMES)
    sites = sites_of(model, what, layers)
    if isinstance(value, Mapping) and not isinstance(value, Captured):
        if keys is not None:
            raise UsageError("layers are named twice: in `layers`, and in the values", hint="leave one of them out")
        by_site = {site_at(sites, key): given for key, given in value.items()}
    else:
        by_site = dict.fromkeys(chosen_sites(sites, keys), value)
    by_head = None if heads is None else _heads(what, list(by_site), layers, heads)
    if by_head is not None:
        by_site = {site: given for site, given in by_site.items() if site.path in by_head}
    chosen = {"positions": _indices(positions, "position"), "neurons": _indices(neurons, "neuron")}
    return [
        Patch(site, Selection(None if by_head is None else by_head[site.path], **chosen), given, seed)
        for site, given in by_site.items()
    ]


def _heads(
    what: str, sites: Sequence[Site], layers: Sequence[AttentionLayer], heads: Any
) -> dict[str, tuple[int, ...]]:
    """Return positions of the chosen attention heads among those that each layer has now, by path."""
    if any(site.layer is None for site in sites) or what == "attention_output":
        raise UsageError(f"{what} has no attention heads", hint="leave `heads` out")
    plain = not isinstance(heads, Mapping) and is_list_of_indices(heads)
    wanted = {site.path: heads for site in sites} if plain else heads
    chosen = {}
    for path, (layer, indices) in heads_by_layer(layers, wanted).items():
        if what in ("key", "value") and layer.groups != layer.heads:
            cause = f"{layer.heads} attention heads share {layer.groups} groups of keys and values"
            raise UsageError(cause, place=path, hint="leave `heads` out, or patch the context")
        chosen[path] = tuple(layer.kept.index(index) for index in indices if index in layer.kept)
    return chosen


def _indices(given: Any, what: str) -> tuple[int, ...] | None:
    if given is None:
        return None
    values = [given] if isinstance(given, int) else list(given)
    if not values:
        raise UsageError(f"no {what} is chosen", hint="name some, or leave the argument out")
    return tuple(whole_number(value, f"the index of a {what}") for value in values)


@contextmanager
def patched(model: nn.Module, patches: Sequence[Patch]) -> Iterator[None]:
    """Replace activations, for the time of the block; a part that does not run is named in a warning.

    Args:
        model: the model.
        patches: of one activation or several.

    Raises:
        Refused: a layer mixes its attention heads and single ones are patched; or a part ran and its activation was
            not seen; or gradient checkpointing would run it without the patch after the block.
    """
    by_site = {(patch.site.name, patch.site.path, patch.site.index): patch for patch in patches}

    def visit(site: Site, value: torch.Tensor) -> torch.Tensor | None:
        patch = by_site.get((site.name, site.path, site.index))
        if patch is None:
            return None
        patch.pending += checkpointing()
        changed = patch(value)
        # What is given back as it was needs no computation but the model's own, where no gradient is wanted of it.
        wanted = torch.is_grad_enabled() and changed.requires_grad
        return None if not wanted and torch.equal(changed, value) else changed

    sliced = [patch.site.layer for patch in patches if patch.selection.heads is not None and patch.site.layer]
    with ExitStack() as stack:
        outputs = [layer for layer in sliced if patches[0].site.name not in OPERANDS]
        stack.enter_context(heads_verified(model, outputs) if outputs else nullcontext())
        scope = stack.enter_context(Scope())
        missed = "the model ran this part, and the activation under the patch was not seen"
        if patches[0].site.name == "final_norm":
            missed = "no norm runs directly after this stack: patch the last of its `hidden_states`"
        runs = Runs(model, _watched_paths(model, patches), scope, stack, "patches", missed)
        sites = [patch.site for patch in patches]
        at_modules = [site for site in sites if site.name not in OPERANDS]
        stack.enter_context(tapped(model, at_modules, visit, reads=False))
        operands = [site for site in sites if site.name in OPERANDS]
        stack.enter_context(operands_tapped(model, operands, visit, edits=True))
        yield
    runs.check({patch.site.path: patch for patch in patches})


def _watched_paths(model: nn.Module, patches: Sequence[Patch]) -> dict[str, str]:
    """Return paths of the parts that are patched, each with a module that runs with it: of a stack, its first layer."""
    stacks, names = stacks_of(model), {id(module): path for path, module in model.named_modules()}
    paths = dict.fromkeys(patch.site.path for patch in patches)
    return {path: names[id(stacks[path][0])] if path in stacks else path for path in paths}
