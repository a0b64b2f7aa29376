"""Roles of rows: cutting, mapping of columns, limits, and what is said when something is missing."""

from __future__ import annotations

import csv

import datasets
import engine_plugin
import pytest

from topwork import DataOptions, TopworkError
from topwork.data.columns import canonical, chunks, column_names
from topwork.data.options import CutOptions
from topwork.data.roles import Roles

ROWS = engine_plugin.point_rows(101)
Points, Windows = engine_plugin.Points, engine_plugin.Windows


def roles(engine, given=None, wanted=(), seed=0, **data):
    return Roles(Points, engine, DataOptions.model_validate(data), given, seed, wanted)


def keys(rows):
    return [tuple(row["x"]) for row in rows]


@pytest.fixture(params=["list", "dataset"])
def rows(request):
    return ROWS if request.param == "list" else datasets.Dataset.from_list(ROWS)


def test_cut_roles_are_disjoint_complete_and_in_order(engine, rows):
    made = roles(engine, {"train": rows}, wanted=["calibrate"], evaluate={"cut": 0.2}, calibrate={"cut": 7})
    parts = {role: keys(made(role)) for role in ("train", "calibrate", "evaluate")}
    assert {role: len(part) for role, part in parts.items()} == {"train": 74, "calibrate": 7, "evaluate": 20}
    together = [key for part in parts.values() for key in part]
    assert sorted(together) == sorted(keys(ROWS))
    order = {key: place for place, key in enumerate(keys(ROWS))}
    assert all([order[key] for key in part] == sorted(order[key] for key in part) for part in parts.values())
    assert len(made.notes) == 2


def test_the_order_of_asking_does_not_matter_and_the_seed_does(engine, rows):
    def cut(order, seed):
        made = roles(engine, {"train": rows}, ["calibrate"], seed, evaluate={"cut": 0.1})
        return {role: keys(made(role)) for role in order}

    first = cut(["train", "calibrate", "evaluate"], 0)
    assert cut(["evaluate", "calibrate", "train"], 0) == first
    assert cut(["evaluate"], 1)["evaluate"] != first["evaluate"]


def test_calibration_rows_are_cut_only_when_wanted(engine):
    assert len(roles(engine, {"train": ROWS})("train")) == 101
    wanted = roles(engine, {"train": ROWS}, ["calibrate"])
    assert (len(wanted("train")), len(wanted("calibrate"))) == (91, 10)
    late = roles(engine, {"train": ROWS})
    late("train")
    with pytest.raises(TopworkError, match="not set apart"):
        late("calibrate")
    assert late.has("calibrate") and not late.has("evaluate") and not roles(engine).has("calibrate")


def test_evaluation_rows_are_never_cut_unasked(engine):
    with pytest.raises(TopworkError, match="no evaluate rows"):
        roles(engine, {"train": ROWS}, ["evaluate"])("evaluate")
    with pytest.raises(TopworkError, match="no predict rows"):
        roles(engine, {"train": ROWS})("predict")


@pytest.mark.parametrize("cut", [101, 500, 0.001, 0.999])
def test_a_cut_leaves_rows_on_both_sides(engine, cut):
    with pytest.raises(TopworkError, match="cannot be cut off"):
        roles(engine, {"train": ROWS}, evaluate={"cut": cut})("evaluate")


def test_cuts_that_make_no_sense():
    assert CutOptions(cut=1).cut == 1
    for bad in (0, -3, 1.5, 0.0):
        with pytest.raises(ValueError):
            CutOptions(cut=bad)


def test_columns_are_renamed_swapped_and_dropped(rows):
    renamed = [{"place": row["x"], "x": row["y"], "y": row["y"], "more": 1} for row in ROWS[:5]]
    source = renamed if isinstance(rows, list) else datasets.Dataset.from_list(renamed)
    found = canonical(source, Points, {"x": "place"}, targets=True, location="here")
    assert list(found) == [{"x": row["x"], "y": row["y"]} for row in ROWS[:5]]
    swapped = [{"x": row["y"], "y": row["x"]} for row in ROWS[:5]]
    source = swapped if isinstance(rows, list) else datasets.Dataset.from_list(swapped)
    found = canonical(source, Points, {"x": "y", "y": "x"}, targets=True, location="here")
    assert list(found) == [{"x": row["x"], "y": row["y"]} for row in ROWS[:5]]


def test_missing_columns_are_named_with_what_there_is(rows):
    bare = [{"xs": row["x"], "other": 0} for row in ROWS[:3]]
    bare = bare if isinstance(rows, list) else datasets.Dataset.from_list(bare)
    with pytest.raises(TopworkError) as caught:
        canonical(bare, Points, {}, targets=True, location="data.train")
    assert str(caught.value).startswith("data.train: no column `x` for the task's `x` (coordinates)")
    assert "there are xs, other; map it with `data.columns: {x: ...}`" in str(caught.value)
    with pytest.raises(TopworkError, match=r"no column `cots`.*did you mean `cost`|no column `cots`"):
        canonical(rows, Points, {"cost": "cots"}, targets=True, location="data.train")  # asked for, so needed
    with pytest.raises(TopworkError, match=r"data.columns: `z` is not a column of task points"):
        canonical(rows, Points, {"z": "x"}, targets=True, location="data.train")
    assert keys(canonical(bare, Points, {"x": "xs"}, targets=False, location="p")) == keys(
        ROWS[:3]
    )  # targets not needed


def test_rows_that_are_no_rows():
    for bad in ({"x": [1.0]}, "rows", (row for row in ROWS)):
        with pytest.raises(TopworkError, match="rows are a list of dicts"):
            canonical(bad, Points, {}, targets=True, location="rows")


def test_a_column_that_the_first_row_lacks_is_there():
    rows = [{"x": [1.0], "y": 0}, {"x": [2.0], "y": 1, "cost": 5}]
    assert column_names(rows) == ["x", "y", "cost"]
    assert canonical(rows, Points, {}, targets=True, location="rows")[1]["cost"] == 5


def test_streams_are_cut_by_number_and_renamed(engine):
    stream = datasets.Dataset.from_list([{"place": row["x"], "y": row["y"]} for row in ROWS]).to_iterable_dataset()
    made = roles(engine, {"train": stream}, evaluate={"cut": 11}, columns={"x": "place"})
    assert keys(made("evaluate")) == keys(ROWS[:11])
    assert keys(made("train")) == keys(ROWS[11:])
    assert set(next(iter(made("train")))) == {"x", "y"}
    with pytest.raises(TopworkError, match="by number only"):
        roles(engine, {"train": stream}, evaluate={"cut": 0.1}, columns={"x": "place"})("evaluate")


@pytest.mark.parametrize("streaming", [False, True])
def test_limit_and_shuffle_of_a_file(engine, tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([("x", "y"), *((number, 0) for number in range(50))])
    options = {"path": str(tmp_path / "rows.csv"), "streaming": streaming}

    def read(seed=0, **more):
        return [row["x"] for row in roles(engine, seed=seed, train={**options, **more})("train")]

    assert read(limit=9) == list(range(9))
    assert read(limit=90) == list(range(50))
    shuffled = read(shuffle=True, limit=9)
    assert len(set(shuffled)) == 9 and shuffled != list(range(9)) and shuffled == read(shuffle=True, limit=9)
    assert read(shuffle=True, limit=9, seed=1) != shuffled


def test_empty_roles_are_errors(engine):
    with pytest.raises(TopworkError, match=r"data.evaluate: there are no rows"):
        roles(engine, {"evaluate": datasets.Dataset.from_list(ROWS).select([])})("evaluate")


def test_shares_of_processes_in_chunks():
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    for source in (ROWS, datasets.Dataset.from_list(ROWS), stream):
        shares = [list(chunks(source, 8, index, 3)) for index in range(3)]
        numbers = [number for share in shares for chunk, _ in share for number in chunk]
        assert sorted(numbers) == list(range(101))
        for share in shares:
            assert all(len(chunk) == 8 for chunk, _ in share[:-1])
            assert all(row["x"] == ROWS[number]["x"] for chunk, rows in share for number, row in zip(chunk, rows))


def test_rows_in_memory_are_dicts_and_may_be_none_at_all(engine) -> None:
    task = engine.tasks["points"]
    assert canonical([], task, {}, targets=False, location="rows") == []
    with pytest.raises(TopworkError, match="rows: row 1 is int, not a dict"):
        canonical([{"x": [0.0, 0.0]}, 3], task, {}, targets=False, location="rows")
    with pytest.raises(TopworkError, match="not str"):
        canonical("rows", task, {}, targets=False, location="rows")
