"""What a starter recipe has to know of rows: their columns, the first row, and the splits of their source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.data.splits import SeveralSplits
from topwork.errors import UsageError
from topwork.items import Row

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

#: bytes of a table above which its header alone is read
LARGE = 50 * 2**20
#: splits that are evaluated, the better first
_HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class Preview:
    """What is known of rows.

    Args:
        path: as in a recipe.
        columns: as they are read.
        first: the first row, where it was read.
        train, evaluate: splits of the source, where it has several.
    """

    path: str | None = None
    columns: tuple[str, ...] = ()
    first: Row = field(default_factory=dict)
    train: str | None = None
    evaluate: str | None = None


def preview(path: str, plugins: Plugins) -> Preview:
    """Return what a source shows when it is read as a run reads it; of a large table, its header.

    Raises:
        UsageError: there is no such source, or it cannot be read.
    """
    from topwork.data.columns import column_names
    from topwork.data.options import RowsOptions
    from topwork.recipe.data import missing_source
    from topwork.recipe.headers import read_header
    from topwork.runs.execute import silence_libraries

    if message := missing_source(path, plugins):
        raise UsageError(message, place="--data")
    file = Path(path).expanduser()
    header = read_header(path) if file.is_file() and file.stat().st_size > LARGE else None
    if header is not None:
        return Preview(path, tuple(header.columns))
    silence_libraries()
    train = evaluate = None
    try:
        rows = plugins.load_rows(RowsOptions(path=path))
    except SeveralSplits as several:
        train = "train" if "train" in several.names else several.names[0]
        evaluate = next((name for name in _HELD_OUT if name in several.names and name != train), None)
        rows = plugins.load_rows(RowsOptions(path=path, split=train))
    first: Row = next(iter(rows), {})
    return Preview(path, tuple(column_names(rows) or first), first, train, evaluate)
