"""LoRA on a model: put on in place by peft, and taken off again, added to the weights or not.

Entry points: `Lora` for a training (it is the `Adapter` of the core), `put_on` for products that were trained before.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topwork import TopworkError, UsageError
from topwork_workbench.lora.folder import describe_base, write_folder
from topwork_workbench.lora.quantised import dequantise, is_quantised, quantises_inputs
from topwork_workbench.lora.targets import find_targets

if TYPE_CHECKING:
    from topwork import Json, Run

#: peft's name for the only adapter of a model
ADAPTER = "default"
#: largest difference of a module's outputs before and after the merge, relative to the largest output, by dtype
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 0.05
#: what transformers sets on a model with an adapter
_PEFT_LOADED = "_hf_peft_config_loaded"
#: the model's name while peft has it
_HELD = "held"
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
        dequantise(self.model, self.head)
        self.head = head & set(self.model.state_dict())  # a quantised layer had entries for its scales too
        self.base = describe_base(run.work, self.head) if options.save == "adapter" else {}
        self.config = peft.LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=exactly(self.targets.paths, self.model),
        )
        self.batch = batch
        self.layers = put_on(self.model, self.config, self.targets.paths, trained=self.head)
        self._check_run()

    def _check_run(self) -> None:
        """Run the model with its products.

        Raises:
            UsageError: it does not run: its code needs something of its own modules that those around them lack.
        """
        try:
            self._run()
        except Exception as error:
            self.layers.remove(merge=False)
            cause = f"the {type(self.model).__name__} does not run with LoRA ({type(error).__name__}: {error})"
            raise UsageError(cause, place="lora.targets", hint="name other modules") from error

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

    def _run(self) -> None:
        self.model.eval()
        with torch.no_grad(), torch.random.fork_rng():
            self.run.task.row_losses(self.model, self.batch)

    def remove(self) -> None:
        """Take the products off."""
        self.layers.remove(merge=False)

    def merge(self) -> dict[str, float]:
        """Add the products to the weights, take them off, and compare what each module computes.

        Raises:
            TopworkError: a module computes something else than before.
        """
        paths, exact = self.targets.paths, not quantises_inputs(self.model)
        with recorded({path: self.model.get_submodule(path) for path in paths}) as calls:
            self._run()
        self.layers.remove(merge=True)
        differences = {path: calls[path].difference(self.model.get_submodule(path)) for path in paths if path in calls}
        path, largest = max(differences.items(), key=lambda entry: entry[1], default=("", 0.0))
        dtype = next(self.model.parameters()).dtype
        tolerance = _TOLERANCES.get(dtype, _COARSE) if exact else _COARSE
        if not largest <= tolerance:
            cause = f"`{path}` computes something else after the merge: a relative difference of {largest:.2g}"
            raise TopworkError(cause, place="lora", hint="choose other `targets`")
        return {"difference": largest, "tolerance": tolerance}


@dataclass
class ModuleCall:
    """First call of a module: what went in, and what came out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    def difference(self, module: nn.Module) -> float:
        """Return the largest difference of a module's output to this one, relative to the largest number in it."""
        with torch.no_grad():
            again = module.forward(*self.args, **self.kwargs)  # without hooks, which have changed the inputs already
        before, after = (_first(value).double() for value in (self.output, again))
        if not before.numel():
            return 0.0
        return float((before - after).abs().max() / before.abs().max().clamp(min=1e-12))


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, ModuleCall]]:
    """Record the first call of each module in the block."""
    calls: dict[str, ModuleCall] = {}

    def record(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.setdefault(path, ModuleCall(args, kwargs, output))

    handles = [
        module.register_forward_hook(partial(record, path), with_kwargs=True) for path, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class Layers:
    """Products on a model.

    Args:
        model: the model.
        tuner: peft's own object that put them on.
        aliases: other paths of modules that have a product -> the path that peft knows.
        trained: names of the parameters that required a gradient before.
        order: names of all parameters before.
    """

    def __init__(
        self, model: nn.Module, tuner: Any, aliases: Mapping[str, str], trained: set[str], order: Sequence[str]
    ) -> None:
        self.model, self.tuner, self.aliases, self.trained = model, tuner, aliases, trained
        self.paths = [path.removeprefix(f"{_HELD}.") for path in tuner.targeted_module_names]
        self.order = order

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
        wrapped: dict[str, Any] = {path: self.model.get_submodule(path) for path in self.paths}
        self.model.__dict__.pop(_PEFT_LOADED, None)
        quantised = is_quantised(self.model)
        if merge and quantised:
            products = {path: layer.get_delta_weight(ADAPTER).detach() for path, layer in wrapped.items()}
            self.tuner.unload()
            dequantise(self.model)
            for path, product in products.items():
                self.model.get_submodule(path).weight.data += product
        elif merge:
            self.tuner.merge_and_unload(safe_merge=True)
        else:
            self.tuner.unload()
        for path, layer in wrapped.items():
            _move_hooks(layer, self.model.get_submodule(path))
        for other, path in self.aliases.items():
            _put(self.model, other, self.model.get_submodule(path))
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(name in self.trained or (merge and quantised))
        self._put_in_order()

    def _put_in_order(self) -> None:
        """Give parameters the order that they had, which peft changes in a MultiheadAttention."""
        positions = {name: position for position, name in enumerate(self.order)}
        for outer in self.paths:
            for inner, module in self.model.get_submodule(outer).named_modules(prefix=outer):
                ranks = {name: positions.get(f"{inner}.{name}", -1) for name in module._parameters}
                for name in sorted(ranks, key=ranks.__getitem__):
                    module._parameters[name] = module._parameters.pop(name)


def put_on(model: nn.Module, config: Any, paths: Sequence[str], trained: set[str]) -> Layers:
    """Put products on modules of a model, in place.

    Args:
        model: the model.
        config: peft's LoraConfig; its targets are replaced by these modules.
        paths: of the modules.
        trained: names of other parameters that are trained as well.

    Raises:
        UsageError: peft refuses.
    """
    peft = need_peft()
    before = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}
    order = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    original = {path: model.get_submodule(path) for path in paths}
    first = {id(module): path for path, module in original.items()}
    every = model.named_modules(remove_duplicate=False)
    aliases = {path: first[id(module)] for path, module in every if id(module) in first and path not in original}
    try:
        with _quiet():
            # peft would take a model with a config for one of transformers, which a generic task head is not
            held = nn.ModuleDict({_HELD: model})
            tuner = peft.LoraModel(held, {ADAPTER: _exact(config, paths)}, ADAPTER)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"peft cannot put LoRA on this model: {error}", place="lora.targets") from error
    layers = Layers(model, tuner, aliases, before, order)
    if is_quantised(model):
        model.__dict__[_PEFT_LOADED] = True  # without it Trainer refuses a quantised model
    if set(layers.paths) != set(paths):
        layers.remove(merge=False)
        raise UsageError("peft found other modules than those that were chosen", place="lora.targets")
    for path, module in original.items():
        layer = model.get_submodule(path)
        _move_hooks(module, layer)
        # a model may read the sizes of its modules
        sizes = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        layer.__dict__.update({name: value for name, value in sizes.items() if not hasattr(layer, name)})
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


def _exact(config: Any, paths: Sequence[str]) -> Any:
    """Return a config for the held model, with these modules and no others."""
    exact = copy.copy(config)
    exact.target_modules = "|".join(re.escape(f"{_HELD}.{path}") for path in paths)
    return exact


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
