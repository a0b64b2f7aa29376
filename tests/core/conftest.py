"""Fixtures of the tests of recipes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from recipe_checks import PLUGIN

from topwork import Plugins, RecipeError, load_plugins, load_recipe


@pytest.fixture(scope="session")
def recipe_plugins() -> Plugins:
    """The plugin of the tests of recipes alone."""
    return load_plugins(only=[], files=[PLUGIN])


@pytest.fixture
def check(recipe_plugins: Plugins, tmp_path: Path):
    """Load a recipe from text; with problems the answer is their list, without the folder's name."""

    def load(text: str, *overrides: str, file: str = "r.yaml"):
        path = tmp_path / file
        path.write_text(textwrap.dedent(text))
        try:
            return load_recipe(path, overrides, recipe_plugins)
        except RecipeError as error:
            return str(error).replace(f"{tmp_path}/", "").splitlines()

    return load
