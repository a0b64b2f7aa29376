"""Sites: activations of parts of a model, their names, and the keys by which a caller chooses them.

Entry points: `sites_of` and `site_at`. Three kinds of parts have activations: attention layers, feed-forward networks,
and whole stacks of layers with what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.layers.context import is_gateable
from topwork_lens.layers.discovery import numbered, whole_number
from topwork_lens.layers.feed_forward import FeedForward, find_experts_modules, find_feed_forwards
from topwork_lens.layers.name_matching import DECODER_WORDS, ENCODER_WORDS
from topwork_lens.layers.stacks import stacks_of
from topwork_lens.refusals import refuse

#: operands and results of an attention computation: [items, heads (keys and values: groups), positions, width], scores
#: and weights [items, heads, queries, keys]
OPERANDS = ("query", "key", "value", "scores", "weights")
#: what the output projection of an attention layer reads and writes
OUTPUTS = ("context", "head_output", "attention_output")
#: what the projections of a feed-forward network read and write
NETWORKS = ("mlp_input", "mlp_activation", "mlp_output")
#: hidden states of stacks, and what follows a stack
STATES = ("embeddings", "hidden_states", "final_norm", "head_input")
#: why activations of experts cannot be captured or patched, and what can be done
NEURONS_OF_EXPERTS = "the experts' neurons lie inside one function: no module reads them"
INSTEAD_OF_THEM = "take mlp_input or mlp_output; neurons can be switched off by mask_neurons"
#: names of all activations
NAMES = (*STATES, *OPERANDS, *OUTPUTS, *NETWORKS)
#: activations that belong to attention layers
OF_LAYERS = (*OPERANDS, *OUTPUTS)


@dataclass(frozen=True)
class Site:
    """Activation of one part of a model.

    Args:
        name: of the activation, one of `NAMES`.
        path: of the part: an attention layer, a feed-forward network, a stack, a task head.
        group: in which the part is numbered: of an attention layer "encoder", "decoder", "cross" or "backbone"; of
            others, the path of their stack.
        index: in its group; of a hidden state, 0 for the input of the first layer.
        layer: the attention layer, where the part is one.
        network: the feed-forward network, where the part is one.
    """

    name: str
    path: str
    group: str = ""
    index: int = 0
    layer: AttentionLayer | None = field(default=None, compare=False)
    network: FeedForward | None = field(default=None, compare=False)


def sites_of(model: nn.Module, name: str, layers: Sequence[AttentionLayer]) -> list[Site]:
    """Return the sites of an activation, in the order of the module tree.

    Args:
        model: the model.
        name: of the activation.
        layers: all attention layers of the model.

    Raises:
        Refused: the model has no such part.
    """
    if name in OF_LAYERS:
        sites = [
            Site(name, layer.path, group, index, layer=layer)
            for (group, index), layer in numbered(layers).items()
            if (layer.form != "deformable" if name in OPERANDS else is_gateable(layer))
        ]
        return _required(sites, "attention layer")
    if name in NETWORKS:
        return _networks(model, name, layers)
    stacks = stacks_of(model)
    if name == "head_input":
        return _required([Site(name, path, path) for path in head_paths(model, stacks)], "task head")
    if name == "hidden_states":
        sites = [Site(name, path, path, index) for path, parts in stacks.items() for index in range(len(parts) + 1)]
    else:
        sites = [Site(name, path, path) for path in stacks]
    return _required(sites, "stack of layers")


def _networks(model: nn.Module, name: str, layers: Sequence[AttentionLayer]) -> list[Site]:
    """Return the sites of feed-forward networks, numbered in their stack: plain ones first, then experts."""
    experts = find_experts_modules(model, layers)
    sites, counts = [], dict[str, int]()
    for network in [*find_feed_forwards(model, layers), *([] if name == "mlp_activation" else experts)]:
        index = counts.setdefault(network.stack, 0)
        counts[network.stack] += 1
        sites.append(Site(name, network.path, network.stack, index, network=network))
    if experts and not sites:
        raise refuse("unknown_layout", NEURONS_OF_EXPERTS, place=experts[0].path, hint=INSTEAD_OF_THEM)
    return _required(sites, "feed-forward network")


def _required(sites: list[Site], what: str) -> list[Site]:
    if not sites:
        raise refuse("unknown_layout", f"no {what} was found in this model", hint="teach it, or name something else")
    return sites


def head_paths(model: nn.Module, stacks: dict[str, list[nn.Module]]) -> list[str]:
    """Return the paths of what may be a task head: parts of the model after the one that holds its stacks."""
    children = list(model.named_children())
    bodies = [any(f"{stack}.".startswith(f"{path}.") for stack in stacks) for path, _ in children]
    first = bodies.index(True) if any(bodies) else 0
    return [
        path
        for (path, module), is_body in zip(children[first:], bodies[first:], strict=True)
        if not is_body and not is_norm(module) and next(module.parameters(), None) is not None
    ]


def is_norm(module: nn.Module) -> bool:
    """Return whether a module's class says that it normalises."""
    return "norm" in type(module).__name__.lower()


def site_at(sites: Sequence[Site], key: object) -> Site:
    """Return the site that a key means: a path, (group, index), "group.index", or an index where there is one group.

    Stacks may be named by their side, "encoder" or "decoder", too. Negative indices count from the end of the group.

    Raises:
        UsageError: there is no such site, or several.
    """
    matching = [site for site in sites if key in _paths(site)]
    if len(matching) == 1:
        return matching[0]
    groups = list(dict.fromkeys(site.group for site in sites))
    group, index = _split(key, groups)
    inside = {site.index: site for site in sites if site.group == group}
    if index < 0:
        index += len(inside)
    if index in inside:
        return inside[index]
    raise unknown(sites[0].name, str(key), [str((site.group, site.index)) for site in sites])


def _paths(site: Site) -> tuple[str, ...]:
    if site.layer is not None:
        return site.layer.callers
    return (site.path,)


def _split(key: object, groups: Sequence[str]) -> tuple[str, int]:
    """Return the group and the index that a key names."""
    group: object = None
    index: object = key
    if isinstance(key, tuple) and len(key) == 2:
        group, index = key
    elif isinstance(key, str):
        group, _, digits = key.rpartition(".")
        index = int(digits) if digits.removeprefix("-").isdigit() else key
        if isinstance(index, str):
            group, index = key, 0
    number = whole_number(index, "the index of a part of the model")
    if group not in (None, ""):
        return group_at(str(group), groups), number
    if len(groups) > 1:
        cause = f"index {number} is ambiguous: there are {', '.join(groups)}"
        raise UsageError(cause, hint=f'name it as ("{groups[0]}", {number}) or by its path')
    return groups[0], number


def group_at(group: str, groups: Sequence[str]) -> str:
    """Return the group that a name means: itself, or the only one on a side ("encoder", "decoder").

    Raises:
        UsageError: there is none, or there are several.
    """
    if group in groups:
        return group
    words = {"encoder": ENCODER_WORDS, "decoder": DECODER_WORDS}.get(group, ())
    matching = [path for path in groups if any(word in path.lower() for word in words)]
    if len(matching) != 1:
        raise unknown("group", group, groups)
    return matching[0]


def chosen_sites(sites: Sequence[Site], keys: object) -> list[Site]:
    """Return the sites that one key or a list of keys names; all for None."""
    if keys is None:
        return list(sites)
    several = keys if isinstance(keys, list | set | frozenset) else [keys]
    return list(dict.fromkeys(site_at(sites, key) for key in several))
