"""JSON Schema of recipes, with all installed tasks and stages: editors complete and check with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from topwork.base import BaseOptions
from topwork.data.options import DataOptions, RowsOptions
from topwork.items import Json
from topwork.recipe.checks import NAME

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(plugins: Plugins) -> dict[str, Json]:
    """Return a schema in which the options of a task or stage depend on its name."""
    tasks: dict[str, type[BaseModel]] = {name: task.Options for name, task in plugins.tasks.items()}
    stages: dict[str, type[BaseModel]] = {**plugins.stages}
    models: list[type[BaseModel]] = list(
        dict.fromkeys([BaseOptions, DataOptions, RowsOptions, *tasks.values(), *stages.values()])
    )
    references, definitions = models_json_schema([(model, "validation") for model in models])
    shared = definitions.get("$defs", {})
    where = {model: references[model, "validation"] for model in models}
    for model in (BaseOptions, RowsOptions):  # a text is short for a mapping with that one key
        key = where[model]["$ref"].rpartition("/")[2]
        shared[key] = {"anyOf": [{"type": "string"}, shared[key]]}
    for task, options in tasks.items():
        shared[f"task {task}"] = _named(task, shared[where[options]["$ref"].rpartition("/")[2]])
    base = where[BaseOptions]
    return {
        "$schema": DRAFT,
        "title": "topwork recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["task", "base", "stages"],
        "properties": {
            "name": {"type": "string", "pattern": f"^{NAME}$", "description": "names the run folder"},
            "description": {"type": "string"},
            "extends": {
                "type": "string",
                "description": "a recipe that this one is laid over: a path or a shipped name",
            },
            "task": {"anyOf": [{"enum": list(tasks)}, *({"$ref": f"#/$defs/task {task}"} for task in tasks)]},
            "base": {"anyOf": [base, {"type": "object", "additionalProperties": base}]},
            "data": where[DataOptions],
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "track": {
                "type": "array",
                "items": {"enum": sorted(plugins.trackers)},
                "description": "trackers that hear the news of the run",
            },
            "strict": {
                "type": "boolean",
                "default": False,
                "description": "a tracker or another observer that fails ends the run; without it, it warns",
            },
            "stages": {"type": "array", "minItems": 1, "items": _stage(stages, where)},
        },
        "$defs": shared,
    }


def _named(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the long form of a task: its name beside its options."""
    properties = {"name": {"const": name}, **options.get("properties", {})}
    return {**options, "properties": properties, "required": ["name", *options.get("required", [])]}


def _stage(stages: dict[str, type[BaseModel]], where: dict[Any, Any]) -> dict[str, Any]:
    long = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {name: {"anyOf": [where[stage], {"type": "null"}]} for name, stage in stages.items()},
    }
    return {"anyOf": [{"enum": list(stages)}, long]}
