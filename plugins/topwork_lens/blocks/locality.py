"""The row-locality test, by which feed-forward neurons are found on any architecture.

Entry point: `find_producers`. Let a projection C read n features, and A be a random half of them. P makes neurons of C
when parameters of P, changed in the rows of A alone, change features of A alone at the input of C; and when, with the
features of A at 0 there, that change reaches nothing else. A norm, a router or attention between them changes all
features; a residual stream reaches other readers: those are no neurons. Both halves are tested, for every layout of
rows that the sizes allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from topwork import Producer, map_tensors
from topwork_lens.blocks.partial_runs import PartialRuns
from topwork_lens.blocks.trace import channel_dim, makes_features
from topwork_lens.pruning.equivalence import Replay

Form = Literal["rows", "halves", "pairs"]
#: a change below this share of max|input| is none
_UNCHANGED = 1e-6
#: what a candidate is: it makes the neurons; it mixes them; nothing of it arrives
Answer = Literal["local", "mixing", "absent"]


@dataclass
class NeuronSite:
    """A projection whose input features may be neurons, in the run of the smallest module that makes them.

    Args:
        consumer: the projection.
        width: its input features.
        runs: those of the module around it.
        other: whether they are on other inputs than those that the module had.
    """

    consumer: nn.Module
    width: int
    runs: PartialRuns
    other: bool = False

    def halves(self) -> list[list[int]]:
        """Return a random half of the features, and the others."""
        order = torch.randperm(self.width, generator=torch.Generator().manual_seed(self.width)).tolist()
        middle = self.width // 2
        return [sorted(order[:middle]), sorted(order[middle:])]

    def on_other_inputs(self) -> NeuronSite:
        """Return the site in a run with other floating-point inputs."""
        generator = torch.Generator().manual_seed(self.width)

        def other(value: torch.Tensor) -> torch.Tensor:
            if not value.is_floating_point():
                return value
            noise = torch.randn(value.shape, generator=generator).to(value)
            spread = float(value.float().std(correction=0).nan_to_num()) if value.numel() else 0.0
            return value + (spread or 1.0) * noise

        replay = self.runs.replay
        args, kwargs = map_tensors((replay.args, replay.kwargs), other)
        return replace(self, runs=PartialRuns(Replay(replay.module, args, kwargs, replay.wide)), other=True)


def forms(width: int, features: int) -> tuple[Form, ...]:
    """Return the layouts in which a projection of so many output features can make `width` neurons."""
    if features == width:
        return ("rows",)
    return ("halves", "pairs") if features == 2 * width else ()


def features_of(form: Form, index: int, width: int) -> list[int]:
    """Return the output features that make a neuron."""
    if form == "rows":
        return [index]
    return [index, width + index] if form == "halves" else [2 * index, 2 * index + 1]


def find_producers(site: NeuronSite, candidates: Sequence[tuple[str, nn.Module]]) -> tuple[list[Producer], str]:
    """Find which projections make the neurons of a site.

    Args:
        site: the consumer and the run around it.
        candidates: path relative to the module around it, and module, of projections that ran before, the last first.

    Returns:
        The producers; where there are none, why the neurons are not those of a projection's rows, or "".
    """
    producers: list[Producer] = []
    absent = ""
    for path, module in candidates:
        answers = {}
        for form in forms(site.width, makes_features(module)):
            answers[form] = _answer(site, module, form)
            if answers[form] == "local":
                producers.append(Producer(path, form))
                break
        else:
            if producers:
                break  # what runs before the producers reaches the neurons through them
            if "mixing" in answers.values():
                return [], f"{path} changes all neurons, not those of its rows alone: a norm, say, lies between"
            absent = absent or f"what {path} makes does not reach them by small changes: a quantiser, say, lies between"
    if not producers:
        if absent and not site.other:
            return find_producers(site.on_other_inputs(), candidates)  # a factor that was 0 on the inputs of the run
        return [], absent
    return (producers, "") if _complete(site, producers, dict(candidates)) else ([], "")


def _complete(site: NeuronSite, producers: Sequence[Producer], modules: Mapping[str, nn.Module]) -> bool:
    """Return whether nothing but the producers makes the neurons: without them, neurons are the same for all items.

    A sum of what several projections make, of which some are not known, would still tell the items apart; so would
    other inputs, where the items are one or alike.
    """
    half = site.halves()[0]
    with ExitStack() as stack:
        for producer in producers:
            rows = sorted(row for index in half for row in features_of(producer.form, index, site.width))
            stack.enter_context(changed_rows(modules[producer.path], rows, to_zero=True))
        changed = [modules[producer.path] for producer in producers]
        inputs = site.runs.inputs(site.consumer, changed)
        others = site.on_other_inputs().runs.inputs(site.consumer, changed)
        if len(others) == len(inputs) and _alike(inputs, others):
            inputs = [torch.cat(pair) for pair in zip(inputs, others, strict=True)]
    for value in inputs:
        neurons = value.double().movedim(channel_dim(site.consumer), -1)[..., half]
        spread = (neurons - neurons[:1]).abs().nan_to_num()
        if spread.numel() and float(spread.max()) > _UNCHANGED * float(value.double().abs().nan_to_num().max()):
            return False
    return True


def _answer(site: NeuronSite, module: nn.Module, form: Form) -> Answer:
    inputs = site.runs.inputs(site.consumer, [module])
    for half in site.halves():
        rows = sorted(row for index in half for row in features_of(form, index, site.width))
        with changed_rows(module, rows):
            inputs_changed = site.runs.inputs(site.consumer, [module])
            if len(inputs) != len(inputs_changed) or not _alike(inputs, inputs_changed):
                return "mixing"
            changed = _changed_features(site.consumer, inputs, inputs_changed)
            if not changed:
                return "absent"
            if not changed <= set(half):
                return "mixing"
        # What a residual stream carries past the consumer arrives in the same part of the module already.
        for near in (True, False):
            with changed_rows(module, rows):
                outputs = site.runs.outputs(site.consumer, half, [module], near=near)
            if not _equal(site.runs.outputs(site.consumer, half, [module], near=near), outputs):
                return "mixing"
    return "local"


def _alike(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(first.shape == second.shape for first, second in zip(a, b, strict=True))


def _changed_features(consumer: nn.Module, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> set[int]:
    changed: set[int] = set()
    for old, new in zip(before, after, strict=True):
        gaps = (old.double() - new.double()).abs().nan_to_num().movedim(channel_dim(consumer), 0).flatten(1)
        limit = _UNCHANGED * float(old.double().abs().nan_to_num().max()) if old.numel() else 0.0
        if gaps.numel():
            changed |= set((gaps.amax(1) > limit).nonzero().flatten().tolist())
    return changed


def _equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    for first, second in zip(a, b, strict=True):
        if first.shape != second.shape:
            return False
        gaps = (first.double() - second.double()).abs().nan_to_num()
        finite = first.double()[first.isfinite()].abs()
        if gaps.numel() and float(gaps.max()) > _UNCHANGED * (float(finite.max()) if finite.numel() else 1.0):
            return False
    return True


@contextmanager
def changed_rows(module: nn.Module, rows: Sequence[int], to_zero: bool = False) -> Iterator[None]:
    """Change weight and bias of a projection in some of its output features for the block, or make them 0."""
    generator = torch.Generator().manual_seed(1)
    dim = 1 if hasattr(module, "nf") else 0
    changed = []
    for name, along in (("weight", dim), ("bias", 0)):
        parameter = module._parameters.get(name)
        if parameter is not None:
            index = torch.tensor(rows, dtype=torch.long, device=parameter.device)
            part = parameter.data.index_select(along, index)
            spread = float(parameter.data.float().abs().mean()) or 1.0
            noise = spread * torch.randn(part.shape, generator=generator).to(part)
            changed.append((parameter, parameter.data))
            parameter.data = parameter.data.index_copy(along, index, part * 0 if to_zero else 1.5 * part + noise)
    try:
        yield
    finally:
        for parameter, data in changed:
            parameter.data = data
