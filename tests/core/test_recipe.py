"""Recipes from files, dicts and Python objects: what they come to, and that they load again to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_checks import GOOD, PLUGIN

from topwork import BaseOptions, Plugins, Recipe, RecipeError, UsageError, hookimpl, load_plugins, load_recipe
from topwork.recipe.recipe import make_base_options, make_stage, make_task_options

# ------------------------------------------------------------------ what is right


def test_a_recipe_and_its_defaults(check) -> None:
    recipe = check(GOOD)
    assert (recipe.task_name, recipe.task_options.length, recipe.name, recipe.seed) == ("toy-task", 16, "r", 0)
    assert recipe.bases == {"base": BaseOptions(model="some/model")}
    assert [stage.name for stage in recipe.stages] == ["learn", "measure", "learn", "score"]
    assert (recipe.stages[0].epochs, recipe.stages[0].rate, recipe.stages[2].epochs) == (3, 0.001, 1)
    assert (recipe.data.train.limit, recipe.data.evaluate.cut, recipe.data.columns) == (10, 0.1, {"text": "body"})
    assert recipe.plugin_files == [PLUGIN]


def test_the_resolved_recipe_loads_again_to_the_same(check) -> None:
    recipe = check(GOOD.replace("body", "'1e-3'"), "base.revision='no'", "description=on", "stages.0.learn.stop=2")
    again = check(recipe.to_yaml(), file="again.yaml")
    again.source = recipe.source
    assert again == recipe
    assert (again.data.columns["text"], again.bases["base"].revision) == ("1e-3", "no")
    assert "warmup: 0.1" in recipe.to_yaml()


def test_a_dict_a_recipe_and_python_objects(check, recipe_plugins: Plugins) -> None:
    recipe = check(GOOD)
    as_dict = load_recipe(recipe.to_dict(), (), recipe_plugins)
    assert as_dict.stages == recipe.stages
    assert load_recipe(recipe, (), recipe_plugins) is recipe
    assert load_recipe(recipe, ["seed=7"], recipe_plugins).seed == 7
    stages = [make_stage("learn", {"epochs": 2}, recipe_plugins), "measure"]
    mixed = load_recipe({**recipe.to_dict(), "stages": stages}, (), recipe_plugins)
    assert mixed.stages[0].epochs == 2
    with pytest.raises(RecipeError, match=r"recipe: stages\.learn\.epoch: unknown key `epoch`; did you mean `epochs`"):
        load_recipe({**recipe.to_dict(), "stages": [{"learn": {"epoch": 1}}]}, (), recipe_plugins)


def test_a_recipe_without_data_is_for_rows_in_memory(recipe_plugins: Plugins) -> None:
    toy, pair = recipe_plugins.task("toy-task"), recipe_plugins.task("toy-pair")
    recipe = Recipe.make(toy, "some/model", {"length": 4}, stages=[make_stage("learn", {}, recipe_plugins)])
    assert (recipe.task_options.length, recipe.data.train) == (4, None)
    assert load_recipe(recipe, ["stages.learn.epochs=2"], recipe_plugins).stages[0].epochs == 2
    with pytest.raises(UsageError, match="reader, writer"):
        Recipe.make(pair, "some/model")
    assert set(Recipe.make(pair, {"reader": "a", "writer": "b"}).bases) == {"reader", "writer"}
    with pytest.raises(RecipeError, match="did you mean `length`"):
        Recipe.make(toy, "some/model", {"lenght": 4})


def test_options_made_one_by_one(recipe_plugins: Plugins) -> None:
    assert make_task_options("toy-task", {"length": 3}, recipe_plugins).length == 3
    assert make_base_options("some/model").model == "some/model"
    with pytest.raises(RecipeError, match="stage learn: epochs: should be a valid integer, not `x`"):
        make_stage("learn", {"epochs": "x"}, recipe_plugins)
    with pytest.raises(RecipeError, match="base: give either `model`"):
        make_base_options({"revision": "main"})
    with pytest.raises(UsageError, match="did you mean `learn`"):
        make_stage("lern", {}, recipe_plugins)


def test_two_bases(check) -> None:
    text = GOOD.replace("toy-task, length: 16", "toy-pair").replace("some/model", "{reader: a, writer: {model: b}}")
    assert {role: base.model for role, base in check(text).bases.items()} == {"reader": "a", "writer": "b"}
    assert check(text, "base.reader.dtype=float16").bases["reader"].dtype == "float16"
    assert check(text.replace("writer: {model", "wirter: {model")) == [
        "r.yaml:2:1: base.writer: `writer` is missing: this task needs reader, writer",
        "r.yaml:2:19: base.wirter: unknown key `wirter`; did you mean `writer`?",
    ]
    assert check(text.replace("{reader: a, writer: {model: b}}", "a")) == [
        "r.yaml:2:1: base: this task needs one base for each of reader, writer"
    ]


# ------------------------------------------------------------------ extends


def test_extends_lays_one_recipe_over_another(check, tmp_path: Path) -> None:
    check(GOOD, file="below.yaml")
    recipe = check("extends: below.yaml\ntask: {length: 5}\ndata: {train: {limit: 3}}\nstages: [learn]\n")
    assert (recipe.task_name, recipe.task_options.length, recipe.name) == ("toy-task", 5, "r")
    assert (recipe.data.train.path, recipe.data.train.limit, recipe.data.evaluate.cut) == ("sample:words", 3, 0.1)
    assert [stage.name for stage in recipe.stages] == ["learn"]
    faults = check("extends: below.yaml\ntask: {length: x}\n", "data.evaluate.cut=x")
    assert [fault.split(": ")[0] for fault in faults] == ["-o data.evaluate.cut=x", "r.yaml:2:16"]


def test_faults_below_are_said_where_they_stand(check) -> None:
    check(GOOD.replace("epochs: 3", "epochs: x"), file="below.yaml")
    (fault,) = check("extends: below.yaml\nseed: 1\n")
    assert fault.startswith("below.yaml:8:21: stages.0.learn.epochs")


def test_extends_in_a_circle_and_of_nothing(check) -> None:
    check("extends: b.yaml\n", file="a.yaml")
    faults = check("extends: a.yaml\n" + GOOD, file="b.yaml")
    assert faults == ["a.yaml:1:10: extends: the recipes extend each other in a circle: b.yaml -> a.yaml -> b.yaml"]
    assert check("extends: nothing.yaml\n" + GOOD)[0].startswith(
        "r.yaml:1:10: extends: there is no file `nothing.yaml`"
    )


def test_shipped_recipes_by_name(tmp_path: Path, recipe_plugins: Plugins) -> None:
    class Shipping:
        @hookimpl
        def register_recipes(self):
            return [tmp_path]

    (tmp_path / "start_here.yaml").write_text(GOOD)
    with_recipes = load_plugins(only=[], files=[PLUGIN], extra=[Shipping()])
    recipe = load_recipe("start_here", (), with_recipes)
    assert (recipe.name, recipe.source) == ("start_here", str(tmp_path / "start_here.yaml"))
    over = load_recipe({"extends": "start_here", "seed": 4}, (), with_recipes)
    assert (over.seed, over.task_name) == (4, "toy-task")
    with pytest.raises(UsageError, match="did you mean `start_here`"):
        load_recipe("start_her", (), with_recipes)
    with pytest.raises(UsageError, match=r"no file `start_here\.yml`; did you mean `start_here`"):
        load_recipe("start_here.yml", (), with_recipes)


@pytest.mark.usefixtures("recipe_weights")
def test_every_shipped_recipe_is_valid_and_opens_with_its_command() -> None:
    everything = load_plugins()
    for name, path in everything.recipes.items():
        assert load_recipe(name, (), everything).stages, name
        assert path.read_text().startswith("# topwork run "), name
