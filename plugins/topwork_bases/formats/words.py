"""Layouts with a word a line: CoNLL and CoNLL-U, and tables with a column of words and one of sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError, listed
from topwork_bases.formats.layout import Layout, Located, table_of
from topwork_bases.formats.texts import numbered_lines
from topwork_bases.rows.tables import TABLE_OPTIONS, form_of, read_header, read_table

_UNIVERSAL = {"form": 1, "lemma": 2, "upos": 3, "xpos": 4, "deprel": 7}
_SUFFIXES = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".conll03")
#: suffixes of files that hold words with tags, or anything else
_MAYBE = (".txt", ".tsv", ".data", ".train", ".dev", ".test", "")
_CHUNK = re.compile("[BIESLUM]-.+")
_LOOKED_AT = 500
#: names of columns of a table, in lower case without signs
_WORD = ("word", "words", "token", "tokens", "form", "text")
_SENTENCE = ("sentence", "sentenceid", "sentenceidx", "sentid", "sentnum", "sentencenumber", "sentencenum", "sentence#")
_TAG = ("tag", "tags", "nertag", "nertags", "ner", "entity", "label", "labels", "pos", "postag", "upos", "chunk")
_WORDS_OPTIONS = ("word", "tag", "sentence", *TABLE_OPTIONS)


# ---------------------------------------------------------------- CoNLL


def read_conll(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read words and tags, a word a line, sentences apart by empty lines; of CoNLL-U also heads and relations.

    Heads count words from 1, with 0 for the root; they are left out where they are not annotated. A sentence of CoNLL-U
    in which words follow each other without a space (`SpaceAfter=No`) also has its text.

    Args:
        path: a file in the layout of CoNLL, or (`.conllu`) of CoNLL-U.
        options: `word` and `tag`: indices of columns from 0 (-1 is the last), or names of CoNLL-U's columns.
    """
    universal = path.suffix.lower() == ".conllu"
    word = _column(options.get("word", 1 if universal else 0))
    tag = _column(options.get("tag", 3 if universal else -1))
    examples: list[Located] = []
    words: list[str] = []
    tags: list[str] = []
    trees: list[list[str]] = []
    joined: dict[str, list[str] | None] = {}
    begin = width = 0
    lines = list(numbered_lines(path, options.get("encoding")))
    comments = _comments(lines, universal)
    for number, line in [*lines, (0, "")]:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                further = {**_dependencies(trees), **_text(words, trees, joined)}
                examples.append((begin, {"words": words, "tags": tags, **further}))
            words, tags, trees, joined = [], [], [], {}
            continue
        if number in comments:
            continue
        fields = _fields(line)
        if universal and ("-" in fields[0] or "." in fields[0]):
            if "-" in fields[0]:  # a range of several words that are written as one
                first, _, last = fields[0].partition("-")
                joined |= {first: None, last: fields}
            continue
        width = width or len(fields)
        if len(fields) != width or len(fields) < 2:
            raise DataError(
                f"{path}:{number}: has {len(fields)} columns where the first line has {width}",
                hint="write every word with the same columns, at least the word and its tag",
            )
        begin = begin if words else number
        if universal:
            trees.append(fields)
        try:
            words.append(fields[word])
            tags.append(fields[tag])
        except IndexError as error:
            raise UsageError(
                f"{path}:{number}: there is no column {tag}", hint=f"columns are 0 to {width - 1}"
            ) from error
    remark = f"{path}: read as CoNLL: {len(examples)} sentences, words in column {word}, tags in column {tag}"
    return {"train": table_of(examples, path, remark)}


def _fields(line: str) -> list[str]:
    """Return the columns of a line: a space of another kind than U+0020 may be part of a word."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _comments(lines: Sequence[tuple[int, str]], universal: bool) -> set[int]:
    """Return the numbers of the lines that are comments: they begin with # above the words of a sentence.

    A word may begin with # too. Such a line is a word if it has the columns, and a tag, of other lines.
    """
    words = [(number, _fields(line)) for number, line in lines if line.strip()]
    shapes = {(len(fields), fields[-1]) for _, fields in words if not fields[0].startswith("#")}
    comments: set[int] = set()
    above = True
    for number, line in lines:
        if not line.strip():
            above = True
        elif above and line.startswith("#"):
            fields = _fields(line)
            if universal or ((len(fields), fields[-1]) not in shapes and not _is_chunk(fields)):
                comments.add(number)
            else:
                above = False
        elif not line.startswith("-DOCSTART-"):
            above = False
    return comments


def _dependencies(lines: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return heads and relations of the words of a sentence in CoNLL-U; nothing where some word has none."""
    if not lines or any(len(fields) < 8 or not fields[6].isdigit() for fields in lines):
        return {}
    return {"heads": [int(fields[6]) for fields in lines], "relations": [fields[7] for fields in lines]}


def _text(words: Sequence[str], lines: Sequence[Sequence[str]], joined: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of a sentence in CoNLL-U as its spaces stand; nothing where there is one between all words.

    Args:
        words: of the sentence.
        lines: columns of each word.
        joined: number of the last word of a range -> columns of the range; what follows it stands there. The words of
            a range itself are apart: "im" is read as "in dem".
    """
    ends = [joined.get(fields[0]) or fields for fields in lines]
    without = [len(fields) > 9 and "SpaceAfter=No" in fields[9].split("|") for fields in ends[:-1]]
    if not any(without):
        return {}
    spaces = ["" if is_without else " " for is_without in without]
    return {"text": "".join(part for pair in zip(words, [*spaces, ""], strict=True) for part in pair)}


def _column(value: Any) -> int:
    if isinstance(value, str) and value in _UNIVERSAL:
        return _UNIVERSAL[value]
    if not isinstance(value, int):
        raise UsageError(f"`{value}` is no column", hint=f"write a number from 0, or {', '.join(_UNIVERSAL)}")
    return value


def _is_chunk(fields: Sequence[str]) -> bool:
    return len(fields) > 1 and (fields[-1] == "O" or _CHUNK.fullmatch(fields[-1]) is not None)


def _is_conll(path: Path) -> bool:
    """Return whether a file's suffix says so, or all of its first lines end in tags of chunks (O, B-PER)."""
    if not path.is_file():
        return False
    if path.suffix.lower() in _SUFFIXES:
        return True
    if path.suffix.lower() not in _MAYBE:
        return False
    try:
        head = [line for _, line in islice(numbered_lines(path), _LOOKED_AT)]
    except DataError:
        return False
    rows = [_fields(line) for line in head if line.strip() and not line.startswith(("-DOCSTART-", "#"))]
    tags = {fields[-1] for fields in rows}
    return len({len(fields) for fields in rows}) == 1 and all(map(_is_chunk, rows)) and bool(tags - {"O"})


# ---------------------------------------------------------------- tables


def read_words(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a table with a word in every row: rows of one sentence follow each other and have its name or number.

    A sentence may be named in its first row alone. Columns keep their names too, as lists.

    Args:
        path: a csv or tsv file.
        options: those of a table; `word`, `tag` and `sentence` name columns.

    Raises:
        UsageError: a column that cannot be told.
        DataError: a row without a word, with its line.
    """
    given = {name: options[name] for name in ("word", "tag", "sentence") if name in options}
    of_table = {name: value for name, value in options.items() if name in TABLE_OPTIONS}
    table = read_table(path, of_table, path.suffix.lower() == ".tsv")
    word, tag, sentence = _columns_of(table.column_names, given)
    for name, column in (("word", word), ("tag", tag), ("sentence", sentence)):
        if column is None or column not in table.column_names:
            raise UsageError(
                f"`{path}` has no column for `{name}`",
                hint=f"name it: `options: {{{name}: ...}}`; there are {listed(table.column_names, 24)}",
            )
    kept = [name for name in table.column_names if name != sentence]
    examples: list[Located] = []
    for begin, rows in _sentences(path, table, str(word), str(sentence)):
        lists = {name: [row[name] for row in rows] for name in kept}
        examples.append((begin, {**lists, "words": lists[str(word)], "tags": lists[str(tag)]}))
    remark = f"{path}: read as a word a row: {len(examples)} sentences, words in `{word}`, tags in `{tag}`"
    return {"train": table_of(examples, path, remark)}


def _sentences(path: Path, table: Table, word: str, sentence: str) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Yield the line on which a sentence begins, and its rows."""
    rows: list[Mapping[str, Any]] = []
    begin, name = 0, None
    for index, row in enumerate(table):
        line = table.origin.line_of(index) or index + 1
        if row[word] is None:
            raise DataError(f"{path}:{line}: `{word}` is empty", hint="write a word in every row")
        if rows and row[sentence] not in (None, name):
            yield begin, rows
            rows = []
        begin, name = begin if rows else line, row[sentence] or name
        rows.append(row)
    yield begin, rows


def _columns_of(header: Sequence[str], given: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    """Return the columns of words, of tags and of sentences; None for one that cannot be told."""
    plain = {re.sub(r"[^a-z#]", "", name.lower()): name for name in reversed(header)}

    def first(names: Sequence[str]) -> str | None:
        return next((plain[name] for name in names if name in plain), None)

    return given.get("word") or first(_WORD), given.get("tag") or first(_TAG), given.get("sentence") or first(_SENTENCE)


def _is_words(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv"):
        return False
    try:
        header = read_header(path, form_of({}, path.suffix.lower() == ".tsv"))
    except DataError:
        return False
    plain = {re.sub(r"[^a-z#]", "", name.lower()) for name in header}
    return bool(plain & {"word", "token"} and plain & set(_SENTENCE) and plain & set(_TAG))


LAYOUTS = (
    Layout(
        "conll",
        _is_conll,
        read_conll,
        ("word", "tag", "encoding"),
    ),
    Layout(
        "words",
        _is_words,
        read_words,
        _WORDS_OPTIONS,
    ),
)
