"""What other packages and users may build on, as JSON: names, arguments, hooks, options, commands. `public.json`.

A name, an argument or an option may be added; none may go, or mean something else.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from typing import Any

from pydantic import BaseModel

import topwork
from fences.models import CASES

#: deprecated public names, which warn
DEPRECATED = ("Unfinished", "fast_products")
#: import paths that stay, and what they have
PATHS: dict[str, tuple[str, ...]] = {
    "topwork.cli": ("main",),
    "topwork.plugins": ("FailedPlugin", "PluginInfo", "Plugins", "load_plugins"),
    "topwork.recipe": ("Recipe", "load_recipe"),
    "topwork.runs": ("Run",),
    "topwork.task_heads": ("HeadOutput", "PooledHead", "Pooling", "SpanHead", "SpanOutput", "TokenHead", "pool"),
    "topwork.testing": (
        "build_example",
        "check_base",
        "check_metric",
        "check_stage",
        "check_task",
        "example_batch",
        "same_predictions",
    ),
    "topwork_lens.v4": ("load", "noted", "shape"),
    "topwork_tasks.sequence_to_sequence": ("Column", "Seq2SeqOptions", "SequenceToSequence"),
}


def everything() -> dict[str, Any]:
    """All of it."""
    plugins = topwork.load_plugins()
    ours = {name: task for name, task in plugins.tasks.items() if plugins.owner("task", name).package == "topwork"}
    return {
        "topwork": _at("topwork", (*topwork.__all__, *DEPRECATED)),
        "paths": {path: _at(path, names) for path, names in PATHS.items()},
        "look": described(type(topwork.look(CASES["text-classification bert"].build().model))),
        "hooks": hooks(),
        "tasks": {name: _task(task) for name, task in ours.items()},
        "stages": {name: _stage(stage) for name, stage in plugins.stages.items()},
        "samples": sorted(plugins.samples),
        "recipes": sorted(plugins.recipes),
        "commands": commands(),
        "entry points": sorted(
            f"{point.group}: {point.name}" for point in distribution("topwork").entry_points if "topwork" in point.group
        ),
        "scripts": {
            point.name: point.value
            for point in distribution("topwork").entry_points
            if point.group == "console_scripts"
        },
    }


def _at(path: str, names: tuple[str, ...]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # an alias is enough
        module = importlib.import_module(path)
        return {name: described(getattr(module, name)) for name in names if hasattr(module, name)}


# ---------------------------------------------------------------- functions and classes


def described(value: Any) -> Any:
    """The arguments of a function; of a class its own, and its public attributes; of anything else "a value"."""
    if inspect.isclass(value) and value.__module__.startswith("topwork"):
        return _class(value)
    if inspect.isfunction(value):
        return arguments(value)
    return "a value"


def _class(value: type) -> dict[str, Any]:
    found: dict[str, Any] = {"()": "exception" if issubclass(value, Warning) else arguments(value)}
    if issubclass(value, BaseModel):
        found["fields"] = fields(value)
    for kind in reversed(value.__mro__):
        if not kind.__module__.startswith("topwork"):
            continue
        for name in [*vars(kind), *inspect.get_annotations(kind)]:
            if not name.startswith("_") and not (issubclass(value, BaseModel) and name in value.model_fields):
                found[name] = _member(inspect.getattr_static(value, name, None))
    return found


def _member(value: Any) -> Any:
    inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    return arguments(inner) if inspect.isfunction(inner) else "attribute"


def arguments(function: Any) -> list[str]:
    """The arguments in their order, with `*` and `**`, "=" and the default; those by name alone after "*"."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    found = []
    for name, argument in signature.parameters.items():
        if argument.kind is argument.VAR_POSITIONAL or argument.kind is argument.VAR_KEYWORD:
            found.append(("*" if argument.kind is argument.VAR_POSITIONAL else "**") + name)
            continue
        alone = "*, " if argument.kind is argument.KEYWORD_ONLY else ""
        found.append(f"{alone}{name}{_default(argument.default)}")
    return found


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    plain = value is None or isinstance(value, str | int | float | tuple)
    return f"={value!r}" if plain else "=..."


# ---------------------------------------------------------------- hooks, tasks, stages


def hooks() -> dict[str, list[str]]:
    """Every hook with the names of its arguments."""
    manager = topwork.load_plugins().hook
    return {
        name: sorted(caller.spec.argnames) for name, caller in vars(manager).items() if getattr(caller, "spec", None)
    }


def _task(task: Any) -> dict[str, Any]:
    columns = {
        name: [key for key in ("target", "required", "lazy") if getattr(column, key)]
        for name, column in task.columns.items()
    }
    return {
        "columns": columns,
        "roles": list(task.roles),
        "alternatives": [list(roles) for roles in task.alternatives],
        "cost_unit": task.cost_unit,
        "options": fields(task.Options),
    }


def _stage(stage: Any) -> dict[str, Any]:
    shown = {"changes_model": stage.changes_model, "columns_shown": list(stage.columns_shown)}
    return {**shown, "options": fields(stage)}


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Fields of a pydantic model: name -> type and default as text; those of a model inside it below its name."""
    schema = model.model_json_schema(mode="validation")
    return _fields(schema, schema.get("$defs", {}), model)


def _fields(schema: Mapping[str, Any], known: Mapping[str, Any], model: type[BaseModel] | None) -> dict[str, Any]:
    found = {}
    for name, field in schema.get("properties", {}).items():
        text = f"{_type(field, known)}{_field_default(name, field, schema, model)}"
        inside = [known[below["$ref"].rpartition("/")[2]] for below in _below(field) if "$ref" in below]
        models = [below for below in inside if "properties" in below]
        nested = {key: value for below in models for key, value in _fields(below, known, None).items()}
        found[name] = {"": text, **nested} if nested else text
    return found


def _field_default(name: str, field: Mapping[str, Any], schema: Mapping[str, Any], model: Any) -> str:
    if "default" in field:
        return f" = {field['default']!r}"
    if name in schema.get("required", ()):
        return ""
    default = (
        model.model_fields[name].get_default(call_default_factory=True) if model and name in model.model_fields else ...
    )
    return " = ..." if default is ... or isinstance(default, BaseModel) else f" = {default!r}"


def _below(field: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield field
    for below in [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())]:
        yield from _below(below)
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            yield from _below(field[key])


_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def _type(field: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if "$ref" in field:
        target = known[field["$ref"].rpartition("/")[2]]
        return "options" if "properties" in target else _type(target, known)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " | ".join(sorted(_type(below, known) for below in field[key]))
    if "const" in field:
        return repr(field["const"])
    if "enum" in field:
        return " | ".join(map(repr, field["enum"]))
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of ({_type(field.get('items', {}), known)})"
    if kind == "object":
        inside = field.get("additionalProperties")
        return f"dict of ({_type(inside, known)})" if isinstance(inside, dict) else "dict"
    return " ".join([kind, *(f"{sign} {field[key]}" for key, sign in _BOUNDS.items() if key in field)])


# ---------------------------------------------------------------- the command line


def commands() -> dict[str, list[str]]:
    """Every command of the command line with its arguments and options, as its help names them."""
    names = re.findall(r"^  ([a-z_-]+)(?:  |$)", help_of().partition("Commands:")[2], re.MULTILINE)
    return {"": _options(help_of()), **{name: _options(help_of(name)) for name in names}}


def help_of(*command: str) -> str:
    """What `topwork COMMAND --help` prints."""
    from topwork.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([*command, "--help"])
    assert code == 0, f"topwork {command} --help: {code}"
    return printed.getvalue()


def _options(text: str) -> list[str]:
    usage = re.findall(r"\{\w+\}", text.splitlines()[0])
    listed = [line.partition("  ")[0] for line in map(str.strip, text.splitlines()) if line.startswith("-")]
    return [*usage, *(re.sub(r"\s*<.*", "", line) for line in listed)]


# ---------------------------------------------------------------- comparing


def breaks(known: Any, found: Any, at: str = "") -> Iterator[str]:
    """What is gone or different, one line each; what is new is none."""
    if isinstance(known, dict) and isinstance(found, dict):
        for key in known:
            if key not in found:
                yield f"{at} / {key} is gone"
            else:
                yield from breaks(known[key], found[key], f"{at} / {key}")
    elif isinstance(known, list) and isinstance(found, list):
        rest = iter(found)
        if not all(entry in rest for entry in known):  # in the same order, perhaps with others between
            yield f"{at} was {known}, is {found}"
    elif known != found:
        yield f"{at} was {known!r}, is {found!r}"
