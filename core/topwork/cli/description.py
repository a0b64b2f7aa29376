"""Description of one task, stage, base or format for `topwork list KIND NAME`: columns, options, and an example.

Entry points: `describe` and `print_description`. Examples come from the recipes that are installed, so they are run by
tests; without one that names the thing, an example has its required options alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from topwork.cli.output import print_table
from topwork.errors import UsageError, unknown
from topwork.plugins.declaration import first_line

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

Entry = dict[str, str]
#: kinds of which one thing can be described
DESCRIBED = ("tasks", "stages", "bases", "formats")


def describe(kind: str, name: str, plugins: Plugins) -> dict[str, Any]:
    """Return name, about, options and example of a task, stage, base or format, and the columns of a task.

    Args:
        kind: one of DESCRIBED.
        name: as `topwork list KIND` shows it.
        plugins: the loaded plugins.

    Raises:
        UsageError: no plugin has it, or things of this kind have no options.
    """
    if kind not in DESCRIBED:
        hint = f"{', '.join(DESCRIBED)} can: `topwork list stages train`"
        raise UsageError(f"`{kind}` cannot be described one by one", hint=hint)
    return {"tasks": _task, "stages": _stage, "bases": _base, "formats": _format}[kind](name, plugins)


def print_description(described: dict[str, Any]) -> None:
    """Print a description as tables, and its example as YAML."""
    print(f"{described['name']}: {described['about']}")
    if "columns" in described:
        print_table("columns", [(line["name"], line["kind"], line["about"]) for line in described["columns"]])
    lines = described["options"]
    print_table("options", [(line["name"], line["type"], line["default"], line["about"]) for line in lines])
    print("\nexample\n" + "\n".join(f"  {line}" for line in described["example"].splitlines()))


def _task(name: str, plugins: Plugins) -> dict[str, Any]:
    task = plugins.task(name)
    columns = [
        {
            "name": title,
            "kind": f"{'target' if column.target else 'input'}{'' if column.required else ', optional'}",
            "about": column.description,
        }
        for title, column in task.columns.items()
    ]
    content = next((content for content in _recipes(plugins) if _named(content.get("task")) == name), None)
    example = {key: content[key] for key in ("task", "base", "bases") if key in content} if content else {"task": name}
    return {
        "name": name,
        "about": first_line(task),
        "options": option_lines(task.Options),
        "example": _yaml(example),
        "roles": list(task.roles),
        "columns": columns,
    }


def _stage(name: str, plugins: Plugins) -> dict[str, Any]:
    stage = plugins.stage(name)
    uses = [use for content in _recipes(plugins) for use in content.get("stages", ()) if _named(use) == name]
    required = {option: option.upper() for option, field in stage.model_fields.items() if field.is_required()}
    # the shortest use that has options shows what matters
    use = min((use for use in uses if isinstance(use, dict)), key=lambda use: len(str(use)), default=None)
    example = use or ({name: required} if required else name)
    about, options = first_line(stage), option_lines(stage)
    return {"name": name, "about": about, "options": options, "example": _yaml({"stages": [example]})}


def _base(name: str, plugins: Plugins) -> dict[str, Any]:
    from topwork.base import BaseOptions

    functions = {hook.plugin_name: hook.function for hook in plugins.hook.load_base.get_hookimpls()}
    if name not in functions:
        raise unknown("base", name, functions)
    text = inspect.getdoc(functions[name]) or ""
    example = inspect.cleandoc(text.partition("Example:\n")[2]) or _yaml({"base": "NAME"}).strip()
    about = first_line(functions[name])
    return {"name": name, "about": about, "options": option_lines(BaseOptions), "example": example}


def _format(name: str, plugins: Plugins) -> dict[str, Any]:
    from topwork.data.options import RowsOptions

    if name not in plugins.formats:
        raise unknown("format", name, plugins.formats)
    example = _yaml({"data": {"train": {"path": "FOLDER_OR_FILE", "format": name}}})
    about = plugins.formats.about(name)
    return {"name": name, "about": about, "options": option_lines(RowsOptions), "example": example}


# ---------------------------------------------------------------- recipes as examples


def _recipes(plugins: Plugins) -> Iterator[dict[str, Any]]:
    for path in plugins.recipes.values():
        content = _read(path)
        if isinstance(content, dict):
            yield content


@cache
def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # `topwork validate` says what is wrong with it
        return None


def _named(value: Any) -> str | None:
    """Return the name of a task or stage as recipes write it: a text, `{name: ...}`, or `{<stage>: options}`."""
    if isinstance(value, dict):
        return value.get("name") or next(iter(value), None)
    return value if isinstance(value, str) else None


def _yaml(value: Any) -> str:
    from topwork.recipe.yaml import dump

    return dump(value)


# ---------------------------------------------------------------- options


def option_lines(options: Any) -> list[Entry]:
    """List the options of a pydantic model with type, default and description; those of a nested model below it."""
    lines: list[Entry] = []
    for name, field in options.model_fields.items():
        default = "required" if field.is_required() else _plain_default(field)
        title = field.alias or name
        kind = _type_text(field.annotation)
        lines.append({"name": title, "type": kind, "default": default, "about": field.description or ""})
        nested = [part for part in (field.annotation, *get_args(field.annotation)) if hasattr(part, "model_fields")]
        for part in nested:
            lines += [{**line, "name": f"{title}.{line['name']}"} for line in option_lines(part)]
    return lines


def _plain_default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if hasattr(type(value), "model_fields") else "null" if value is None else str(value)


def _type_text(annotation: Any) -> str:
    """Return an annotation as it is written, without module names and the constraints of pydantic."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " | ".join(_type_text(argument) for argument in arguments)
    if annotation is type(None):
        return "null"
    if hasattr(annotation, "model_fields"):
        return "options"
    name = getattr(origin or annotation, "__name__", str(annotation))
    inside = [_type_text(argument) for argument in arguments if argument is not Ellipsis]
    return f"{name}[{', '.join(inside)}]" if inside else name
