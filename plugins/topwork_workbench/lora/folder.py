"""An adapter in a folder: peft's own files, and beside them what it belongs to.

Entry points: `write_folder`, `read_folder`; `describe_base` and `check_base` hold an adapter to the model that it was
trained on. `adapter_config.json` and `adapter_model.safetensors` are what `peft.PeftModel.from_pretrained` reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from topwork import CheckpointError, alterations, check_checksum, with_checksum, write_json, write_whole
from topwork_workbench.lora.quantised import plain, plain_state

if TYPE_CHECKING:
    from torch import nn

    from topwork import Json

#: what the adapter was trained on
ORIGIN = "topwork_adapter.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: of image processors and feature extractors
_STATISTICS = ("image_mean", "image_std", "do_normalize", "sampling_rate")
_PREFIX, _ADAPTER = "base_model.model.", ".default"


def describe_base(work: Any, head: set[str]) -> dict[str, Json]:
    """Describe the model that an adapter is trained on: its task, its bases, its weights, what was pruned.

    Args:
        work: the task and its model, before the adapter is put on.
        head: names of the tensors of the task head: they are the adapter's own.
    """
    work.plugins.hook.model_saving(model=work.model)
    state = {name: tensor for name, tensor in plain_state(work.model).items() if name not in head}
    sections = json.loads(json.dumps(alterations(work.model), sort_keys=True))
    learned = json.dumps(work.task.state.values, sort_keys=True, default=str)
    return {
        "task": work.task.name,
        "bases": {role: _name(base) for role, base in work.task.bases.items()},
        "sha256": hash_of(state),
        "learned": hashlib.sha256(learned.encode()).hexdigest(),
        "processors": {kind: _hash_of_processor(value) for kind, value in work.task.state.processors.items()},
        "alterations": sections,
    }


def _name(base: Any) -> str:
    origin = base.origin
    return str(origin.get("model") or f"config:{(origin.get('config') or {}).get('model_type', '?')}")


def _hash_of_processor(processor: Any) -> str:
    """Return a hash of what makes inputs of rows: the vocabulary of a tokenizer, the statistics of other processors."""
    if callable(getattr(processor, "get_vocab", None)):
        traits = processor.get_vocab()
    else:
        traits = {name: getattr(processor, name, None) for name in _STATISTICS}
    return hashlib.sha256(json.dumps(traits, sort_keys=True, default=str).encode()).hexdigest()


def hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 hash of tensors with their names, shapes and dtypes."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = plain(tensors[name].detach()).cpu().contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return hashed.hexdigest()


def check_base(origin: Mapping[str, Json], work: Any, folder: Path) -> None:
    """Compare a model with the one that an adapter was trained on.

    Raises:
        CheckpointError: names what differs: the task, what it learned, what was pruned, or the weights.
    """
    here = describe_base(work, set(origin["head"]))
    trained_on = ", ".join(str(name) for name in origin["bases"].values())
    present = ", ".join(str(name) for name in here["bases"].values())
    hint = f"put it on the model that it was trained on: {trained_on}, with the same task, rows and pruning"
    relearned = "the adapter was trained with other labels, tokens or statistics than this model has"
    faults = {
        "task": f"the adapter was trained for the task {origin['task']}, and this is {here['task']}",
        "alterations": f"the adapter is of a model that was pruned or gated otherwise: {_differences(origin, here)}",
        "learned": relearned,
        "processors": relearned,
        "sha256": f"the adapter was trained on {trained_on} with other weights than this model has ({present})",
    }
    for key, cause in faults.items():
        if origin.get(key, here[key]) != here[key]:  # older adapters say nothing of processors
            raise CheckpointError(cause, place=str(folder), hint=hint)


def _differences(origin: Mapping[str, Json], here: Mapping[str, Json]) -> str:
    before, now = (_flat(section["alterations"]) for section in (origin, here))
    key = next((key for key in sorted({*before, *now}) if before.get(key) != now.get(key)), "")
    return f"`{key}` was {before.get(key, 'not altered')}, and is {now.get(key, 'not altered')}"


def _flat(value: Json, prefix: str = "") -> dict[str, Json]:
    if not isinstance(value, dict):
        return {prefix: value}
    parts = (_flat(inner, f"{prefix}/{key}" if prefix else str(key)) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


# ---------------------------------------------------------------- the folder


def write_folder(
    folder: Path,
    config: Any,
    products: Mapping[str, torch.Tensor],
    head: set[str],
    model: nn.Module,
    base: Mapping[str, Json],
) -> None:
    """Write an adapter folder, whole or not at all.

    Args:
        folder: where to.
        config: peft's LoraConfig.
        products: by their names in the model's state dict.
        head: names of the tensors of the task head.
        model: with the products on it.
        base: as of `describe_base`.
    """
    from safetensors.torch import save_file

    state = model.state_dict()
    tensors = {**products, **{name: state[name] for name in sorted(head)}}
    stored = {stored_name(name): tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    config.modules_to_save = modules_of(head, model) or None
    config.base_model_name_or_path = next(iter(base["bases"].values()))
    config.inference_mode = True
    with write_whole(folder) as temporary:
        temporary.mkdir()
        config.save_pretrained(temporary)
        save_file(stored, temporary / WEIGHTS, metadata={"format": "pt"})
        files = {name: _digest(temporary / name) for name in (CONFIG, WEIGHTS)}
        write_json(temporary / ORIGIN, with_checksum({**base, "head": sorted(head), "files": files}))


def modules_of(names: Iterable[str], model: nn.Module) -> list[str]:
    """Return the outermost modules that hold nothing but these tensors, in the order of the model."""
    wanted = set(names)
    every = set(model.state_dict())
    chosen: list[str] = []
    for path, _ in model.named_modules():
        inside = {name for name in every if path and name.startswith(f"{path}.")}
        if inside and inside <= wanted and not any(path.startswith(f"{outer}.") for outer in chosen):
            chosen.append(path)
    return chosen


def stored_name(name: str) -> str:
    """Return peft's name of a tensor in the file: the name of the adapter is left out."""
    return _PREFIX + (name.replace(_ADAPTER, "") if "lora_" in name else name)


def read_folder(folder: Path) -> tuple[dict[str, Json], dict[str, torch.Tensor]]:
    """Read what `write_folder` wrote.

    Returns:
        what the adapter belongs to, and its tensors by the names in the file.

    Raises:
        CheckpointError: a file is missing, damaged or changed.
    """
    from safetensors.torch import load_file

    hint = "name the folder `adapter` that `train: {lora: {save: adapter}}` left in the folder of its stage"
    if not (folder / ORIGIN).is_file():  # a pipe would be waited for
        raise CheckpointError("there is no adapter of topwork", place=str(folder / ORIGIN), hint=hint)
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        files, known = dict(origin["files"]), {"task", "bases", "sha256", "learned", "alterations", "head", "modules"}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the file is damaged ({error})", place=str(folder / ORIGIN), hint=hint) from error
    if missing := sorted(known - set(origin)):
        raise CheckpointError(f"the entry `{missing[0]}` is missing", place=str(folder / ORIGIN), hint=hint)
    check_checksum(origin, folder / ORIGIN)
    for name, written in files.items():
        if not (folder / name).is_file() or _digest(folder / name) != written:
            raise CheckpointError("the file is missing or was changed", place=str(folder / name), hint="copy it again")
    return origin, load_file(folder / WEIGHTS)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
