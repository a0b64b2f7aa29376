"""From projections, or from what is noted on a pruned one, to a `Block`.

Entry points: `describe_block` and `of_note`. A note lies on the consumer, with paths relative to the module around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from topwork import Block, CheckpointError, Producer, Size, Slices
from topwork_lens.blocks.experts import of_experts_note
from topwork_lens.blocks.locality import features_of
from topwork_lens.blocks.trace import channel_dim, is_convolution, reads_features
from topwork_lens.layers.projections import input_dim, output_dim

PATTERN = "row-locality"


def describe_block(
    model: nn.Module,
    inside: str,
    consumer: str,
    producers: Sequence[Producer],
    between: Sequence[str] = (),
    sizes: Sequence[Size] = (),
    width: int | None = None,
    kept: Sequence[int] | None = None,
    pattern: str = PATTERN,
) -> Block:
    """Describe a block as its modules stand now.

    Args:
        model: the model.
        inside: module path of the module around it.
        consumer: path relative to it, as those of `producers` and `between`.
        producers: what makes the neurons.
        between: modules with parameters for each neuron.
        sizes: what pruning corrects.
        width: neurons at the beginning; None: as many as there are now.
        kept: original indices of those that there are now; None for all.
        pattern: how it was found.

    Raises:
        CheckpointError: the modules have other numbers of neurons.
    """
    around = model.get_submodule(inside)
    reader = around.get_submodule(consumer)
    count = reads_features(reader)
    if kept is not None and len(kept) != count:
        raise CheckpointError(f"there are {count} neurons, and {len(kept)} are noted", place=f"{inside}.{consumer}")
    slices = [Slices(f"{consumer}.weight", input_dim(reader), [[index] for index in range(count)])]
    for producer in producers:
        module = around.get_submodule(producer.path)
        rows = [features_of(producer.form, index, count) for index in range(count)]
        slices.append(Slices(f"{producer.path}.weight", output_dim(module), rows))
        if module._parameters.get("bias") is not None:
            slices.append(Slices(f"{producer.path}.bias", 0, rows))
    for path in between:
        for name, dim, factor in per_neuron(around.get_submodule(path), count):
            rows = [features_of("rows" if factor == 1 else producers[0].form, index, count) for index in range(count)]
            slices.append(Slices(f"{path}.{name}", dim, rows))
    channels = channel_dim(reader)
    total = count if width is None else width
    return Block(
        ".".join(part for part in (inside, consumer) if part),
        inside,
        width=total,
        kept=tuple(range(total) if kept is None else kept),
        producers=tuple(producers),
        between=tuple(between),
        channels=channels,
        slices=tuple(slices),
        sizes=tuple(sizes),
        split=split_features if channels == -1 else split_channels_last,
        merge=merge_features if channels == -1 else merge_channels_first,
        pattern=pattern,
    )


def per_neuron(module: nn.Module, count: int) -> list[tuple[str, int, int]]:
    """Return parameters and buffers of a module that have an entry for each of `count` neurons, or two in fused halves.

    Returns:
        Names, dimensions along which the entries lie, and entries a neuron.
    """
    tensors = {**module._parameters, **module._buffers}
    return [
        (name, dim, value.shape[dim] // count)
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor) and value.dim() and count
        for dim in (_dim_of_neurons(module, value),)
        if value.shape[dim] in (count, 2 * count)
    ]


def _dim_of_neurons(module: nn.Module, value: torch.Tensor) -> int:
    """Return the dimension along which a parameter may have neurons: the only one that is not 1, such as [1, n, 1]."""
    sizes = [dim for dim, size in enumerate(value.shape) if size > 1]
    return sizes[0] if len(sizes) == 1 and value.dim() > 2 and not is_convolution(module) else 0


def split_features(value: torch.Tensor) -> torch.Tensor:
    """Split [..., neurons] -> [..., neurons, 1]."""
    return value.unsqueeze(-1)


def merge_features(value: torch.Tensor) -> torch.Tensor:
    """Invert `split_features`."""
    return value.squeeze(-1)


def split_channels_last(value: torch.Tensor) -> torch.Tensor:
    """Split [items, neurons, ...] -> [items, ..., neurons, 1]."""
    return value.movedim(1, -1).unsqueeze(-1)


def merge_channels_first(value: torch.Tensor) -> torch.Tensor:
    """Invert `split_channels_last`."""
    return value.squeeze(-1).movedim(-1, 1)


# ---------------------------------------------------------------- notes


def of_note(model: nn.Module, path: str, note: Mapping[str, Any], whole: bool = False) -> Block:
    """Describe a block by what is noted of it.

    Args:
        model: the model.
        path: of the consumer.
        note: as pruning writes it (`pruning.neurons`).
        whole: the modules are not pruned yet.

    Raises:
        CheckpointError: the note cannot be true of this model.
    """
    if "experts" in note:
        return of_experts_note(model, path, note, whole)
    try:
        width, kept, consumer = note["width"], list(note["kept"]), note["consumer"]
        producers = [Producer(str(name), form) for name, form in note["producers"]]
        between, sizes = list(note["between"]), [Size(name, factor) for name, factor in note["sizes"]]
        right = sorted(set(kept) & set(range(width))) == kept and f".{path}".endswith(f".{consumer}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the manifest is damaged: {error!r}", place=path) from error
    if not right:
        raise CheckpointError(f"the manifest is damaged: no block of {width} neurons keeps {kept[:8]}", place=path)
    inside = path[: len(path) - len(consumer)].rstrip(".")
    try:
        return describe_block(
            model, inside, consumer, producers, between, sizes, width, range(width) if whole else kept
        )
    except AttributeError as error:
        hint = "load it with the base and the plugins that it was saved with"
        raise CheckpointError(f"the model has no such block: {error}", place=path, hint=hint) from error
