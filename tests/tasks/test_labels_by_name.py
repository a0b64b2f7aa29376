"""Labels mean the names that their own source declares, in every task with numbered classes and for every role; how
integers, vectors and truth values are read is decided once for a column."""

from __future__ import annotations

import json

import datasets
import numpy
import pytest
from tiny_bases import BASES

import topwork
from topwork import DataError, TopworkError

PLUGINS = topwork.load_plugins()
TASKS = PLUGINS.tasks
CLASSIFIERS = ("text-classification", "image-classification", "audio-classification")
INPUT = {"text-classification": "text", "image-classification": "image", "audio-classification": "audio"}


def build(task, rows, **options):
    return topwork.build(task, BASES[task], rows=rows, plugins=PLUGINS, **options)


def labelled(task, labels):
    """Rows of the task's examples with other labels, in turn."""
    examples = TASKS[task].example_rows()
    return [{**examples[index % len(examples)], "label": label} for index, label in enumerate(labels)]


def declared(rows, names, column="label"):
    """The rows as a data set in which the integers of a column have names."""
    small = [{"label": row["label"]} for row in rows]
    return datasets.Dataset.from_list(small).cast_column(column, datasets.ClassLabel(names=names))


def outputs(work, rows):
    """The target of each row as the model's outputs."""
    from topwork.data.columns import canonical

    table = canonical(rows, type(work.task), {}, targets=True, location="rows")
    return [work.task.targets.of(row) for row in table]


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_names_declared_in_another_order_mean_the_same_labels(task):
    """The model's own order, a source that numbers the names the other way round, and one that lacks a class."""
    if task == "text-classification":
        rows = [{"text": text, "label": index % 2} for index, text in enumerate(["bad", "good"] * 4)]
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])})
        train = datasets.Dataset.from_list(rows, features=features)
        turned = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["p", "n"])})
        test = datasets.Dataset.from_list([{**row, "label": 1 - row["label"]} for row in rows], features=turned)
        work = build(task, train)
        assert outputs(work, test) == outputs(work, train) == [row["label"] for row in rows]
        work.apply("train", {"train": train}, epochs=40, batch_size=8, learning_rate=1e-2)
        assert work.evaluate(train)["accuracy"] == work.evaluate(test)["accuracy"] == 1.0
    else:
        work = build(task, labelled(task, ["cat", "dog", "eel", "fox"] * 2))
        assert outputs(work, [{INPUT[task]: None, "label": "eel"}]) == [2]
        names = ["eel", "fox", "cat"]
        rows = datasets.Dataset.from_dict({INPUT[task]: [None] * 3, "label": [0, 1, 2]})
        rows = rows.cast_column("label", datasets.ClassLabel(names=names))
        assert outputs(work, rows) == [2, 3, 0]
        wrong = rows.cast_column("label", datasets.Value("int64")).cast_column(
            "label", datasets.ClassLabel(names=["eel", "fox", "gnu"])
        )
        with pytest.raises(DataError, match="unknown label 'gnu'"):
            outputs(work, wrong)


@pytest.mark.parametrize("role", ["train", "calibrate", "evaluate"])
@pytest.mark.parametrize("task", ["image-classification", "audio-classification", "object-detection"])
def test_every_role_gets_names(task, role):
    from topwork import DataOptions
    from topwork.data.roles import Roles

    column = "objects" if task == "object-detection" else "label"
    if column == "label":
        feature, value, wanted = datasets.ClassLabel(names=["b", "a"]), 1, "a"
    else:
        feature = {"bbox": datasets.List(datasets.List(datasets.Value("float32"))), "category": datasets.List(
            datasets.ClassLabel(names=["b", "a"]))}  # fmt: skip
        value, wanted = {"bbox": [[0, 0, 1, 1]], "category": [1]}, "a"
    features = datasets.Features({INPUT.get(task, "image"): datasets.Value("string"), column: feature})
    rows = datasets.Dataset.from_list([{INPUT.get(task, "image"): "x", column: value}] * 3, features=features)
    roles = Roles(TASKS[task], PLUGINS, DataOptions(), {role: rows})
    given = roles(role)[0][column]
    assert (given if column == "label" else given["category"][0]) == wanted


def test_integers_are_names_where_they_are_names_and_positions_elsewhere():
    rows = [{"words": ["a", "b", "c"], "tags": [1, 2, 3]}]
    work = topwork.build(
        "token-classification", BASES["token-classification"], rows=rows, plugins=PLUGINS, label_names=["1", "2", "3"]
    )
    (row,) = rows
    _, words = work.task.reader.words(row, None)
    assert work.task.reader.tags(row, None, words) == [0, 1, 2]


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize(
    ("names", "labels", "wanted"),
    [
        (["1", "2", "3"], [1, 2, 3, 1], [0, 1, 2, 0]),  # names
        (["a", "b", "c"], [0, 2, 1, 0], [0, 2, 1, 0]),  # positions
        ({1: "bad", 2: "good"}, [1, 2, 2, 1], [0, 1, 1, 0]),  # a mapping
        ({"x": "bad", "y": "good", "z": "good"}, ["x", "y", "z", "bad"], [0, 1, 1, 0]),
        (["3", "2", "1"], [3, 1, 2, 3], [0, 2, 1, 0]),
        (None, [10, 9, 2, 2], [2, 1, 0, 0]),
        (None, [1.0, 0.0, 1.0, 0.0], [1, 0, 1, 0]),  # whole floats of a typed source
        (None, [True, False, True, False], [1, 0, 1, 0]),
        (None, [numpy.int64(4), numpy.int64(3), numpy.int64(4), numpy.int64(3)], [1, 0, 1, 0]),
    ],
)
def test_what_an_integer_means_is_decided_for_the_column(task, names, labels, wanted):
    work = build(task, labelled(task, labels), label_names=names)
    assert [work.task.targets.of(row) for row in labelled(task, labels)] == wanted


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_a_mixture_of_names_and_positions_is_refused(task):
    with pytest.raises(DataError, match="is a name in `label_names` and 0 is none"):
        build(task, labelled(task, [0, 1, 7, 7]), label_names=["7", "b"])


def test_both_readings_fit_and_the_log_says_which_was_taken():
    work = build("text-classification", labelled("text-classification", [1, 2, 1, 2]), label_names=["1", "2", "0"])
    assert work.task.targets.of({"label": 1}) == 0
    assert "read as the names" in work.task.state.notes[0]


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("names", [["u", "v", "w"], None])
@pytest.mark.parametrize("container", [list, tuple, lambda row: numpy.array(row, numpy.float32),
                                       lambda row: [bool(entry) for entry in row], lambda row: [*map(str, row)],
                                       lambda row: ";".join(map(str, row)), json.dumps])  # fmt: skip
def test_vectors_of_zeros_and_ones_are_no_lists_of_numbers(task, names, container):
    vectors = [[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    rows = labelled(task, [container(row) for row in vectors])
    work = build(task, rows, label_names=names, multi_label=True)
    assert work.task.names == (names or ["0", "1", "2"])
    assert [work.task.targets.of(row) for row in rows] == [[0, 2], [1], [2], []]
    assert work.task.targets.tensor([[0, 2], []]).tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(DataError, match="no vector of 3 zeros and ones"):
        work.task.targets.of({"label": [0, 1]})


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("names", [["u", "v"], None])
def test_two_entries_in_both_orders_are_vectors(task, names):
    """As lists of labels all rows would have the same ones."""
    rows = labelled(task, [[1, 0], [0, 1], [0, 1]])
    work = build(task, rows, label_names=names, multi_label=True)
    assert [work.task.targets.of(row) for row in rows] == [[0], [1], [1]]


def test_lists_of_the_names_0_and_1_are_lists_of_names():
    rows = labelled("text-classification", [["1", "0"], ["0", "1"]])
    work = build("text-classification", rows, label_names=["0", "1"], multi_label=True)
    assert [work.task.targets.of(row) for row in rows] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("written", [json.dumps, str, lambda names: str(numpy.array(names, object))])
def test_a_list_in_a_cell_is_read_as_json_python_and_numpy_write_it(task, written):
    rows = labelled(task, [written(["x", "y"]), written(["y"]), written([])])
    work = build(task, rows, multi_label=True)
    assert [work.task.targets.of(row) for row in rows] == [[0, 1], [1], []]


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize(
    ("labels", "sep"), [(["x|y", "y", "x", "z"], "|"), (["a;b", "b", "a", ""], ";"), (["a, b", "b", "a", "c"], ",")]
)
def test_several_labels_in_one_cell(task, labels, sep):
    rows = labelled(task, labels)
    work = build(task, rows, multi_label=True)
    assert work.task.names == sorted({name.strip() for label in labels for name in label.split(sep) if name.strip()})
    assert work.task.targets.of(rows[0]) == [0, 1]
    assert sep in work.task.state.notes[0]
    ambiguous = labelled(task, ["a;b", "a|b", "a", "b"])
    with pytest.raises(DataError, match="label_separator"):
        build(task, ambiguous, multi_label=True)
    assert build(task, ambiguous, multi_label=True, label_separator=";").task.names == ["a", "a|b", "b"]


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_columns_of_zeros_and_ones_are_labels(task):
    rows = [{**row, "x": str(index % 2), "y": "1"} for index, row in enumerate(TASKS[task].example_rows())]
    work = topwork.build(task, BASES[task], rows=rows, columns={"label": ["x", "y"]}, multi_label=True, plugins=PLUGINS)
    assert work.task.names == ["x", "y"]
    with pytest.raises(DataError, match="'2' is neither 0 nor 1"):
        topwork.build(task, BASES[task], rows=[{**rows[0], "y": "2"}], columns={"label": ["x", "y"]}, plugins=PLUGINS)


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize(
    ("first", "second", "how"),
    [("pos", "pos ", "white space"), ("a  b", "a b", "white space"), ("caf\u00e9", "cafe\u0301", "Unicode form"),
     ("x", "\u00a0x", "white space"), ("\ufb01n", "fin", "Unicode form"), ("\u0958", "\u0915\u093c", "Unicode form"),
     ("\uff11", "1", "Unicode form"), ("x", "x\u200b", "invisible characters"),
     ("\ufeffx", "x", "invisible characters")],
)  # fmt: skip
def test_spellings_that_nobody_can_tell_apart_are_refused(task, first, second, how):
    with pytest.raises(DataError, match=how) as caught:
        build(task, labelled(task, [first, "neg", second, "neg"]))
    assert caught.value.row == 2


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_negative_integers_are_no_labels(task, names):
    def read():
        rows = labelled(task, [0, 1, -1, 1])
        work = build(task, rows, label_names=names)
        return [work.task.targets.of(row) for row in rows]

    with pytest.raises(DataError, match="-1 is no label"):
        read()


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("labels", [["pos", "-1", "neg"], ["-1.0", "0.0", "1.0"], ["-100", "x", "y"]])
def test_negative_integers_in_text_are_no_labels_by_themselves(task, labels):
    with pytest.raises(DataError, match=f"{min(labels)} is no label.*label_names"):
        build(task, labelled(task, labels))


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("written", [int, str])
@pytest.mark.parametrize("names", [["-1", "0", "1"], {-1: "-1", 0: "0", 1: "1"}])
def test_negative_integers_with_names_are_labels(task, written, names):
    rows = labelled(task, [written(label) for label in (-1, 0, 1, -1)])
    work = build(task, rows, label_names=names)
    assert work.task.names == ["-1", "0", "1"]
    assert [work.task.targets.of(row) for row in rows] == [0, 1, 2, 0]


@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("label", [" ", "\t", "\u3000"])
def test_white_space_is_no_label(task, label):
    with pytest.raises(DataError, match="is no label") as caught:
        build(task, labelled(task, ["x", "y", label]))
    assert caught.value.row == 2


@pytest.mark.parametrize("mark", [-100, "-100"])
def test_negative_tags_are_no_tags(mark):
    rows = [{"words": ["a", "b", "c"], "tags": [type(mark)(1), mark, type(mark)(2)]}]
    with pytest.raises(DataError, match="-100 is no label") as caught:
        topwork.build("token-classification", BASES["token-classification"], rows=rows, plugins=PLUGINS)
    assert (caught.value.row, caught.value.column) == (0, "tags")


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_case_alone_does_not_make_another_label(task):
    work = build(task, labelled(task, ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"] * 2))
    assert work.task.targets.of({"label": "neutral"}) == work.task.names.index("NEUTRAL")
    with pytest.raises(DataError, match="2 stands for `NEUTRAL`"):
        work.task.targets.of({"label": 2})
    two = build(task, labelled(task, ["x", "X", "y"] * 2))
    with pytest.raises(TopworkError, match="did you mean"):
        two.task.targets.index("Yy")


def test_a_thousand_unknown_labels_are_refused_in_about_one_pass():
    import time

    from topwork_tasks._classification.targets import Targets

    targets = Targets("single", [f"c{index}" for index in range(5000)])
    start = time.process_time()
    for index in range(2000):
        with pytest.raises(DataError):
            targets.of({"label": f"d{index}"}, index)
    assert time.process_time() - start < 5
