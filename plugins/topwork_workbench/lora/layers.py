"""LoRA on a model: put on in place by peft, and taken off again, added to the weights or not.

Entry points: `Lora` for a training (it is the `Adapter` of the core), `put_on` for products that were trained before.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topwork import UsageError
from topwork_workbench.lora.folder import describe_base, write_folder
from topwork_workbench.lora.targets import find_targets

if TYPE_CHECKING:
    from topwork import Json, Run

#: peft's name for the only adapter of a model
ADAPTER = "default"
#: forward hooks that must see what goes into the whole layer, not what goes into its weight alone
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def need_peft() -> Any:
    """Import peft.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        cause = f"LoRA needs a package that is not installed: {error}"
        raise UsageError(cause, place="lora", hint="pip install 'topwork[lora]'") from error
    return peft


class Lora:
    """LoRA on the model of a run, with the task head trained in full.

    Args:
        run: whose model is trained.
        options: the stage's `lora`.
        head: names of the tensors of the task head.
        batch: of training rows, on which the model is run.
    """

    def __init__(self, run: Run, options: Any, head: set[str], batch: Any) -> None:
        peft = need_peft()
        self.run, self.model, self.options, self.head = run, run.model, options, head
        if batch is None:
            raise UsageError("there is no training row for this process", place="data.train")
        with torch.random.fork_rng():  # the products that begin the training do not depend on the search
            self.targets = find_targets(
                self.model, options.targets, self.head, lambda: run.task.row_losses(self.model, batch), run.plugins
            )
        self.base = describe_base(run.work, self.head) if options.save == "adapter" else {}
        self.config = peft.LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=exactly(self.targets.paths, self.model),
        )
        self.layers = put_on(self.model, self.config, self.targets.paths, trained=self.head)

    def describe(self) -> dict[str, Json]:
        """Return rank, modules, and what was left out."""
        return {
            "r": self.options.r,
            "alpha": self.options.alpha,
            "modules": self.targets.paths,
            "left_out": self.targets.left_out,
            "head": sorted(self.head),
        }

    def save(self, folder: Path) -> None:
        """Write the adapter folder."""
        base = {**self.base, "modules": self.targets.paths}
        write_folder(folder, self.config, self.layers.tensors(), self.head, self.model, base)

    def remove(self, merge: bool) -> None:
        """Take the products off; with `merge` they are added to the weights first."""
        self.layers.remove(merge)


class Layers:
    """Products on a model.

    Args:
        model: the model.
        tuner: peft's own object that put them on.
        aliases: other paths of modules that have a product -> the path that peft knows.
        trained: names of the parameters that required a gradient before.
    """

    def __init__(self, model: nn.Module, tuner: Any, aliases: Mapping[str, str], trained: set[str]) -> None:
        self.model, self.tuner, self.aliases, self.trained = model, tuner, aliases, trained

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the products by the names in the model's state dict."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if "lora_" in name}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put numbers into products and task head.

        Args:
            tensors: by the names in the model's state dict.
        """
        state = self.model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in tensors.items():
                state[name].data = tensor.to(state[name].device)

    def remove(self, merge: bool) -> None:
        """Put the modules back that were there before."""
        wrapped = {path: self.model.get_submodule(path) for path in self.tuner.targeted_module_names}
        if merge:
            self.tuner.merge_and_unload(safe_merge=True)
        else:
            self.tuner.unload()
        for path, layer in wrapped.items():
            _move_hooks(layer, self.model.get_submodule(path))
        for other, path in self.aliases.items():
            _put(self.model, other, self.model.get_submodule(path))
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(name in self.trained)


def put_on(model: nn.Module, config: Any, paths: Sequence[str], trained: set[str]) -> Layers:
    """Put products on modules of a model, in place.

    Args:
        model: the model.
        config: peft's LoraConfig, whose targets are these modules.
        paths: of the modules.
        trained: names of other parameters that are trained as well.

    Raises:
        UsageError: peft refuses.
    """
    peft = need_peft()
    before = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}
    original = {path: model.get_submodule(path) for path in paths}
    first = {id(module): path for path, module in original.items()}
    every = model.named_modules(remove_duplicate=False)
    aliases = {path: first[id(module)] for path, module in every if id(module) in first and path not in original}
    try:
        with _quiet():
            tuner = peft.LoraModel(model, {ADAPTER: config}, ADAPTER)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"peft cannot put LoRA on this model: {error}", place="lora.targets") from error
    layers = Layers(model, tuner, aliases, before)
    if set(tuner.targeted_module_names) != set(paths):
        layers.remove(merge=False)
        raise UsageError("peft found other modules than those that were chosen", place="lora.targets")
    for path, module in original.items():
        _move_hooks(module, model.get_submodule(path))
    for other, path in aliases.items():
        _put(model, other, model.get_submodule(path))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_("lora_" in name or (name in trained and name in before))
    return layers


def exactly(paths: Sequence[str], model: nn.Module) -> list[str] | str:
    """Return peft's `target_modules` for these modules and no others: peft takes a name for the end of a path."""
    ends = tuple(f".{path}" for path in paths)
    chosen = set(paths)
    if any(path.endswith(ends) for path, _ in model.named_modules() if path not in chosen):
        return "|".join(re.escape(path) for path in paths)
    return list(paths)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Move forward hooks, such as the gates of attention heads that are masked for good."""
    for name in _HOOKS:
        hooks = source.__dict__.get(name)
        if hooks:
            target.__dict__[name].update(hooks)
            hooks.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence peft's warning that it chose the layout of a weight by the kind of its module."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        yield
