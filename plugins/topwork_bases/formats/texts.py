"""Layout of parallel texts: two files with a sentence a line. Lines of files with their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError, listed, split_named
from topwork_bases.formats.layout import Layout, Located, table_of
from topwork_bases.rows.text_files import PACKED, open_text

#: of a file's name: en, zh-Hans, pt_BR, eng_Latn, or the names that translators use
_LANGUAGE = re.compile("[a-z]{2}([-_][A-Z][A-Za-z]{1,3})?|[a-z]{3}_[A-Z][a-z]{3}|src|tgt|source|target")


def numbered_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of the lines of a file.

    Args:
        path: the file.
        encoding: None detects it.

    Raises:
        DataError: text in another encoding, with its line.
    """
    with open_text(path, encoding, []) as file:
        yield from enumerate((line.rstrip("\r\n") for line in file), 1)


def _named_language(path: Path) -> tuple[str, str] | None:
    """Return name and language of a file such as train.en, train.de.txt, dev.zh-Hans or test.src.gz; else None."""
    parts = path.name.split(".")
    while len(parts) > 2 and f".{parts[-1].lower()}" in (*PACKED, ".txt"):
        parts.pop()
    if len(parts) < 2 or not parts[0] or not _LANGUAGE.fullmatch(parts[-1]):
        return None
    return ".".join(parts[:-1]), parts[-1]


def _by_name(path: Path) -> dict[str, dict[str, Path]]:
    """Return the files of a folder, or beside a file, by name and language, where a name has several languages."""
    files: dict[str, dict[str, Path]] = {}
    named = None if path.is_dir() else _named_language(path)
    if path.is_dir() or named is not None:
        for file in sorted((path if path.is_dir() else path.parent).iterdir()):
            if file.is_file() and (name := _named_language(file)) is not None and (not named or named[0] == name[0]):
                files.setdefault(name[0], {})[name[1]] = file
    return {name: languages for name, languages in files.items() if len(languages) > 1}


def read_parallel(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read pairs of files with a sentence a line: `train.en` and `train.de` become rows of `translation`.

    Args:
        path: a folder with such files, or one of them.
        options: `encoding`; `languages`: the two that are read where there are more.

    Raises:
        UsageError: no pair of files, or more than two languages and none named.
        DataError: files with another number of lines each.
    """
    made: dict[str, Table] = {}
    for name, files in _by_name(path).items():
        languages = _two_languages(path, list(files), options.get("languages"))
        first, second = (files[language] for language in languages)
        texts = [[text for _, text in numbered_lines(file, options.get("encoding"))] for file in (first, second)]
        if len(texts[0]) != len(texts[1]):
            raise DataError(
                f"{first}: has {len(texts[0])} lines, {second} has {len(texts[1])}", hint="give both the same lines"
            )
        examples: list[Located] = [
            (number, {"translation": dict(zip(languages, pair))}) for number, pair in enumerate(zip(*texts), 1)
        ]
        split = split_named(name) or name
        remark = f"{first}: read as parallel texts, {' and '.join(languages)}: {len(examples)} pairs"
        if empty := sum(not all(text.strip() for text in pair) for pair in zip(*texts)):
            remark += f", {empty} of them with an empty side"
        made[split] = table_of(examples, first, remark)
    if not made:
        raise UsageError(f"`{path}` holds no pair of files such as train.en and train.de", hint="check the path")
    return made


def _two_languages(path: Path, present: list[str], wanted: Any) -> list[str]:
    if wanted is not None:
        chosen = wanted if isinstance(wanted, list) else str(wanted).split("-")
        if len(chosen) != 2 or not set(chosen) <= set(present):
            raise UsageError(f"`languages: {wanted}` are no two of {listed(present, 24)}", hint="write [en, de]")
        return list(map(str, chosen))
    if len(present) > 2:
        raise UsageError(
            f"`{path}` has texts in {listed(present, 24)}",
            hint=f"name two of them: `options: {{languages: [{present[0]}, {present[1]}]}}`",
        )
    return present


LAYOUTS = (
    Layout(
        "parallel",
        lambda path: bool(_by_name(path)),
        read_parallel,
        ("encoding", "languages"),
    ),
)
