"""`topwork evaluate`: states of metrics as JSON, their merging over shards, standard errors."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy
import pytest
from tiny_bases import BASES

import topwork
from topwork import CheckpointError, MeanMetric, Metric, UsageError
from topwork.cli import main
from topwork.shards.description import Description
from topwork.shards.measuring import group_of_rows, jackknife_error, measure_rows, measure_shards
from topwork.shards.metric_states import metric_state, restore_metric
from topwork.shards.sources import Sources
from topwork.shards.worker import Worker

LABELS = ("good", "bad", "mixed")


def through_json(metric: Metric, fresh: Metric, new: Metric) -> Metric:
    return restore_metric(new, json.loads(json.dumps(metric_state(metric, fresh))), Path("states.json"))


def equal(first: object, second: object) -> bool:
    """Equal, with NaN equal to NaN."""
    return repr(first) == repr(second)


@pytest.fixture(scope="module", params=sorted(topwork.load_plugins().tasks))
def work_and_rows(request):
    """A model of each task, and its example rows, each twice."""
    task = topwork.load_plugins().task(request.param)
    rows = [row for row in task.example_rows() for _ in range(2)][:9]
    return topwork.build(request.param, BASES[request.param], rows=rows), rows


def test_the_metric_of_every_task_goes_through_json(work_and_rows):
    work, rows = work_and_rows
    whole, parts = work.task.metric(), [work.task.metric() for _ in range(3)]
    for index, row, prediction in work.predictions(rows):
        whole.update({**rows[index], **row}, prediction)
        parts[index // 3].update({**rows[index], **row}, prediction)
    fresh, merged, plain = (work.task.metric() for _ in range(3))
    for part in parts:
        again = through_json(part, fresh, work.task.metric())
        assert equal(metric_state(again, fresh), metric_state(part, fresh))
        merged.merge(again)
        plain.merge(part)
    assert equal(merged.result(), plain.result())
    expected = whole.result()
    for key in whole.keys:
        assert merged.result()[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-9, nan_ok=True)


def test_shards_of_every_task_measure_what_one_process_does(work_and_rows, tmp_path):
    work, rows = work_and_rows
    settings = {"on_error": "raise", "items": 3, "precision": "float32"}
    sources = Sources([rows[:2], rows[2:]], type(work.task), {}, targets=True)
    alone = measure_rows(work, sources, settings, 4)
    worker = Worker(tmp_path / "out", Description("evaluate", "model", ["rows"], len(rows)), shards=3)
    divided = measure_shards(worker, work, sources, settings, 4, print)
    assert (divided["rows"], divided["shards"]) == (alone["rows"], 3)
    for kind in ("metrics", "standard_errors"):
        assert divided[kind].keys() == alone[kind].keys()
        for key, value in alone[kind].items():
            known = value is not None and not math.isnan(value)
            expected = pytest.approx(value, rel=1e-6, abs=1e-9) if known else None  # JSON has no NaN
            assert divided[kind][key] == expected, (kind, key)


class Odd(Metric):
    keys, primary = ("n",), "n"

    def __init__(self, state):
        self.state = state

    def update(self, row, prediction):
        self.state = row

    def merge(self, other):
        self.state = other.state

    def result(self):
        return {"n": 0.0}


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -0.0, 1e300, 0.1 + 0.2, math.inf, "text", b"\x00\xff", [1, [2.5]], (1, "a"), {"a": {1: 2}}),
        *({(1, "a"): 2.0}, {1, 2}, Counter("abba"), numpy.float32(0.1), numpy.arange(6, dtype=numpy.int16)[::2]),
        numpy.zeros((0, 4), numpy.float32),
        [(numpy.ones((2, 2), bool), "x")],
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(value):
    again = through_json(Odd(value), Odd(None), Odd(None)).state
    assert type(again) is type(value) and repr(again) == repr(value)
    if isinstance(value, numpy.ndarray | numpy.generic):
        assert again.dtype == value.dtype and again.shape == value.shape


def test_a_state_that_cannot_be_written_is_refused_by_name():
    metric = Odd(None)
    metric.update(object(), None)
    with pytest.raises(UsageError, match=r"state `state` of Odd cannot be written \(it is object\)"):
        metric_state(metric, Odd(None))
    metric = MeanMetric(lambda row, prediction: {"n": 1.0}, ("n",))  # what it was made with is no state
    metric.update({}, None)
    assert through_json(metric, MeanMetric(metric.measure, ("n",)), MeanMetric(metric.measure, ("n",))).count == 1


@pytest.mark.parametrize(
    "state",
    [
        {"other": 1},
        {"state": {"~": "array", "dtype": "O", "shape": [1], "value": "AAAA"}},
        {"state": {"~": "array", "dtype": "<f4", "shape": [9], "value": "AAAA"}},
        {"state": {"~": "Path", "value": []}},
        {"state": {"x": 1}},
    ],
    ids=repr,
)
def test_a_state_that_nobody_wrote_is_refused(state):
    with pytest.raises(CheckpointError, match=r"states\.json: "):
        restore_metric(Odd(None), state, Path("states.json"))


def test_groups_of_rows_are_of_like_size_and_not_by_position():
    groups = group_of_rows(1003, 20)
    sizes = Counter(groups.tolist())
    assert len(sizes) == 20 and set(sizes.values()) == {50, 51}
    assert abs(numpy.corrcoef(groups, numpy.arange(1003))[0, 1]) < 0.1
    assert list(group_of_rows(3, 20)) != [] and set(group_of_rows(3, 20).tolist()) == {0, 1, 2}


def test_the_standard_error_of_a_mean_is_the_textbook_s():
    """With a group for each row, the jackknife of a mean is the standard deviation over the root of n."""
    values = numpy.random.default_rng(0).normal(size=50)
    without = [float(numpy.delete(values, index).mean()) for index in range(50)]
    assert jackknife_error(without) == pytest.approx(values.std(ddof=1) / 50**0.5, rel=1e-9)
    assert jackknife_error([1.0, math.nan]) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    rows = topwork.load_plugins().task("text-classification").example_rows()
    topwork.build("text-classification", BASES["text-classification"], rows=rows).save(folder)
    return folder


@pytest.fixture
def evaluate(model, capsys):
    def call(*arguments: object) -> tuple[int, dict, str]:
        code = main(["evaluate", str(model), *map(str, arguments)])
        shown = capsys.readouterr()
        return code, json.loads(shown.out or "{}"), shown.err

    return call


def write_rows(file: Path, bad: int = 0) -> list[dict]:
    draw = random.Random(0)
    words = ["good", "bad", "film", "fine", "plot", "actor", "slow", "great", "dull", "story"]
    rows = [
        {"text": " ".join(draw.choices(words, k=draw.randint(2, 9))), "label": draw.choice(LABELS)} for _ in range(90)
    ]
    for index in range(bad):
        rows[7 * index]["label"] = "nobody knows"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_shards_and_one_process_measure_the_same_with_standard_errors(evaluate, model, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    code, alone, _ = evaluate(tmp_path / "rows.jsonl")
    assert code == 0 and alone["rows"] == 90 and alone["groups"] == 20
    expected = topwork.load(model).evaluate(rows)
    assert alone["metrics"] == pytest.approx(expected)
    results = []
    for shards in (1, 4, 9):
        code, shown, said = evaluate(tmp_path / "rows.jsonl", "--shards", shards, "--output", tmp_path / f"{shards}")
        assert code == 0, said
        results.append({key: value for key, value in shown.items() if key != "shards"})
    assert results[0] == results[1] == results[2]
    assert {key: results[0][key] for key in alone if key != "skipped_rows"} == {
        key: value for key, value in alone.items() if key != "skipped_rows"
    }
    # the accuracy's, from the rows themselves
    predicted = [
        prediction[0]["label"] for prediction in topwork.load(model).predict([{"text": row["text"]} for row in rows])
    ]
    hits = numpy.array([guess == row["label"] for guess, row in zip(predicted, rows)], float)
    group = group_of_rows(90, 20)
    without = numpy.array([hits[group != index].mean() for index in range(20)])
    textbook = (19 / 20 * ((without - without.mean()) ** 2).sum()) ** 0.5
    assert alone["standard_errors"]["accuracy"] == pytest.approx(textbook, rel=1e-9)


def test_rows_whose_target_is_unknown_have_a_file_and_a_budget(evaluate, tmp_path):
    write_rows(tmp_path / "rows.jsonl", bad=3)
    code, _, said = evaluate(tmp_path / "rows.jsonl")
    assert code == 1 and "nobody knows" in said
    arguments = (tmp_path / "rows.jsonl", "--shards", 4, "--output", tmp_path / "out", "--max-errors")
    code, _, said = evaluate(*arguments, 2)
    assert code == 1 and "more than the 2" in said
    code, shown, _ = evaluate(*arguments, 3)
    assert (code, shown["rows"], shown["skipped"]) == (0, 87, 3)
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [(error["row"], error["column"]) for error in errors] == [(0, "label"), (7, "label"), (14, "label")]
    code, shown, _ = evaluate(tmp_path / "rows.jsonl", "--on-error", "skip", "--groups", 0)
    assert (code, shown["rows"], shown["skipped"]) == (0, 87, 3) and "standard_errors" not in shown


def test_a_missing_target_is_explained_in_the_words_of_the_command_line(evaluate, tmp_path):
    (tmp_path / "rows.csv").write_text("text,stars\nfine,good\n")
    code, _, said = evaluate(tmp_path / "rows.csv")
    assert code == 2 and "no column `label`" in said and "-c label=" in said
    assert evaluate(tmp_path / "rows.csv", "-c", "label=stars")[0] == 0
