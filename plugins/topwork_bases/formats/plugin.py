"""Rows from layouts of files that are recognised, or that `format` names.

Entry points: the hooks `load_rows` and `register_formats`. Tables, JSON and plain folders are read by `rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl, unknown

if TYPE_CHECKING:
    from topwork import RowsOptions
    from topwork_bases.formats.layout import Layout


def _layouts() -> dict[str, Layout]:
    from topwork_bases.formats import boxes, chats, exports, maps, speech, texts, words, yolo

    return {
        layout.name: layout
        for room in (words, texts, chats, exports, maps, boxes, yolo, speech)
        for layout in room.LAYOUTS
    }


@hookimpl
def register_formats() -> Mapping[str, str]:
    """Return the layouts, with a line about each."""
    return {name: layout.about for name, layout in _layouts().items()}


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Read a file or folder of a known layout; None for everything else.

    Raises:
        UsageError: several layouts fit, or an option is unknown.
        DataError: a damaged file, with its line.
    """
    from topwork import choose_split
    from topwork_bases.formats.exports import check_tool

    path = Path(source).expanduser()
    layouts = _layouts()
    if options.format is not None:
        if options.format not in layouts or not path.exists():
            return None
        layout = layouts[options.format]
    else:
        if not path.exists() or (not path.is_file() and not path.is_dir()):
            return None
        fitting = [layout for layout in layouts.values() if layout.matches(path)]
        if not fitting:
            check_tool(path)
            return None
        if len(fitting) > 1:
            names = " and ".join(layout.name for layout in fitting)
            raise UsageError(f"`{source}` may be read as {names}", hint=f"say which: `format: {fitting[0].name}`")
        layout = fitting[0]
    for name in options.options:
        if name not in layout.options:
            raise unknown(f"option of `format: {layout.name}`", name, layout.options)
    tables = layout.read(path, options.options)
    rows = choose_split(dict(tables), options.split, source)
    if options.streaming:
        return rows.stream()
    if not rows.remarks:
        rows.remarks = [remark for table in tables.values() for remark in table.remarks]
    return rows
