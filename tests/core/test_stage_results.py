"""Results of stages: built-in ones keep `topwork.StageResult`, and the page claims nothing that a stage does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import datasets
import engine_plugin
import pytest
import report_run
from pydantic import Field
from tiny_bases import BASES

import topwork
from topwork import PluginError, Stage, hookimpl
from topwork.testing import check_stage_result


def unmasked(value: Any) -> Any:
    """Return a golden result with a number for each of the differences, which it does not keep."""
    if isinstance(value, list):
        return [unmasked(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: 0.0 if (key, part) == ("difference", "...") else unmasked(part) for key, part in value.items()}


GOLDEN = json.loads((Path(__file__).parents[1] / "fences/golden.json").read_text())
RESULTS = {
    f"{name}/{index}-{record['stage']}": unmasked(record["result"])
    for name, run in GOLDEN["runs"].items()
    for index, record in enumerate(run["stages"])
}
BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}


class Probe(Stage):
    """Measure a linear probe of the features, by a metric that has the name of the task's own."""

    name: ClassVar[str] = "probe"

    result: dict[str, Any] = Field(default_factory=dict, description="what it returns beside the metric")

    def __call__(self, run):
        return {"metrics": {run.task.metric().primary: 0.5781}, **self.result}


class Broken(Stage):
    """Return no dict."""

    name: ClassVar[str] = "broken"

    def __call__(self, run):
        return ["no dict"]


class Probes:
    """A plugin of another package."""

    @hookimpl
    def register_stages(self):
        """Return the stages."""
        return [Probe, Broken]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe without its stages; the working directory is empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    datasets.Dataset.from_list(engine_plugin.point_rows(12)).to_json(tmp_path / "rows.jsonl")
    rows = {role: str(tmp_path / "rows.jsonl") for role in ("train", "evaluate")}
    return {"name": "probed", "task": "points", "base": BASE, "data": rows}


@pytest.fixture(scope="module")
def plugins():
    """Return everything that is installed, the test's task, and the stages of this file."""
    return topwork.load_plugins(extra=[engine_plugin, Probes()])


@pytest.mark.parametrize("name", RESULTS)
def test_the_result_of_a_built_in_stage_keeps_the_contract(name):
    check_stage_result(RESULTS[name])


def test_the_summary_shows_what_the_metrics_leave_out():
    """Spans that tags cannot express; what a perplexity is of."""
    from topwork.console import numbers_in

    spans = [{"start": 0, "end": 4, "label": "PER"}, {"start": 4, "end": 7, "label": "PER"}]
    good = {"text": "in Oslo", "spans": [{"start": 3, "end": 7, "label": "PER"}]}
    work = topwork.build("token-classification", BASES["token-classification"], rows=[good])
    result = work.apply("evaluate", {"evaluate": [good, {"text": "AnnaBob left", "spans": spans}]})
    assert "inexpressible_spans 2" in numbers_in(result)
    rows = [{"text": "once upon a time"}] * 2
    for options, shown in (({}, "single texts"), ({"packing": True}, "texts packed into blocks of 256 tokens")):
        work = topwork.build("text-generation", BASES["text-generation"], rows=rows, **options)
        assert f"perplexity of {shown}" in numbers_in(work.apply("evaluate", {"evaluate": rows}))


def test_the_stages_that_change_a_model_say_how():
    changes = {name.split("-", 1)[1]: result.get("change") for name, result in RESULTS.items()}
    assert changes["train"] == "training"
    assert changes["prune_heads"] == "pruning"
    assert changes["mask_heads"] == "masking"
    assert changes["evaluate"] is changes["head_importance"] is None
    searched = next(result for name, result in RESULTS.items() if name == "stages/5-prune_schedule")
    assert "removal" not in searched and "change" not in searched  # `prune: false` leaves the model as it is


def test_no_card_is_made_of_a_probe_whose_metric_has_the_name_of_the_primary_one(recipe, plugins, tmp_path):
    stages = [{"probe": {"result": {"measures": "probe"}}}, {"train": {"steps": 1}}, "evaluate", "probe", "report"]
    run = topwork.run({**recipe, "stages": stages}, plugins=plugins, quiet=True)
    html = (run.root / "report.html").read_text()
    cards = report_run.Reader(html[html.index('<div class="story">') : html.index("</ol></div>") + len("</ol></div>")])
    assert cards.count("li") == 1
    assert cards.text.split(" stage ")[0].startswith("Accuracy After training")
    assert 0.5781 not in cards.values
    assert 0.5781 in report_run.Reader(html).values  # it stands in the section of its stage


def test_a_stage_that_returns_no_dict_is_named(recipe, plugins):
    message = "stage broken: the stage must return a dict of JSON values, it returned list"
    with pytest.raises(PluginError, match=message):
        topwork.run({**recipe, "stages": ["broken"]}, plugins=plugins, quiet=True)


ENDLESS: dict = {}
ENDLESS["within"] = ENDLESS


class Odd(Stage):
    """Returns what the test wants, and leaves the model that it wants."""

    name = "odd"
    result: ClassVar[Any] = {}
    left: ClassVar[Any] = "the same"

    def __call__(self, run):
        if self.left != "the same":
            run.model = self.left
        return self.result


class Odds:
    @hookimpl
    def register_stages(self):
        return [Odd]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"a": object()}, "object is not JSON"),
        ({"a": [{"b": object}]}, "type is not JSON"),
        ({"a": 1j}, "complex is not JSON"),
        (ENDLESS, "values within each other without end"),
    ],
)
def test_a_stage_whose_result_is_not_json_is_named(result, message, recipe, monkeypatch):
    monkeypatch.setattr(Odd, "result", result)
    plugins = topwork.load_plugins(extra=[engine_plugin, Odds()])
    with pytest.raises(PluginError, match=f"stage odd: the stage must return a dict of JSON values.*{message}"):
        topwork.run({**recipe, "stages": ["odd"]}, plugins=plugins, quiet=True)


@pytest.mark.parametrize("left", [None, "model", 5], ids=repr)
def test_a_stage_that_leaves_no_model_is_named(left, recipe, monkeypatch):
    monkeypatch.setattr(Odd, "left", left)
    plugins = topwork.load_plugins(extra=[engine_plugin, Odds()])
    with pytest.raises(PluginError, match=f"stage odd: the stage left no torch module.*{type(left).__name__}"):
        topwork.run({**recipe, "stages": ["odd"]}, plugins=plugins, quiet=True)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"metrics": [0.5]}, "`metrics`: Input should be a valid dictionary"),
        ({"metrics": {"a": "high"}}, "`metrics.a`: Input should be a valid number, it is 'high'"),
        ({"metrics": {"a": 1.0}, "primary": "b"}, "`primary` is 'b', which is none of `metrics`"),
        ({"removal": {"before": 3}}, "`removal` has no 'after'"),
        ({"removal": {"before": 3, "after": 4}}, "more parts than before"),
        ({"removal": {"before": 3.5, "after": 1}}, "`removal.before`: Input should be a valid integer"),
        ({"head_maps": [{"key": "scores"}], "layers": [{"path": "a"}]}, "names 'scores', which no entry"),
        ({"layers": "two"}, "`layers`: Input should be a valid list"),
        ({"own": object()}, "is JSON"),
        ("text", "must return a dict"),
    ],
)
def test_a_result_that_breaks_the_contract_is_named(result, message):
    check_stage_result({"metrics": {"a": 0.5, "empty": None}, "primary": "a", "own": {"anything": [1]}})
    with pytest.raises(AssertionError, match=message.replace("`", ".")):
        check_stage_result(result)
