"""Spoken samples, as `sample:<name>`: digits and numbers said by a synthesiser that a pip install brings. They make the
recipes and tests of the audio tasks run offline. How they are made stands in `_spoken_digits.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions

_SAMPLES = {
    "spoken-digits": "one spoken digit a clip, 22,050 Hz, test speakers unseen in training: audio, label",
    "spoken-numbers": "one to four spoken digits a clip, test speakers unseen in training: audio, text",
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
    rows = choose(_Splits(name), options.split, source)
    return rows.to_iterable_dataset() if options.streaming else rows


class _Splits(Mapping[str, Any]):
    """The splits of a sample, each made only when it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: dict[str, Any] = {}

    def __getitem__(self, split: str) -> Any:
        if split not in ("train", "test"):
            raise KeyError(split)
        if split not in self._made:
            self._made[split] = _make(self._name, split)
        return self._made[split]

    def __iter__(self) -> Iterator[str]:
        return iter(("train", "test"))

    def __len__(self) -> int:
        return 2


def _make(name: str, split: str) -> Any:
    """Made once, as FLAC, and then read from the cache of `datasets`, whose key holds the code that makes them."""
    import datasets

    from topwork_bases.samples import spoken_digits as _spoken_digits

    # `datasets.Audio` would want torchcodec to store what is encoded already
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    if name == "spoken-digits":
        make: Any = _spoken_digits.digit_clips
        target: Any = {"label": datasets.ClassLabel(names=list(_spoken_digits.WORDS))}
    else:
        make, target = _spoken_digits.number_clips, {"text": datasets.Value("string")}
    rows = datasets.Dataset.from_generator(
        make,
        features=datasets.Features({"audio": stored, **target}),
        gen_kwargs={"split": split, "code": inspect.getsource(_spoken_digits)},
        split=split,
    )
    return rows.cast_column("audio", datasets.Audio(decode=False))
