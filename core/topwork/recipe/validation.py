"""What pydantic finds wrong with options, said as located problems of a recipe.

pydantic knows what is wrong and at which key; the tree of the recipe knows where that key stands. Here the two are
joined, with the allowed values and the nearest known name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from topwork.errors import Problem, nearest
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
    """The options with the faulty keys left out, if that is enough to make them valid."""
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
    """The message for a key that does not exist."""
    known = list(known)
    listed = f"; known: {', '.join(known) or 'none'}"
    return f"unknown key `{word}`{nearest(str(word), known) or listed}"


# ------------------------------------------------------------------ from pydantic's errors to problems


def _problems(model: type[BaseModel], error: ValidationError, node: Node, path: KeyPath) -> list[Problem]:
    """One problem for each fault.

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
    found: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        if fault.missing and fault.path in misspelt:
            continue  # it is there, under a name that is reported already
        if all(best.get(at, branch) == branch for at, branch in fault.branches):
            messages = found.setdefault((fault.place, dotted((*path, *fault.path))), [])
            if fault.message not in messages:
                messages.append(fault.message)
    return [Problem(place, where, " or ".join(messages)) for (place, where), messages in found.items()]


class _Fault:
    """One of pydantic's errors, with the key's path in the recipe, its place and a message of our own.

    pydantic's `loc` also names the members of a union that it tried; those stand in no recipe and become `branches`.
    """

    def __init__(self, model: type[BaseModel], entry: Any, node: Node) -> None:
        self.branches: list[tuple[KeyPath, str]] = []
        kind, location = entry["type"], entry["loc"]
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
            self.place, self.path = here.start, (*path, missing)
            self.message, self.weight = f"`{missing}` is missing{_about(models, missing)}", 1.0
        elif kind == "extra_forbidden":
            parents = _models_at(model, path[:-1], self.branches)
            self.place, self.message = here.start, unknown_key(path[-1], _keys(parents))
            hint = nearest(str(path[-1]), _keys(parents))
            self.weight = 0.5 if hint else 1.0
            self.meant = (*path[:-1], hint.split("`")[1]) if hint else None
        else:
            self.place, self.message, self.weight = here.place, _said(entry, here), 1.0


def _said(entry: Any, node: Node) -> str:
    """The fault in plain words: what should stand there, and what does."""
    message = str(entry["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if entry["type"] in ("value_error", "assertion_error"):
        return message
    message = message.replace("Input should be", "should be").split(", unable to")[0]
    allowed = re.findall(r"'([^']*)'", str(entry.get("ctx", {}).get("expected", "")))
    hint = nearest(str(node.value), allowed) if allowed else ""
    return f"{message}, not {shown(node.plain())}{hint}"


def shown(value: Any) -> str:
    """A value as it is quoted in a message."""
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
    """The option classes that may stand at a path; the members of unions that pydantic names choose among them."""
    models = [model]
    for depth, part in enumerate(path, 1):
        models = _models_below(models, part)
        for at, branch in branches:
            if len(at) == depth:
                models = [known for known in models if known.__name__ == branch] or models
    return models


def _models_below(models: Sequence[type[BaseModel]], key: str | int) -> list[type[BaseModel]]:
    """The option classes inside a field, through unions, lists and dicts; the entry of a list or dict has the same."""
    fields = [model.model_fields[key] for model in models if isinstance(key, str) and key in model.model_fields]
    return [found for field in fields for found in _inside(field.annotation)] if fields else list(models)


def _inside(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _inside(argument)]
