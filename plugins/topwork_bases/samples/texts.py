"""Small texts that come with the installation, as `sample:<name>`: token roles of Python's standard library, number
words in two languages, generated match reports with summaries. They make recipes and tests run offline.

Each has the splits `train` and `test`; no line, number or summary is in both. How each is made stands in a file of its
own, beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions

_SAMPLES = {
    "python-tokens": "lines of Python's standard library with the role of every token: words, tags",
    "number-words": "the numbers 0 to 99,999 in English and German words: translation {en, de}",
    "number-lines": "the same numbers in digits, English and German on one line: text, prompt, completion",
    "match-reports": "generated reports of matches, each with a summary of one line: document, summary",
}


@hookimpl
def register_samples() -> Mapping[str, str]:
    return _SAMPLES


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """The sample's rows as a `datasets.Dataset`, or None when `source` is no sample of this plugin."""
    scheme, _, name = source.partition(":")
    if scheme != "sample" or name not in _SAMPLES:
        return None
    from topwork_bases.rows.splits import choose

    if options.options:
        raise UsageError(f"`{source}` has no options", hint="leave out `options`")
    rows = choose({split: _Made(name, split) for split in ("train", "test")}, options.split, source)
    rows = rows.dataset() if isinstance(rows, _Made) else rows
    return rows.to_iterable_dataset() if options.streaming else rows


class _Made:
    """A split that is made when somebody asks for its rows."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split
        self._rows: Any = None

    def __len__(self) -> int:
        return len(self.dataset())

    def select(self, numbers: Any) -> Any:
        return self.dataset().select(numbers)

    def dataset(self) -> Any:
        if self._rows is None:
            import datasets

            rows = _maker(self.name)(self.split)
            self._rows = datasets.Dataset.from_list(rows, features=_features(self.name))
        return self._rows


def _maker(name: str) -> Callable[[str], list[Any]]:
    from topwork_bases.samples.match_reports import match_reports
    from topwork_bases.samples.number_words import number_lines, number_words
    from topwork_bases.samples.python_tokens import python_tokens

    makers: dict[str, Callable[[str], list[Any]]] = {
        "python-tokens": python_tokens,
        "number-words": number_words,
        "number-lines": number_lines,
        "match-reports": match_reports,
    }
    return makers[name]


def _features(name: str) -> Any:
    """Roles of tokens are a declared list of names; everything else is told from the rows."""
    if name != "python-tokens":
        return None
    import datasets

    from topwork_bases.samples.python_tokens import ROLES

    words = datasets.List(datasets.Value("string"))
    return datasets.Features({"words": words, "tags": datasets.List(datasets.ClassLabel(names=ROLES))})
