"""Batches that the check of pruning runs on.

Entry points: `call_on`, the run of a model on the caller's batch, or else on the one of which most of the model runs:
small and random (`probe_inputs`), the last that ran (`model_state.remembered_batch`), transformers' dummy inputs, made
by the names in forward (`made_inputs`); `further_batches`, the same batch in other sizes and with padding, so that
what holds for one batch is known to hold for others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from topwork import Batch, Refused, TopworkError, UsageError, map_tensors
from topwork_lens.model_state import MOST_NUMBERS, device_of, quiet, remembered_batch, text_config
from topwork_lens.pruning.made_inputs.named import named_inputs
from topwork_lens.pruning.made_inputs.placeholders import with_placeholders
from topwork_lens.refusals import refuse

_ITEMS, _TOKENS, _SAMPLES, _FRAMES = 2, 12, 4000, 200


def call_on(model: nn.Module, check: Any) -> Callable[[], Any]:
    """Return what runs a model on a batch.

    Args:
        model: the model.
        check: a dict of inputs, a `Batch`, or a function that runs the model; None for a random batch; where that does
            not run or leaves layers out, the last one that was captured, gated, patched or scored, transformers' dummy
            inputs, or inputs by the names that forward takes.

    Raises:
        UsageError: the batch is none of these; in the call: the model did not run on the caller's batch.
    """
    if callable(check):
        return check
    if not isinstance(check, Mapping | Batch | None):
        cause = f"the batch of the check is a {type(check).__name__}"
        raise UsageError(cause, hint="give a dict of inputs, or a function that runs the model")
    made: dict[str, Any] = {}
    has_run = False

    def call() -> Any:
        nonlocal has_run
        if not made:
            made.update(check.inputs if isinstance(check, Batch) else check or _random_or_remembered(model))
            if "use_cache" in inspect.signature(model.forward).parameters:
                # A cache would be filled by one run and read by the next.
                made.setdefault("use_cache", False)
        try:
            result = model(**made)
            has_run = True
            return result
        except Exception as error:
            # What ran once is right; when it fails later, it is the pruned model that does not run.
            if has_run or isinstance(error, TopworkError | torch.OutOfMemoryError):
                raise
            which = "a random batch" if check is None else "the batch of the check"
            cause = f"{type(model).__name__} does not run on {which} ({type(error).__name__}: {error})"
            if check is not None:
                raise UsageError(cause, hint="give the inputs that its forward takes") from error
            raise refuse("check_failed", cause, hint="give one: prune_heads(heads, check=batch)") from error

    return call


def _random_or_remembered(model: nn.Module) -> dict[str, Any]:
    """Return the batch on which most of the model runs: a random one, the last that ran, inputs by their names.

    The first on which every layer of every stack runs is taken; of two that reach as many layers, the first.

    Raises:
        Refused: none of them runs.
    """
    best: tuple[int, dict[str, Any]] | None = None
    layers = _layers_of_stacks(model)
    refused: Refused | None = None
    first: dict[str, Any] | None = None
    try:
        first = probe_inputs(model)
    except Refused as error:
        refused = error
    for inputs in _candidates(model, first):
        reached = _reached(model, layers, inputs)
        if reached is not None and (best is None or reached > best[0]):
            best = reached, inputs
            if reached == len(layers):
                break
    if best is not None:
        return best[1]
    if first is None:
        assert refused is not None
        raise refused
    return first


def _candidates(model: nn.Module, first: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield batches, the most likely first, each also with the tokens that stand for its images and sounds."""
    known = [first, remembered_batch(model), _dummy_inputs(model)]
    made = (_moved(inputs, model) for inputs in named_inputs(model))
    for inputs in chain((batch for batch in known if batch is not None), made):
        extended = with_placeholders(model, inputs)
        if extended is not None:
            yield extended
        yield inputs


def _layers_of_stacks(model: nn.Module) -> list[nn.Module]:
    """Return the modules with parameters that are in lists: on most batches that fit a model all of them run."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack.children()]
    return [layer for layer in layers if next(layer.parameters(), None) is not None]


def _reached(model: nn.Module, layers: Sequence[nn.Module], inputs: Mapping[str, Any]) -> int | None:
    """Return how many of the layers run on a batch; None for a batch on which the model does not run."""
    ran: set[nn.Module] = set()
    handles = [layer.register_forward_pre_hook(lambda module, args: ran.add(module)) for layer in layers]
    with suppress(Exception), quiet(model):
        try:
            model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return len(ran)
    return None


def _dummy_inputs(model: nn.Module) -> dict[str, Any] | None:
    """Return inputs that a model of transformers makes of itself; None where it makes none."""
    with suppress(Exception):  # some classes have inputs that need what they do not have
        inputs = getattr(model, "dummy_inputs", None)
        if isinstance(inputs, Mapping) and inputs:
            return map_tensors(dict(inputs), lambda tensor: tensor.to(device_of(model)))
    return None


def probe_inputs(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments for `model.forward`: random, with padding where the model knows padding.

    Raises:
        Refused: nothing is known about the inputs of this model.
    """
    generator = torch.Generator().manual_seed(0)
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or main is None:
        inputs = _image_model(model, generator)
    elif main == "pixel_values":
        frames = (config.num_frames,) if isinstance(getattr(config, "num_frames", None), int) else ()
        inputs = {main: torch.randn(_ITEMS, *frames, *_image_shape(config), generator=generator)}
    elif main == "input_values":
        inputs = {main: torch.randn(_ITEMS, _SAMPLES, generator=generator)}
    elif main == "input_features":
        width = _number(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=80)
        inputs = {main: torch.randn(_ITEMS, width, _frames(config), generator=generator)}
    elif main == "input_ids":
        inputs = _tokens(config, generator)
    else:
        raise _unknown(model)
    if hasattr(config, "vision_config") and "pixel_values" in inspect.signature(model.forward).parameters:
        inputs.setdefault("pixel_values", torch.randn(_ITEMS, *_image_shape(config.vision_config), generator=generator))
    if getattr(config, "is_encoder_decoder", False) and main != "pixel_values":
        inputs["decoder_input_ids"] = _tokens(config, generator)["input_ids"]
    return _moved(inputs, model)


def _moved(inputs: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the inputs on the device and in the floating-point dtype of a model."""
    parameter = next(model.parameters())
    moved = {name: value.to(parameter.device) for name, value in inputs.items()}
    return {name: value.to(parameter.dtype) if value.is_floating_point() else value for name, value in moved.items()}


def _unknown(model: nn.Module) -> Exception:
    return refuse(
        "check_failed",
        f"cannot make a batch to check the pruning of {type(model).__name__} with",
        hint="give one: prune_heads(heads, check=batch)",
    )


def _number(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default


def _tokens(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    text = text_config(config)
    vocabulary = _number(text, "vocab_size", default=10)
    ids = torch.randint(0, vocabulary, (_ITEMS, _TOKENS), generator=generator)
    pad = getattr(text, "pad_token_id", None)
    ids = torch.where(ids == pad, (ids + 1) % vocabulary, ids) if isinstance(pad, int) else ids
    mask = torch.ones(_ITEMS, _TOKENS, dtype=torch.long)
    if isinstance(pad, int) and 0 <= pad < vocabulary:
        mask[-1, _TOKENS * 2 // 3 :] = 0
        ids = ids.masked_fill(mask == 0, pad)
    return {"input_ids": ids, "attention_mask": mask}


def _image_shape(config: Any) -> tuple[int, int, int]:
    size = getattr(config, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return _number(config, "num_channels", "in_chans", default=3), height, width


def _frames(config: Any) -> int:
    positions = getattr(config, "max_source_positions", None)
    return 2 * positions if isinstance(positions, int) else _FRAMES


def _image_model(model: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return inputs of a model without a transformers config; those of timm carry the shape of their input."""
    shape, settings = None, getattr(model, "pretrained_cfg", None)
    if isinstance(settings, Mapping):
        shape = tuple(settings.get("input_size") or ()) or None
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if shape and size:
        shape = (shape[0], *size)
    name = next(iter(inspect.signature(model.forward).parameters), None)
    if shape is None or name is None:
        raise _unknown(model)
    return {name: torch.randn(_ITEMS, *shape, generator=generator)}


_ROWS = (5, 7, 3, 2)
_LENGTHS = (11, 13, 7, 17, 19)


@dataclass
class ProbeBatch:
    """A batch of another size than the one that the caller gave.

    Args:
        name: what it is, for messages: "2 rows of 4 tokens".
        inputs: keyword arguments for `model.forward`.
        is_neutral: its sizes have nothing in common with the numbers of attention heads.
    """

    name: str
    inputs: dict[str, Any]
    is_neutral: bool = False


def captured_inputs(model: nn.Module, call: Callable[[], Any]) -> tuple[dict[str, Any] | None, Any]:
    """Run `call`; return the keyword arguments of its first call of the model (None: not known), and its result."""
    calls: list[tuple[tuple, dict[str, Any]]] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args, kwargs)) if not calls else None, with_kwargs=True
    )
    try:
        result = call()
    finally:
        handle.remove()
    if not calls:
        return None, result
    args, kwargs = calls[0]
    names = list(inspect.signature(model.forward).parameters)
    if len(args) > len(names) or any(name in ("args", "kwargs") for name in names[: len(args)]):
        return None, result
    return {**dict(zip(names, args, strict=False)), **kwargs}, result


def further_batches(
    model: nn.Module, inputs: Mapping[str, Any], counts: Sequence[tuple[int, int]]
) -> Iterator[ProbeBatch]:
    """Yield a batch in other sizes: one that is neutral, such that collide with numbers of attention heads, and padded.

    Args:
        model: the model.
        inputs: keyword arguments for `model.forward`.
        counts: numbers of attention heads (or key/value groups) before and after pruning.
    """
    numbers = {number for pair in counts for number in pair if number > 1}
    rows = next((size for size in _ROWS if not any(number % size == 0 for number in numbers)), 5)
    length = next((size for size in _LENGTHS if not any(number % size == 0 for number in numbers)), 11)
    sizes = [(rows, length, True)]
    for before, after in counts:
        sizes += [(after, before, False), (before, after, False)]
    made: list[tuple[int, int | None]] = []
    for rows, length, is_neutral in sizes:
        batch = resized(inputs, rows, length) if rows > 0 and length > 0 else None
        if batch is not None and batch[1] not in made:
            made.append(batch[1])
            name = f"{rows} rows" + (f" of {length} tokens" if batch[1][1] else "")
            yield ProbeBatch(name, batch[0], is_neutral)
    padded = with_padding(model, inputs)
    if padded is not None:
        yield ProbeBatch("padding", padded)


def resized(inputs: Mapping[str, Any], rows: int, length: int) -> tuple[dict[str, Any], tuple[int, int | None]] | None:
    """Return a batch with another number of rows and, where it has tokens, of positions; rows repeat.

    Returns:
        The inputs, and their size (None where the length stays); None for a batch whose inputs are not row by row.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    others = [value for name, value in inputs.items() if name not in tensors]
    if not tensors or not all(value is None or isinstance(value, bool | int | float | str) for value in others):
        return None
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors.values()}
    if len(sizes) != 1 or 0 in sizes:
        return None
    (count,) = sizes
    numbers = [rows * length, *(tensor.numel() // count * rows for tensor in tensors.values())]
    if max(numbers) > MOST_NUMBERS:
        return None
    ids = tensors.get("input_ids")
    tokens = ids.shape[1] if ids is not None and ids.dim() == 2 and not ids.is_floating_point() else None
    result = dict(inputs)
    for name, tensor in tensors.items():
        chosen = tensor[torch.arange(rows, device=tensor.device) % count]
        is_sequence = tokens is not None and tensor.dim() > 1 and not tensor.is_floating_point()
        if is_sequence and (
            tensor.shape[1] == tokens or (tensor.dim() == 2 and name.startswith(("decoder_", "labels")))
        ):
            chosen = chosen[:, torch.arange(length, device=tensor.device) % tensor.shape[1]]
        result[name] = chosen
    return result, (rows, length if tokens is not None else None)


_MASKS = (
    ("attention_mask", "input_ids"),
    ("attention_mask", "input_values"),
    ("decoder_attention_mask", "decoder_input_ids"),
    ("pixel_mask", "pixel_values"),
)


def with_padding(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the batch with the end of its last row masked wherever forward knows a mask; None where it knows none."""
    names = inspect.signature(model.forward).parameters
    result = dict(inputs)
    for mask_name, tensor_name in _MASKS:
        tensor, present = inputs.get(tensor_name), inputs.get(mask_name)
        if mask_name not in names or not isinstance(tensor, torch.Tensor) or tensor.dim() < 2:
            continue
        shape = (tensor.shape[0], *tensor.shape[2:]) if tensor_name == "pixel_values" else tensor.shape[:2]
        if isinstance(present, torch.Tensor):
            if present.shape != shape or not bool((present != 0).all()):
                continue  # it is padded already, or has a form of its own
            mask = present.clone()
        else:
            mask = torch.ones(shape, dtype=torch.long, device=tensor.device)
        mask[-1, ..., -max(1, shape[-1] // 3) :] = 0
        result[mask_name] = mask
    return None if result.keys() == inputs.keys() and all(result[name] is inputs[name] for name in inputs) else result
