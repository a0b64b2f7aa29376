"""Checks of a config against the text of transformers' config classes, which is read and never imported.

Importing transformers and torch takes seconds; the fields of a config class, their types and what its methods refuse
stand in one short file. `surely_fits` answers True where that text leaves no doubt; whatever it does not understand is
left to `sources`, which makes the config.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: names of a width, and of the attention heads that share it
_WIDTHS = (
    ("hidden_size", "num_attention_heads"),
    ("embed_dim", "num_heads"),
    ("d_model", "encoder_attention_heads"),
    ("d_model", "decoder_attention_heads"),
)
#: entries that say how wide an attention head is, whatever the width of the network
_HEAD_WIDTHS = ("head_dim", "d_kv", "attention_head_size", "kv_channels", "qk_nope_head_dim")
#: entries that transformers checks in the class of all configs
_SHARED = ("layer_types", "mlp_layer_types", "problem_type", "per_layer_config")
#: entries that choose stages of a backbone
_STAGES = ("out_features", "out_indices")
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Mod: operator.mod,
    ast.Mult: operator.mul,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
_DTYPES = (None, "float32", "bfloat16", "float16")
_PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass
class ConfigText:
    """What the text of a config class says.

    Args:
        fields: annotation of each field.
        defaults: values of fields and of attributes of the class, where they are literals.
        aliases: other names of fields (`attribute_map`).
        refusals: methods that raise.
        has_stages: whether the config may choose stages of a backbone (`out_features`, `out_indices`).
    """

    fields: dict[str, ast.expr] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    refusals: list[ast.FunctionDef] = field(default_factory=list)
    has_stages: bool = False


def surely_fits(values: Mapping[str, Any], changes: Mapping[str, Any], *, strict: bool) -> bool:
    """Return whether a config with these entries can be made without doubt; False where that is not known.

    Args:
        values: entries of a config, with `model_type`.
        changes: entries that a recipe changes.
        strict: whether each entry must be a field, as in a recipe; a config.json may hold others.
    """
    kind = values.get("model_type")
    text = config_text(kind) if isinstance(kind, str) else None
    if text is None or any("." in key or isinstance(value, dict) for key, value in changes.items()):
        return False
    entries = {key: value for key, value in values.items() if key != "model_type"}
    if text.has_stages and _chooses_stages(entries):
        entries = {key: value for key, value in entries.items() if key not in _STAGES}
    if not all(_entry_fits(key, value, text, strict) for key, value in entries.items()):
        return False
    if not all(_entry_fits(key, value, text, strict=True) for key, value in changes.items()):
        return False
    named = {text.aliases.get(key, key): value for key, value in {**entries, **changes}.items()}
    if named.keys() & set(_SHARED) or named.get("dtype") not in _DTYPES:
        return False
    if not all(_passes(method, named, text) for method in text.refusals):
        return False
    effective = {**text.defaults, **named}
    return uneven_heads(lambda name: effective.get(text.aliases.get(name, name))) is None


def uneven_heads(value_of: Callable[[str], Any]) -> tuple[str, str] | None:
    """Return the names of a width and of a number of attention heads that does not divide it; None if all do.

    Most architectures refuse that when their modules are built; those with a width of its own for each attention head
    take it.

    Args:
        value_of: gives the entry of a config, None where it has none.
    """
    if any(value_of(name) is not None for name in _HEAD_WIDTHS):
        return None
    for width, heads in _WIDTHS:
        values = (value_of(width), value_of(heads))
        if all(isinstance(value, int) for value in values) and (values[1] < 1 or values[0] % values[1]):
            return width, heads
    return None


def _chooses_stages(entries: Mapping[str, Any]) -> bool:
    """Return whether the entries choose stages of a backbone in one way, in their order and among those that it has."""
    chosen = [entries[key] for key in _STAGES if entries.get(key) is not None]
    depths = entries.get("depths")
    if len(chosen) != 1 or not isinstance(depths, list) or not isinstance(chosen[0], list):
        return False
    names = ["stem", *(f"stage{number}" for number in range(1, len(depths) + 1))]
    return chosen[0] in (
        [name for name in names if name in chosen[0]],
        [number for number in range(len(names)) if number in chosen[0]],
    )


def _entry_fits(key: str, value: Any, text: ConfigText, strict: bool) -> bool:
    """Return whether an entry of a config is surely taken."""
    name = text.aliases.get(key, key)
    if name not in text.fields:
        return not strict
    if isinstance(value, dict):
        if name in ("id2label", "label2id"):
            return not strict
        return "model_type" in value and surely_fits(value, {}, strict=strict)
    return _has_type(value, text.fields[name])


def _has_type(value: Any, annotation: ast.expr) -> bool:
    """Return whether a value is surely of the type that an annotation names."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _has_type(value, left) or _has_type(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in _PLAIN_TYPES:
            return type(value) is _PLAIN_TYPES[name]
        case ast.Name(id="list"):
            return isinstance(value, list)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_has_type(element, item) for element in value)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=choices)):
            return value in [choice.value for choice in choices if isinstance(choice, ast.Constant)]
    return False


# ---------------------------------------------------------------- what methods refuse


def _passes(method: ast.FunctionDef, named: Mapping[str, Any], text: ConfigText) -> bool:
    """Return whether a method surely does not raise: its conditions do not hold, or it reads nothing that is given."""
    nodes = list(ast.walk(method))
    conditions = [node.test for node in nodes if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise)]
    if len(conditions) == sum(isinstance(node, ast.Raise) for node in nodes):
        try:
            return not any(_computed(condition, {**text.defaults, **named}) for condition in conditions)
        except (LookupError, TypeError, ArithmeticError):
            pass  # it reads what is computed elsewhere
    reads = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return not named.keys() & {text.aliases.get(name, name) for name in reads}


def _computed(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Return the value of a simple expression over the attributes of `self`.

    Raises:
        LookupError: an attribute without a known value, or an expression that is not simple.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return values[name]
        case ast.BinOp(left=left, op=kind, right=right) | ast.Compare(left=left, ops=[kind], comparators=[right]):
            return _OPERATORS[type(kind)](_computed(left, values), _computed(right, values))
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_computed(part, values) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=parts):
            return any(_computed(part, values) for part in parts)
    raise LookupError(ast.dump(node))


# ---------------------------------------------------------------- text of transformers


@lru_cache(maxsize=64)
def config_text(model_type: str) -> ConfigText | None:
    """Return what stands in the config class of a model type; None where it is not written as expected."""
    folder = _transformers()
    if folder is None or not re.fullmatch(r"[\w-]+", model_type):
        return None
    names = _read(folder / "models" / "auto" / "auto_mappings.py")
    pairs = re.findall(rf'\("{re.escape(model_type)}", "(\w+)"\)', names)
    name = next((name for name in pairs if name.endswith("Config")), None)
    module = model_type.replace("-", "_")
    folders = [module, *(pair for pair in pairs if not pair.endswith("Config"))]
    files = [folder / "models" / part / f"configuration_{stem}.py" for part in folders for stem in (part, module)]
    tree = next((tree for file in files if (tree := _class_of(_read(file), name)) is not None), None)
    shared = _class_of(_read(folder / "configuration_utils.py"), "PreTrainedConfig")
    if tree is None or shared is None:
        return None
    kinds = [base.id if isinstance(base, ast.Name) else "" for base in tree.bases]
    if "PreTrainedConfig" not in kinds or not all(
        kind == "PreTrainedConfig" or kind.endswith("Mixin") for kind in kinds
    ):
        return None
    text = ConfigText(has_stages="BackboneConfigMixin" in kinds)
    _add_fields(text, shared)
    _add_fields(text, tree)
    methods = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    text.refusals = [method for method in methods if any(isinstance(node, ast.Raise) for node in ast.walk(method))]
    return text


def _transformers() -> Path | None:
    spec = find_spec("transformers")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    return folders[0] if folders else None


@lru_cache(maxsize=16)
def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _class_of(text: str, name: str | None) -> ast.ClassDef | None:
    """Return the class of a name from the text of a module."""
    if name is None or f"class {name}(" not in text:
        return None
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name]
    return classes[0] if classes else None


def _add_fields(text: ConfigText, tree: ast.ClassDef) -> None:
    """Add the fields of a class, literal values and other names."""
    for statement in tree.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                if "ClassVar" not in ast.unparse(annotation):
                    text.fields[name] = annotation
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                continue
        text.defaults.pop(name, None)
        with suppress(ValueError):  # no literal
            text.defaults[name] = ast.literal_eval(value) if value is not None else None
    text.aliases.update(text.defaults.pop("attribute_map", {}))
