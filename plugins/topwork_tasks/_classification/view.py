"""View of rows with labels before any model exists: doubts about how labels are written.

Entry point: `LabelsView`, for `Task.rows_view`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork import DataError, Row, RowsView
from topwork_tasks._classification.labels import distinct_labels, name_doubts


class LabelsView(RowsView):
    """Doubts about the column `label`; measures and previews are those of the class behind it."""

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Return what learning the labels would refuse, and labels that look like several or like another."""
        doubts = super().doubts(rows, options)
        several = getattr(options, "multi_label", None) or getattr(options, "regression", False)
        if several or isinstance(getattr(options, "label_names", None), Mapping):
            return doubts
        pairs = [(index, row["label"]) for index, row in enumerate(rows) if row.get("label") is not None]
        try:
            names = distinct_labels(pairs, "label", "; for lists of labels set `multi_label: true`") if pairs else []
        except DataError as error:
            count = len(error.rows) if error.rows else 1
            more = f" (and {count - 1} more)" if count > 1 else ""
            return [*doubts, f"row {error.row}{more}: column `label` {error.cause}; {error.hint}"]
        return [*doubts, *name_doubts(names)]
