"""Tables that print: lists of dicts with one line for each dict, as text, as HTML in notebooks, or as a DataFrame."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

#: characters of a cell that is printed
CELL = 40
#: indices, and names, that a line shows; the others are counted
_SHOWN_INDICES, _SHOWN_NAMES = 6, 3


class LayerTable(list[dict[str, Any]]):
    """List of dicts with the same keys that prints as a table; whole values stay in the dicts.

    Where pandas is installed it is a DataFrame as well: columns by name, and every attribute of one.

    Example:
        >>> print(LayerTable([{"path": "a", "kept": [0, 1, 2, 5]}, {"path": "b.c", "kept": []}]))
        path  kept
        a     0-2, 5
        b.c   -
    """

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(list(self))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or find_spec("pandas") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.to_pandas(), name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str | list):
            return self.to_pandas()[key]
        return super().__getitem__(key)

    def __repr__(self) -> str:
        rows = self._cells()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join(lines) if len(self) else "(no attention layer)"

    def _repr_html_(self) -> str:
        if not self:
            return "<p>(no attention layer)</p>"
        names, *rows = ([html.escape(cell) for cell in row] for row in self._cells())
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[list[str]]:
        names = [name for name in (self[0] if self else {}) if any(line[name] not in (None, "") for line in self)]
        return [names, *([_text(line[name]) for name in names] for line in self)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(type(number) is int for number in value):
        return ranges(value)
    if isinstance(value, list | tuple):
        value = ", ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in value)
    text = "-" if value in (None, "") else str(value)
    return text if len(text) <= CELL else f"{text[: CELL - 3]}..."


def ranges(indices: list[int] | tuple[int, ...]) -> str:
    """Write ascending indices shortly: [0, 1, 2, 5] -> "0-2, 5"; "-" for none.

    Example:
        >>> ranges([0, 1, 2, 5])
        '0-2, 5'
    """
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts) or "-"


def brief_list(values: Sequence[Any], shown: int = _SHOWN_INDICES) -> str:
    """Write the first values of a list, and how many there are in all.

    Example:
        >>> brief_list(range(9))
        '[0, 1, 2, 3, 4, 5, ... 9 in all]'
    """
    first = ", ".join(map(str, values[:shown]))
    return f"[{first}]" if len(values) <= shown else f"[{first}, ... {len(values)} in all]"


def brief_indices(by_path: Mapping[str, Sequence[int]]) -> str:
    """Write the first indices of the first paths, and how many paths there are in all.

    Example:
        >>> brief_indices({"layer.0": [1, 3], "layer.1": []})
        '{layer.0: [1, 3], layer.1: []}'
    """
    parts = [f"{path}: {brief_list(indices)}" for path, indices in list(by_path.items())[:_SHOWN_NAMES]]
    rest = len(by_path) - len(parts)
    return "{" + ", ".join(parts + [f"... {len(by_path)} in all"] * bool(rest)) + "}"
