"""Small data sets that come with the installation, as `sample:<name>`: real digits, scenes made of them, generated
facts, rated words, Python's own documentation. They make recipes and tests run offline.

Each has the splits `train` and `test`; what is in one is not in the other: no picture, no name, no topic, no stem.
How each is made stands in a file of its own, beside this one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions

_SAMPLES = {
    "digits": "1,797 real handwritten digits, 8 x 8, from scikit-learn: image, label",
    "digit-scenes": "scenes of 1 to 3 of those digits, 64 x 64, exact boxes and masks: image, objects, mask, instances",
    "rated-words": "English words and idioms rated by people as good or bad, from vaderSentiment: text, label",
    "facts-qa": "generated facts and questions, a fifth without answer: id, question, context, answers",
    "python-docs": "paragraphs of Python's language reference, from the standard library: text, topic",
}
_SPLITS = ("train", "test")


@hookimpl
def register_samples() -> Mapping[str, str]:
    return _SAMPLES


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """The sample's rows as a `datasets.Dataset`, or None when `source` is no sample of this plugin."""
    scheme, _, name = source.partition(":")
    if scheme != "sample":
        return None
    makers = {
        "digits": _digits,
        "digit-scenes": _scenes,
        "rated-words": _rated_words,
        "facts-qa": _facts,
        "python-docs": _python_docs,
    }
    if name not in makers:
        # another plugin may have registered it; what nobody has is named by the core
        return None
    from topwork_bases.rows.splits import choose

    if options.options:
        raise UsageError(f"`{source}` has no options", hint="leave out `options`")
    rows = choose(_Splits(makers[name]), options.split, source)
    return rows.to_iterable_dataset() if options.streaming else rows


class _Splits(Mapping[str, Any]):
    """The splits of a sample, each made only when it is asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in _SPLITS:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Any:
        return iter(_SPLITS)

    def __len__(self) -> int:
        return len(_SPLITS)


def _digits(split: str) -> Any:
    import datasets

    from topwork_bases.samples.digits import digits

    images, labels = digits(split)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def _scenes(split: str) -> Any:
    """Made once and then read from the cache of `datasets`, whose key holds the code that makes them."""
    import datasets

    from topwork_bases.samples import digit_scenes as _digit_scenes
    from topwork_bases.samples import digits as _digits

    digit = datasets.ClassLabel(names=[str(number) for number in range(10)])
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(digit),
            },
            "mask": datasets.Image(),
            "instances": datasets.Image(),
        }
    )
    code = inspect.getsource(_digit_scenes) + inspect.getsource(_digits)
    return datasets.Dataset.from_generator(
        _digit_scenes.scenes, features=features, gen_kwargs={"split": split, "code": code}, split=split
    )


def _rated_words(split: str) -> Any:
    from topwork_bases.samples.rated_words import rated_words

    return rated_words(split)


def _facts(split: str) -> Any:
    import datasets

    from topwork_bases.samples.facts import facts

    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "context": datasets.Value("string"),
            "question": datasets.Value("string"),
            "answers": {
                "text": datasets.List(datasets.Value("string")),
                "answer_start": datasets.List(datasets.Value("int32")),
            },
        }
    )
    return datasets.Dataset.from_list(facts(split), features=features)


def _python_docs(split: str) -> Any:
    import datasets

    from topwork_bases.samples.python_docs import paragraphs

    return datasets.Dataset.from_list(paragraphs(split))
