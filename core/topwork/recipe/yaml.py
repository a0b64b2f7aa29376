"""YAML with positions: text becomes a tree of plain values with their locations. Entry points: `read`, `dump`.

Read strictly and without surprises: YAML 1.2's booleans only (`no` and `on` stay words), `1e-3` is a number, a key that
stands twice is an error, dates stay text, and no tag makes an object. What the values mean is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from topwork.errors import Problem
from topwork.items import Json

KeyPath = tuple[str | int, ...]
#: values in a recipe, aliases counted as often as they are used
LARGEST = 50_000
#: characters of a recipe
LONGEST = 2_000_000
#: lists and mappings inside each other
DEEPEST = 100

_TAG = "tag:yaml.org,2002:"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """Parser of PyYAML with the plain words of YAML 1.2 that are not text, and with limits."""

    yaml_implicit_resolvers: dict = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.count = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; stop at once where the document has grown too large or too deep."""
        self.count += 1
        self.depth += 1
        if self.count > LARGEST or self.depth > DEEPEST:
            reason = f"more than {LARGEST} values" if self.count > LARGEST else f"nested more than {DEEPEST} deep"
            raise _TooLarge(reason, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TooLarge(Exception):
    """Document over a limit, with the mark of the first value beyond it."""

    def __init__(self, reason: str, mark: Any) -> None:
        super().__init__(reason)
        self.mark = mark


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes every text which this reader or a YAML 1.1 reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Return the node of a text; one with U+0085 is escaped, for YAML reads that line break as a space."""
    return dumper.represent_scalar(_TAG + "str", text, style='"' if "\x85" in text else None)


_Dumper.add_representer(str, _write_text)
for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


@dataclass
class Node:
    """Value with its location.

    Args:
        value: a dict of nodes, a list of nodes, or a plain value.
        location: where the value stands: `file:line:column`, or the text of an override.
        key_location: where its key stands, for the entry of a mapping.
    """

    value: Any
    location: str
    key_location: str = ""

    @property
    def start(self) -> str:
        """Return the location of the key if there is one, else of the value."""
        return self.key_location or self.location

    def plain(self) -> Json:
        """Return the value without locations."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def get(self, key: str | int) -> Node | None:
        """Return the entry of a mapping or list, or None."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None


def read(text: str, name: str, *, location: str | None = None) -> tuple[Node, list[Problem]]:
    """Read one YAML document.

    Args:
        text: the document.
        name: the file's name, for locations.
        location: the location of everything in it, instead of line and column (overrides).

    Returns:
        the tree (an empty mapping when the text cannot be read at all), and what is wrong with it.
    """
    reader = _Reader(name, location)
    if len(text) > LONGEST:
        size = f"{len(text) / 1e6:.0f} million characters, and a recipe has {LONGEST // 10**6} million at most"
        return Node({}, location or f"{name}:1:1"), [Problem(location or name, "", f"too large: {size}")]
    try:
        root = _Loader(text).get_single_node()
        if root is None:
            return Node(None, location or f"{name}:1:1"), []
        return reader.node(root, (), ()), reader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" ({error.context})" if error.context else ""
        where = reader.location(mark) if mark else name
        problem = Problem(where, "", f"not valid YAML: {error.problem}{context}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        character = f"the character U+{ord(text[error.position]):04X} is not allowed"
        problem = Problem(location or f"{name}:{line}:{column}", "", f"not valid YAML: {character}")
    except _TooLarge as error:
        problem = Problem(reader.location(error.mark), "", f"the recipe is too large: {error}")
    return Node({}, location or f"{name}:1:1"), [*reader.problems, problem]


class _Reader:
    """Converter of PyYAML's nodes into `Node`; collects the problems."""

    def __init__(self, name: str, fixed: str | None) -> None:
        self.name, self.fixed = name, fixed
        self.problems: list[Problem] = []
        self.count = 0

    def location(self, mark: Any) -> str:
        return self.fixed or f"{self.name}:{mark.line + 1}:{mark.column + 1}"

    def fault(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.location(node.start_mark), dotted(path), message))

    def node(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...]) -> Node:
        location = self.location(node.start_mark)
        self.count += 1
        if id(node) in above:
            self.fault(node, path, "an alias stands inside what it names")
            return Node(None, location)
        if self.count > LARGEST:
            raise _TooLarge(f"more than {LARGEST} values, those of aliases counted each time", node.start_mark)
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode) and self._tag(node, path, "map"):
            return Node(self._mapping(node, path, above), location)
        if isinstance(node, yaml.SequenceNode) and self._tag(node, path, "seq"):
            return Node([self.node(entry, (*path, i), above) for i, entry in enumerate(node.value)], location)
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, path), location)
        return Node(None, location)

    def _tag(self, node: yaml.Node, path: KeyPath, *allowed: str) -> bool:
        if node.tag.removeprefix(_TAG) in allowed or node.tag == "!":
            return True
        self.fault(
            node, path, f"the tag `{node.tag.replace(_TAG, '!!')}` is not allowed: a recipe holds plain values only"
        )
        return False

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if not self._tag(node, path, "str", "null", "bool", "int", "float", "merge"):
            return None
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return self._whole(node, path)
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
        except (ValueError, KeyError):
            self.fault(node, path, f"`{text[:80]}` is not of type {kind}")
        return text

    def _whole(self, node: yaml.ScalarNode, path: KeyPath) -> int:
        text = node.value
        number = int(text, 0) if text[:2].lower() in ("0o", "0x") else int(text)
        if number.bit_length() > 64:
            self.fault(node, path, f"the number has {number.bit_length()} bits, and 64 are the most")
            return 0
        return number

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[int, ...]) -> dict[Any, Node]:
        entries: dict[Any, Node] = {}
        merged: dict[Any, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                for key, value in self._merged(value_node, path, above):
                    merged.setdefault(key, value)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, path, "a key must be a plain word")
                continue
            key = self._scalar(key_node, path)
            if self._is_decimal_comma(node, key, value_node, entries):
                before = next(reversed(entries))
                number = f"{entries[before].value}.{key_node.value}"
                self.fault(key_node, (*path, before), f"a decimal comma divides entries here; write {number}")
                continue
            if key in entries:
                first = entries[key].key_location.removeprefix(f"{self.name}:").split(":")[0]
                where = "" if self.fixed else f" (first in line {first})"
                self.fault(key_node, (*path, key), f"`{key}` is set twice{where}")
            value = self.node(value_node, (*path, key), above)
            entries[key] = replace(value, key_location=self.location(key_node.start_mark))
        return {**{key: value for key, value in merged.items() if key not in entries}, **entries}

    @staticmethod
    def _is_decimal_comma(node: yaml.MappingNode, key: Any, value: yaml.Node, entries: Mapping[Any, Node]) -> bool:
        """Return whether `{rate: 1,5e-5}` was written: a number as a key without a value, behind a whole number."""
        is_number = isinstance(key, int | float) and not isinstance(key, bool)
        empty = isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None
        if not (node.flow_style and is_number and empty and entries):
            return False
        previous = entries[next(reversed(entries))].value
        return isinstance(previous, int) and not isinstance(previous, bool)

    def _merged(self, node: yaml.Node, path: KeyPath, above: tuple[int, ...]) -> Iterator[tuple[Any, Node]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self.fault(source, path, "`<<` takes a mapping or a list of mappings")
                continue
            merged = self.node(source, path, above).value
            if isinstance(merged, dict):  # not a mapping that contains itself, which is a fault already
                yield from merged.items()


def from_python(value: Any, name: str = "recipe") -> Node:
    """Return the tree of plain Python values; every location is the name, for there is no line."""
    if isinstance(value, BaseModel):
        options = value.model_dump(mode="json", exclude_unset=True)
        title = getattr(type(value), "name", None)  # a stage knows its name, other options do not
        value = {title: options} if isinstance(title, str) else options
    if isinstance(value, Mapping):
        return Node({key: replace(from_python(entry, name), key_location=name) for key, entry in value.items()}, name)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Node([from_python(entry, name) for entry in value], name)
    return Node(str(value) if isinstance(value, Path) else value, name)


def null_characters(node: Node, path: KeyPath = ()) -> list[Problem]:
    """Return a problem for each text with the character U+0000, which no file name and no C library takes."""
    if isinstance(node.value, str):
        message = "a text may not hold the character U+0000"
        return [Problem(node.location, dotted(path), message)] if "\0" in node.value else []
    entries = enumerate(node.value) if isinstance(node.value, list) else ()
    below = node.value.items() if isinstance(node.value, dict) else entries
    return [problem for key, entry in below for problem in null_characters(entry, (*path, key))]


def merge(below: Node, above: Node) -> Node:
    """Lay `above` over `below`: mappings are merged at every depth, everything else is replaced."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    together = dict(below.value)
    for key, node in above.value.items():
        together[key] = merge(together[key], node) if key in together else node
    return replace(above, value=together)


def dump(value: Json, *, flow: bool = False) -> str:
    """Return YAML that `read` reads as the same value; with `flow` in one line, without the line's end."""
    if not flow:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("...").strip()


def dotted(path: KeyPath) -> str:
    """Return a key path as it is written in an override: `stages.0.train`."""
    return ".".join(str(part) for part in path)
