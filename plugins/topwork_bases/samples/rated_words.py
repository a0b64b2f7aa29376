"""The sample `rated-words`: English words and idioms that people rated as good or bad, from vaderSentiment's lexicon.

Words whose mean rating is near neutral are left out. Train and test are split by the first four letters, so that no
stem ("happ-y", "happ-ily") stands on both sides.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import UsageError

if TYPE_CHECKING:
    import datasets

NAMES = ["negative", "positive"]
_LEAST = 0.5  # mean rating, on a scale of -4 to 4
_TEST_SHARE = 0.2


def rated_words(split: str) -> datasets.Dataset:
    """Return rows `text`, `label` (negative, positive) of the split "train" or "test", in the order of the lexicon."""
    import datasets

    if split not in ("train", "test"):
        raise UsageError(f"`rated-words` has the splits train and test, not `{split}`")
    rows = [(word, int(rating > 0)) for word, rating in _lexicon() if _is_test(word) == (split == "test")]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    columns: dict[str, Any] = {"text": [word for word, _ in rows], "label": [label for _, label in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


def _is_test(word: str) -> bool:
    """Return True for a fifth of the stems, by a hash that is the same everywhere."""
    digest = hashlib.sha256(word[:4].lower().encode()).digest()
    return digest[0] < 256 * _TEST_SHARE


def _lexicon() -> list[tuple[str, float]]:
    """Return (word, mean rating) of the entries that consist of letters, so without emoticons and digits."""
    spec = find_spec("vaderSentiment")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "the words come with vaderSentiment, which is not installed",
            place="sample:rated-words",
            hint="pip install 'topwork[samples]'",
        )
    file = Path(next(iter(spec.submodule_search_locations))) / "vader_lexicon.txt"
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines():
        word, rating, *_ = line.split("\t")
        if abs(float(rating)) >= _LEAST and word.replace("-", "").replace(" ", "").replace("'", "").isalpha():
            entries.append((word, float(rating)))
    return entries
