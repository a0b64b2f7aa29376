"""Plugin of the samples: small data sets that come with the installation, as `sample:<name>`; recipes run offline.

Entry points: `PLUGIN`, and `SAMPLES`, the table of all samples. Each has the splits `train` and `test`, and
nothing of one is in the other: no image, name, topic, stem, speaker or number. How a sample is made stands in a
file of its own beside this one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions

_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Sample:
    """A small data set.

    Args:
        about: one line about its rows, with the columns.
        maker: `module:function` in this package; the function takes a split and returns a `datasets.Dataset`.
    """

    about: str
    maker: str

    def make(self, split: str) -> Any:
        """Return the rows of a split, "train" or "test", as a `datasets.Dataset`."""
        module, _, function = self.maker.partition(":")
        return getattr(import_module(f"topwork_bases.samples.{module}"), function)(split)


SAMPLES: Mapping[str, Sample] = {
    "digits": Sample("1,797 real handwritten digits, 8 x 8, from scikit-learn: image, label", "digits:digits_dataset"),
    "digit-scenes": Sample(
        "scenes of 1 to 3 of those digits, 64 x 64, exact boxes and masks: image, objects, mask, instances",
        "digit_scenes:digit_scenes_dataset",
    ),
    "depth-scenes": Sample(
        "rendered rooms with spheres, 64 x 64, exact depth in metres: image, depth", "depth_scenes:depth_scenes_dataset"
    ),
    "rated-words": Sample(
        "English words and idioms rated by people as good or bad, from vaderSentiment: text, label",
        "rated_words:rated_words",
    ),
    "facts-qa": Sample(
        "generated facts and questions, a fifth without answer: id, question, context, answers", "facts:facts_dataset"
    ),
    "python-docs": Sample(
        "paragraphs of Python's language reference, from the standard library: text, topic",
        "python_docs:python_docs_dataset",
    ),
    "parsed-docs": Sample(
        "sentences of that reference, parsed by spaCy's small English model (silver): text, words, tags, heads,"
        " relations, spans",
        "parsed_docs:parsed_docs_dataset",
    ),
    "python-tokens": Sample(
        "lines of Python's standard library with the role of every token: words, tags",
        "python_tokens:python_tokens_dataset",
    ),
    "python-functions": Sample(
        "functions of Python's standard library of 3 to 15 lines: text, name",
        "python_functions:python_functions_dataset",
    ),
    "number-words": Sample(
        "the numbers 0 to 99,999 in English and German words: translation {en, de}",
        "number_words:number_words_dataset",
    ),
    "number-lines": Sample(
        "the same numbers in digits, English and German on one line: text, prompt, completion",
        "number_words:number_lines_dataset",
    ),
    "match-reports": Sample(
        "generated reports of matches, each with a summary of one line: document, summary",
        "match_reports:match_reports_dataset",
    ),
    "spoken-digits": Sample(
        "one spoken digit a clip, 22,050 Hz, test speakers unseen in training: audio, label",
        "spoken_digits:spoken_digits_dataset",
    ),
    "spoken-numbers": Sample(
        "one to four spoken digits a clip, test speakers unseen in training: audio, text",
        "spoken_digits:spoken_numbers_dataset",
    ),
}


class _Split:
    """A split, made when its rows are first needed, so that asking for one split does not make the other."""

    def __init__(self, sample: Sample, name: str) -> None:
        self._sample, self._name = sample, name
        self._rows: Any = None

    def __len__(self) -> int:
        return len(self.dataset())

    def select(self, indices: Iterator[int]) -> Any:
        return self.dataset().select(indices)

    def dataset(self) -> Any:
        if self._rows is None:
            self._rows = self._sample.make(self._name)
        return self._rows


class SamplePlugin:
    """Plugin that registers samples and gives their rows.

    Args:
        name: name of the plugin.
        samples: what it registers, a part of `SAMPLES`.
    """

    def __init__(self, name: str, samples: Collection[str]) -> None:
        self.name = name
        self.samples = {sample: SAMPLES[sample] for sample in samples}

    @hookimpl
    def register_samples(self) -> Mapping[str, str]:
        """Return the names of the samples, with a line about each."""
        return {name: sample.about for name, sample in self.samples.items()}

    @hookimpl
    def load_rows(self, source: str, options: RowsOptions) -> Any | None:
        """Return a sample's rows as a `datasets.Dataset`; None when `source` is no sample of this plugin.

        Raises:
            UsageError: options, which no sample has, or an unknown split.
        """
        scheme, _, name = source.partition(":")
        if scheme != "sample" or name not in self.samples:
            return None  # another plugin may have registered it; the core refuses a name that nobody registered
        from topwork import choose_split

        if options.options:
            raise UsageError(f"`{source}` has no options", hint="leave out `options`")
        rows = choose_split({split: _Split(self.samples[name], split) for split in _SPLITS}, options.split, source)
        rows = rows.dataset() if isinstance(rows, _Split) else rows
        return rows.to_iterable_dataset() if options.streaming else rows


# The samples were four plugins. Their names stay for a release, each with its part, so that lists of plugins to load
# or to disable mean what they meant; then `samples` takes all of the table.
SPOKEN = SamplePlugin("spoken-samples", ("spoken-digits", "spoken-numbers"))
TEXTS = SamplePlugin("text-samples", ("python-tokens", "number-words", "number-lines", "match-reports"))
DENSE = SamplePlugin("dense-samples", ("depth-scenes",))
PLUGIN = SamplePlugin(
    "samples", [name for name in SAMPLES if name not in SPOKEN.samples | TEXTS.samples | DENSE.samples]
)
