"""A seeded fuzzer of recipes: each mutant is accepted, or refused with a place and a short, printable message.

`python tests/helpers/recipe_fuzzer.py --count 20000` runs many and prints those that fail with their seeds;
`--only SEED` prints one mutant and its outcome. The recipes that are changed are the shipped ones, the starters of all
tasks, and some that are made of the options of the installed stages. A mutant is made of its seed alone.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from topwork import Plugins, RecipeError, TopworkError, load_plugins, load_recipe
from topwork.cli.starter import starter

RECIPES = Path(__file__).parents[2] / "recipes"
#: characters of one line of a refusal, and lines of a whole one
LONGEST_LINE, MOST_LINES = 3000, 120
#: seconds of CPU that a mutant may take
SLOWEST = 3.0
#: a place: file:line:column, a file with a cause, or the text of an override
_PLACE = re.compile(r"^(?:-o .*|.*?\.yaml(?::\d+:\d+)?): ", re.DOTALL)

NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**64,
    10**30,
    -(10**400),
    0.0,
    -0.5,
    1e300,
    1e-320,
    float("inf"),
    float("nan"),
    True,
    False,
)
UNITS = (
    "10 epochs",
    "1e-5s",
    "16GB",
    "50%",
    "3k",
    "1_000",
    "0,1",
    "5 min",
    "½",
    "１２",
    "1e",
    "--1",
    "0x",
    "1/2",
    "-inf",
)
WORDS = (
    "", " ", "~", "null", "yes", "No", "a b", "a/b", "../../x", "..", "\\", "'", '"', "#", ": ", "- ", "{}", "[1, 2",
    "*x", "&x", "!!python/object:os.system", "<<", "%TAG", "@", "`", "é" * 40, "नमस्ते", "𝔘𝔫𝔦", "\u202egnp.exe", "\u200b",
    "\ufeff", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x85", "\u2028", "a\nb", "a\r\nb", "\t", "\x7f", "$HOME/x.csv",
    "~nosuchuser/x.csv", "file.csv", "./no/such.csv", "sample:", "sample:nothing", "sample:rated-words", "package:",
    "package:os/x", "package:../x", "package:no_such_package/x", "http://[::1", "https://example.org/x.csv", "s3://b/k",
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "*.csv", "[", "**/[", "{role}", "%s %(x)s {0}", "timm/",
    "timm/no such", "owner/name", "FIFO", "FOLDER", "train", "evaluate", "x" * 300, "y" * 5000, "long/" * 900, "\ud83d",
)  # fmt: skip
SPLICES = ("\t", "  ", "\n", ":", ": ", "- ", "{", "}", "[", "]", ",", "#", "'", '"', "*a", "&a ", "<<: *a", "!!set ",
           "!x ", "|\n", ">\n", "%YAML 9.9\n", "---\n", "...\n", "\x00", "\x07", "\x1b", "\u2028", "\ufeff", "é", "\\x",
           "@", "`", "~", "null", "0o9", "1:30", "\r", "\r\n", "\x85", "\ud800")  # fmt: skip
KEYS = ("task", "task.name", "base.model", "data.train.path", "data.columns.text", "stages.0", "stages.train.epochs",
        "a.b", "stages.9.x", "seed", "data.evaluate.cut", "stages", "", ".", "stages.-1", "\x1b[31m")  # fmt: skip
Tree = Any


# ------------------------------------------------------------------ recipes to begin with


def seeds(plugins: Plugins) -> list[str]:
    """Return the texts that are changed: shipped recipes and starters."""
    shipped = [file.read_text(encoding="utf-8") for file in sorted(RECIPES.glob("*.yaml"))]
    starters = [starter(task, "bert-base-uncased", plugins, "x.yaml") for _, task in sorted(plugins.tasks.items())]
    return [*shipped, *starters]


def generated(chance: random.Random, plugins: Plugins) -> Tree:
    """Return a recipe of random options of a random task and of random stages."""
    task = chance.choice(sorted(plugins.tasks))
    stages: list[Tree] = []
    for _ in range(chance.randrange(1, 6)):
        name = chance.choice(sorted(plugins.stages))
        fields = sorted(plugins.stages[name].model_fields)
        chosen = chance.sample(fields, chance.randrange(len(fields) + 1))
        stages.append({name: {field: value(chance, 2) for field in chosen}} if chosen else name)
    fields = sorted(plugins.tasks[task].Options.model_fields)
    options = {field: value(chance, 2) for field in chance.sample(fields, chance.randrange(len(fields) + 1))}
    roles = {role: value(chance, 2) for role in chance.sample(["train", "evaluate", "calibrate", "predict"], 2)}
    tree = {"task": {"name": task, **options}, "base": value(chance, 2), "data": roles, "stages": stages}
    return {**tree, "seed": value(chance, 0)} if chance.random() < 0.3 else tree


def value(chance: random.Random, depth: int) -> Tree:
    """Return a value of any type, nested `depth` deep at most."""
    kind = chance.randrange(4 + 2 * (depth > 0))
    if kind == 0:
        return chance.choice(NUMBERS)
    if kind == 1:
        return chance.choice(UNITS)
    if kind in (2, 3):
        return chance.choice((*WORDS, None))
    size = chance.randrange(4)
    if kind == 4:
        return [value(chance, depth - 1) for _ in range(size)]
    return {
        chance.choice((*WORDS[:30], "path", "cut", "model", "kind", 3)): value(chance, depth - 1) for _ in range(size)
    }


# ------------------------------------------------------------------ changes of the tree


def nodes(tree: Tree) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value of a tree."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [entry for key, below in pairs for entry in [(tree, key), *nodes(below)]]


def replaced(chance: random.Random, tree: Tree) -> None:
    holder, key = chance.choice(nodes(tree))
    holder[key] = value(chance, 3)


def nested(chance: random.Random, tree: Tree) -> None:
    holder, key = chance.choice(nodes(tree))
    for _ in range(chance.choice((1, 1, 2, 30, 99, 120, 300))):
        holder[key] = [holder[key]] if chance.random() < 0.5 else {chance.choice(("model", "x", "path")): holder[key]}


def removed(chance: random.Random, tree: Tree) -> None:
    holder, key = chance.choice(nodes(tree))
    del holder[key]


def renamed(chance: random.Random, tree: Tree) -> None:
    places = [(holder, key) for holder, key in nodes(tree) if isinstance(holder, dict)]
    holder, key = chance.choice(places)
    text = str(key)
    cut = chance.randrange(len(text) + 1)
    name = chance.choice(
        (text[:cut] + text[cut + 1 :], text.upper(), text + "s", chance.choice(WORDS), 3, None, True, 1.5)
    )
    holder[name] = holder.pop(key)


def added(chance: random.Random, tree: Tree) -> None:
    holder, _ = chance.choice(nodes(tree))
    for _ in range(chance.choice((1, 1, 3, 400))):
        if isinstance(holder, dict):
            holder[chance.choice(WORDS) + str(chance.randrange(1000))] = value(chance, 1)
        else:
            holder.insert(chance.randrange(len(holder) + 1), value(chance, 1))


def swapped(chance: random.Random, tree: Tree) -> None:
    (left, name), (right, other) = chance.choice(nodes(tree)), chance.choice(nodes(tree))
    left[name], right[other] = yaml.safe_load(yaml.safe_dump([right[other], left[name]]))


def shuffled_stages(chance: random.Random, tree: Tree) -> None:
    stages = tree.get("stages")
    if isinstance(stages, list):
        chance.shuffle(stages)
        tree["stages"] = stages[: chance.randrange(len(stages) + 1)] + stages[: chance.choice((0, 1, 200))]


TREE_CHANGES: tuple[Callable[[random.Random, Tree], None], ...] = (
    replaced, replaced, replaced, nested, removed, renamed, renamed, added, swapped, shuffled_stages,
)  # fmt: skip


# ------------------------------------------------------------------ changes of the text


def changed_text(chance: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    position = chance.randrange(len(text))
    kind = chance.randrange(8)
    if kind == 0:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        del lines[first]
    elif kind == 3:
        lines[first] = chance.choice(("\t", " ", "    ")) + lines[first].lstrip()
    elif kind == 4:
        return text[:position]
    elif kind == 5:
        return text[:position] + text[position + chance.choice((1, 1, 2, 9)) :]
    else:
        return text[:position] + chance.choice(SPLICES) * chance.choice((1, 1, 1, 2, 150)) + text[position:]
    return "".join(lines)


def mutant(seed: int, texts: list[str], plugins: Plugins, folder: Path) -> tuple[str, list[str]]:
    """Return the text and the overrides of the mutant of a seed."""
    chance = random.Random(seed)
    text = chance.choice(texts)
    overrides: list[str] = []
    kind = chance.randrange(10)
    if kind < 6:
        tree = generated(chance, plugins) if kind == 0 else yaml.safe_load(text)
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            try:
                chance.choice(TREE_CHANGES)(chance, tree)
            except (IndexError, KeyError, ValueError, TypeError, yaml.YAMLError, RecursionError):
                continue  # nothing is left to change, or one part lay in the other
        try:
            text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=chance.random() < 0.5)
        except RecursionError:  # deeper than PyYAML writes
            text = f"task: {'{x: ' * 400}1{'}' * 400}\n"
    elif kind < 9:
        for _ in range(chance.choice((1, 1, 2, 4))):
            text = changed_text(chance, text) or "\n"
    else:
        overrides = [f"{chance.choice(KEYS)}{chance.choice(('=', '=', '=', ''))}{value(chance, 2)}" for _ in range(2)]
    for name in ("FIFO", "FOLDER"):
        text = text.replace(name, str(folder / name))
    return text, overrides


# ------------------------------------------------------------------ the verdict


def fault_of(text: str, overrides: list[str], plugins: Plugins, folder: Path) -> str | None:
    """Return what is wrong with how a recipe is taken, or None."""
    file = folder / "mutant.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    start = time.process_time()
    try:
        recipe = load_recipe(str(file), overrides, plugins)
        written = recipe.to_yaml()
        file.write_text(written, encoding="utf-8")
        if load_recipe(str(file), (), plugins).to_yaml() != written:
            return "accepted, but written out and read again it is another recipe"
    except RecipeError as error:
        complaints = [fault_of_line(line) for line in str(error).split("\n") if line]
        unplaced = [str(problem) for problem in error.problems if not problem.place]
        if unplaced:
            return f"no place: {unplaced[0]!r}"
        if len(complaints) > MOST_LINES:
            return f"{len(complaints)} lines"
        if faults := [complaint for complaint in complaints if complaint]:
            return faults[0]
    except TopworkError as error:
        if not error.place and not overrides:
            return f"no place: {error}"
        return fault_of_line(str(error), placed=False)
    except Exception as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else ""
        return f"{type(error).__name__} at {where}: {str(error)[:200]!r}"
    seconds = time.process_time() - start
    return f"{seconds:.1f} s" if seconds > SLOWEST else None


def fault_of_line(line: str, *, placed: bool = True) -> str | None:
    if any(not character.isprintable() and character not in "\n\t" for character in line):
        return f"not printable: {line[:200]!r}"
    if len(line) > LONGEST_LINE:
        return f"{len(line)} characters in a line: {line[:100]!r}"
    if placed and not _PLACE.match(line):
        return f"no place: {line[:200]!r}"
    return None


def verdicts(seed_range: range, folder: Path, plugins: Plugins) -> Iterator[tuple[int, str | None]]:
    """Yield each seed with what is wrong with how its mutant was taken, or None."""
    texts = seeds(plugins)
    (folder / "FOLDER").mkdir(exist_ok=True)
    if not (folder / "FIFO").exists():
        os.mkfifo(folder / "FIFO")
    for seed in seed_range:
        text, overrides = mutant(seed, texts, plugins, folder)
        yield seed, fault_of(text, overrides, plugins, folder)


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    asked, plugins = parser.parse_args(), load_plugins()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.only is not None:
            text, overrides = mutant(asked.only, seeds(plugins), plugins, folder)
            print(text, overrides, sep="\n")
            asked.first, asked.count = asked.only, 1
        kinds: Counter[str] = Counter()
        start = time.process_time()
        for seed, fault in verdicts(range(asked.first, asked.first + asked.count), folder, plugins):
            if fault is not None:
                kind = re.sub(r"\d+", "N", fault)[:160]
                kinds[kind] += 1
                if kinds[kind] <= 3:
                    print(f"seed {seed}: {fault}", flush=True)
        print(f"{asked.count} mutants, {sum(kinds.values())} failures of {len(kinds)} kinds, "
              f"{time.process_time() - start:.0f} s of CPU")  # fmt: skip
    return bool(kinds)


if __name__ == "__main__":
    sys.exit(main())
