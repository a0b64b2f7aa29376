"""Feed-forward networks of a model: which projections widen a state to neurons, and which one narrows it again.

Entry point: `find_feed_forwards`. They are found by the shapes of projections, not by names: one or two projections of
the same block from [d] to [f] (or to [2 f], gate and neurons in one), and the next one after them from [f] to [d].
Attention layers are left out, and so are blocks that mix positions by a convolution over time (Mamba and its kin).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from topwork import AttentionLayer
from topwork_lens.layers.projections import features, input_dim, is_packed, is_projection, shared_out, weight_shape
from topwork_lens.layers.stacks import stacks_of


@dataclass(frozen=True)
class FeedForward:
    """Feed-forward network: state -> neurons -> state.

    Args:
        path: of the innermost module that holds all of its projections.
        inputs: paths of the projections that read the state, in the order of the module tree.
        output: path of the projection that reads the neurons and writes the state.
        width: of the state.
        neurons: how many there are.
        stack: path of the stack of layers in which it stands; empty when it stands in none.
    """

    path: str
    inputs: tuple[str, ...]
    output: str
    width: int
    neurons: int
    stack: str = ""


def find_feed_forwards(model: nn.Module, layers: Sequence[AttentionLayer] = ()) -> list[FeedForward]:
    """Find the feed-forward networks of a model, in the order of its module tree; shared ones once.

    Args:
        model: any module.
        layers: its attention layers, whose projections belong to no feed-forward network.
    """
    stacks = list(stacks_of(model))
    attention = {id(below) for layer in layers for below in _below(model, layer)}
    modules = dict(model.named_modules())
    candidates = [path for path, module in modules.items() if id(module) not in attention and _is_plain(module)]
    networks = []
    for index, path in enumerate(candidates):
        network = _network(modules, path, candidates[:index])
        if network is not None:
            stack = next((stack for stack in stacks if path.startswith(f"{stack}.")), "")
            networks.append(FeedForward(*network, stack))
    return networks


def stacked_matrices(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the 3-D parameters of a module, one matrix for each expert of a mixture."""
    values: dict[str, torch.Tensor] = {
        name: value for name, value in module._parameters.items() if value is not None and value.dim() == 3
    }
    return values if len({len(value) for value in values.values()}) == 1 else {}


def find_experts_modules(model: nn.Module, layers: Sequence[AttentionLayer] = ()) -> list[FeedForward]:
    """Find modules that hold the weights of all experts of a layer, each as one network that reads and writes states.

    Their neurons are inputs of no module.
    """
    stacks, networks = list(stacks_of(model)), []
    attention = {id(below) for layer in layers for below in _below(model, layer)}
    for path, module in model.named_modules():
        sizes = None if id(module) in attention else _sizes_of_experts(module)
        if sizes is not None:
            stack = next((stack for stack in stacks if path.startswith(f"{stack}.")), "")
            networks.append(FeedForward(path, (path,), path, *sizes, stack))
    return networks


def _sizes_of_experts(module: nn.Module) -> tuple[int, int] | None:
    """Return the width of the state and the number of neurons of each expert; None for a module of another kind."""
    shapes = [matrix.shape for matrix in stacked_matrices(module).values()]
    if len(shapes) < 2 or shapes[0][0] < 2:
        return None
    *makers, reader = shapes
    for neurons, width in (reader[1:], reader[:0:-1]):
        fitting = {(width, neurons), (width, 2 * neurons), (neurons, width), (2 * neurons, width)}
        if all(tuple(maker[1:]) in fitting for maker in makers):
            return width, neurons
    return None


def _below(model: nn.Module, layer: AttentionLayer) -> Iterator[nn.Module]:
    for caller in layer.callers:
        yield from model.get_submodule(caller).modules()


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or not is_projection(module) or shared_out(module) > 1:
        return False
    return is_packed(module) or len(weight_shape(module)) != 3 or isinstance(module, nn.Conv1d)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Input and output features of a projection."""
    return weight_shape(module)[input_dim(module)], features(module)


def _network(
    modules: dict[str, nn.Module], output: str, before: Sequence[str]
) -> tuple[str, tuple[str, ...], str, int, int] | None:
    """Return the network whose last projection is `output`: path, inputs, output, width, neurons."""
    neurons, width = _sizes(modules[output])
    path = output
    # Its parts may stand in two modules of a block, and a projection in a module of its own.
    for _ in range(3):
        if not path:
            return None
        path = path.rpartition(".")[0]
        if _is_list_of_blocks(modules[path]):
            return None
        inside = [name for name in before if not path or name.startswith(f"{path}.")]
        inputs = [name for name in inside if _widens(modules[name], width, neurons)]
        if inputs:
            last = inside.index(inputs[-1])
            between = inside[last + 1 :]
            if not path or between or _mixes_positions(modules, path, output, inputs, neurons):
                return None
            if neurons == width and not _is_whole(modules, path, inside, output):
                return None
            return path, tuple(_nearest(inputs, inside)), output, width, neurons
    return None


def _is_whole(modules: dict[str, nn.Module], path: str, inside: Sequence[str], output: str) -> bool:
    """Return whether a module's projections are of one network; needed where shapes do not distinguish them."""
    later = [name for name, module in modules.items() if name.startswith(f"{path}.") and is_projection(module)]
    return len(inside) <= 2 and later[-1] == output and not type(modules[path]).__name__.endswith("Attention")


def _widens(module: nn.Module, width: int, neurons: int) -> bool:
    size, count = _sizes(module)
    return size == width and count in (neurons, 2 * neurons)


def _nearest(inputs: Sequence[str], inside: Sequence[str]) -> list[str]:
    """Return the last of the inputs, and the one directly before it: a gate beside the neurons."""
    index = inside.index(inputs[-1])
    beside = inside[index - 1] if index and inside[index - 1] in inputs else None
    same = beside is not None and beside.rpartition(".")[0] == inputs[-1].rpartition(".")[0]
    return [beside, inputs[-1]] if same and beside is not None else [inputs[-1]]


def _mixes_positions(
    modules: dict[str, nn.Module], path: str, output: str, inputs: Sequence[str], neurons: int
) -> bool:
    """Return whether the projections may have more than activations and norms between them, such as a scan."""
    for name, module in modules.items():
        if (path and not name.startswith(f"{path}.")) or not _innermost(path, name, inputs[-1], output):
            continue
        if isinstance(module, nn.Conv1d) and any(size > 1 for size in module.kernel_size):
            return True
        read_too = name not in (output, *inputs) and is_projection(module) and not isinstance(module, nn.Embedding)
        if read_too and not isinstance(module, nn.Conv2d) and _sizes(module)[0] == neurons != _sizes(module)[1]:
            return True
    return False


def _innermost(path: str, name: str, last_input: str, output: str) -> bool:
    """Return whether a module stands in the same part of the block as one of the two projections."""
    prefix = f"{path}." if path else ""
    parts = {projection.removeprefix(prefix).partition(".")[0] for projection in (last_input, output)}
    direct = last_input.rpartition(".")[0] == path == output.rpartition(".")[0]
    return direct or name.removeprefix(prefix).partition(".")[0] in parts


def _is_list_of_blocks(module: nn.Module) -> bool:
    parts = list(module.children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
    return bool(parts) and all(part._modules for part in parts)
