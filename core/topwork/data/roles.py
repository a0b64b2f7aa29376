"""Roles of rows (train, calibrate, evaluate, predict): how they are read, limited and cut.

Entry point: `Roles`. Where rows come from is the business of plugins (`load_rows`); the task's columns are made in
`columns`, which rows a cut takes stands in `cuts`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork.data import cuts
from topwork.data.columns import canonical, check_plain, row_count
from topwork.data.options import CutOptions, DataOptions, RowsOptions
from topwork.data.table import Table
from topwork.errors import TopworkError, UsageError, listed
from topwork.items import Row

if TYPE_CHECKING:
    from topwork import Plugins
    from topwork.task import Task


class Roles:
    """The rows of a run by role, loaded when first asked for.

    Args:
        data: what the recipe says, or None with `given`.
        given: rows in memory, by role (the Python API).
        wanted: roles that will be asked for: calibration rows are cut from the training rows only if somebody wants
            them.
    """

    def __init__(
        self,
        task: type[Task],
        plugins: Plugins,
        data: DataOptions | None = None,
        given: Mapping[str, Any] | None = None,
        seed: int = 0,
        wanted: Collection[str] = (),
    ) -> None:
        self.task, self.plugins, self.seed, self.wanted = task, plugins, seed, set(wanted)
        self.data = data or DataOptions()
        self._raw: dict[str, Any] = {role: rows for role, rows in (given or {}).items() if rows is not None}
        self._named: dict[str, Any] = {}
        self._sources: dict[str, Any] = {}
        self._cut_done = False
        self.notes: list[str] = []

    def has(self, role: str) -> bool:
        """Return whether there are rows for the role (calibration rows can always be cut from training rows)."""
        known = role in self._raw or getattr(self.data, role, None) is not None
        return known or (role == "calibrate" and self.has("train"))

    def __call__(self, role: str) -> Any:
        """Return the rows of a role with canonical columns."""
        if role not in self._named:
            rows = self._sources[role] = self._load(role)
            targets = role != "predict"
            self._named[role] = canonical(
                rows, self.task, self.data.columns, targets=targets, location=f"data.{role}", role=role
            )
            if row_count(self._named[role]) == 0:
                raise TopworkError("there are no rows", place=f"data.{role}")
        return self._named[role]

    def column(self, role: str, name: str) -> list[Any]:
        """Return the cells of any column of the rows of a role: one of the task's, or another of the source.

        Raises:
            UsageError: there is no such column, or the rows are streamed.
        """
        rows = self(role) if name in self.task.columns else self._source(role)
        if row_count(rows) is None:
            raise UsageError(f"`{name}` cannot be read: the rows are streamed", place=f"data.{role}")
        rows = rows if isinstance(rows, Table) else Table(rows)
        if name not in rows.column_names:
            hint = f"there are: {listed(rows.column_names, 24)}"
            raise UsageError(f"there is no column `{name}`", place=f"data.{role}", hint=hint)
        return rows.column(name)

    def _source(self, role: str) -> Any:
        return self._sources[role] if role in self._sources else self._load(role)

    def further_cells(self, role: str, indices: Sequence[int], most: int) -> list[dict[str, Any]]:
        """Return cells of rows from columns that the task does not read, such as a domain; none of streamed rows.

        Args:
            role: whose rows.
            indices: of the rows.
            most: columns, the first ones that hold text, numbers or truth values alone.
        """
        rows = self._source(role)
        if row_count(rows) is None or not indices:
            return [{} for _ in indices]
        rows = rows if isinstance(rows, Table) else Table(rows)
        named = [source if isinstance(source, list) else [source] for source in self.data.columns.values()]
        read = {str(name).split(".")[0] for names in named for name in names} | set(self.task.columns)
        plain = [name for name in rows.column_names if name not in read and _is_plain(rows.features, name)][:most]
        chosen = rows.select_columns(plain)
        return (
            [{name: chosen[index].get(name) for name in plain} for index in indices] if plain else [{} for _ in indices]
        )

    def loaded(self, roles: Sequence[str], most: int) -> list[Row]:
        """Return the first rows of the first of these roles that was read already; none of streaming rows."""
        for role in roles:
            rows = self._named.get(role)
            if rows is not None and row_count(rows) is not None:
                return [rows[index] for index in range(min(most, len(rows)))]
        return []

    def _load(self, role: str) -> Any:
        if role in self._raw and role != "train":
            return self._raw[role]
        options = getattr(self.data, role, None)
        if isinstance(options, RowsOptions) and role != "train":
            return self.read(options, role)
        if not self.has(role):
            raise TopworkError(f"the recipe has no {role} rows", place="data", hint=f"add `data.{role}`")
        if role == "evaluate" and options is None:
            raise TopworkError("the recipe has no evaluate rows", place="data", hint="add `data.evaluate`")
        if not self._cut_done:
            self.wanted.add(role)
            self._cut()
        if role not in self._raw:
            raise TopworkError(
                f"the {role} rows were not set apart from the training rows in time", place=f"data.{role}"
            )
        return self._raw[role]

    def read(self, options: RowsOptions, role: str) -> Any:
        """Return rows as their source has them, limited and shuffled, with all of their columns.

        Args:
            options: where they come from.
            role: for the log.
        """
        try:
            rows = self.plugins.load_rows(options)
        except TopworkError as error:
            error.place = error.place or f"data.{role}"
            raise
        if row_count(rows) is not None:
            rows = rows if isinstance(rows, Table) else Table(rows)
            self.notes += [f"{role}: {note}" for note in rows.remarks]
        if options.shuffle:
            rows = rows.shuffle(seed=self.seed)
        if options.limit is not None:
            rows = (
                rows.take(options.limit)
                if row_count(rows) is None
                else rows.select(range(min(options.limit, len(rows))))
            )
        return rows

    def _cut(self) -> None:
        """Read the training rows and cut from them what the other roles want."""
        rows = self._raw["train"] if "train" in self._raw else self.read(self._train_options(), "train")
        if row_count(rows) is not None and not isinstance(rows, Table):
            check_plain(rows, "data.train")
            rows = Table(rows)
        for role in ("evaluate", "calibrate"):
            options = getattr(self.data, role)
            if role in self._raw or isinstance(options, RowsOptions):
                continue
            if options is None and (role == "evaluate" or role not in self.wanted):
                continue
            rows, self._raw[role] = self._split(rows, options, role)
        self._raw["train"] = rows
        self._cut_done = True

    def _train_options(self) -> RowsOptions:
        if self.data.train is None:
            raise TopworkError("the recipe has no training rows", place="data", hint="add `data.train`")
        return self.data.train

    def _split(self, rows: Any, options: CutOptions | None, role: str) -> tuple[Any, Any]:
        """Return the remaining rows, and the rows of the role that were cut from them."""
        import numpy as np

        cut, by = (options.size, options.by) if options else (None, None)
        total = row_count(rows)
        if total is None:
            if not isinstance(cut, int) or by is not None:
                raise TopworkError(
                    f"{role} rows can be cut from streaming rows by number only",
                    place=f"data.{role}",
                    hint="write `cut: 1000`",
                )
            return rows.skip(cut), rows.take(cut)
        size = cut if isinstance(cut, int) else round(total * cut) if cut else min(1000, max(1, total // 10))
        if not 0 < size < total:
            raise TopworkError(f"{size} of {total} training rows cannot be cut off", place=f"data.{role}")
        groups = None if by is None else cuts.group_values(rows, by, role)
        strata = None if by is not None else cuts.label_strata(rows, self.task, self.data.columns)
        fold = options.fold if options else None
        if fold is not None:
            # not by the run's seed: the folds of several seeds are to be the same rows
            if total < fold[1] or (groups is not None and len(set(groups)) < fold[1]):
                what = "rows" if groups is None else f"groups of `{by}`"
                raise TopworkError(f"there are fewer {what} than {fold[1]} folds", place=f"data.{role}")
            chosen = cuts.choose_fold(total, fold, [0, sum(role.encode())], strata, groups)
        else:
            chosen = cuts.choose_rows(total, size, [self.seed, sum(role.encode())], strata, groups)
        if not 0 < len(chosen) < total:
            raise TopworkError(f"the groups of `{by}` cannot be divided", place=f"data.{role}", hint="leave out `by`")
        how = f", whole groups of `{by}`" if by is not None else ", in proportion to their labels" if strata else ""
        which = f"fold {fold[0] + 1} of {fold[1]}" if fold else f"cut off with seed {self.seed}"
        self.notes.append(f"{role}: {len(chosen)} of {total} training rows, {which}{how}")
        return rows.select(np.setdiff1d(np.arange(total), chosen)), rows.select(chosen)


def _is_plain(features: Any, name: str) -> bool:
    """Return whether a column of a data set has no cells but text, numbers and truth values, as far as it says so."""
    feature = features.get(name) if isinstance(features, Mapping) else None
    return feature is None or (
        hasattr(feature, "dtype") and not hasattr(feature, "feature") and not hasattr(feature, "decode")
    )
