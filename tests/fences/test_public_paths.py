"""What other packages and users build on stays: import paths, names, arguments, hooks, options, commands.

What is new is let through; `python tests/fences/make.py public` takes it in.
"""

from __future__ import annotations

import json

import pytest

import topwork
from fences import public, snapshots

KNOWN = snapshots.load("public")


@pytest.fixture(scope="module")
def found():
    return json.loads(json.dumps(public.everything()))


@pytest.mark.parametrize("part", KNOWN)
def test_nothing_public_is_gone_or_different(part, found) -> None:
    differences = list(public.breaks(KNOWN[part], found[part], part))
    assert not differences, snapshots.report(differences, "public")


@pytest.mark.parametrize("path", public.PATHS)
def test_a_public_import_path_has_its_names(path) -> None:
    assert [name for name in public.PATHS[path] if not hasattr(__import__(path, fromlist=["_"]), name)] == []


def test_the_names_at_two_paths_are_one_thing() -> None:
    from topwork.plugins import load_plugins
    from topwork.recipe import Recipe
    from topwork.runs import Run
    from topwork_tasks.sequence_to_sequence import Column, SequenceToSequence

    assert (load_plugins, Recipe, Run) == (topwork.load_plugins, topwork.Recipe, topwork.Run)
    assert Column is topwork.Column and issubclass(SequenceToSequence, topwork.Task)


def test_what_is_new_is_no_break() -> None:
    known = {"f": ["a", "b=1"], "x": "string"}
    assert list(public.breaks(known, {"f": ["a", "new=0", "b=1"], "x": "string", "y": 1})) == []
    assert list(public.breaks(known, {"f": ["b=1", "a"]})) == [
        " / f was ['a', 'b=1'], is ['b=1', 'a']",
        " / x is gone",
    ]
