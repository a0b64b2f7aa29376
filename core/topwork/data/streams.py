"""Rows of streaming data sets, which come one by one.

Entry point: `Stream`. Rows with random access are `table.Table`; rows of any iterable are `columns.RowStream`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from topwork.items import Row


class Stream:
    """A streaming data set whose labels come by name.

    Args:
        rows: a `datasets.IterableDataset`.
        readers: by column, what turns a cell into its value.
        names: by column, the names that the source declares for integers.
        table: the `Table` of text as written that the stream comes from, if any: kinds of columns are decided by it.
    """

    def __init__(
        self,
        rows: Any,
        readers: Mapping[str, Callable[[Any], Any]] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        table: Any = None,
    ) -> None:
        self.rows, self.readers, self.names, self.table = rows, dict(readers or {}), dict(names or {}), table

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            values = dict(row)
            for name, convert in self.readers.items():
                if values.get(name) is not None:
                    values[name] = convert(values[name])
            yield values

    @property
    def column_names(self) -> list[str] | None:
        """Names of the columns; None when they are not known before the first row."""
        return self.rows.column_names

    @property
    def features(self) -> Any:
        """Features of the data set as it is read."""
        return self.rows.features

    def _with(self, rows: Any) -> Stream:
        return Stream(rows, self.readers, self.names, self.table)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, as `datasets` says it."""
        return self.rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where the stream stood."""
        self.rows.load_state_dict(state)

    def restarted(self, state: dict[str, Any] | None) -> Stream:
        """Return the same rows from a state of `state_dict` on, from the first without one; this stream stays as it is.

        A stream of `datasets` that was given a state begins there in every pass.
        """
        rows = copy.copy(self.rows)
        if state is not None:
            rows.load_state_dict(state)
        return self._with(rows)

    def select_columns(self, names: Sequence[str]) -> Stream:
        """Return the same rows with these columns only."""
        made = self._with(self.rows.select_columns(names))
        made.readers = {name: convert for name, convert in self.readers.items() if name in names}
        return made

    def take(self, count: int) -> Stream:
        """Return the first `count` rows."""
        return self._with(self.rows.take(count))

    def skip(self, count: int) -> Stream:
        """Return all rows but the first `count`."""
        return self._with(self.rows.skip(count))

    def shuffle(self, seed: int | None = None, buffer_size: int = 1000) -> Stream:
        """Return the rows in a random order, as far as a buffer of them reaches."""
        return self._with(self.rows.shuffle(seed=seed, buffer_size=buffer_size))

    def filter(self, keep: Callable[..., bool], with_indices: bool = False) -> Stream:
        """Return the rows that a function keeps."""
        return self._with(self.rows.filter(keep, with_indices=with_indices))
