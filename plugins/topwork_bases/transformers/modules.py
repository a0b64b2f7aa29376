"""From a transformers config to a module: by transformers' own classes, with every weight accounted for.

`from_pretrained` fills what a checkpoint lacks with random numbers and one log line. Here a missing weight of the
backbone is an error; only a new task head (and the pooler that feeds it) may be random, and the log says so.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from topwork import BaseOptions, CheckpointError, UsageError
from topwork_bases.transformers.quantized import quantization_config
from topwork_bases.transformers.sources import hub_error

log = logging.getLogger("topwork.bases")


def _mapping(auto: str) -> Any:
    mapping = getattr(transformers, auto, None)
    if mapping is None or not hasattr(mapping, "_model_mapping"):
        raise UsageError(f"transformers has no auto class `{auto}`")
    return mapping._model_mapping


def classes(auto: str, config: Any) -> list[type]:
    """Return the model classes behind an auto name for this config: none, one or several (then by preference)."""
    mapping = _mapping(auto)
    if type(config) not in mapping:
        return []
    names = mapping[type(config)]
    return list(names) if isinstance(names, list | tuple) else [names]


def class_names(auto: str, config: Any) -> list[str]:
    """Return names of the model classes behind an auto name for this config."""
    return [names.__name__ for names in classes(auto, config)]


def has(auto: str, config: Any, trust: bool) -> bool:
    """Return whether this auto name has a class for the config, or code that came with the checkpoint."""
    return bool(classes(auto, config)) or (trust and auto in (getattr(config, "auto_map", None) or {}))


def takes(auto: str, config: Any, argument: str) -> bool:
    """Return whether the class behind an auto name takes an argument when it is made."""
    parameters = classes(auto, config)
    return bool(parameters) and argument in inspect.signature(parameters[0]).parameters


def _chosen(auto: str, config: Any) -> type | None:
    """Return the class to make: of several (deit and levit have two) the one that the config names, else the first.

    transformers' own choice fails when `architectures` is None, as in every config made from scratch.
    """
    chosen = classes(auto, config)
    named = set(getattr(config, "architectures", None) or ())
    return next((entry for entry in chosen if entry.__name__ in named), chosen[0] if chosen else None)


def _arguments(options: BaseOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if options.attention is not None:
        arguments["attn_implementation"] = options.attention
    return arguments


def from_config(auto: str, config: Any, options: BaseOptions, subclass: type | None = None, **extra: Any) -> nn.Module:
    """Return a module with random weights; of `subclass`, if one is given."""
    dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
    chosen: Any = subclass or _chosen(auto, config)
    try:
        if chosen is None:
            model = getattr(transformers, auto).from_config(
                config, trust_remote_code=True, dtype=dtype, **_arguments(options)
            )
        else:
            model = chosen._from_config(config, dtype=dtype, **_arguments(options), **extra)
    except Exception as error:
        raise UsageError(
            f"a model cannot be made of this config: {error}",
            place=f"base config:{config.model_type}",
            hint="correct the config",
        ) from error
    return _ready(model)


def from_weights(
    auto: str,
    location: str,
    config: Any,
    options: BaseOptions,
    *,
    fresh_head: bool = False,
    subclass: type | None = None,
    **extra: Any,
) -> nn.Module:
    """Return a module with the checkpoint's weights, of `subclass` if one is given.

    With `fresh_head` its task head starts anew, whatever its shape was.
    """
    if subclass is not None and (Path(location) / "topwork.safetensors").is_file():
        config.transformers_weights = "topwork.safetensors"
    model, info = _opened(subclass or _chosen(auto, config), auto, location, config, options, extra)
    if hasattr(model.config, "transformers_weights"):
        del model.config.transformers_weights  # else it would be saved, and stand for another file
    _account(model, info, location, fresh_head)
    if fresh_head:
        model = _with_new_head(model, from_config(auto, config, options, subclass, **extra))
    return _ready(model)


def fill(
    module: Any,
    auto: str,
    location: str,
    config: Any,
    options: BaseOptions,
    *,
    fresh_head: bool = False,
    subclass: type | None = None,
    **extra: Any,
) -> None:
    """Put a checkpoint's weights into a module that was cut to their shape after it was made.

    Its task head stays as it is where the checkpoint has none, and with `fresh_head`.

    Raises:
        CheckpointError: weights are missing, or have another shape than the module now has.
    """
    chosen: Any = subclass or type(module)

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        chosen.__init__(self, *args, **kwargs)
        _shape_like(self, module)

    # `from_pretrained` makes the class that it is called on: a class of its own for this one call.
    cut: Any = type(chosen.__name__, (chosen,), {"__init__": build, "__module__": chosen.__module__})
    loaded, info = _opened(cut, auto, location, config, options, extra)
    _account(loaded, info, location, fresh_head)
    missing = set(info.get("missing_keys") or ()) | {entry[0] for entry in info.get("mismatched_keys") or ()}
    tensors = loaded.state_dict()
    if options.dtype == "auto":
        module.to(loaded.dtype)
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if name not in missing and (not fresh_head or name.startswith(f"{module.base_model_prefix}.")):
                tensor.data = tensors[name].to(tensor.device)


def _shape_like(module: nn.Module, reference: nn.Module) -> None:
    """Give parameters and buffers the shapes that those of another module have."""
    wanted = reference.state_dict()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.shape != wanted[name].shape:
            owner, _, leaf = name.rpartition(".")
            fresh = tensor.new_empty(wanted[name].shape)
            put = nn.Parameter(fresh) if isinstance(tensor, nn.Parameter) else fresh
            setattr(module.get_submodule(owner), leaf, put)


def _opened(
    chosen: Any, auto: str, location: str, config: Any, options: BaseOptions, extra: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Call `from_pretrained`; return the model and the report of missing and misfit weights."""
    dtype = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    arguments = {**_arguments(options), **extra, "dtype": dtype, "use_safetensors": True, "revision": options.revision}
    arguments |= quantization_config(options)
    if chosen is None:
        chosen = getattr(transformers, auto)
        arguments["trust_remote_code"] = True
    try:
        with _quiet():
            return chosen.from_pretrained(
                location, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            )
    except Exception as error:
        if _lacks_safetensors(location, options.revision):
            raise CheckpointError(
                "has no safetensors weights",
                place=f"base {location}",
                hint="save it with transformers' save_pretrained, or choose a revision that has them",
            ) from error
        raise hub_error(error, location, options.revision) from error


def _lacks_safetensors(location: str, revision: str | None) -> bool:
    """Return whether a folder, or a repository as the Hub's cache knows it, has no file of safetensors weights."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    folder = Path(location).expanduser()
    if folder.is_dir():
        return not any(folder.glob("*.safetensors"))
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    return all(try_to_load_from_cache(location, name, revision=revision) is _CACHED_NO_EXIST for name in names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the table of missing and mismatched weights; `_account` reports them in one line, or raises."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)


def _account(model: Any, info: dict[str, Any], location: str, fresh_head: bool) -> None:
    """Check that every weight of the backbone came from the checkpoint, in its shape.

    Raises:
        CheckpointError: names those that did not.
    """
    missing = set(info.get("missing_keys") or ())
    misfits = {entry[0]: (tuple(entry[1]), tuple(entry[2])) for entry in info.get("mismatched_keys") or ()}
    problems = sorted(key for key in missing - set(misfits) if not _of_task_head(model, key))
    if problems:
        shown = ", ".join(problems[:6]) + (" ..." if len(problems) > 6 else "")
        raise CheckpointError(
            f"{len(problems)} weights of the backbone are not in the checkpoint: {shown}",
            place=f"base {location}",
            hint="is config.json the one that belongs to these weights?",
        )
    wrong = {key: shapes for key, shapes in misfits.items() if not (fresh_head and _of_task_head(model, key))}
    if wrong:
        key, (saved, requested) = sorted(wrong.items())[0]
        raise CheckpointError(
            f"{len(wrong)} weights have another shape than the config says, first `{key}`: "
            f"{list(saved)} saved, {list(requested)} asked",
            place=f"base {location}",
            hint="undo `changes` that alter shapes, or set `head: new` to replace its task head",
        )
    new = sorted(missing | set(misfits))
    if new:
        log.info("%s: newly initialised for the task: %s", location, ", ".join(new))


def _of_task_head(model: Any, key: str) -> bool:
    """Return whether a parameter belongs to the task head.

    It does when it lies outside the base model, or is the pooler or the norm of a stage that only the task head reads;
    so does the encoder's pooler in a pair of encoder and decoder, which nothing reads.
    """
    if model.config.model_type == "encoder-decoder" and key.startswith("encoder.pooler."):
        return True
    prefix = model.base_model_prefix
    inner = prefix and hasattr(model, prefix) and model.base_model is not model
    if inner and not key.startswith(prefix + "."):
        return True
    rest = key.removeprefix(prefix + ".") if inner else key
    return rest.startswith(("pooler.", "hidden_states_norms."))


def _with_new_head(loaded: Any, fresh: Any) -> Any:
    """Return the loaded backbone under a task head with new weights."""
    prefix = loaded.base_model_prefix
    if not prefix or not hasattr(fresh, prefix):
        raise CheckpointError(
            f"{type(loaded).__name__} does not separate its task head from its backbone",
            hint="choose a base without a trained task head",
        )
    setattr(fresh, prefix, getattr(loaded, prefix))
    fresh.tie_weights()
    return fresh.eval()


def _ready(model: Any) -> nn.Module:
    # Trainer assumes that a model whose forward takes **kwargs divides its loss by the items of all accumulated
    # batches; most do not, and gradients would grow with the number of accumulation steps
    model.accepts_loss_kwargs = False
    return model.eval()
