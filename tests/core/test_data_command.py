"""`topwork data` and `validate --data`: rows are shown as a run reads them, and every doubt is named."""

from __future__ import annotations

import json

import pytest

import topwork
from topwork.cli import main
from topwork.cli.data import profile_recipe
from topwork.data.options import DataOptions
from topwork.data.profile import profile_rows, quantiles
from topwork.data.roles import Roles
from topwork_report.pages.profile_page import write_profile

PLUGINS = topwork.load_plugins()


def profile(task: str, **rows):
    roles = Roles(PLUGINS.task(task), PLUGINS, DataOptions(), given=rows)
    return profile_rows(PLUGINS.task(task), PLUGINS.task(task).Options(), roles, list(rows))


def texts(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def test_quantiles_are_those_of_the_sorted_values():
    assert quantiles(range(101)) == {"min": 0.0, "p5": 5.0, "median": 50.0, "p95": 95.0, "max": 100.0}
    assert quantiles([]) == {}


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_rows_of_every_task_have_a_profile_and_a_page(task, tmp_path):
    rows = PLUGINS.task(task).example_rows()
    made = profile(task, train=rows)
    (role,) = made.roles
    assert role.rows == role.profiled == len(rows)
    assert {column.name for column in role.columns} <= set(PLUGINS.task(task).columns)
    assert len(role.examples) == 3 and all(picture.caption for picture in role.examples)
    json.dumps(made.to_json())
    write_profile(made, tmp_path / "rows.html")
    page = (tmp_path / "rows.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_labels_are_counted_and_compared_between_roles():
    train = texts(*((f"text {index}", "ab"[index % 2]) for index in range(40)))
    made = profile("text-classification", train=train, evaluate=texts(("x", "a"), ("y", "c"), ("z", "a")))
    labels = {role.role: role.columns[1].labels for role in made.roles}
    assert labels == {"train": {"a": 20, "b": 20}, "evaluate": {"a": 2, "c": 1}}
    assert [doubt for doubt in made.doubts if "'c'" in doubt and "no profiled training row" in doubt]
    assert [doubt for doubt in made.doubts if "'b'" in doubt and "in no profiled row" in doubt]


def test_leakage_repetition_imbalance_and_a_constant_target_are_doubts():
    train = texts(*((f"text {index}", "a") for index in range(60)), ("rare", "b"), ("rare", "b"))
    made = profile("text-classification", train=train, evaluate=texts(("text 3", "a"), ("new", "a")))
    assert [doubt for doubt in made.doubts if doubt.startswith("train: 1 of 62 rows repeat")]
    assert [doubt for doubt in made.doubts if "imbalanced" in doubt and "60 rows" in doubt]
    assert [doubt for doubt in made.doubts if doubt.startswith("1 of 2 evaluate rows have the same inputs")]
    assert [doubt for doubt in made.doubts if doubt.startswith("evaluate") and "the single value 'a'" in doubt]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["x", "y", None, "x"], "column `label` is empty in 1 of 4 rows"),
        ([0, 1, -1, 1], "row 2: column `label` -1 is no label"),
        (["pos", "neg", "pos ", "neg"], "differ by white space alone"),
        (["x;y", "x", "y", "x"], "the label 'x;y' joins 'x' and 'y'"),
        (["Pos", "pos", "neg", "neg"], "the labels 'Pos' and 'pos' differ by case alone"),
        ([["x"], ["y"], ["x"], []], "multi_label: true"),
    ],
)
@pytest.mark.parametrize("task", ["text-classification", "image-classification", "audio-classification"])
def test_labels_that_training_refuses_or_takes_for_others_are_doubts(task, labels, says):
    examples = PLUGINS.task(task).example_rows()
    rows = [{**examples[index % len(examples)], "label": label} for index, label in enumerate(labels)]
    assert any(says in doubt for doubt in profile(task, train=rows).doubts)


def test_texts_are_no_labels_however_few_they_are():
    made = profile("translation", train=[{"source": "a", "target": "b"}] * 3)
    assert {column.kind for column in made.roles[0].columns} == {"text"}


def test_clean_rows_have_no_doubts():
    train = texts(*((f"text {index}", "ab"[index % 2]) for index in range(40)))
    assert profile("text-classification", train=train, evaluate=texts(("x", "a"), ("y", "b"))).doubts == []


def write(tmp_path):
    lines = ["review,stars", *(f"text {index},{'ab'[index % 2]}" for index in range(40)), "text 3,b"]
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: text-classification\n"
        "base: {config: {model_type: bert}}\n"
        f"data: {{train: {{path: {tmp_path / 'reviews.csv'}}}, evaluate: {{cut: 0.2}},"
        " columns: {text: review, label: stars}}\n"
        "stages: [train, evaluate]\n"
    )
    return recipe


def test_the_command_reads_a_recipe_or_a_file(tmp_path, capsys):
    recipe, page = write(tmp_path), tmp_path / "rows.html"
    assert main(["data", str(recipe), "--page", str(page), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(role["role"], role["rows"]) for role in shown["roles"]] == [("train", 33), ("evaluate", 8)]
    assert shown["roles"][0]["columns"][0]["source"] == "review" and page.is_file()
    command = ["data", str(tmp_path / "reviews.csv"), "--task", "text-classification"]
    assert main([*command, "-c", "text=review", "-c", "label=stars", "--check"]) == 1
    assert "1 of 41 rows repeat the inputs of another row" in capsys.readouterr().out
    assert main([*command]) != 0  # without the mapping there is no column `text`
    assert "review" in capsys.readouterr().err


def test_the_command_reads_one_split_of_a_source(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{split},a\nother,b\n")
    command = ["data", str(tmp_path), "--task", "text-classification"]
    assert main(command) != 0 and "several splits: train, test" in capsys.readouterr().err
    assert main([*command, "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["roles"][0]["rows"] == 2
    assert main(["data", str(write(tmp_path)), "--split", "test"]) != 0
    assert "goes with --task" in capsys.readouterr().err


def test_validate_with_data_is_a_check(tmp_path, capsys):
    recipe = write(tmp_path)
    assert main(["validate", str(recipe)]) == 0
    capsys.readouterr()
    code = main(["validate", str(recipe), "--data"])
    shown = capsys.readouterr().out
    doubts = profile_recipe(PLUGINS, topwork.load_recipe(recipe, (), PLUGINS), examples=0).doubts
    assert code == (1 if doubts else 0) and all(doubt in shown for doubt in doubts)
    (tmp_path / "reviews.csv").write_text("review,stars\n")
    assert main(["validate", str(recipe), "--data"]) == 2


# ---------------------------------------------------------------- what only a task can see


def square(size=(32, 24), colour=(90, 90, 90)):
    from PIL import Image

    return Image.new("RGB", size, colour)


def test_images_are_measured_and_rendered_with_their_truth():
    import numpy

    box = {"bbox": [[2, 2, 10, 10]], "category": ["cat"]}
    mask = numpy.zeros((24, 32), dtype=numpy.uint8)
    mask[4:9] = 1
    depth = numpy.full((24, 32), 2.5)
    assert profile("image-classification", train=[{"image": square(), "label": "a"}]).roles[0].examples[0].image
    rows = {
        "object-detection": {"image": square(), "objects": box},
        "image-segmentation": {"image": square(), "mask": mask},
        "depth-estimation": {"image": square(), "depth": depth},
    }
    for task, row in rows.items():
        (role,) = profile(task, train=[row] * 4).roles
        assert role.measures["width"]["median"] == 32 and role.measures["height"]["median"] == 24
        picture = role.examples[0]
        assert picture.image.width >= 240
        plain = square().resize(picture.image.size)
        assert numpy.asarray(picture.image.convert("RGB")).tobytes() != plain.tobytes(), f"{task} draws no truth"


def test_only_labels_are_counted_as_labels(tmp_path):
    size = {"annotated_size": [48, 40]}
    objects = {"bbox": [[1, 1, 9, 9], [2, 2, 9, 9]], "category": ["cat", "cat"]}
    image = square((48, 40))
    boxes = profile("object-detection", train=[{"image": image, "objects": objects, **size}] * 3)
    columns = {column.name: column for column in boxes.roles[0].columns}
    assert columns["objects"].labels == {"cat": 6} and not columns["annotated_size"].labels
    assert not any("single value" in doubt for doubt in boxes.doubts)
    rows = [{"image": image, "mask": [[0, 1] * 24] * 40, "colour_table": None}] * 2
    (tmp_path / "a.csv").write_text("road,0,0,0\n")
    rows = [{**row, "colour_table": str(tmp_path / "a.csv")} for row in rows]
    columns = {column.name: column for column in profile("image-segmentation", train=rows).roles[0].columns}
    assert columns["colour_table"].kind == "file"


def test_clips_have_a_length_a_waveform_and_a_player():
    rows = PLUGINS.task("automatic-speech-recognition").example_rows()
    (role,) = profile("automatic-speech-recognition", train=rows).roles
    assert 0 < role.measures["seconds"]["median"] < 60
    assert role.examples[0].image is not None and role.examples[0].audio.startswith(b"RIFF")


def doubts_of(task, rows):
    return " | ".join(profile(task, train=rows).doubts)


def test_boxes_that_leave_their_image_are_doubts():
    rows = [{"image": square(), "objects": {"bbox": [[-9, 2, 20, 10]], "category": ["cat"]}}] * 3
    assert "3 of 3 boxes reach out of their image" in doubts_of("object-detection", rows)
    assert "boxes" not in doubts_of(
        "object-detection", [{**rows[0], "objects": {"bbox": [[1, 1, 4, 4]], "category": ["a"]}}]
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0, 255], "which does not count"),
        (list(range(100)), "100 distinct values"),
        ([0, 5, 200], "labels without pixels"),
    ],
)
def test_masks_that_hold_no_labels_are_doubts(values, says):
    import numpy

    mask = numpy.resize(numpy.array(values, dtype=numpy.uint8), (24, 32))
    assert says in doubts_of("image-segmentation", [{"image": square(), "mask": mask}])
    labels = numpy.resize(numpy.array([0, 1, 2], dtype=numpy.uint8), (24, 32))
    assert not [
        text
        for text in ("distinct", "does not count")
        if text in doubts_of("image-segmentation", [{"image": square(), "mask": labels}])
    ]


def test_millimetres_and_marks_of_holes_are_doubts():
    import numpy

    depth = numpy.linspace(700, 8000, 24 * 32).reshape(24, 32).astype(numpy.uint16)
    assert "millimetres" in doubts_of("depth-estimation", [{"image": square(), "depth": depth}])
    holes = numpy.linspace(1, 8, 24 * 32).reshape(24, 32)
    assert "holes" not in doubts_of("depth-estimation", [{"image": square(), "depth": holes}])
    holes[:6] = 65.535
    assert "holes" in doubts_of("depth-estimation", [{"image": square(), "depth": holes}])


def test_tagged_words_and_marked_spans_are_rendered():
    words = {"words": ["Ada", "in", "Rome"], "tags": ["B-PER", "O", "B-LOC"]}
    (role,) = profile("token-classification", train=[words] * 3).roles
    assert list(role.examples[0].text) == [("Ada ", "B-PER"), ("in ", "O"), ("Rome ", "B-LOC")]
    marked = {"text": "Ada in Rome", "spans": [{"start": 7, "end": 11, "label": "LOC"}]}
    (role,) = profile("token-classification", train=[marked] * 3).roles
    assert ("Rome", "LOC") in role.examples[0].text
