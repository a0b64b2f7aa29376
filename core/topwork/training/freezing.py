"""Freezing of parameters: `Freezing`, by `backbone`, by patterns of names, and epoch by epoch.

`head_names` says which tensors are the task head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from topwork.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn


def matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that the patterns mean.

    A pattern is `all`, `backbone` (everything but the task head), the name of a parameter or module, or one with
    wildcards.

    Raises:
        UsageError: a pattern matches nothing.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names_matched: set[str] = set()
    for pattern in patterns:
        if pattern == "all":
            hit = set(names)
        elif pattern == "backbone":
            prefix = backbone_name(model)
            hit = {name for name in names if name.startswith(f"{prefix}.")}
        else:
            hit = {name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not hit:
            raise UsageError(
                f"no parameter is called `{pattern}`{nearest(pattern, names)}",
                place="freeze",
                hint=f"names are such as {', '.join(names[:3])}",
            )
        names_matched |= hit
    return names_matched


def backbone_name(model: nn.Module) -> str:
    """Return the name of the attribute that holds the network without its task head.

    Raises:
        UsageError: the model has no such attribute.
    """
    for name in ("backbone", getattr(model, "base_model_prefix", None)):
        if name and getattr(model, name, None) is not None:
            return name
    raise UsageError(
        f"{type(model).__name__} does not say which part is its backbone", place="freeze", hint="name modules instead"
    )


def head_names(model: nn.Module) -> set[str]:
    """Return the names in the state dict that belong to the task head: those outside of the backbone.

    Tensors that the backbone has too (embeddings that are also the output layer of a language model) are not among
    them. Where a model does not say which part is its backbone, or nothing lies outside of it (timm), the head is what
    the model calls its output layer or classifier.
    """
    state = model.state_dict(keep_vars=True)
    try:
        prefix = backbone_name(model)
        outside = {name for name in state if not name.startswith(f"{prefix}.")}
    except UsageError:
        outside = set()
    outside = outside or {name for name in state for path in _output_paths(model) if name.startswith(f"{path}.")}
    inside = {id(tensor) for name, tensor in state.items() if name not in outside}
    return {name for name in outside if id(state[name]) not in inside}


def _output_paths(model: nn.Module) -> list[str]:
    """Return the paths of the modules that a model or a part of it gives as its output layer or classifier."""
    outputs: list[Any] = []
    for module in model.modules():
        for name in ("get_output_embeddings", "get_classifier"):
            layers: Any = getattr(module, name, tuple)()
            outputs += layers if isinstance(layers, tuple | list) else [layers]
    chosen = {id(output) for output in outputs if output is not None}
    return [path for path, module in model.named_modules() if path and id(module) in chosen]


class Freezing:
    """Parameters that are frozen during a training, and those that are trained from an epoch on.

    `restore` puts everything back.

    Args:
        model: the model that is trained.
        freeze: patterns that are not trained from the beginning.
        unfreeze: epoch -> patterns that are trained from the beginning of that epoch on.
        partial: some parameters of the model require no gradient already: they are frozen as well.
    """

    def __init__(
        self,
        model: nn.Module,
        freeze: Sequence[str],
        unfreeze: Mapping[int, Sequence[str]],
        partial: bool = False,
    ) -> None:
        self.model, self.partial = model, partial
        self.before = {name: parameter.requires_grad for name, parameter in _named(model)}
        self.frozen = matching(model, freeze) if freeze else set()
        self.thaws = {epoch: matching(model, patterns) for epoch, patterns in unfreeze.items()}
        if self.before and self.ever_trained() == set():
            raise UsageError("everything is frozen: nothing is left to train", place="freeze")

    def of(self, model: nn.Module) -> Freezing:
        """Return the same for a copy of the model, whose parameters have the same names."""
        other = copy.copy(self)
        other.model = model
        return other

    def ever_trained(self) -> set[str]:
        """Return the names of the parameters that are trained at some time.

        The optimizer must know them from the start.
        """
        thawed = set().union(*self.thaws.values()) if self.thaws else set()
        return {name for name, wanted in self.before.items() if wanted and (name not in self.frozen or name in thawed)}

    def trained_count(self) -> int:
        """Return how many numbers are trained at some time; shared parameters are counted once."""
        names = self.ever_trained()
        parameters = {id(parameter): parameter for name, parameter in _named(self.model) if name in names}
        return sum(parameter.numel() for parameter in parameters.values())

    def prepare(self) -> None:
        """Let everything that will ever be trained require a gradient; called before the optimizer is made."""
        self._set(self.ever_trained())

    def at(self, epoch: int) -> None:
        """Set which parameters are trained, at the beginning of an epoch."""
        thawed = set().union(*(names for first, names in self.thaws.items() if first <= epoch), set())
        self._set({name for name in self.ever_trained() if name not in self.frozen or name in thawed})

    def quiet_norms(self) -> None:
        """Keep frozen modules from collecting running statistics; called after `model.train()`."""
        if not self.frozen and not self.partial:
            return
        for name, module in self.model.named_modules():
            if hasattr(module, "running_mean") and not any(entry.requires_grad for entry in self._around(name)):
                module.eval()

    def _around(self, name: str) -> list[nn.Parameter]:
        """Return a module's parameters; for a module without any (a norm without scale) those of the part around it."""
        while not (parameters := list(self.model.get_submodule(name).parameters())) and name:
            name = name.rpartition(".")[0]
        return parameters

    def restore(self) -> None:
        """Let the parameters require gradients as before the training."""
        self._set({name for name, wanted in self.before.items() if wanted})

    def _set(self, trained: set[str]) -> None:
        # a parameter under several names is trained when one of its names is
        wanted = {id(parameter) for name, parameter in _named(self.model) if name in trained}
        for _, parameter in _named(self.model):
            parameter.requires_grad_(id(parameter) in wanted)
            if id(parameter) not in wanted:
                parameter.grad = None


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))
