"""Source of a transformers base (a folder, the Hub, an installed package, a config), and the contents of its files.

Every failure here is a located error: a missing file, an unknown `model_type`, a model that is not in the cache while
offline. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from topwork import CheckpointError, TopworkError, UsageError, nearest, unknown
from topwork_bases.transformers.written import uneven_heads

#: kinds of processors, and the classes that read them
_AUTO = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "video_processor": "AutoVideoProcessor",
    "processor": "AutoProcessor",
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "tekken.json",
    "tokenizer_config.json",
)


def locate(name: str) -> str | None:
    """Return the folder or Hub id that a base's name stands for, or None when transformers has no part in it.

    `package:<package>/<folder>` is a folder inside an installed package; the package is not imported.
    """
    if name.startswith("package:"):
        return str(_package_folder(name))
    if name.startswith("timm/"):
        return None
    if not name:
        raise UsageError("the name of a base is empty", place="base", hint="give a folder or Hub id")
    path = Path(name).expanduser()
    if os.path.isdir(path):  # unlike `Path.is_dir` it takes names of any length
        return str(path)
    if os.path.exists(path):
        raise UsageError("is a file; a base is a folder or a Hub id", place=f"base {name}")
    if _HUB_ID.fullmatch(name) and not name.startswith(("./", "../", "~")):
        return name
    kind = name.removeprefix("config:")
    hint = "correct the path" if kind == name else f"write `config: {{model_type: {kind}}}` for random weights"
    raise UsageError("no such folder, and not a Hub id either", place=f"base {name}", hint=hint)


def _package_folder(name: str) -> Path:
    from importlib.util import find_spec

    package, _, inside = name.removeprefix("package:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise UsageError(
            f"the package `{package}` is not installed",
            place=f"base {name}",
            hint=f"install the package that brings `{package}`",
        )
    for root in spec.submodule_search_locations or ():
        folder = Path(root) / inside
        if folder.is_dir() and folder.resolve().is_relative_to(Path(root).resolve()):
            return folder
    raise UsageError(f"the package `{package}` has no folder `{inside}`", place=f"base {name}")


def find_file(location: str, file: str, revision: str | None = None, required: bool = False) -> Path | None:
    """Return a file of a folder or of a Hub repository (fetched when online); None when there is no such file.

    On the Hub a `required` file that is missing is an error that gives the reason (offline, no such repository ...).
    """
    if os.path.isdir(location):
        path = Path(location) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        cached = cached_file(location, file, revision=revision, _raise_exceptions_for_missing_entries=required)
    except Exception as error:
        raise hub_error(error, location, revision) from error
    return Path(cached) if cached else None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; a broken file is an error that names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read as JSON ({error})", place=str(path), hint="save it again") from error
    if not isinstance(value, dict):
        raise CheckpointError("does not hold a JSON object", place=str(path), hint="save it again")
    return value


def hub_error(error: Exception, location: str, revision: str | None) -> TopworkError:
    """Translate an exception of the Hub into an error with a hint."""
    if isinstance(error, TopworkError):
        return error
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    causes: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in causes:
        causes.append(link)
        link = link.__cause__ or link.__context__
    base = f"base {location}" + (f" at {revision}" if revision else "")
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return CheckpointError(
            "the repository is gated", place=base, hint="accept its terms and log in (`hf auth login`)"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return CheckpointError("no such revision on the Hub", place=base, hint="correct `revision`")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return CheckpointError(
            "no such repository on the Hub", place=base, hint="correct the id, or log in if it is private"
        )
    if os.path.isdir(Path(location).expanduser()):
        message = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return CheckpointError(f"cannot be opened ({message})", place=base, hint="save it again")
    if constants.HF_HUB_OFFLINE:
        return CheckpointError(
            "is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it",
            place=base,
            hint=f"fetch it once online (`hf download {location}`), or give a local folder",
        )
    return CheckpointError(str(error).strip().splitlines()[0], place=base, hint="is the Hub reachable?")


def read_config(location: str, revision: str | None, trust: bool) -> Any | None:
    """Return the config of a folder or Hub repository; None when its `config.json` is not of transformers."""
    path = find_file(location, "config.json", revision, required=True)
    if path is None:
        raise CheckpointError(
            "has no config.json",
            place=f"base {location}",
            hint="give a folder that `save_pretrained` wrote, or a Hub id",
        )
    raw = read_json(path)
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = raw.get("model_type")
    if kind is None:
        if "architecture" in raw:  # written by timm
            return None
        raise CheckpointError("config.json has no `model_type`", place=f"base {location}")
    if kind not in CONFIG_MAPPING_NAMES and not ("auto_map" in raw and trust):
        hint = "set `trust_remote_code: true` if you trust its code" if "auto_map" in raw else "update transformers"
        raise CheckpointError(
            f"transformers knows no model type `{kind}`{nearest(kind, CONFIG_MAPPING_NAMES)}",
            place=f"base {location}",
            hint=hint,
        )
    try:
        return AutoConfig.from_pretrained(location, revision=revision, **({"trust_remote_code": True} if trust else {}))
    except Exception as error:
        raise CheckpointError(
            f"its config does not fit `{kind}`: {_first_line(error)}", place=f"base {location}"
        ) from error


def make_config(values: dict[str, Any]) -> Any:
    """Make a config from a recipe's `config`, nested ones included; unknown entries are errors at any depth."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    values = dict(values)
    kind = values.pop("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        raise unknown_model_type(kind, CONFIG_MAPPING_NAMES)
    try:
        config = AutoConfig.for_model(kind, **values)
    except Exception as error:
        raise UsageError(_first_line(error), place=f"base config:{kind}", hint="correct `config`") from error
    _refuse_unknown(kind, values, "config")
    return config


def refuse_uneven(config: Any, location: str) -> None:
    """Refuse a config whose width its attention heads do not share evenly, where its network cannot be built so.

    Raises:
        UsageError: what the network's modules say.
    """
    names = uneven_heads(lambda name: getattr(config, name, None))
    if names is None:
        return
    import torch
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        return
    try:
        with torch.device("meta"):
            AutoModel.from_config(config)
    except Exception as error:
        width, heads = names
        hint = f"let `{heads}` divide `{width}`"
        raise UsageError(f"its network cannot be built: {_first_line(error)}", place=location, hint=hint) from error


def unknown_model_type(kind: str, known: Any) -> UsageError:
    """Return the error for a `model_type` that transformers does not have; the list is too long to print."""
    error = unknown("model type", kind, known)
    error.hint = "`model_type` is transformers' name of the architecture, such as bert, gpt2, vit"
    return error


def _refuse_unknown(kind: Any, values: dict[str, Any], path: str) -> None:
    """Refuse entries that a config does not have: transformers keeps them silently, so a misspelt one does nothing."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        default = AutoConfig.for_model(kind)
    except Exception:  # a composite without defaults checks its parts itself
        return
    known = set(default.to_dict()) | set(default.attribute_map) | set(default.sub_configs)
    for key, value in values.items():
        if key not in known and not hasattr(default, key):
            raise UsageError(
                f"`{path}.{key}` is no entry of {type(default).__name__}{nearest(key, known)}",
                place=f"base config:{kind}",
            )
        part = value.get("model_type") if isinstance(value, dict) else None
        if part in CONFIG_MAPPING_NAMES and isinstance(value, dict):
            _refuse_unknown(part, {k: v for k, v in value.items() if k != "model_type"}, f"{path}.{key}")


def apply(config: Any, changes: dict[str, Any], strict: bool = False, path: str = "changes") -> None:
    """Set entries of a config. An entry that belongs to the text part of a composite config is set there.

    With `strict` (what a person wrote) an entry that the config does not have is an error.
    """
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        nested = getattr(config, head, None)
        if hasattr(nested, "to_dict") and (rest or isinstance(value, dict)):
            apply(nested, {rest: value} if rest else value, strict, f"{path}.{head}")
            continue
        target = config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        if text is not config and key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"):
            target = text
        if strict and not hasattr(target, key):
            raise UsageError(f"`{path}.{key}` is no entry of {type(target).__name__}{nearest(key, target.to_dict())}")
        setattr(target, key, value)
    if "id2label" in changes:
        config.id2label = {int(number): str(name) for number, name in changes["id2label"].items()}
        config.label2id = {name: number for number, name in config.id2label.items()}


def _first_line(error: BaseException) -> str:
    """Return the last line that says something: validation errors of configs put the cause there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) if lines else type(error).__name__


# ---------------------------------------------------------------- processors


def find_processor(location: str, kind: str, revision: str | None, changes: dict[str, Any]) -> Any | None:
    """Return a saved tokenizer or processor; None when no file of that kind is there. A broken file is an error.

    `encoder/tokenizer` is the tokenizer in the folder `encoder` of a model with two.
    """
    part, _, kind = kind.rpartition("/")
    if part:
        location = str(Path(location) / part)
        if not os.path.isdir(location):
            return None
    extra = _processor_file(location, kind, revision)
    if extra is None:
        return None
    import transformers

    try:
        options = {**extra, **changes}
        processor = getattr(transformers, _AUTO[kind]).from_pretrained(location, revision=revision, **options)
    except Exception as error:
        raise CheckpointError(
            f"its {kind} cannot be read: {_first_line(error)}",
            place=f"base {location}",
            hint=_hint_of_processor(error),
        ) from error
    if kind == "processor" and not isinstance(processor, transformers.ProcessorMixin):
        return None
    return processor


def _hint_of_processor(error: Exception) -> str:
    if isinstance(error, ImportError):  # SentencePiece's models, and those that protobuf describes
        return "pip install 'topwork[translation]' where it names sentencepiece or protobuf, else what it names"
    return "save it again, or set `processor`"


def _processor_file(location: str, kind: str, revision: str | None) -> dict[str, Any] | None:
    """Return what must be passed on to read a processor of this kind; None when the base has no file for it.

    A saved image processor does not say its backend (torchvision or PIL): who wants the PIL one asks for it.
    """
    if kind == "tokenizer":
        return {} if any(find_file(location, file, revision) for file in _TOKENIZER_FILES) else None
    if kind not in _AUTO:
        raise unknown("kind of processor", kind, _AUTO)
    whole = find_file(location, "processor_config.json", revision)
    parts = read_json(whole) if whole else {}
    if kind == "processor":
        return {} if whole else None
    single = find_file(
        location,
        "video_preprocessor_config.json" if kind == "video_processor" else "preprocessor_config.json",
        revision,
    )
    part = parts.get(kind) or (read_json(single) if single else None)
    if part is None:
        return None
    if kind == "image_processor" and "image_processor_type" not in part and "sampling_rate" in part:
        return None
    if kind == "feature_extractor" and "image_processor_type" in part:
        return None
    return {}
