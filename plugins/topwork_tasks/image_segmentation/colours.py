"""Colours of masks: tables that name them, in options or in a file beside the masks, and masks without any table.

Entry points: `read_colour_table`, `colours_in`, `RowColours`. Colours without a table are labels named `#rrggbb`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from topwork import DataError, Row

if TYPE_CHECKING:
    import numpy

    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions

#: label name -> red, green, blue
Colours = Mapping[str, tuple[int, int, int]]
#: most colours that can be labels; more come from photographs or from JPEG compression
MOST_COLOURS = 256
_HEX = re.compile(r"#[0-9a-f]{6}")
_NUMBERS_FIRST = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S.*?)\s*")
_NAME_FIRST = re.compile(r'\s*"?([^",;:\t]+?)"?\s*[,;:\t]\s*(\d+)\s*[,;\t ]\s*(\d+)\s*[,;\t ]\s*(\d+)\s*(?:[,;:\t].*)?')


@lru_cache(maxsize=32)
def read_colour_table(file: str) -> Colours:
    """Return label name -> colour of a file with a label in every line.

    Lines are `name,red,green,blue` (with or without a header), `red green blue name` (CamVid) or
    `name:red,green,blue:...` (CVAT); those that begin with # are comments.

    Raises:
        DataError: a line of another form, or a colour or name that stands twice; names the line.
    """
    try:
        data = Path(file).read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}", column="colour_table", hint="name another file") from error
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if match := _NUMBERS_FIRST.fullmatch(line):
            *numbers, name = match.groups()
        elif match := _NAME_FIRST.fullmatch(line):
            name, *numbers = match.groups()
        elif not colours and not re.search(r"\d", line):
            continue  # a header
        else:
            raise DataError(
                f"{file}:{number}: `{line[:60]}` names no colour",
                column="colour_table",
                hint="write name,red,green,blue",
            )
        red, green, blue = map(int, numbers)
        if max(red, green, blue) > 255 or name in colours or (red, green, blue) in colours.values():
            cause = "is not within 0 to 255" if max(red, green, blue) > 255 else "or its colour stands twice"
            raise DataError(f"{file}:{number}: `{name}` {cause}", column="colour_table", hint="correct the line")
        colours[name] = red, green, blue
    if not colours:
        raise DataError(f"{file}: names no colour", column="colour_table", hint="write name,red,green,blue")
    return colours


def colours_in_tables(rows: Iterable[Row]) -> tuple[list[str], dict[str, list[int]]]:
    """Return the names in the tables of colours that rows name, in their order, and the colour of each name.

    There are no colours where two tables contradict each other, and neither where rows name no table.

    Raises:
        DataError: the table of a row is damaged.
    """
    names: dict[str, tuple[int, int, int]] = {}
    agree = True
    for index, row in enumerate(rows):
        for name, colour in (_table_of(row, index) or {}).items():
            agree = agree and names.setdefault(name, colour) == colour
    agree = agree and len(set(names.values())) == len(names)
    return list(names), {name: list(colour) for name, colour in names.items()} if agree else {}


def _table_of(row: Row, index: int | None) -> Colours | None:
    """Return the table that a row names; None without one."""
    if row.get("colour_table") is None:
        return None
    try:
        return read_colour_table(str(row["colour_table"]))
    except DataError as error:
        raise DataError(error.cause, row=index, column="colour_table", hint=error.hint) from error


def is_coloured(mask: numpy.ndarray) -> bool:
    """Return whether the channels of a mask differ."""
    return mask.ndim == 3 and not bool((mask == mask[..., :1]).all())


def colours_in(mask: numpy.ndarray) -> set[str]:
    """Return the colours of a mask [height, width, 3] as `#rrggbb`."""
    import numpy

    codes = numpy.unique(mask[..., 0] * 65536 + mask[..., 1] * 256 + mask[..., 2])
    return {f"#{code:06x}" for code in codes.tolist()}


def grey(value: int) -> str:
    """Return the colour of a grey value, 0 to 255, as `#rrggbb`."""
    return f"#{value:02x}{value:02x}{value:02x}"


class RowColours:
    """The colours that a row's mask is read by.

    Args:
        options: of the task; their table comes first.
        names: of the labels; those learned from colours are the colours themselves.
        trained: label name -> colour of the tables that the training rows named, for rows that name none.
    """

    def __init__(
        self,
        options: ImageSegmentationOptions,
        names: Sequence[str],
        trained: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.options = options
        self.trained: Colours = {
            name: (int(red), int(green), int(blue)) for name, (red, green, blue) in (trained or {}).items()
        }
        self.learned: dict[str, tuple[int, int, int]] = {}
        if names and all(map(_HEX.fullmatch, names)):
            self.learned = {name: (int(name[1:3], 16), int(name[3:5], 16), int(name[5:], 16)) for name in names}

    def of(self, row: Row, index: int | None = None) -> Colours | None:
        """Return label name -> colour; None where the mask holds numbers.

        Args:
            row: of the data.
            index: of the row, for messages.

        Raises:
            DataError: the table of the row is damaged.
        """
        if self.options.colours:
            return self.options.colours
        return _table_of(row, index) or self.trained or self.learned or None
