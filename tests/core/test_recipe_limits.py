"""Recipes that are too large, too deep, circular or unprintable: one line with the place, exit code 2, at once."""

from __future__ import annotations

import json
import os
import textwrap
import time

import pytest

from topwork import RecipeError, load_recipe
from topwork.cli import main
from topwork.recipe.yaml import LARGEST, dump, read

HEAD = "task: text-classification\nbase: bert-base-uncased\nstages: [train]\n"


@pytest.fixture
def validate(tmp_path, monkeypatch, capsys):
    """`topwork validate` of a text: (exit code, lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(text: str, *options: str) -> tuple[int, list[str]]:
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        code = main(["validate", "r.yaml", *options])
        return code, capsys.readouterr().err.splitlines()

    return call


FAULTS = {
    "a merge of itself": ("a: &a {<<: *a}\n", "r.yaml:1:4: ", "an alias stands inside what it names"),
    "a merge of itself in a list": ("a: &a {<<: [*a]}\n", "r.yaml:1:4: ", "an alias stands inside"),
    "many values by merges": (
        "".join(
            f"k{n}: &k{n} {{{', '.join(f'x{m}: {{<<: *k{n - 1}}}' for m in range(9)) if n else 'a: 1'}}}\n"
            for n in range(8)
        ),
        "r.yaml:",
        "the recipe is too large",
    ),
    "many values by aliases": (
        "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9) if n else '1'}]\n" for n in range(8)),
        "r.yaml:",
        "the recipe is too large",
    ),
    "deep lists": (f"a: {'[' * 200}{']' * 200}\n", "r.yaml:1:", "more than 100 deep"),
    "deep mappings": (f"a: {'{x: ' * 200}1{'}' * 200}\n", "r.yaml:1:", "more than 100 deep"),
    "very deep lists": (f"a: {'[' * 5000}{']' * 5000}\n", "r.yaml:1:", "more than 100 deep"),
    "a long number": (f"seed: {'9' * 5000}\n", "r.yaml:1:7: ", "is not of type int"),
    "a long number in hex": (f"seed: 0x{'f' * 5000}\n", "r.yaml:1:7: ", "20000 bits"),
    "a long number in octal": (f"seed: 0o{'7' * 50}\n", "r.yaml:1:7: ", "150 bits"),
    "a control character": (f"{HEAD}name: a\x07b\n", "r.yaml:4:8: ", "U+0007 is not allowed"),
    "an escape in quotes": (f'{HEAD}name: "x"\nodd: "a\x1b[31m"\n', "r.yaml:5:8: ", "U+001B is not allowed"),
    "a decimal comma": (f"{HEAD}data: {{}}\nx: {{learning_rate: 1,5e-5}}\n", "r.yaml:5:", "write 1.5e-5"),
    "a decimal comma in the middle": (f"{HEAD}x: {{a: 0,1, b: 2}}\n", "r.yaml:4:", "write 0.1"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_it_is_refused_with_its_place(validate, kind) -> None:
    text, place, expected = FAULTS[kind]
    start = time.process_time()
    code, lines = validate(text)
    assert code == 2
    matching = [line for line in lines if line.startswith(place) and expected in line]
    assert matching, lines
    assert all(len(line) < 3000 for line in lines) and len(lines) < 20
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["a merge of itself", "deep lists", "a long number in hex", "a decimal comma"])
def test_it_is_refused_in_an_override_as_well(validate, kind) -> None:
    value = FAULTS[kind][0].splitlines()[-1].partition(": ")[2]
    code, lines = validate(HEAD, "-o", f"x={value}")
    assert code == 2
    assert any("-o x=" in line for line in lines), lines


@pytest.mark.parametrize("text", ["k{n}: 1\n", "- {n}\n"])
def test_a_large_recipe_is_counted_while_it_is_read(text) -> None:
    start = time.process_time()
    _, problems = read("".join(text.format(n=n) for n in range(150_000)), "r")
    assert f"more than {LARGEST} values" in problems[-1].message
    _, problems = read("a: " + "x" * 10_000_000, "r")
    assert "10 million characters" in problems[-1].message
    assert time.process_time() - start < 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("file", ["pipe.yaml", "/dev/zero"])
@pytest.mark.parametrize("extended", [False, True])
def test_what_has_no_end_is_refused_and_not_read(file, extended, validate, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    code, lines = validate(f"extends: {file}\n") if extended else validate(HEAD, file)
    assert code == 2
    assert any("this is no regular file but a pipe" in line or "there is no file" in line for line in lines), lines


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no descriptors as files here")
def test_a_recipe_from_the_shell_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, HEAD.encode() + b"data: {train: owner/name}\n")
    os.close(writing)
    assert load_recipe(f"/dev/fd/{reading}").task_name == "text-classification"
    os.close(reading)


@pytest.mark.parametrize("where", ["name", "base.model", "data.train.path", "stages.0.save.folder"])
def test_a_null_character_is_refused_with_its_place(where, validate) -> None:
    text = """\
        name: "<name>"
        task: fill-mask
        base: {model: "<base.model>"}
        data: {train: {path: "<data.train.path>"}}
        stages:
          - save: {folder: "<stages.0.save.folder>"}
    """
    code, lines = validate(textwrap.dedent(text.replace(f"<{where}>", r"a\0b")))
    assert code == 2
    assert any(f"{where}: a text may not hold the character U+0000" in line for line in lines), lines


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_several_bases_as_a_list_are_shown_how_they_are_written(task, validate) -> None:
    code, lines = validate(f"task: {task}\nbase: [a/b, c/d]\nstages: [save]\n")
    assert code == 2 and lines[0].startswith("r.yaml:2:1: base: several bases are no list")
    assert "`base: {encoder: ..., decoder: ...}`" in lines[0]


def test_numbers_of_64_bits_and_lists_of_many_names_are_read() -> None:
    root, problems = read(f"a: {2**64 - 1}\nb: -{2**63}\nc: [{', '.join(['n'] * 22_000)}]\nd: {{a: 1, b: 5}}\n", "r")
    assert not problems
    assert read(dump(root.plain()), "r")[0].plain() == root.plain()


@pytest.mark.parametrize(
    "path", ["~nosuchuser/x.csv", "./" + "x" * 5000 + ".csv", "a\x00b.csv", "/no/such/" + "y/" * 900]
)
@pytest.mark.parametrize("key", ["data.train.path", "base", "extends"])
def test_paths_that_no_system_can_take(tmp_path, monkeypatch, key, path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe: dict = {"task": "text-classification", "base": "bert-base-uncased", "stages": ["train"]}
    if key == "data.train.path":
        recipe["data"] = {"train": {"path": path}}
    else:
        recipe[key] = path if path.startswith((".", "~", "/")) else f"./{path}"
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert all(len(line) < 2500 for line in str(caught.value).splitlines())
    assert "\x00" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "~nosuchuser/r.yaml", "a\x1b[31m.yaml"])
def test_the_name_of_a_recipe_may_be_anything(name, capsys) -> None:
    assert main(["validate", name]) == 2
    shown = capsys.readouterr().err
    assert 0 < len(shown) < 3000 and "\x1b" not in shown
    assert main(["validate", name, "--json"]) == 2
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False and answer["problems"]


def test_a_long_chain_of_extends_is_called_what_it_is(tmp_path) -> None:
    for number in range(1500):
        (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="extend each other more than 50 deep"):
        load_recipe(tmp_path / "r0.yaml")


@pytest.mark.parametrize("text", ["a\x1b[31mred", "b\x9bx", "c\u202ed", "e" * 10_000])
def test_what_was_written_is_quoted_without_harm(text) -> None:
    recipe = {"task": text, "base": "x", "stages": [text], "data": {"columns": {text: "a"}}, text: 1}
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    shown = str(caught.value)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert all(len(line) < 3000 for line in shown.splitlines())
