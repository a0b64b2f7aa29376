"""Lines of Python's own standard library with the role of every token: tagged text that is on every machine.

A name's role hangs on what stands around it (`open` is a call, an attribute, a parameter ...), so looking words up is
not enough. Split by module; a line that stands in a training module too is no test row. How much there is depends on
the version of Python.
"""

from __future__ import annotations

import io
import keyword
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROLES = str.split(
    "O keyword function class call method attribute parameter argument module decorator variable number string operator"
)
_MODULES = str.split(
    "argparse bdb bisect calendar cmd code codecs configparser contextlib copy csv dataclasses difflib dis doctest "
    "enum fileinput filecmp fnmatch fractions ftplib functools getopt glob gzip heapq hmac imaplib inspect ipaddress "
    "linecache locale mailbox mimetypes netrc numbers operator optparse os pdb pickle pickletools platform plistlib "
    "poplib pprint profile pstats queue random reprlib runpy sched selectors shelve shlex shutil smtplib socket "
    "socketserver statistics string subprocess tarfile tempfile textwrap threading timeit tokenize trace traceback "
    "types typing uuid warnings wave weakref webbrowser zipapp zipfile"
)
_SHORTEST, _LONGEST = 4, 40
_LAYOUT = {tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.COMMENT, tokenize.ENCODING, tokenize.ENDMARKER}


def python_tokens_dataset(split: str) -> Any:
    """Return the rows of `python_tokens` of a split, "train" or "test"; the tags are a `ClassLabel` of `ROLES`."""
    import datasets

    words, tags = datasets.List(datasets.Value("string")), datasets.List(datasets.ClassLabel(names=ROLES))
    features = datasets.Features({"words": words, "tags": tags})
    return datasets.Dataset.from_list(python_tokens(split), features=features)


def python_tokens(split: str) -> list[dict[str, list[str]]]:
    """Return rows {"words", "tags"} of a logical line of code each; strings are shortened to `"..."`."""
    training = _lines("train")
    rows = training
    if split == "test":
        rows = {words: tags for words, tags in _lines("test").items() if words not in training}
    return [{"words": list(words), "tags": tags} for words, tags in rows.items()]


def module_sources(split: str) -> Iterator[tuple[str, str]]:
    """Yield names and sources of the modules of a split that this version of Python has."""
    test = set(_MODULES[::6])
    folder = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(test) if split == "test" else [name for name in _MODULES if name not in test]:
        file = next((path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.is_file()), None)
        if file is not None:
            yield name, file.read_text(encoding="utf-8")


def _lines(split: str) -> dict[tuple[str, ...], list[str]]:
    """Return distinct lines, as words and their roles, in the order of their first occurrence."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for _, source in module_sources(split):
        for line in _logical(source):
            if _SHORTEST <= len(line) <= _LONGEST:
                words = tuple('"..."' if kind == tokenize.STRING else word for kind, word in line)
                lines.setdefault(words, _roles(line))
    return lines


def _logical(source: str) -> Iterator[list[tuple[int, str]]]:
    line: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            yield line
            line = []
        elif token.type not in _LAYOUT:
            line.append((token.type, token.string))
    if line:
        yield line


def _roles(line: list[tuple[int, str]]) -> list[str]:
    words = [word for _, word in line]
    heads = ("def", "class", "import", "from", "@")
    head = next((word for word in words[:2] if word in heads), "")
    depth, roles = 0, []
    for position, (kind, word) in enumerate(line):
        before = words[position - 1] if position else ""
        after = words[position + 1] if position + 1 < len(words) else ""
        if kind == tokenize.NAME:
            roles.append(_name_role(word, before, after, head, depth))
        else:
            named = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}
            roles.append(named.get(kind, "O"))
            depth += (word in "([{") - (word in ")]}") if kind == tokenize.OP else 0
    return roles


def _name_role(word: str, before: str, after: str, head: str, depth: int) -> str:
    """Return the role by the first rule that applies."""
    rules = (
        (keyword.iskeyword(word), "keyword"),
        (before == "def", "function"),
        (before == "class", "class"),
        (head in ("import", "from"), "module"),
        (head == "@", "decorator"),
        (head == "def" and depth == 1 and before in ("(", ",", "*", "**"), "parameter"),
        (before == "." and after == "(", "method"),
        (before == ".", "attribute"),
        (after == "(", "call"),
        (depth > 0 and after == "=" and before in ("(", ","), "argument"),
    )
    return next((role for fits, role in rules if fits), "variable")
