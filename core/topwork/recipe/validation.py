"""Faults that pydantic reports in options, as located problems of a recipe. Entry point: `check_options`.

pydantic knows what is wrong and at which key; the tree of the recipe knows where that key stands. Here the two are
joined, with the allowed values and the nearest known name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from topwork.errors import Problem, listed, nearest
from topwork.recipe.yaml import KeyPath, Node, dotted

LONGEST = 80  # characters of a value in a message
Options = TypeVar("Options", bound=BaseModel)


def check_options(
    model: type[Options], node: Node, path: KeyPath, problems: list[Problem], *, shorthand: str | None = None
) -> Options | None:
    """Validate a part of a recipe.

    Args:
        model: the options' class.
        node: the part.
        path: its key path, for messages.
        problems: what is wrong is appended here.
        shorthand: name of the key that a bare text stands for.

    Returns:
        the options, or None when something is wrong.
    """
    value = node.plain()
    if not isinstance(value, dict | None) and not (shorthand and isinstance(value, str)):
        wanted = f"a mapping of {', '.join(_keys([model]))}"
        problems.append(Problem(node.start, dotted(path), f"should be {wanted}, not {shown(value)}"))
        return None
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        problems.extend(_problems(model, error, node, path))
        return None


def check_without_faults(model: type[Options], node: Node) -> Options | None:
    """Return the options without the faulty keys, if they are valid then; else None."""
    value = node.plain()
    if not isinstance(value, dict):
        return None
    for _ in range(2):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faulty = {entry["loc"][0] for entry in error.errors(include_url=False) if entry["loc"]}
            value = {key: entry for key, entry in value.items() if key not in faulty}
    return None


def unknown_key(word: Any, known: Iterable[str]) -> str:
    """Return the message for a key that does not exist."""
    known = list(known)
    return f"unknown key `{word}`{nearest(str(word), known) or f'; known: {listed(known, 100)}'}"


# ------------------------------------------------------------------ from pydantic's errors to problems


def _problems(model: type[BaseModel], error: ValidationError, node: Node, path: KeyPath) -> list[Problem]:
    """Return one problem for each fault.

    A value that may have several types gives faults for each of them. When some of them failed inside (a mapping whose
    keys are wrong), only the one that fits best is reported; when all failed outright, their messages are joined.
    """
    faults = [_Fault(model, entry, node) for entry in error.errors(include_url=False)]
    scores: dict[KeyPath, dict[str, dict[KeyPath, float]]] = {}
    for fault in faults:
        for at, branch in fault.branches:
            if fault.inside or len(fault.path) > len(at):
                scores.setdefault(at, {}).setdefault(branch, {})[fault.path] = fault.weight
    best = {at: min(row, key=lambda name: sum(row[name].values())) for at, row in scores.items()}
    misspelt = {fault.meant for fault in faults if fault.meant}
    messages_at: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        if fault.missing and fault.path in misspelt:
            continue  # it is there, under a name that is reported already
        if all(best.get(at, branch) == branch for at, branch in fault.branches):
            messages = messages_at.setdefault((fault.location, dotted((*path, *fault.path))), [])
            if fault.message not in messages:
                messages.append(fault.message)
    return [Problem(location, where, " or ".join(messages)) for (location, where), messages in messages_at.items()]


class _Fault:
    """Error of pydantic with the path of its key in the recipe, its location and a message.

    pydantic's `loc` also names the members of a union that it tried; those stand in no recipe and become `branches`.
    """

    def __init__(self, model: type[BaseModel], error: Any, node: Node) -> None:
        self.branches: list[tuple[KeyPath, str]] = []
        kind, location = error["type"], error["loc"]
        models: list[type[BaseModel]] = [model]
        path: list[str | int] = []
        here = node
        missing = None
        self.meant: KeyPath | None = None
        for position, part in enumerate(location):
            below = here.get(part)
            if below is not None:
                models = _models_below(models, part)
                path.append(part)
                here = below
            elif kind == "missing" and position == len(location) - 1:
                missing = str(part)
            else:
                self.branches.append((tuple(path), str(part)))
                models = [known for known in models if known.__name__ == part] or models
        self.path: KeyPath = tuple(path)
        self.missing = missing is not None
        self.inside = kind in ("value_error", "assertion_error")  # the type fits, the values do not
        if missing is not None:
            self.location, self.path = here.start, (*path, missing)
            self.message, self.weight = f"`{missing}` is missing{_about(models, missing)}", 1.0
        elif kind == "extra_forbidden":
            parents = _models_at(model, path[:-1], self.branches)
            self.location, self.message = here.start, unknown_key(path[-1], _keys(parents))
            hint = nearest(str(path[-1]), _keys(parents))
            self.weight = 0.5 if hint else 1.0
            self.meant = (*path[:-1], hint.split("`")[1]) if hint else None
        else:
            self.location, self.message, self.weight = here.location, _message(error, here), 1.0


def _message(error: Any, node: Node) -> str:
    """Return the message of a fault: the expected value and the given one."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] in ("value_error", "assertion_error"):
        return message
    message = message.replace("Input should be", "should be").split(", unable to")[0]
    allowed = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    hint = nearest(str(node.value), allowed) if allowed else ""
    return f"{message}, not {shown(node.plain())}{hint}"


def shown(value: Any) -> str:
    """Return a value as it is quoted in a message: short, on one line, control characters escaped."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text if len(text) <= LONGEST else text[:LONGEST] + '...'}`"


def _keys(models: Iterable[type[BaseModel]]) -> list[str]:
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _about(models: Sequence[type[BaseModel]], key: str) -> str:
    texts = [model.model_fields[key].description for model in models if key in model.model_fields]
    return f" ({texts[0]})" if texts and texts[0] else ""


def _models_at(
    model: type[BaseModel], path: Sequence[str | int], branches: Sequence[tuple[KeyPath, str]]
) -> list[type[BaseModel]]:
    """Return the option classes that may stand at a path; the union members that pydantic names choose among them."""
    models = [model]
    for depth, part in enumerate(path, 1):
        models = _models_below(models, part)
        for at, branch in branches:
            if len(at) == depth:
                models = [known for known in models if known.__name__ == branch] or models
    return models


def _models_below(models: Sequence[type[BaseModel]], key: str | int) -> list[type[BaseModel]]:
    """Return the option classes inside a field, through unions, lists and dicts; an element has those of its list."""
    fields = [model.model_fields[key] for model in models if isinstance(key, str) and key in model.model_fields]
    return [nested for field in fields for nested in _inside(field.annotation)] if fields else list(models)


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _inside(argument)]
