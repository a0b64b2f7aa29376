"""Builds a tiny random model of any model type that transformers can make, and inputs for all of its towers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from architectures import feeding, timm_models
from architectures.overrides import CALM, LEVELS, OVERRIDES
from architectures.overrides_composite import CLASSES
from architectures.shrink import Shrinker


def tables() -> dict[str, list[Any]]:
    """Model type -> its classes: AutoModel's first, then those of the task tables."""
    from transformers.models.auto import modeling_auto

    names = [name for name in dir(modeling_auto) if name.startswith("MODEL_FOR_") and name.endswith("MAPPING_NAMES")]
    found: dict[str, list[Any]] = {}
    for name in ("MODEL_MAPPING_NAMES", *names):
        for model_type, classes in getattr(modeling_auto, name).items():
            for entry in (classes,) if isinstance(classes, str) else classes:
                if entry not in found.setdefault(model_type, []):
                    found[model_type].append(entry)
    return found


def model_types() -> list[str]:
    """All model types, those of AutoModel's table first; then timm's families, as "timm/<model>"."""
    return [*tables(), *(f"timm/{name}" for name in timm_models.FAMILIES)]


def sixty() -> dict[str, list[str]]:
    """The model types of the default test run, with the ways of building attention that each stands for."""
    lines = Path(__file__).with_name("sixty.txt").read_text(encoding="utf-8").splitlines()
    return {words[0]: words[1:] for line in lines if (words := line.split()) and not line.startswith("#")}


def tiny_config(model_type: str, level: int = 0) -> Any:
    """A tiny config, shrunk as `Shrinker` does at a level."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    overrides = OVERRIDES.get(model_type, {})
    model_class = class_of(tables()[model_type][0], model_type)
    mrope = "mrope_section" in inspect.getsource(importlib.import_module(model_class.__module__))
    return Shrinker(overrides, level, mrope).config(CONFIG_MAPPING[model_type]())


def class_of(name: str, model_type: str) -> type:
    """A model class by its name."""
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    found = getattr(transformers, name, None)
    if found is None:
        room = model_type_to_module_name(model_type)
        module = importlib.import_module(f"transformers.models.{room}.modeling_{room}")
        found = getattr(module, name)
    return found


#: a model with more parameters is not tiny
TINY = 60_000_000


def tiny_model(model_type: str, level: int = 0, which: int = 0) -> Any:
    """A tiny random model in evaluation mode; every parameter is random, so that nothing is zero by construction."""
    torch.manual_seed(0)
    config = tiny_config(model_type, level)
    model_class = class_of(CLASSES.get(model_type, tables()[model_type][which]), model_type)
    if level:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in model_class(config).parameters())
        if size > TINY:
            raise ValueError(f"{size} parameters at level {level}")
        config = tiny_config(model_type, level)
    model = model_class(config)
    randomise(model, CALM.get(model_type, 0.2))
    return model.eval()


def randomise(model: torch.nn.Module, matrices: float = 0.2) -> None:
    """Random weights of a size at which every attention head matters.

    Args:
        matrices: the spread of what is added to parameters with more than one dimension.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            spread = matrices if parameter.dim() > 1 else 0.05
            noise = torch.randn(parameter.shape, generator=generator) * spread
            if (
                parameter.dim() == 1
                and float(parameter.abs().max() if parameter.numel() else 0) < 1e-2
                and "bias" not in name
            ):
                noise = noise + 0.5  # layer scales begin near zero
            parameter.add_(noise.to(parameter.dtype))


def calibrate(model: torch.nn.Module, inputs: dict[str, Any]) -> None:
    """Batch norms that know what they normalise, as after training; else numbers grow from layer to layer till they
    overflow."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(**inputs)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval()
        norm.momentum = momentum
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.01)


def tiny(model_type: str, which: int = 0, levels: Sequence[int] = (0, 1, 2)) -> tuple[Any, dict[str, Any]]:
    """A tiny model and inputs with which it runs, in two rows, padded where it has a mask.

    Args:
        model_type: the type.
        which: the first of its classes that is tried.
        levels: of shrinking, tried one after another; a type with a level of its own has that alone.

    Raises:
        Exception: whatever stopped it at the first level; the others are tried after it.
    """
    if model_type.startswith("timm/"):
        model, inputs = timm_models.tiny(model_type.removeprefix("timm/"))
        randomise(model)
        calibrate(model, inputs)
        return model, inputs
    first: Exception | None = None
    levels = [LEVELS[model_type]] if model_type in LEVELS else levels
    tries = [(level, which) for level in levels]
    # A composite class may want what only its task class has.
    tries += [(0, other) for other in range(1, min(3, len(tables()[model_type])))]
    for level, chosen in tries:
        try:
            model = tiny_model(model_type, level, chosen)
            inputs = feeding.inputs_for(model, model_type)
            calibrate(model, inputs)
            return model, inputs
        except Exception as error:
            first = first or error
    assert first
    raise first
