"""Sentences with dependencies and documents with coreference clusters, from rows or from files of CoNLL's layouts.

Entry points: `Sentences`, `sentence_of`, `document_of`, `read_documents`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from topwork import DataError, Row
from topwork_analyses.positions.heads import heads_of

_MENTION = "a cluster is a list of mentions, each [first word, word behind the last], counted from 0"


@dataclass(frozen=True)
class Sentence:
    """Words with their heads.

    Args:
        words: the words.
        heads: position of the head of each word; -1 for the root.
        relations: name of the relation of each word to its head.
        text: in which the words stand, one after another; None where spaces stand between them.
    """

    words: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    text: str | None = None


@dataclass(frozen=True)
class Document:
    """Words with clusters of mentions that mean the same.

    Args:
        words: the words.
        clusters: mentions as (first word, word behind the last).
        text: in which the words stand, one after another; None where spaces stand between them.
    """

    words: tuple[str, ...]
    clusters: tuple[tuple[tuple[int, int], ...], ...]
    text: str | None = None


def sentence_of(row: Row, index: int | None = None) -> Sentence:
    """Return the sentence of a row with `words`, `heads` (1 for the first word, 0 for the root) and `relations`.

    Subtypes of relations (`nsubj:pass`) are kept. A `text` is read as it is, else the words with spaces between them.

    Raises:
        DataError: a column is missing, or does not fit the words.
    """
    words = _list(row, "words", index)
    heads, relations = heads_of(row, len(words), index), _list(row, "relations", index)
    if len(relations) != len(words):
        raise DataError(f"has {len(relations)} entries for {len(words)} words", row=index, column="relations")
    return Sentence(tuple(map(str, words)), tuple(heads), tuple(map(str, relations)), _text(row))


class Sentences:
    """Sentences of two words or more, read from their rows anew each time: none is kept.

    Args:
        rows: that can be gone through several times.
        limit: rows that are read at most.
    """

    def __init__(self, rows: Iterable[Row], limit: int) -> None:
        self.rows, self.limit = rows, limit

    def half(self, start: int, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[int, Sentence]]:
        """Yield every second sentence with the index of its row.

        Args:
            start: 0 for the even, 1 for the odd sentences.
            share: index of this process, and how many there are.

        Raises:
            DataError: a row is no sentence.
        """
        count = 0
        for index, row in enumerate(islice(self.rows, self.limit)):
            sentence = sentence_of(row, index)
            if len(sentence.words) > 1:
                if count % 2 == start and count // 2 % share[1] == share[0]:
                    yield index, sentence
                count += 1


def document_of(row: Row, index: int | None = None) -> Document:
    """Return the document of a row with `words` and `clusters`: lists of [first word, word behind the last], from 0.

    Raises:
        DataError: a column is missing, or a mention does not lie in the words.
    """
    words, clusters = _list(row, "words", index), _list(row, "clusters", index)
    checked = []
    for cluster in clusters:
        if not isinstance(cluster, list | tuple):
            raise DataError(f"{cluster!r} is no cluster", row=index, column="clusters", hint=_MENTION)
        mentions = {_mention(mention, len(words), index) for mention in cluster}
        checked.append(tuple(sorted(mentions)))
    return Document(tuple(map(str, words)), tuple(checked), _text(row))


def _mention(mention: Any, words: int, index: int | None) -> tuple[int, int]:
    bounds = tuple(mention) if isinstance(mention, list | tuple) else ()
    if len(bounds) != 2 or not all(isinstance(bound, int) for bound in bounds):
        raise DataError(f"{mention!r} is no mention", row=index, column="clusters", hint=_MENTION)
    start, end = bounds
    if not 0 <= start < end <= words:
        cause = f"a mention of words {start} to {end} of {words}"
        raise DataError(cause, row=index, column="clusters", hint=_MENTION)
    return start, end


def _text(row: Row) -> str | None:
    """Return the text of a row: languages without spaces have the words in it as the model knows them."""
    text = row.get("text")
    return text if isinstance(text, str) else None


def _list(row: Row, column: str, index: int | None) -> Sequence[Any]:
    cells = row.get(column)
    if not isinstance(cells, list | tuple) or (not cells and column == "words"):
        raise DataError("is missing, empty or no list", row=index, column=column)
    return cells


def read_documents(path: Path, word: int = 3) -> Iterator[Document]:
    """Yield the documents of a file in the layout of CoNLL 2012: the last column holds the brackets of mentions.

    Args:
        path: the file; documents stand between `#begin document` and `#end document`, sentences apart by empty lines.
        word: index of the column of words, from 0.

    Raises:
        DataError: a bracket is not closed or not opened, or a line has too few columns; with file and line.
    """
    words: list[str] = []
    opened: dict[str, list[int]] = {}
    clusters: dict[str, list[tuple[int, int]]] = {}
    number = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#begin"):
            words, opened, clusters = [], {}, {}
        elif line.startswith("#end"):
            _all_closed(opened, path, number)
            yield _document(words, clusters)
            words, clusters = [], {}
        elif line.strip() and not line.startswith("#"):
            cells = line.split()
            if len(cells) <= word:
                raise DataError(f"{path}:{number}: has {len(cells)} columns, and words are to stand in column {word}")
            words.append(cells[word])
            _read_brackets(cells[-1], len(words) - 1, opened, clusters, f"{path}:{number}")
    _all_closed(opened, path, number)
    if words:
        yield _document(words, clusters)


def _document(words: Sequence[str], clusters: dict[str, list[tuple[int, int]]]) -> Document:
    return Document(tuple(words), tuple(tuple(sorted(set(mentions))) for mentions in clusters.values()))


def _read_brackets(
    cell: str, position: int, opened: dict[str, list[int]], clusters: dict[str, list[tuple[int, int]]], location: str
) -> None:
    """Read one cell such as "(12|(3)|4)": mentions that begin and end at a word."""
    for begins, name, ends in re.findall(r"(\(?)([^()|\s-]+)(\)?)", cell):
        if begins:
            opened.setdefault(name, []).append(position)
        if ends:
            if not opened.get(name):
                raise DataError(f"{location}: mention {name} ends and has not begun")
            clusters.setdefault(name, []).append((opened[name].pop(), position + 1))


def _all_closed(opened: dict[str, list[int]], path: Path, number: int) -> None:
    left = [name for name, starts in opened.items() if starts]
    if left:
        raise DataError(f"{path}:{number}: the document ends, and mention {left[0]} does not")
