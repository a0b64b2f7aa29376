"""Stand-ins for the packages of weights that recipes name and that are no dependency of the tests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

_NAMED = re.compile(r"package:(\w+)/?([\w/]*)")


def make_packages(recipes: Iterable[Path], folder: Path, model: PreTrainedModel) -> None:
    """Make every package of weights that some recipes name, each with the same small model.

    Args:
        recipes: the files of recipes.
        folder: where the packages are made; it is to be the first of `sys.path`.
        model: what each package brings, in the folder that the recipe names.
    """
    named = {found for file in recipes for found in _NAMED.findall(file.read_text(encoding="utf-8"))}
    for package, inside in named:
        model.save_pretrained(folder / package / inside)
        (folder / package / "__init__.py").touch()
