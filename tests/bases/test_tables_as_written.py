"""Tables of text are read as they are written, or refused with the line: cells, quoting, separators, encodings, and the
place of every row through cuts, shuffles and limits, for every task whose columns are text or labels."""

from __future__ import annotations

import gzip
import json
import os
import time
from functools import partial
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from tiny_bases import BASES

import topwork
from topwork import DataError, DataOptions, RowsOptions, TopworkError, UsageError
from topwork.data.roles import Roles

PLUGINS = topwork.load_plugins()
TASKS = PLUGINS.tasks
TEXTS = sorted(
    (name, column)
    for name, task in TASKS.items()
    for column, about in task.columns.items()
    if about.kind == "text" and name not in ("automatic-speech-recognition",)
)
WORDS = ["null", "NA", "None", "nan", "N/A", "31.", "42", "1e3", "001", "True", "2020-05-01", "1.0", " x "]


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def load(path, **options):
    return PLUGINS.load_rows(RowsOptions(path=str(path), **options))


def table(form, columns, rows):
    if form == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row))) + "\n" for row in rows)
    sep = "\t" if form == "tsv" else ","
    return "\n".join(sep.join(row) for row in [columns, *rows]) + "\n"


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("task", "column"), TEXTS)
def test_texts_arrive_character_for_character(tmp_path, form, task, column):
    columns = [name for name, about in TASKS[task].columns.items() if about.kind == "text"]
    path = write(tmp_path, f"rows.{form}", table(form, columns, [[word] * len(columns) for word in WORDS]))
    rows = Roles(TASKS[task], PLUGINS, DataOptions(predict=RowsOptions(path=str(path))))("predict")
    assert rows[column] == WORDS


WRITTEN = [
    ["1e3", "2e3"],
    ["NA", "DE"],
    ["None", "Some"],
    ["True", "False"],
    ["true", "false"],
    ["1.0", "0.0"],
    ["001", "002"],
    ["2020-05-01", "2021-01-01"],
    ["99999999999999999999", "1"],
]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("words", WRITTEN)
def test_labels_are_the_words_that_stand_there(tmp_path, form, words):
    path = write(tmp_path, f"rows.{form}", table(form, ["text", "label"], [["a", words[0]], ["b", words[1]]] * 2))
    roles = Roles(TASKS["text-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))
    work = topwork.build("text-classification", BASES["text-classification"], rows=roles("train"), plugins=PLUGINS)
    assert sorted(work.task.names) == sorted(words)


@pytest.mark.parametrize("column", ["text", "label", "text_pair"])
def test_only_an_empty_cell_is_missing(tmp_path, column):
    rows = [["a", "x", "p"], ["b", "y", "p"], ["c", "x", "p"], ["d", "y", "p"]]
    rows[2][["text", "label", "text_pair"].index(column)] = ""
    path = write(tmp_path, "rows.csv", table("csv", ["text", "label", "text_pair"], rows))
    roles = Roles(TASKS["text-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))
    train = roles("train")
    assert train[2][column] is None and train[1][column] is not None

    def read():
        work = topwork.build("text-classification", BASES["text-classification"], rows=train, plugins=PLUGINS)
        return work.apply("evaluate", {"evaluate": train})

    if column == "text_pair":
        read()
        return
    with pytest.raises(DataError, match="is empty") as caught:
        read()
    assert (caught.value.row, caught.value.line, caught.value.column) == (2, 4, column)
    assert "rows.csv:4" in str(caught.value)


def test_a_gap_among_integers_does_not_make_floats_of_them(tmp_path):
    path = write(tmp_path, "rows.csv", "text,label\na,0\nb,1\nc,\nd,1\n")
    roles = Roles(TASKS["text-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))
    assert roles("train")["label"] == [0, 1, None, 1]
    with pytest.raises(DataError, match="is empty") as caught:
        topwork.build("text-classification", BASES["text-classification"], rows=roles("train"), plugins=PLUGINS)
    assert caught.value.row == 2


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("multi", [True, False])
def test_columns_of_marks_are_labels_in_every_form_of_table(tmp_path, form, multi):
    path = write(tmp_path, f"rows.{form}", table(form, ["text", "x", "y"], [["a", "1", "0"], ["b", "0", "1"]]))
    data = DataOptions(columns={"label": ["x", "y"]}, train=RowsOptions(path=str(path)))
    train = Roles(TASKS["text-classification"], PLUGINS, data)("train")
    if not multi:
        with pytest.raises(DataError, match="multi_label: true"):
            topwork.build("text-classification", BASES["text-classification"], rows=train, plugins=PLUGINS)
        return
    work = topwork.build(
        "text-classification", BASES["text-classification"], rows=train, plugins=PLUGINS, multi_label=True
    )
    assert [work.task.targets.of(row) for row in train] == [[0], [1]]


@pytest.mark.parametrize("cell", ['["a", "b"]', "['a', 'b']", "a b", "['a' 'b']", "['a'  \"b\"]"])
def test_lists_in_a_cell(tmp_path, cell):
    path = write(tmp_path, "rows.tsv", f"words\ttags\n{cell}\t{cell}\n")
    roles = Roles(TASKS["token-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))
    assert roles("train")[0] == {"words": ["a", "b"], "tags": ["a", "b"]}


@pytest.mark.parametrize("cell", ["[1, 2]", "[1 2]", "1 2"])
def test_lists_of_integers_in_a_cell_are_tags(tmp_path, cell):
    path = write(tmp_path, "rows.csv", f'words,tags\na b,"{cell}"\n')
    rows = Roles(TASKS["token-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))("train")
    work = topwork.build("token-classification", BASES["token-classification"], rows=rows, plugins=PLUGINS)
    assert work.task.names == ["1", "2"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_backslashes_of_paths_divide_folders(tmp_path, form):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").touch()
    path = write(tmp_path, f"rows.{form}", table(form, ["image", "label"], [["img\\a.png", "x"]]))
    rows = Roles(TASKS["image-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))("train")
    assert rows[0]["image"] == str(tmp_path / "img" / "a.png")


def test_paths_in_a_table_are_relative_to_the_table(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "data" / "img").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "data" / "img" / "a.png")
    path = write(tmp_path / "data", "rows.csv", "image,label\nimg/a.png,x\nimg/b.png,y\n")
    monkeypatch.chdir(tmp_path)
    roles = Roles(TASKS["image-classification"], PLUGINS, DataOptions(train=RowsOptions(path=str(path))))
    assert roles("train")[0]["image"] == str(tmp_path / "data" / "img" / "a.png")
    work = topwork.build("image-classification", BASES["image-classification"], rows=roles("train").select([0, 0, 1]),
                         plugins=PLUGINS)  # fmt: skip
    with pytest.raises(DataError, match=r"data/img/b\.png"):
        work.predict(roles("train"))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.tsv", 'text\tlabel\n"so he said\tneg\nfine\tpos\n"oh well\tneg\ngood\tpos\n', 4),
        ("a.csv", 'text,label\n"Great film,\nloved it",pos\nc,neg\nd,pos\n', 3),
        ("a.csv", 'text,label\r\n"a ""b"" c",pos\r\nd,neg\r\n', 2),
        ("a.csv", 'text\n"a, b"\n\nc\n', 2),
    ],
)
def test_rows_are_rows(tmp_path, name, text, wanted):
    assert len(load(write(tmp_path, name, text))) == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", 'text,label\n"so he said,neg\nfine,pos\n"oh well,neg\ngood,pos\n', r"a\.csv:2: a quotation mark"),
        ("a.csv", 'text,label\n"a,neg\nb",pos\nc,neg\nd,pos\n', r"a\.csv:2: a quotation mark .* swallows"),
        ("a.csv", 'text,label\nx,pos\n"open,pos\nc,neg\n', r"a\.csv:3: a quotation mark is opened and never closed"),
        ("a.csv", "sentence,label\nwell, good film 0,neg\n", r"a\.csv:2: has 3 fields where the header has 2"),
        ("a.csv", "a,b\n1,2\n\n3\n", r"a\.csv:4: has 1 field where the header has 2"),
        ("a.csv", "# my data\nsentence,label\na,b\n", r"a\.csv:2: has 2 fields where the header has 1.*skiprows: 1"),
        ("a.tsv", "a\tb\n1\t2\t3\n", r"a\.tsv:2: has 3 fields"),
        ("a.csv", "a,a\n1,2\n", r"a\.csv:1: the header has `a` twice"),
        ("a.csv", "a,b\n", r"a\.csv: has no rows"),
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), r"a\.csv:2: not UTF-8 .*encoding: cp1252.*café"),
        ("a.jsonl", '{"label": 1}\n\n{"label": "x"}\n', r"a\.jsonl:3: `label` is text here, a number before"),
        ("a.jsonl", '{"label": 1}\n[2]\n', r"a\.jsonl:2: a list where an object is wanted"),
    ],
)
def test_damaged_tables_name_their_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, name, text))


@pytest.mark.parametrize("sep", [";", "\t", "|"])
@pytest.mark.parametrize("given", [False, True])
def test_separators_are_recognised_and_said(tmp_path, sep, given):
    path = write(tmp_path, "a.csv", f"text{sep}label\na, b{sep}1\nc{sep}0\n")
    rows = load(path, options={"sep": sep} if given else {})
    assert rows.to_list() == [{"text": "a, b", "label": "1"}, {"text": "c", "label": "0"}]
    assert bool(rows.remarks) is not given


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.tsv", "text,label\na,x\nb,y\n", ["text", "label"]),  # a name that says tabs
        ("a.csv", "text;label;note, more\na;x;1\nb;y;2\n", ["text", "label", "note, more"]),
        ("a.csv", "sep=;\r\ntext;label\r\na, b;x\r\n", ["text", "label"]),  # as spreadsheets state it
        ("a.csv", "sep=\t\ntext\tlabel\na\tx\n", ["text", "label"]),
        ("a.tsv", 'text\n"a, b\nc\n', ["text"]),
        ("a.csv", 'text,label\n"two\nlines",x\n', ["text", "label"]),
    ],
)
def test_the_separator_is_that_of_header_and_rows(tmp_path, name, text, columns):
    assert load(write(tmp_path, name, text)).column_names == columns


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_encodings(tmp_path, encoding, form):
    path = write(tmp_path, f"a.{form}", table(form, ["text"], [["café"]]).replace("\\u00e9", "é"), encoding)
    assert load(path, options={"encoding": encoding} if encoding == "latin-1" else {})["text"] == ["café"]


LINES = {
    "a.txt": ("café\nb\n", {"text": "café"}),
    "a.conll": ("café N\nb V\n", {"words": ["café", "b"], "tags": ["N", "V"]}),
    "a.conllu": ("1\tcafé\tx\tN\n2\tb\ty\tV\n", {"words": ["café", "b"], "tags": ["N", "V"]}),
    "chat.jsonl": (
        '{"instruction": "café", "output": "b\u2028c"}\n',
        {"messages": [{"role": "user", "content": "café"}, {"role": "assistant", "content": "b\u2028c"}]},
    ),
    "doccano.jsonl": (
        '{"text": "café", "label": [[0, 4, "X"]]}\n',
        {"text": "café", "spans": [{"start": 0, "end": 4, "label": "X"}]},
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("name", LINES)
def test_encodings_of_lines_and_layouts(tmp_path, encoding, name):
    text, wanted = LINES[name]
    path = write(tmp_path, name, text.replace("\u2028", "-") if encoding == "latin-1" else text, encoding)
    if encoding == "latin-1":
        with pytest.raises(DataError, match=r"not UTF-8 .*encoding: cp1252"):
            load(path)
        assert "café" in str(load(path, options={"encoding": encoding})[0])
        return
    assert load(path)[0] == wanted


def test_files_of_two_encodings_are_not_read_as_one(tmp_path):
    write(tmp_path, "a.txt", "café\n", "utf-16")
    write(tmp_path, "b.txt", "café\n")
    with pytest.raises(DataError, match=r"b\.txt: read as utf-8, .*a\.txt as utf-16"):
        load(tmp_path / "*.txt")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_cut_knows_the_tags_of_rows_as_it_knows_labels(tmp_path, form):
    rows = [["a b", f"t{index % 40} O"] for index in range(100)]
    rows = rows if form == "csv" else [[cell.split() for cell in row] for row in rows]
    path = write(tmp_path, f"rows.{form}", table(form, ["words", "tags"], rows))
    data = DataOptions(train=RowsOptions(path=str(path)), evaluate={"cut": 0.2})
    roles = Roles(TASKS["token-classification"], PLUGINS, data)
    train, evaluate = ({tag for row in roles(role) for tag in row["tags"]} for role in ("train", "evaluate"))
    assert evaluate <= train


SPANS = [[{"start": 0, "end": 1, "label": f"t{index % 40}"}] for index in range(100)]
OBJECTS = [{"bbox": [[1, 1, 2, 2]] * 2, "category": [f"t{index % 40}", "common"]} for index in range(100)]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("task", "column", "cells", "names"),
    [
        ("token-classification", "spans", SPANS, lambda cell: {span["label"] for span in cell}),
        ("object-detection", "objects", OBJECTS, lambda cell: set(cell["category"])),
    ],
)
def test_a_cut_knows_the_labels_of_spans_and_boxes(tmp_path, form, task, column, cells, names):
    other = "text" if column == "spans" else "image"
    quoted = [f'"{json.dumps(cell).replace(chr(34), chr(34) * 2)}"' if form == "csv" else cell for cell in cells]
    rows = [["a b", cell] for cell in quoted]
    path = write(tmp_path, f"rows.{form}", table(form, [other, column], rows))
    for seed in range(3):
        data = DataOptions(train=RowsOptions(path=str(path)), evaluate={"cut": 0.2})
        roles = Roles(TASKS[task], PLUGINS, data, seed=seed)
        seen = {role: [names(row[column]) for row in roles(role)] for role in ("train", "evaluate")}
        assert len(seen["evaluate"]) == 20 and set().union(*seen["evaluate"]) <= set().union(*seen["train"])


def test_a_cut_knows_the_labels_of_columns_of_marks(tmp_path):
    names = [f"l{index}" for index in range(20)]
    marks = [[f"t{row}", *("1" if row % 20 == index else "0" for index in range(20))] for row in range(40)]
    path = write(tmp_path, "rows.csv", table("csv", ["text", *names], marks))
    data = DataOptions.model_validate({"train": str(path), "evaluate": {"cut": 0.25}, "columns": {"label": names}})
    roles = Roles(TASKS["text-classification"], PLUGINS, data)
    seen = {role: {label for row in roles(role) for label in row["label"]} for role in ("train", "evaluate")}
    assert seen["train"] == set(names) and len(roles("evaluate")) == 10


@pytest.mark.parametrize("task", TASKS)
def test_groups_stay_together_in_every_task(task):
    kinds = TASKS[task]
    rows = [{**row, "who": index % 5} for index, row in enumerate((kinds.example_rows() * 20)[:40])]
    options = DataOptions.model_validate({"evaluate": {"cut": {"share": 0.4, "by": "who"}}})
    roles = Roles(kinds, PLUGINS, options, {"train": rows})
    groups = {role: set(roles.column(role, "who")) for role in ("train", "evaluate")}
    assert len(groups["evaluate"]) == 2 and len(roles("evaluate")) == 16 and not groups["train"] & groups["evaluate"]


def test_json_that_wraps_its_records(tmp_path):
    squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "one two", "qas": [
        {"id": "1", "question": "which?", "answers": [{"text": "two", "answer_start": 4}]}]}]}]}  # fmt: skip
    rows = load(write(tmp_path, "a.json", json.dumps(squad)))
    assert rows[0]["answers"] == {"text": ["two"], "answer_start": [4]} and "SQuAD" in rows.remarks[1]
    two = write(tmp_path, "b.json", json.dumps({"x": [{"a": 1}], "y": [{"a": 2}]}, indent=1))
    with pytest.raises(DataError, match="field: x"):
        load(two)
    assert load(two, options={"field": "y"}).to_list() == [{"a": 2}]


ANSWERS = [
    [{"text": "two", "answer_start": 4}],
    {"text": ["two"], "answer_start": [4]},
    {"text": "two", "answer_start": 4},
    [{"text": "two"}],
    ["two"],
    "two",
]


@pytest.mark.parametrize("answers", ANSWERS, ids=repr)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("key", ["answers", "answer"])
def test_shapes_of_answers(tmp_path, answers, nested, key):
    from topwork_tasks.question_answering.squad import read_answers

    question = {"id": "1", "question": "which?", key: answers}
    article = {"title": "t", "paragraphs": [{"context": "one two", "qas": [question]}]}
    written = {"data": [article]} if nested else [{**question, "context": "one two"}]
    columns = {} if nested else {"answers": key}
    options = DataOptions(train=RowsOptions(path=str(write(tmp_path, "a.json", json.dumps(written)))), columns=columns)
    row = Roles(PLUGINS.tasks["question-answering"], PLUGINS, options)("train")[0]
    assert read_answers(row, 0) == [("two", 4)]


def test_articles_that_are_damaged_are_named(tmp_path):
    articles = [{"paragraphs": [{"context": "a", "qas": []}]}, {"paragraphs": [{"qas": [{"question": "b"}]}]}]
    with pytest.raises(DataError, match="article 2 is none of SQuAD's: has no 'context'"):
        load(write(tmp_path, "a.json", json.dumps(articles)))


HUGE = 10**30


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("labels", [[HUGE, HUGE + 1], [2**63, 2**64], [10**5000, 7]])
def test_integers_beyond_64_bits_are_names(tmp_path, form, labels):
    import sys

    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    written = [str(label) for label in labels]
    sys.set_int_max_str_digits(digits)
    texts = [f'{{"text": "t", "label": {label}}}' for label in written]
    table_text = "text,label\n" + "\n".join(f"t,{label}" for label in written)
    text = {"json": f"[{', '.join(texts)}]", "jsonl": "\n".join(texts), "csv": table_text}[form]
    options = DataOptions(train=RowsOptions(path=str(write(tmp_path, f"a.{form}", text))))
    rows = Roles(PLUGINS.tasks["text-classification"], PLUGINS, options)("train")
    model = topwork.build("text-classification", BASES["text-classification"], rows=rows, plugins=PLUGINS)
    assert sorted(model.task.label_names) == sorted(written)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1e999", r"a\.jsonl:2: 1e999 is larger than a number can be"),
        ("-1e999", r"a\.jsonl:2: -1e999 is larger"),
        (f"[1, {10**30}]", r"a\.jsonl:2: `value`: .*000.* is no number of 64 bits"),
        ("[" * 100000, r"a\.jsonl:2: lists or objects are too deep"),
    ],
)
def test_numbers_that_overflow_are_refused_with_their_line(tmp_path, value, message):
    path = write(tmp_path, "a.jsonl", f'{{"text": "t", "value": null}}\n{{"text": "t", "value": {value}}}\n')
    with pytest.raises(DataError, match=message):
        load(path)


def test_what_is_no_file_is_refused_and_bombs_are_bounded(tmp_path):
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match="no regular file"):
        load(tmp_path / "rows.csv")
    with gzip.open(tmp_path / "zeros.csv.gz", "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(b"0" * 2**20)
    for name in ("zeros.txt.gz", "zeros.jsonl.gz"):
        os.link(tmp_path / "zeros.csv.gz", tmp_path / name)
    for name in ("zeros.csv.gz", "zeros.txt.gz", "zeros.jsonl.gz"):
        with pytest.raises(DataError, match="times its size"):
            load(tmp_path / name)
    with pytest.raises(UsageError, match="there is no file"):
        load(tmp_path / "rows.xlsx")


LONG = "a" * 2**16
REPEATED = {
    "text": [LONG] * 1500,
    "bytes": [LONG.encode()] * 1500,
    "lists": [[LONG, LONG]] * 750,
    "deeper lists": [[[LONG]]] * 1500,
    "objects": [{"bytes": LONG.encode(), "path": None}] * 1500,
}


@pytest.mark.parametrize(("by_dictionary", "compression"), [(True, "snappy"), (False, "zstd")])
@pytest.mark.parametrize("kind", REPEATED)
def test_a_parquet_file_whose_rows_are_far_larger_than_itself_is_refused(tmp_path, kind, by_dictionary, compression):
    path = tmp_path / "rows.parquet"
    parquet.write_table(
        pyarrow.table({"value": REPEATED[kind]}), path, use_dictionary=by_dictionary, compression=compression
    )
    with pytest.raises(DataError, match=r"rows\.parquet: unpacked it is more than .* times its size.*csv or jsonl"):
        load(path)


def test_a_parquet_file_of_many_alike_rows_is_read(tmp_path):
    columns = {
        "instruction": ["Translate. " * 90] * 9000,
        "text": [f"row {i}" for i in range(9000)],
        "none": [None] * 9000,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    assert len(load(tmp_path / "rows.parquet")) == 9000


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.ods", "ROWS.XLS"])
def test_a_spreadsheet_is_named_with_the_mend(tmp_path, name):
    write(tmp_path, name, b"PK\x03\x04")
    with pytest.raises(UsageError, match=r"is a spreadsheet.*CSV UTF-8"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("image-classification", "image"),
        ("image-segmentation", "mask"),
        ("depth-estimation", "depth"),
        ("audio-classification", "audio"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_a_pipe_in_a_row_is_refused(tmp_path, task, column, suffix):
    os.mkfifo(tmp_path / f"x{suffix}")
    rows = TASKS[task].example_rows()
    work = topwork.build(task, BASES[task], rows=rows, plugins=PLUGINS)
    with pytest.raises(DataError, match=r"no regular file"):
        work.evaluate([{**rows[0], column: str(tmp_path / f"x{suffix}")}])


# ---------------------------------------------------------------- the place of a row


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "data",
    [
        {"evaluate": {"cut": 0.25}},
        {"evaluate": {"cut": 0.5}},
        {"evaluate": {"cut": 0.5}, "train": {"shuffle": True}},
        {"evaluate": {"cut": {"share": 20, "by": "text"}}, "train": {"shuffle": True, "limit": 40}},
    ],
)
def test_rows_are_named_as_their_file_has_them(tmp_path, form, data):
    rows = [[f"text {index}", "ab"[index % 2]] for index in range(40)]
    for bad in (9, 30, 31):
        rows[bad][1] = "" if form == "csv" else None
    path = write(tmp_path, f"rows.{form}", table(form, ["text", "label"], rows))
    options = DataOptions.model_validate({**data, "train": {"path": str(path), **data.get("train", {})}})
    roles = Roles(TASKS["text-classification"], PLUGINS, options)
    named = set()
    for role in ("train", "evaluate"):
        part = roles(role)
        for index in range(len(part)):
            error = part.located(DataError("x", row=index), index)
            assert part[index]["text"] == f"text {error.row}" == error.quotation
            assert error.line == error.row + (2 if form == "csv" else 1)
            assert error.place == f"data.{role}, {path}:{error.line}"
            named.add(error.row)
    assert named == set(range(40))


def test_skipped_rows_and_predictions_have_the_numbers_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [[f"word{index}", "ab"[index % 2]] for index in range(40)]
    rows[30][1] = ""
    path = write(tmp_path, "rows.csv", table("csv", ["text", "label"], rows))
    recipe = {
        "task": "text-classification",
        "base": BASES["text-classification"],
        "data": {"train": str(path), "evaluate": {"cut": 0.9}, "on_error": "skip"},
        "stages": ["evaluate", {"predict": {"role": "evaluate"}}],
    }
    run = topwork.run(recipe, quiet=True)
    skipped = [note for record in run.results for note in record["result"]["skipped_rows"]]
    train = {line["row"] for line in map(json.loads, (run.root / "stages/02-predict/predictions.jsonl").open())}
    assert train <= set(range(40)) and max(train) > 36
    for note in skipped:
        assert (note["row"], note["line"]) == (30, 32) and note["file"].endswith("rows.csv")
    recipe["data"]["on_error"] = "raise"
    with pytest.raises(TopworkError, match=r"rows\.csv:32, row 30, column 'label': is empty.*begins \"word30\""):
        topwork.run(recipe, quiet=True)


def test_cuts_keep_the_proportions_of_labels_and_groups_together(tmp_path):
    labels = [f"c{index}" for index in range(300)] + ["c0"] * 50 + ["c1"] * 50
    path = write(tmp_path, "rows.csv", table("csv", ["text", "label", "who"], [
        [f"t{index}", label, f"s{index % 7}"] for index, label in enumerate(labels)]))  # fmt: skip
    for cut in (0.1, 0.2, 15):
        options = DataOptions.model_validate({"train": str(path), "evaluate": {"cut": cut}})
        roles = Roles(TASKS["text-classification"], PLUGINS, options)
        train, held = roles("train")["label"], roles("evaluate")["label"]
        assert len(held) == (round(400 * cut) if isinstance(cut, float) else cut)
        assert set(held) <= set(train)  # no label is cut off whole
    counted = [{"text": "x", "label": label} for label in ["a"] * 80 + ["b"] * 20]
    options = DataOptions.model_validate({"evaluate": {"cut": 0.1}})
    held = Roles(TASKS["text-classification"], PLUGINS, options, {"train": counted})("evaluate")["label"]
    assert (held.count("a"), held.count("b")) == (8, 2)
    options = DataOptions.model_validate({"train": str(path), "evaluate": {"cut": {"share": 0.3, "by": "who"}}})
    roles = Roles(TASKS["text-classification"], PLUGINS, options)
    numbers = {role: {int(text[1:]) % 7 for text in roles(role)["text"]} for role in ("train", "evaluate")}
    assert not numbers["train"] & numbers["evaluate"] and 90 < len(roles("evaluate")) < 150


@pytest.mark.parametrize("task", ["text-generation", "token-classification", "translation"])
def test_no_column_fits(tmp_path, task):
    path = write(tmp_path, "rows.csv", "title,body\na,b\nc,d\n")
    options = DataOptions.model_validate({"train": str(path), "evaluate": {"cut": 1}})
    with pytest.raises(TopworkError, match=r"no column fits: the task has .*the rows have title, body"):
        Roles(TASKS[task], PLUGINS, options)("train")


def least_seconds(actions):
    """CPU seconds of the fastest of several actions: a collection of garbage falls into one of them at most."""
    seconds = []
    for action in actions:
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_reading_and_checking_twenty_thousand_rows_cost_less_than_going_through_them_one_by_one(tmp_path):
    from topwork.data.checks import bad_rows
    from topwork.process import Process

    lines = [f"a text of number {number},{number % 5}\n" for number in range(20_000)]
    paths = [write(tmp_path, f"rows{number}.csv", "text,label\n" + "".join(lines)) for number in range(3)]
    options = [DataOptions(train=RowsOptions(path=str(path))) for path in paths]
    roles = [Roles(TASKS["text-classification"], PLUGINS, chosen) for chosen in options]
    reading = least_seconds([partial(chosen, "train") for chosen in roles])
    rows = roles[0]("train")
    work = topwork.build(
        "text-classification", BASES["text-classification"], rows=rows.select(range(99)), plugins=PLUGINS
    )
    checking = least_seconds([lambda: bad_rows(work.task, rows, "train", "quick", Process())] * 2)
    assert not bad_rows(work.task, rows, "train", "quick", Process())
    assert reading + checking < least_seconds([lambda: [rows[index] for index in range(len(rows))]] * 2)


def test_rows_that_are_read_do_not_gather_in_memory(tmp_path, monkeypatch):
    """Bytes that Arrow holds while twenty parts of a file are read: those of one part, not of all before it."""
    import pyarrow

    from topwork_bases.rows.stored import stored_table

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "rows.csv"
    file.write_text("any")
    held = []

    def read(remarks):
        for part in range(20):
            held.append(pyarrow.total_allocated_bytes())
            yield {"text": [f"{part} {index} {'x' * 100}" for index in range(1000)]}, list(range(1000))

    table = stored_table(file, ["test"], read, written=True)
    assert len(table) == 20_000 and table[19_999]["text"].startswith("19 999 x")
    assert max(held) - held[0] < 5 * 100_000  # all parts are 2 MB


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the system does not say which pages are mapped")
def test_pages_of_a_file_go_with_the_shard_that_read_them(tmp_path, monkeypatch):
    from topwork.shards.sources import Sources
    from topwork_bases.rows.stored import stored_table

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "rows.csv"
    file.write_text("any")

    def read(remarks):
        for part in range(20):
            yield {"text": [f"{part} {index} {'x' * 200}" for index in range(2500)], "label": ["a"] * 2500}, [1] * 2500

    sources = Sources(
        [stored_table(file, ["test"], read, written=True)], TASKS["text-classification"], {}, targets=True
    )
    (stored,) = (tmp_path / "cache").rglob("*.arrow")
    before, most = mapped_pages(stored), 0
    for start in range(0, 50_000, 2500):
        for _, rows in sources.between(start, start + 2500):
            assert [row["text"].split()[:2] for row in rows][-1] == [str(start // 2500), "2499"]
            most = max(most, mapped_pages(stored) - before)
    assert most < stored.stat().st_size / 4


def mapped_pages(file):
    """Bytes of a file that are mapped into this process now."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if line.endswith(str(file))]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(line.split()[1]) * 1024 for line in sizes)
