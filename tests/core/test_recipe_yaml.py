"""The YAML reader against PyYAML's own safe loader, and where the two must differ."""

from __future__ import annotations

import math

import pytest
import yaml

from topwork.recipe.yaml import dump, from_python, merge, read

SAME = """
text: plain
quoted: "no"
numbers: [1, -2, 3.5, 1.0e-3, .5]
empty: null
nested: {a: {b: [1, {c: d}]}}
anchored: &anchor {x: 1, y: 2}
alias: *anchor
merged: {<<: *anchor, y: 3, z: 4}
several: {<<: [*anchor, {x: 9, w: 0}], v: 1}
block: |
  two
  lines
folded: >
  one
  line
true: false
"""


def value(text: str):
    node, problems = read(text, "f")
    assert not problems
    return node.plain()


def faults(text: str) -> list[str]:
    return [str(problem) for problem in read(text, "f")[1]]


def test_plain_yaml_is_read_as_pyyaml_reads_it() -> None:
    assert value(SAME) == yaml.safe_load(SAME)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("5.", 5.0),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("TRUE", True),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("~", None),
        ("-.inf", -math.inf),
        ("!!str 12", "12"),
    ],
)
def test_words_and_numbers(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)
    assert math.isnan(value(".nan"))


def test_places_of_keys_and_values() -> None:
    root, _ = read("a: 1\nb:\n  - x\n  - {c: 2}\n", "f")
    inner = root.get("b").get(1).get("c")
    assert (inner.key_location, inner.location, inner.start) == ("f:4:6", "f:4:9", "f:4:6")
    assert root.get("b").get(0).location == "f:3:5"
    assert root.get("b").get(7) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: 1\nb: {c: 1, c: 2}\na: 3",
            ["f:2:11: b.c: `c` is set twice (first in line 2)", "f:3:1: a: `a` is set twice"],
        ),
        ("a: !!python/object/apply:os.system ['echo']", ["f:1:4: a: the tag `!!python/object/apply:os.system` is not"]),
        ("a: !mine {b: 1}", ["f:1:4: a: the tag `!mine` is not allowed"]),
        ("a: [1, 2", ["f:1:9: not valid YAML: "]),
        ("a: 1\n b: 2", ["f:2:3: not valid YAML: "]),
        ("a: 1\n---\nb: 2", ["f:2:1: not valid YAML: "]),
        ("a: *nothing", ["f:1:4: not valid YAML: found undefined alias"]),
        ("a: &x [*x]", ["f:1:4: a.0: an alias stands inside what it names"]),
        ("? [a]\n: 1", ["f:1:3: a key must be a plain word"]),
        ("a: {<<: 3}", ["f:1:9: a: `<<` takes a mapping"]),
        ("a: !!int x", ["f:1:4: a: `x` is not of type int"]),
        ("a: \x07", ["f:1:4: not valid YAML: the character U+0007 is not allowed"]),
        ("[" * 5000, ["f:1:101: the recipe is too large: nested more than 100 deep"]),
    ],
)
def test_what_is_refused(text: str, expected: list[str]) -> None:
    found = faults(text)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected)), found


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (fault,) = faults("\n".join(lines))
    assert "values" in fault


@pytest.mark.parametrize(
    "example",
    [
        {
            "a": [
                "no",
                "1e-3",
                "yes",
                "0o7",
                "null",
                "~",
                "<<",
                "2024-01-01",
                "1:30",
                "",
                " x ",
                "é",
                "a: b",
                "#c",
                "!t",
            ]
        },
        {"n": [1, 1.0, 1e-5, 1e300, True, None, -0.5], "deep": [[{"x": []}], {}], 3: "number as key"},
        ["multi\nline\n", "tab\there", "'quoted'", '"double"', "x" * 300],
        [
            text.format(end)
            for end in ("\n", "\r", "\r\n", "\x85", "\u2028", "\ufeff")
            for text in ("{}", "a{}b", "{} c")
        ],
        {"a\x85b": "a key"},
    ],
)
def test_what_is_written_is_read_again(example: object) -> None:
    assert value(dump(example)) == example
    assert value(dump(example, flow=True)) == example
    assert yaml.safe_load(dump(example)) == example


def test_merge_is_deep_for_mappings_and_replaces_lists() -> None:
    below, above = (
        from_python({"a": {"x": 1, "y": 2}, "l": [1, 2], "s": 1}),
        from_python({"a": {"y": 3}, "l": [9], "n": 0}),
    )
    assert merge(below, above).plain() == {"a": {"x": 1, "y": 3}, "l": [9], "s": 1, "n": 0}
    assert below.plain()["a"] == {"x": 1, "y": 2}
