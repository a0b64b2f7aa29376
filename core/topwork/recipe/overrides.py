"""Overrides of a recipe on the command line, such as `-o stages.train.epochs=1`. Entry point: `apply_overrides`.

They change the tree of the recipe before anything is checked, so they are validated exactly as the file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from topwork.errors import Problem, nearest
from topwork.recipe.yaml import KeyPath, Node, dotted, read


class _Misfit(Exception):
    """Override that does not fit the recipe; the message is the reason."""


def apply_overrides(root: Node, overrides: Iterable[str], problems: list[Problem]) -> Node:
    """Return the tree with every override `key.path=value` applied, in order.

    A value is YAML. An entry of a list is named by its number, a stage also by its name: `stages.train.epochs=1` when
    the recipe has one such stage, else `stages.3.train.epochs=1`. What does not fit is appended to `problems`.
    """
    for text in overrides:
        location = f"-o {text}"
        key, equals, value = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            problems.append(Problem(location, "", "an override has the form key.path=value"))
            continue
        node, faults = read(value, location, location=location)
        if faults:
            problems.extend(faults)
            continue
        try:
            root = _set(root, parts, (), replace(node, key_location=location))
        except _Misfit as misfit:
            problems.append(Problem(location, key, str(misfit)))
    return root


def _set(node: Node, parts: Sequence[str], path: KeyPath, new: Node) -> Node:
    """Return the tree with the value at `parts` replaced; the old tree is not changed."""
    if not parts:
        return replace(new, key_location=new.key_location or node.key_location)
    node = _unfolded(node, parts[0], path, new.location)
    part, rest = parts[0], parts[1:]
    if isinstance(node.value, dict):
        key = _key(node.value, part)
        below = node.value.get(key, Node(None, new.location, new.location))
        return replace(node, value={**node.value, key: _set(below, rest, (*path, key), new)})
    if isinstance(node.value, list):
        index = _index(node, part, path)
        by_name = not part.isdigit()
        entries = list(node.value)
        entries[index] = _set(entries[index], parts if by_name else rest, (*path, index), new)
        return replace(node, value=entries)
    raise _Misfit(f"`{dotted(path)}` is the plain value `{node.value}` and has no `{part}`")


def _unfolded(node: Node, part: str, path: KeyPath, location: str) -> Node:
    """Return the long form of a task or base that is given by its name, or of a stage without options."""
    if node.value is None:
        return replace(node, value={})
    if not isinstance(node.value, str):
        return node
    if len(path) == 2 and path[0] == "stages" and node.value == part:
        return replace(node, value={part: Node(None, node.location, node.start)})
    if len(path) == 1:
        short = {"task": "name", "base": "model"}.get(str(path[0]))
    else:
        short = {"data": "path", "base": "model"}.get(str(path[0])) if len(path) == 2 else None
    return replace(node, value={short: Node(node.value, node.location, node.start)}) if short else node


def _key(value: dict, part: str) -> str | int:
    """Return the key of a mapping as it stands there: `0` may be a number."""
    return int(part) if part not in value and part.isdigit() and int(part) in value else part


def _index(node: Node, part: str, path: KeyPath) -> int:
    entries = node.value
    if part.isdigit():
        if int(part) >= len(entries):
            raise _Misfit(f"`{dotted(path)}` has {len(entries)} entries, numbered from 0")
        return int(part)
    names = [stage_name(entry) for entry in entries]
    indices = [index for index, name in enumerate(names) if name == part]
    if not indices:
        known = [name for name in names if name]
        raise _Misfit(f"there is no `{part}` in `{dotted(path)}`{nearest(part, known) or f'; there: {known}'}")
    if len(indices) > 1:
        choices = " or ".join(f"`{dotted((*path, index, part))}`" for index in indices)
        raise _Misfit(f"`{part}` stands {len(indices)} times in `{dotted(path)}`; say {choices}")
    return indices[0]


def stage_name(node: Node) -> str | None:
    """Return the name of an entry of `stages` in its short or long form; None when it is neither."""
    if isinstance(node.value, str):
        return node.value
    if isinstance(node.value, dict) and len(node.value) == 1:
        return str(next(iter(node.value)))
    return None
