"""Changed recipes of all kinds are accepted, or refused with a place and a short, printable message."""

from __future__ import annotations

import pytest
import recipe_fuzzer

from topwork import RecipeError, load_recipe


def faults(seeds: range, folder, plugins) -> dict[int, str]:
    return {seed: fault for seed, fault in recipe_fuzzer.verdicts(seeds, folder, plugins) if fault is not None}


def test_a_hundred_changed_recipes(tmp_path, plugins) -> None:
    assert faults(range(100), tmp_path, plugins) == {}


@pytest.mark.faults
def test_two_thousand_changed_recipes(tmp_path, plugins) -> None:
    """`python tests/helpers/recipe_fuzzer.py --count 20000` runs more."""
    assert faults(range(100, 2100), tmp_path, plugins) == {}


def test_a_key_with_line_ends_makes_no_second_line(tmp_path, plugins) -> None:
    (tmp_path / "r.yaml").write_text('"a\\nb: c": 1\n"x\\r\\ny": 2\ntask: fill-mask\nbase: x\nstages: [train]\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml", (), plugins)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(caught.value.problems) and all(line.startswith(f"{tmp_path}/r.yaml:") for line in lines)


def test_a_thousand_problems_are_counted_and_not_all_listed(tmp_path, plugins) -> None:
    (tmp_path / "r.yaml").write_text("".join(f"key{n}: {n}\n" for n in range(1000)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml", (), plugins)
    lines = str(caught.value).split("\n")
    assert len(caught.value.problems) > 1000 and len(lines) < 60
    assert lines[-1].endswith(f"and {len(caught.value.problems) - len(lines) + 1} more problems")
