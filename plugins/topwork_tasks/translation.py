"""translation: a text in one language becomes a text in another.

Rows have `translation`, a dict of texts by language (with `source_language` and `target_language` in the options), or
the two columns `source` and `target`. On sequence-to-sequence models (Marian, mBART and M2M100 with language codes, T5
with a `prefix`), on two checkpoints warm-started as encoder and decoder, on decoders by prompt; see
`sequence_to_sequence`. Measured by chrF and sacreBLEU, with their signatures, and exact match. Predictions:
[{"translation_text"}].
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from typing_extensions import override

from topwork import Column, DataError, Json, Row, RowsView
from topwork_tasks._text.inputs import text_of
from topwork_tasks.sequence_to_sequence.task import Seq2SeqOptions, SequenceToSequence


class TranslationOptions(Seq2SeqOptions):
    """Options of translation."""

    prompt: str = Field("{source}\n= ", description="for decoders: what the translation continues")


class LanguagesView(RowsView):
    """Languages of the dict `translation`: the first is the source until somebody says otherwise."""

    @override
    def options_for(self, row: Row) -> Mapping[str, Json]:
        languages = list(row.get("translation") or {})
        return dict(zip(("source_language", "target_language"), languages)) if len(languages) > 1 else {}


class Translation(SequenceToSequence):
    """Write a text in another language.

    Rows that it refuses or mends: `sequence_to_sequence/bad_input.md`.
    """

    name = "translation"
    Options = TranslationOptions
    rows_view = LanguagesView()
    answer = "translation_text"
    metrics = ("chrf", "bleu", "exact_match", "length")  # BLEU is undefined where all truths are short
    columns = {
        "translation": Column("a dict of texts by language", required=False, kind="texts"),
        "source": Column("the text, instead of a dict", required=False, kind="text"),
        "target": Column("its translation", target=True, required=False, kind="text"),
    }

    @classmethod
    @override
    def source_text(cls, row: Row, index: int, options: TranslationOptions) -> str:
        if row.get("translation") is None and row.get("source") is None:
            hint = "map one of them in `data.columns`"
            raise DataError("is missing, and so is `translation`", row=index, column="source", hint=hint)
        if row.get("translation") is None:
            return text_of(row, index, "source")
        return _side(row, index, options.source_language, "source_language")

    @classmethod
    @override
    def target_text(cls, row: Row, index: int, options: TranslationOptions) -> str:
        if row.get("translation") is None:
            return text_of(row, index, "target")
        return _side(row, index, options.target_language, "target_language")

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        pairs = {
            "one house": "ein Haus",
            "two houses": "zwei Häuser",
            "one tree": "ein Baum",
            "two trees": "zwei Bäume",
            "three trees": "drei Bäume",
            "three houses": "drei Häuser",
            "one old tree": "ein alter Baum",
            "two old houses": "zwei alte Häuser",
        }
        return [{"source": source, "target": target} for source, target in pairs.items()]


def _side(row: Row, index: int, language: str | None, option: str) -> str:
    """Return the text in a language of a row's dict, which may write `de` where a tokenizer writes `de_DE`."""
    given = row["translation"]
    if not isinstance(given, Mapping):
        raise DataError(
            f"is {type(given).__name__}, no dict of texts by language",
            row=index,
            column="translation",
            hint="or map two columns: `data.columns: {source: ..., target: ...}`",
        )
    here = ", ".join(given)
    if language is None:
        raise DataError(
            f"has the languages {here}", row=index, column="translation", hint=f"set the task's option `{option}`"
        )
    name = next((key for key in (language, language.split("_")[0]) if key in given), None)
    if name is None:
        raise DataError(
            f"has no text in `{language}`", row=index, column="translation", hint=f"its languages are {here}"
        )
    if not isinstance(given[name], str):
        raise DataError(
            f"is {type(given[name]).__name__} in `{name}`, not text",
            row=index,
            column="translation",
            hint="correct it",
        )
    return given[name]
