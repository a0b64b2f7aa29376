"""Overrides of a recipe on the command line: `-o stages.train.epochs=1` and the like.

They change the tree of the recipe before anything is checked, so they are validated exactly as the file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from topwork.errors import Problem, nearest
from topwork.recipe.yaml import KeyPath, Node, dotted, read


class _Misfit(Exception):
    """An override that does not fit the recipe; the message says why."""


def apply_overrides(root: Node, overrides: Iterable[str], problems: list[Problem]) -> Node:
    """The tree with every override `key.path=value` applied, in order.

    A value is YAML. An entry of a list is named by its number, a stage also by its name: `stages.train.epochs=1` when
    the recipe has one such stage, else `stages.3.train.epochs=1`. What does not fit is appended to `problems`.
    """
    for text in overrides:
        place = f"-o {text}"
        key, equals, value = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            problems.append(Problem(place, "", "an override has the form key.path=value"))
            continue
        node, faults = read(value, place, place=place)
        if faults:
            problems.extend(faults)
            continue
        try:
            root = _set(root, parts, (), replace(node, key_place=place))
        except _Misfit as misfit:
            problems.append(Problem(place, key, str(misfit)))
    return root


def _set(node: Node, parts: Sequence[str], path: KeyPath, new: Node) -> Node:
    """The tree with the value at `parts` replaced; nothing of the old tree is changed."""
    if not parts:
        return replace(new, key_place=new.key_place or node.key_place)
    node = _unfolded(node, parts[0], path, new.place)
    part, rest = parts[0], parts[1:]
    if isinstance(node.value, dict):
        key = _key(node.value, part)
        below = node.value.get(key, Node(None, new.place, new.place))
        return replace(node, value={**node.value, key: _set(below, rest, (*path, key), new)})
    if isinstance(node.value, list):
        index = _index(node, part, path)
        by_name = not part.isdigit()
        entries = list(node.value)
        entries[index] = _set(entries[index], parts if by_name else rest, (*path, index), new)
        return replace(node, value=entries)
    raise _Misfit(f"`{dotted(path)}` is the plain value `{node.value}` and has no `{part}`")


def _unfolded(node: Node, part: str, path: KeyPath, place: str) -> Node:
    """The long form of what was written short: a task or base by its name alone, a stage without options."""
    if node.value is None:
        return replace(node, value={})
    if not isinstance(node.value, str):
        return node
    if len(path) == 2 and path[0] == "stages" and node.value == part:
        return replace(node, value={part: Node(None, node.place, node.start)})
    if len(path) == 1:
        short = {"task": "name", "base": "model"}.get(str(path[0]))
    else:
        short = {"data": "path", "base": "model"}.get(str(path[0])) if len(path) == 2 else None
    return replace(node, value={short: Node(node.value, node.place, node.start)}) if short else node


def _key(value: dict, part: str) -> str | int:
    """The key of a mapping as it stands there: `0` may be the number."""
    return int(part) if part not in value and part.isdigit() and int(part) in value else part


def _index(node: Node, part: str, path: KeyPath) -> int:
    entries = node.value
    if part.isdigit():
        if int(part) >= len(entries):
            raise _Misfit(f"`{dotted(path)}` has {len(entries)} entries, numbered from 0")
        return int(part)
    names = [stage_name(entry) for entry in entries]
    found = [index for index, name in enumerate(names) if name == part]
    if not found:
        known = [name for name in names if name]
        raise _Misfit(f"there is no `{part}` in `{dotted(path)}`{nearest(part, known) or f'; there: {known}'}")
    if len(found) > 1:
        choices = " or ".join(f"`{dotted((*path, index, part))}`" for index in found)
        raise _Misfit(f"`{part}` stands {len(found)} times in `{dotted(path)}`; say {choices}")
    return found[0]


def stage_name(entry: Node) -> str | None:
    """The name of an entry of `stages`, in its short or its long form; None when it is neither."""
    if isinstance(entry.value, str):
        return entry.value
    if isinstance(entry.value, dict) and len(entry.value) == 1:
        return str(next(iter(entry.value)))
    return None
