"""The precondition of masks, gates, scores and pruning: a slice of the context is the output of one attention head.

Entry points: `heads_verified`, `verify_heads`, `require_heads`. A layer is verified by the first run in which it is
masked, gated or scored; the result holds for all modules of the same construction (`layers.mixing`). Two proofs are
accepted: weights @ values is what the output projection receives; or parameters of one attention head change no slice
but its own.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call

from topwork import AttentionLayer, Refused, Slices, TopworkError, map_tensors
from topwork_lens.capture.capture import Capture
from topwork_lens.capture.verification import tolerance
from topwork_lens.layers.context import first_input, module_at, output_projection, split_heads
from topwork_lens.layers.description import resolve
from topwork_lens.layers.mixing import construction_of, measured, remember, with_mixing
from topwork_lens.layers.state import noted
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope

MIXED = "a slice of its context is not the output of one attention head: one head changes the slices of others"


def require_heads(layers: Sequence[AttentionLayer]) -> None:
    """Refuse layers that are known to mix their attention heads.

    Raises:
        Refused: reason "not_a_head".
    """
    for layer in layers:
        if layer.mixed:
            raise refuse("not_a_head", layer.mixed, place=layer.path, hint="its weights and context can be captured")


@dataclass
class _Recorded:
    """An attention layer, and the inputs of its first call."""

    layer: AttentionLayer
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, overrides: dict[str, torch.Tensor] | None = None) -> Any:
        """Run the module again, with some of its parameters replaced."""
        with quiet(self.module):
            # Caches and the like are changed by a call, so every call gets its own.
            args, kwargs = copy.deepcopy((self.args, self.kwargs))
            return functional_call(self.module, overrides or {}, args, kwargs)


@contextmanager
def heads_verified(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[None]:
    """Verify those layers that run in the block and whose construction was not verified before.

    Raises:
        Refused: a layer mixes its attention heads; raised at the beginning if that is known, else at the end.
    """
    require_heads(layers)
    unknown = _unknown(model, layers)
    if not unknown:
        yield
        return
    with _recording(model, unknown) as recorded:
        yield
    _measure(model, recorded)
    require_heads([with_mixing(layer, module_at(model, layer.path)) for layer in layers])


def verify_heads(model: nn.Module, layers: Sequence[AttentionLayer], run: Callable[[], Any]) -> None:
    """Verify layers whose construction was not verified before, on one run of the model; refuse nothing.

    Args:
        model: the model.
        layers: its attention layers.
        run: runs the model; it is not called when nothing is unknown.
    """
    unknown = _unknown(model, layers)
    if unknown:
        with _recording(model, unknown) as recorded, quiet(model):
            run()
        _measure(model, recorded)


def _unknown(model: nn.Module, layers: Sequence[AttentionLayer]) -> list[AttentionLayer]:
    """Return layers of which nothing is known; a pruned one was verified by the check of pruning."""
    unknown = []
    for layer in layers:
        pruned = noted(model, "layers", layer.path) or noted(model, "soft", layer.path)
        if not pruned and not layer.mixed and measured(layer, module_at(model, layer.path)) is None:
            unknown.append(layer)
    return unknown


@contextmanager
def _recording(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[dict[Hashable, _Recorded]]:
    """Record the inputs of the first layer of each construction that runs in the block."""
    recorded: dict[Hashable, _Recorded] = {}
    with ExitStack() as stack:
        scope = stack.enter_context(Scope())
        for layer in layers:
            module = module_at(model, layer.path)
            hook = functools.partial(_record, recorded, layer, scope)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
        yield recorded


def _record(
    recorded: dict[Hashable, _Recorded],
    layer: AttentionLayer,
    scope: Scope,
    module: nn.Module,
    args: tuple,
    kwargs: dict[str, Any],
) -> None:
    construction = construction_of(layer, module)
    if construction in recorded or not scope.active:
        return
    # What cannot be copied cannot be replayed: nothing is known of such a layer then.
    with suppress(Exception):
        detached = map_tensors((args, kwargs), torch.Tensor.detach)
        recorded[construction] = _Recorded(layer, module, *copy.deepcopy(detached))


def _measure(model: nn.Module, recorded: dict[Hashable, _Recorded]) -> None:
    def measure() -> None:
        for run in recorded.values():
            if len(run.layer.kept) < 2:
                remember(run.layer, run.module, "")
            elif (reason := mixing(model, run.layer, run)) is not None:
                remember(run.layer, run.module, reason)

    # Outside of the scopes of all blocks: gates are not in force, and no capture sees these runs.
    Context().run(measure)


def mixing(model: nn.Module, layer: AttentionLayer, run: _Recorded) -> str | None:
    """Return why a layer mixes its attention heads, "" when it does not, None when neither can be shown."""
    try:
        if _explained(model, layer, run):
            return ""
        return _by_parameters(model, layer, run)
    except TopworkError:
        raise
    except Exception:  # a module that does not run again on copies of its inputs
        return None


def _explained(model: nn.Module, layer: AttentionLayer, run: _Recorded) -> bool:
    """Return whether the output projection receives weights @ values, attention head by attention head."""
    capture = Capture(model, [layer], ["entropy"])
    try:
        with capture.run() as seen:
            run()
    except Refused:
        return False
    return seen.explained.get(layer.path) == "context"


def _by_parameters(model: nn.Module, layer: AttentionLayer, run: _Recorded) -> str | None:
    """Return whether some parameter, changed for the first or the last attention head, changes no slice but its own.

    One such parameter is enough: scores may be shared by all attention heads where values are not.
    """
    plain = _context(model, layer, run, {})
    if plain is None or not plain.numel():
        return None
    limit = 10 * tolerance(plain.dtype) * float(plain.abs().amax())
    heads, ratio = len(layer.kept), max(1, len(layer.kept) // max(1, len(layer.groups_left)))
    mixed = False
    for name, pieces in _parameters(layer, run.module).items():
        shown = others = False
        for position in (0, heads - 1):
            owner = position // ratio if pieces[0].per == "group" else position
            context = _context(model, layer, run, {name: _changed(run.module, name, pieces, owner)})
            if context is None or context.shape != plain.shape:
                return None
            gaps = (context.double() - plain.double()).abs().nan_to_num().movedim(-2, 0).flatten(1).amax(1)
            first, last = position, position + 1
            if pieces[0].per == "group":
                first = position // ratio * ratio
                last = first + ratio
            owners = torch.arange(heads, device=gaps.device)
            is_owner = (owners >= first) & (owners < last)
            others |= bool((gaps[~is_owner] > limit).any())
            shown |= bool((gaps[is_owner] > limit).all())
        if shown and not others:
            return ""
        mixed |= others
    return MIXED if mixed else None


def _parameters(layer: AttentionLayer, module: nn.Module) -> dict[str, list[Slices]]:
    """Return parameters before the output projection that belong to attention heads, those of values first."""
    by_name: dict[str, list[Slices]] = {}
    counts = {"head": len(layer.kept), "group": len(layer.groups_left)}
    for piece in reversed(layer.slices):
        owner, _, name = piece.parameter.rpartition(".")
        value = getattr(resolve(module, owner), "_parameters", {}).get(name)
        usable = value is not None and value.is_floating_point() and not value.is_meta
        if usable and owner != layer.output and len(piece.indices) == counts[piece.per]:
            pieces = by_name.setdefault(piece.parameter, [])
            if not pieces or pieces[0].per == piece.per:
                pieces.append(piece)
    return by_name


def _changed(module: nn.Module, name: str, pieces: Sequence[Slices], owner: int) -> torch.Tensor:
    """Return a parameter, changed where it belongs to one attention head or key/value group."""
    value = cast(torch.Tensor, resolve(module, name)).detach()
    generator = torch.Generator().manual_seed(0)
    spread = value.float().abs().mean().to(value.dtype)
    for piece in pieces:
        index = torch.tensor(piece.indices[owner], dtype=torch.long, device=value.device)
        part = value.index_select(piece.dim, index)
        noise = torch.randn(part.shape, generator=generator).to(part)
        value = value.index_copy(piece.dim, index, 1.5 * part + spread * noise)
    return value


def _context(
    model: nn.Module, layer: AttentionLayer, run: _Recorded, overrides: dict[str, torch.Tensor]
) -> torch.Tensor | None:
    """Return [..., heads, width] as the output projection receives it; None when it is not called."""
    contexts: list[torch.Tensor] = []

    def read(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        contexts.append(split_heads(layer, first_input(args, kwargs).detach()))

    with unfolded([run.module]):
        handle = output_projection(model, layer).register_forward_pre_hook(read, with_kwargs=True, prepend=True)
        try:
            run(overrides)
        finally:
            handle.remove()
    return contexts[0] if contexts else None
