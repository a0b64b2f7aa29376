"""View of tagged rows before any model exists: words with their tags, texts with their spans marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork import Picture, Row, RowsView
from topwork_tasks._classification.labels import spelling_doubts
from topwork_tasks.token_classification.tags import check_marks, text_and_words

_MOST_WORDS = 60


class TagsView(RowsView):
    """Words beside their tags; a span of a text carries its label."""

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return the number of words, or of spans."""
        if row.get("words") is not None:
            return {"words": float(len(row["words"]))}
        return {"spans": float(len(row["spans"]))} if row.get("spans") is not None else {}

    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        """Refuse words and tags of different numbers, and spans that leave their text or that tags cannot express."""
        _, words = text_and_words(row, None, options.span_words)
        check_marks(row, words, options.span_words, options.label_names)

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name tags, or labels of spans, that look like another."""
        tags = [tag for row in rows if row.get("words") is not None for tag in row.get("tags") or ()]
        spans = [span for row in rows if row.get("words") is None for span in row.get("spans") or ()]
        labels = [span.get("label") for span in spans if isinstance(span, Mapping)]
        return [*spelling_doubts(tags, "tags"), *spelling_doubts(labels, "spans")]

    def preview(self, row: Row, options: Any) -> Picture:
        """Render words marked with their tags, or the text marked with its spans."""
        if row.get("words") is not None:
            tags = row.get("tags") or [""] * len(row["words"])
            pieces = [
                (f"{word} ", "" if tag is None else str(tag)) for word, tag in zip(row["words"][:_MOST_WORDS], tags)
            ]
            return Picture(f"{len(row['words'])} words", text=pieces)
        text, pieces, end = str(row.get("text") or ""), [], 0
        for span in sorted(row.get("spans") or (), key=lambda span: int(span["start"])):
            start, stop = max(end, int(span["start"])), int(span["end"])
            pieces += [(text[end:start], ""), (text[start:stop], str(span.get("label", "")))]
            end = max(end, stop)
        return Picture(f"{len(row.get('spans') or ())} spans", text=[*pieces, (text[end:], "")])
