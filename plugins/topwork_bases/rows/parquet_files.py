"""Check of parquet files before their rows are decoded: what grows beyond reason is refused, as of packed text.

Entry point: `check_growth`. A column whose rows repeat a few values stores each value once, so that a file of kilobytes
can hold gigabytes of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topwork_bases.rows.text_files import grown_beyond_reason, most_bytes

#: larger files are not looked through: that would take as long as to read them
_LARGEST = 256 * 2**20
#: rows that are looked through at a time
_ROWS = 4096
_TEXTS = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_MEND = "write its rows as csv or jsonl"


def check_growth(paths: Sequence[Path]) -> None:
    """Refuse parquet files whose rows take far more memory than the files take on a disk.

    Args:
        paths: files that can be read; a damaged one is left to whoever reads it.

    Raises:
        DataError: a file grows more than a hundredfold, beyond 64 MB.
    """
    from pyarrow import ArrowInvalid, parquet

    for path in paths:
        if path.stat().st_size > _LARGEST:
            continue
        try:
            metadata = parquet.read_metadata(path)
        except (ArrowInvalid, OSError):
            continue
        chunks = [
            metadata.row_group(group).column(index)
            for group in range(metadata.num_row_groups)
            for index in range(metadata.num_columns)
        ]
        most = most_bytes(path)
        if (written := sum(chunk.total_uncompressed_size for chunk in chunks)) > most:
            raise grown_beyond_reason(path, written, _MEND)
        if sum(map(_at_most, chunks)) > most:
            _look_through(path, [chunk.path_in_schema for chunk in chunks if chunk.physical_type in _TEXTS], most)


def _at_most(chunk: Any) -> int:
    """Return how many bytes the values of a column can have at the most: each of them is as long as the whole."""
    is_text = chunk.physical_type in _TEXTS
    return int(chunk.num_values) * (int(chunk.total_uncompressed_size) if is_text else 16)


def _look_through(path: Path, texts: Sequence[str], most: int) -> None:
    """Count the bytes of the rows, without a copy of values that repeat.

    Raises:
        DataError: there are more than `most`.
    """
    from pyarrow import ArrowInvalid, parquet

    count = 0
    try:
        for batch in parquet.ParquetFile(path, read_dictionary=sorted(set(texts))).iter_batches(batch_size=_ROWS):
            count += sum(map(_bytes_of, batch.columns))
            if count > most:
                raise grown_beyond_reason(path, count, _MEND)
    except (ArrowInvalid, OSError):
        return


def _bytes_of(column: Any) -> int:
    """Return how many bytes the values of a column take once they are decoded."""
    import pyarrow
    from pyarrow import compute, types

    if types.is_struct(column.type):
        return sum(map(_bytes_of, column.flatten()))
    if types.is_map(column.type):
        return _bytes_of(column.keys) + _bytes_of(column.items)
    if types.is_list(column.type) or types.is_large_list(column.type):
        return int(column.nbytes - column.values.nbytes) + _bytes_of(column.flatten())
    if not types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = compute.cast(compute.binary_length(column.dictionary), pyarrow.int64())
    return int(compute.sum(compute.take(lengths, column.indices)).as_py() or 0)
