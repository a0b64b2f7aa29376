"""What is wrong with a recipe, in the file or in an override, is said at its place, all of it at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recipe_checks import GOOD, PLUGIN, without

FIVE = """\
task: toy-taks
base: {model: some/model}
base: {model: other/model}
data:
  train: {path: ./missing/rows.csv}
stages:
  - learn:
      epochs: many
      schedule:
        warmpu: 0.2
"""


def test_five_planted_errors_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(FIVE)
    script = (
        "import sys; from topwork.cli import main; code = main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'timm', 'numpy') if m in sys.modules]); sys.exit(code)"
    )
    call = [sys.executable, "-c", script, "validate", "bad.yaml", "--plugins", "rows", "--plugin", str(PLUGIN)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    expected = [
        "bad.yaml:1:7: task: unknown task `toy-taks`; did you mean `toy-task`?",
        "bad.yaml:3:1: base: `base` is set twice (first in line 2)",
        "bad.yaml:5:17: data.train.path: there is no file or folder `./missing/rows.csv`",
        "bad.yaml:8:15: stages.learn.epochs: should be a valid integer, not `many`",
        "bad.yaml:10:9: stages.learn.schedule.warmpu: unknown key `warmpu`; did you mean `warmup`?",
    ]
    assert len(lines) == len(expected), done.stderr
    for line, start in zip(lines, expected):
        assert line.startswith(start)
    assert done.stdout.strip() == "[]"


FAULTS = {  # what is replaced in the good recipe -> the whole message
    ("seed", "learn: {epochs", "learn: {epochz"): [
        "r.yaml:8:13: stages.0.learn.epochz: unknown key `epochz`; did you mean `epochs`?"
    ],
    ("kind", "cosine", "cosin"): [
        "r.yaml:8:53: stages.0.learn.schedule.kind: should be 'linear' or 'cosine', not `cosin`; did you mean `cosine`?"
    ],
    ("stage", "- measure", "- mesure"): ["r.yaml:9:5: stages.mesure: unknown stage `mesure`; did you mean `measure`?"],
    ("list", "- measure", "- {measure: {}, score: {}}"): [
        "r.yaml:9:5: stages.1: should be a stage's name, or one name with its options below; "
        "are the options of `measure` indented under it?"
    ],
    ("column", "text: body", "txet: body"): [
        "r.yaml:6:13: data.columns.txet: unknown key `txet`; did you mean `text`?"
    ],
    ("cut", "cut: 0.1", "cut: 1.5"): [
        "r.yaml:5:13: data.evaluate: `cut` is a share between 0 and 1, or a whole number"
    ],
    ("cut key", "cut: 0.1", "cutt: 0.1"): ["r.yaml:5:14: data.evaluate.cutt: unknown key `cutt`; did you mean `cut`?"],
    ("rows key", "limit: 10", "limmit: 10"): [
        "r.yaml:4:33: data.train.limmit: unknown key `limmit`; did you mean `limit`?"
    ],
    ("limit", "limit: 10", "limit: 0"): ["r.yaml:4:40: data.train.limit: should be greater than 0, not `0`"],
    ("sample", "sample:words", "sample:wrods"): [
        "r.yaml:4:17: data.train.path: unknown sample `wrods`; did you mean `words`?"
    ],
    ("length", "length: 16", "length: long"): ["r.yaml:1:32: task.length: should be a valid integer, not `long`"],
    ("option", "length: 16", "lenght: 16"): ["r.yaml:1:24: task.lenght: unknown key `lenght`; did you mean `length`?"],
    ("base", "some/model", "{modle: x}"): [
        "r.yaml:2:8: base.modle: unknown key `modle`; did you mean `model`?",
    ],
    ("base folder", "some/model", "./no/such/model"): ["r.yaml:2:7: base.model: there is no file or folder"],
    ("a list", "some/model", "[a, b]"): ["r.yaml:2:1: base: should be a mapping of model, config,"],
    ("a word", "schedule: {kind: cosine}", "schedule: cosine"): ["r.yaml:8:46: stages.0.learn.schedule: should be"],
    ("union", "schedule: {kind: cosine}", "stop: {kidn: cosine}"): [
        "r.yaml:8:43: stages.0.learn.stop.kidn: unknown key `kidn`; did you mean `kind`?"
    ],
    ("plain union", "schedule: {kind: cosine}", "stop: soon"): [
        "r.yaml:8:42: stages.0.learn.stop: should be a valid dictionary or instance of Schedule, not `soon` "
        "or should be a valid integer, not `soon`"
    ],
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_a_fault_is_said_at_its_place(fault: tuple[str, str, str], check) -> None:
    found = check(GOOD.replace(fault[1], fault[2], 1))
    expected = FAULTS[fault]
    assert len(found) == len(expected), found
    for line, start in zip(found, expected):
        assert line.startswith(start), line


def test_missing_sections(check) -> None:
    assert check("seed: x\n") == [
        "r.yaml:1:1: task: `task` is missing: say what the model is for",
        "r.yaml:1:1: base: `base` is missing: give a model's Hub id or folder",
        "r.yaml:1:1: stages: should be a list of stages, such as [train, evaluate, save]",
        "r.yaml:1:7: seed: should be a whole number, not `x`",
    ]
    assert check("") == ["r.yaml:1:1: the recipe is empty"]
    assert check("- a") == ["r.yaml:1:1: a recipe is a mapping: `task:`, `base:`, `data:`, ..."]


def test_what_cannot_be_read_is_all_that_is_said(check, tmp_path: Path) -> None:
    (fault,) = check(GOOD + "\tname: x\n")
    assert fault.startswith("r.yaml:12:1: not valid YAML: found character '\\t'")
    (fault,) = check("extends: none.yaml\n")
    assert fault.startswith("r.yaml:1:10: extends: there is no file `none.yaml`")
    (tmp_path / "latin.yaml").write_bytes(GOOD.encode() + b"name: caf\xe9\n")
    (fault,) = check("extends: latin.yaml\n")
    assert fault == "latin.yaml: not UTF-8 (byte 0xe9 in line 12); save it as UTF-8"


@pytest.mark.parametrize("name", ["../../up", "a/b", "a\\b", "''"])
def test_a_name_that_would_leave_the_folder_of_runs(name: str, check) -> None:
    (fault,) = check(f"name: {name}\n" + GOOD)
    assert fault.startswith("r.yaml:1:7: name: names the run folder")


def test_numbers_that_are_none(check) -> None:
    assert check("seed: -1\n" + GOOD) == ["r.yaml:1:7: seed: should be 0 or more, not `-1`"]
    (fault,) = check(GOOD.replace("rate: 1e-3", "rate: .inf"))
    assert fault.endswith("stages.0.learn.rate: should be a finite number, not `inf`")
    (fault, _) = check("seed: " + "9" * 5000 + "\n" + GOOD)
    assert len(fault) < 200


def test_missing_rows_name_the_stages_that_need_them(check) -> None:
    assert check(without("evaluate")) == [
        "r.yaml:3:1: data.evaluate: missing: `measure` reads these rows; give `data.evaluate` a path, "
        "or cut it from the training rows: `evaluate: {cut: 0.1}`"
    ]
    assert check(without("evaluate"), "stages.measure.role=train").seed == 0
    faults = check(without("train"))
    assert faults[0].startswith("r.yaml:3:1: data.train: missing: `learn`, `score` read these rows")
    assert "`cut` takes rows from `data.train`" in faults[1]
    assert check(without("train"), "data.calibrate=sample:words", "stages=[score]", "data.evaluate=null").seed == 0


def test_local_files_and_patterns(check, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("body,label\n" + "a,b\n" * 8)
    for path in ("rows.csv", "*.csv"):
        assert check(GOOD.replace("sample:words", f"{tmp_path}/{path}")).seed == 0
    (fault,) = check(GOOD.replace("sample:words", "$HOME/rows.csv"))
    assert "variables of the environment are not filled in" in fault
    (fault,) = check(GOOD.replace("sample:words", f"{tmp_path}/row.csv"))
    assert fault.endswith("did you mean `rows.csv`?")
    assert check(GOOD.replace("sample:words", "https://example.org/rows.csv")).seed == 0
    assert check(GOOD.replace("sample:words", "owner/rows")).seed == 0


# ------------------------------------------------------------------ overrides


def test_overrides_change_what_they_name(check) -> None:
    recipe = check(
        GOOD, "stages.0.learn.rate=2e-4", "stages.2.learn.epochs=5", "stages.measure.role=train", "task.words=[a, no]",
        "base.dtype=bfloat16", "data.train=sample:words", "data.train.shuffle=true", "seed=3", "name=mine",
    )  # fmt: skip
    assert (recipe.stages[0].rate, recipe.stages[2].epochs, recipe.stages[1].role) == (2e-4, 5, "train")
    assert (recipe.task_options.words, recipe.task_options.length) == (["a", "no"], 16)
    assert (recipe.bases["base"].model, recipe.bases["base"].dtype) == ("some/model", "bfloat16")
    assert (recipe.data.train.path, recipe.data.train.shuffle, recipe.data.train.limit) == ("sample:words", True, None)
    assert (recipe.seed, recipe.name) == (3, "mine")
    assert [stage.name for stage in check(GOOD, "stages=[learn]").stages] == ["learn"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.score.x=3", "stages.score.x: unknown key `x`; known: none"),
        ("stages.0.learn.epoch=3", "stages.0.learn.epoch: unknown key `epoch`; did you mean `epochs`?"),
        ("stages.learn.epochs=3", "`learn` stands 2 times in `stages`; say `stages.0.learn` or `stages.2.learn`"),
        ("stages.mesure.role=train", "there is no `mesure` in `stages`; did you mean `measure`?"),
        ("stages.9.learn.epochs=3", "`stages` has 4 entries"),
        ("seed.x=3", "`seed` is the plain value"),
        ("data.train.limit=many", "data.train.limit: should be a valid integer, not `many`"),
        ("seed", "key.path=value"),
        ("seed=[1", "not valid YAML"),
        ("sed=1", "unknown key `sed`; did you mean `seed`?"),
    ],
)
def test_overrides_are_checked_alike(override: str, message: str, check) -> None:
    (fault,) = check("seed: 1\n" + GOOD, override)
    assert fault.startswith(f"-o {override}: ")
    assert message in fault
