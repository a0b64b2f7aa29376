"""The starter recipe of `topwork new`: everything that a task takes, with what it means beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic.fields import FieldInfo

from topwork.recipe.yaml import dump

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

STAGES = ("train", "evaluate", "save", "report")


def starter(task: type[Task], base: str, plugins: Plugins, file: str) -> str:
    """A recipe for the task. What must be filled in stands in capitals.

    Args:
        task: the task.
        base: its base (of every role, if it has several).
        plugins: the stages that are installed are used.
        file: the name that the recipe will have, for its first line.
    """
    return (
        "\n".join([f"# topwork run {file}", *_task(task), *_base(task, base), *_data(task), *_stages(plugins)]) + "\n"
    )


def _task(task: type[Task]) -> Iterator[str]:
    yield "task:"
    yield f"  name: {task.name}"
    for name, field in task.Options.model_fields.items():
        lead = "  " if field.is_required() else "  # "
        yield f"{lead}{name}: {_default(field)}{_comment(field.description)}"


def _base(task: type[Task], base: str) -> Iterator[str]:
    comment = "  # a Hub id, a local folder, or timm/<name>"
    if len(task.roles) == 1:
        yield f"base: {{model: {_word(base)}}}{comment}"
        for roles in task.alternatives:
            entries = ", ".join(f"{role}: {{model: {_word(base)}}}" for role in roles)
            yield f"# base: {{{entries}}}  # instead: {len(roles)} bases"
        return
    yield "base:"
    for role in task.roles:
        yield f"  {role}: {{model: {_word(base)}}}{comment}"


def _data(task: type[Task]) -> Iterator[str]:
    yield "data:"
    yield "  train: {path: ROWS}  # a Hub data set, a local file or folder, or sample:<name>"
    yield "  evaluate: {cut: 0.1}  # a tenth of the training rows; or {path: ..., split: ...}"
    yield "  columns:  # the task's column: the data set's column"
    for name, column in task.columns.items():
        lead = "    " if column.required else "    # "
        yield f"{lead}{name}: {name}{_comment(column.description)}"


def _stages(plugins: Plugins) -> Iterator[str]:
    yield "seed: 0"
    yield "stages:"
    for name in STAGES:
        if name in plugins.stages:
            yield f"  - {name}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "VALUE"
    value = field.get_default(call_default_factory=True)
    return _word(value.model_dump(mode="json") if hasattr(value, "model_dump") else value)


def _word(value: object) -> str:
    """A value as YAML in one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return (
        text.removesuffix("\n").removesuffix("...").strip()
        if not isinstance(value, str)
        else dump(value).split("\n")[0]
    )


def _comment(text: str | None) -> str:
    return f"  # {' '.join(text.split())}" if text else ""
