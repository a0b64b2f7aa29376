"""Names that a source declares for the integers of a column: by column, and as functions that put them in place.

Entry points: `declared_names`, `namer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def declared_names(features: Any) -> dict[str, list[str]]:
    """Return the names of integers by column (`label`, `objects.category`), as a data set declares them."""
    names: dict[str, list[str]] = {}

    def walk(path: str, feature: Any) -> None:
        if getattr(feature, "names", None) and hasattr(feature, "int2str"):
            names[path] = [str(name) for name in feature.names]
        elif isinstance(feature, Mapping):
            for key, entry in feature.items():
                walk(f"{path}.{key}" if path else key, entry)
        elif isinstance(feature, list) and feature:
            walk(path, feature[0])
        elif hasattr(feature, "feature"):
            walk(path, feature.feature)

    walk("", features or {})
    return names


def namer(feature: Any) -> Callable[[Any], Any] | None:
    """Return the function that puts names for the integers of a feature; None if it declares no names."""
    if getattr(feature, "names", None) and hasattr(feature, "int2str"):
        names = [str(name) for name in feature.names]
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else value
    if isinstance(feature, Mapping):
        inner = {key: convert for key, entry in feature.items() if (convert := namer(entry))}
        return (lambda value: _named_fields(inner, value)) if inner else None
    entries = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    convert_entry = namer(entries) if entries is not None else None
    if convert_entry is None:
        return None

    def convert_all(value: Any) -> Any:
        if isinstance(value, Mapping):  # a sequence of dicts comes as a dict of lists
            return _named_fields(_listwise(entries), value)
        return [None if entry is None else convert_entry(entry) for entry in value]

    return convert_all


def _listwise(entries: Any) -> dict[str, Callable[[Any], Any]]:
    readers = {}
    for key, entry in entries.items():
        convert = namer([entry])
        if convert is not None:
            readers[key] = convert
    return readers


def _named_fields(inner: Mapping[str, Callable[[Any], Any]], value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: inner[key](entry) if key in inner and entry is not None else entry for key, entry in value.items()}
