"""`topwork validate` names with line and column what would end a run later: from the recipe and headers of files."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from topwork import load_plugins
from topwork.cli import main
from topwork.recipe import headers

PLUGINS = load_plugins()
ROWS = [{"review": f"word {n}", "stars": "good" if n % 2 else "bad"} for n in range(12)]
COLUMNS = "columns: {text: review, label: stars}"


def csv(folder: Path, name: str, separator: str = ",") -> None:
    lines = [separator.join(ROWS[0]), *(separator.join(row.values()) for row in ROWS)]
    (folder / name).write_text("\n".join(lines) + "\n")


def jsonl(folder: Path, name: str) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def packed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


def array(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps(ROWS))


def parquet(folder: Path, name: str) -> None:
    import datasets

    datasets.disable_progress_bars()

    datasets.Dataset.from_list(ROWS).to_parquet(folder / name)


FILES = {
    "rows.csv": csv,
    "rows.tsv": lambda folder, name: csv(folder, name, "\t"),
    "rows.jsonl": jsonl,
    "rows.jsonl.gz": packed,
    "rows.json": array,
    "rows.parquet": parquet,
}


@pytest.fixture
def validate(tmp_path, monkeypatch, capsys):
    """(exit code, lines of stderr) of `topwork validate` and of `topwork run --dry-run`, which agree."""
    monkeypatch.chdir(tmp_path)

    def call(data: str, *, base: str = "some/model", stages: str = "[train, evaluate]", task: str = "") -> tuple:
        text = f"task: {task or 'text-classification'}\nbase: {{model: {base}}}\ndata:\n  {data}\nstages: {stages}\n"
        (tmp_path / "r.yaml").write_text(text)
        code = main(["validate", "r.yaml"])
        lines = capsys.readouterr().err.splitlines()
        assert main(["run", "r.yaml", "--dry-run"]) == code
        assert capsys.readouterr().err.splitlines() == lines
        return code, lines

    return call


@pytest.mark.parametrize("name", FILES)
def test_columns_of_a_local_file_are_known_before_the_run(validate, tmp_path, name) -> None:
    FILES[name](tmp_path, name)
    data = f"train: {{path: {name}}}\n  evaluate: {{cut: 0.25}}\n  {COLUMNS}"
    assert validate(data) == (0, [])
    code, lines = validate(data.replace("text: review", "text: reviw"))
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("r.yaml:6:19: data.columns.text: no column `reviw`") and "`review`?" in lines[0]
    code, (line,) = validate(data.replace(COLUMNS, "columns: {text: review}"))
    assert code == 2 and line.startswith("r.yaml:4:17: data.train: no column `label`") and "review, stars" in line
    code, (line,) = validate(data.replace(COLUMNS, "columns: {}"))
    assert code == 2 and "no column fits: the task reads text, text_pair, label; the rows have review, stars" in line
    code, (line,) = validate(data.replace("cut: 0.25", "cut: 12"))
    assert code == 2 and line.startswith("r.yaml:5:19: data.evaluate.cut: cuts 12 of 12 training rows off")


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".parquet")])
def test_rows_of_a_file_that_is_not_read_to_its_end_are_not_counted(validate, tmp_path, monkeypatch, name) -> None:
    """A cut may then be larger than what was read, and rows may begin behind it."""
    FILES[name](tmp_path, name)
    for most in (100, 45):
        monkeypatch.setattr(headers, "MOST_BYTES", most)
        code, lines = validate(f"train: {{path: {name}}}\n  evaluate: {{cut: 11}}\n  {COLUMNS}")
        assert (code, lines) == (0, [])


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_no_task_takes_rows_of_which_no_column_fits(validate, tmp_path, task) -> None:
    """Those whose columns are all optional, too."""
    (tmp_path / "rows.csv").write_text("title,body\n" + "a,b\n" * 12)
    bases = ", ".join(f"{role}: x/y" for role in PLUGINS.task(task).roles)
    (tmp_path / "r.yaml").write_text(
        f"task: {task}\nbase: {{{bases if len(PLUGINS.task(task).roles) > 1 else 'model: x/y'}}}\n"
        "data:\n  train: {path: rows.csv}\n  evaluate: {cut: 0.25}\nstages: [train]\n"
    )
    assert main(["validate", "r.yaml"]) == 2


FAULTS = {
    "the starter's base": ({"base": "BASE"}, "r.yaml:2:15: base.model: `BASE` is to be filled in"),
    "the starter's rows": ({"data": "train: {path: ROWS}"}, "r.yaml:4:17: data.train.path: `ROWS` is to be filled in"),
    "no scores": ({"stages": "[{prune_heads: {count: 1}}]"}, "r.yaml:8:10: stages.prune_heads: nothing scores"),
    "scores too late": (
        {"stages": "[{mask_heads: {count: 1}}, head_importance]"},
        "r.yaml:8:10: stages.mask_heads: nothing scores",
    ),
    "optimizer": ({"stages": "[{train: {optimizer: adamm}}]"}, "r.yaml:8:10: stages.train: unknown optimizer `adamm`"),
    "fp16": ({"stages": "[{train: {precision: fp16}}]"}, "r.yaml:8:10: stages.train: `precision: fp16` needs a GPU"),
    "split": ({"data": 'train: {path: "sample:rated-words", split: trian}'}, "r.yaml:4:46: data.train.split: "),
    "all rows": (
        {"data": f"train: {{path: rows.csv, limit: 4}}\n  evaluate: {{cut: 4}}\n  {COLUMNS}"},
        "r.yaml:5:19: data.evaluate.cut: cuts 4 of 4",
    ),
    "the folder of results": ({"stages": "[{save: {folder: a/../stages/x}}]"}, "r.yaml:8:10: stages.save: `folder: a/"),
    "a file of the run": (
        {"stages": "[{save: {folder: ./run.json}}]"},
        "r.yaml:8:10: stages.save: `folder: ./run.json",
    ),
    "no teacher": ({"stages": "[{train: {teacher: runs/x}}]"}, "r.yaml:8:10: stages.train: `teacher`: there is no"),
    "split of a file": (
        {"data": f"train: {{path: rows.csv, split: trian}}\n  {COLUMNS}"},
        "r.yaml:4:34: data.train.split: `rows.csv` has no split `trian`",
    ),
    "groups": (
        {"data": f"train: {{path: rows.csv}}\n  evaluate: {{cut: {{share: 0.2, by: speaker}}}}\n  {COLUMNS}"},
        "r.yaml:5:36: data.evaluate.cut.by: no column `speaker` to cut by; there are review, stars",
    ),
    "a sample without a split": ({"data": 'train: {path: "sample:rated-words"}'}, "r.yaml:4:10: data.train: "),
    "no rows": ({"data": f"train: {{path: empty.csv}}\n  {COLUMNS}"}, "r.yaml:4:17: data.train: the file has no rows"),
}
RIGHT = {
    "semicolons, which are found when the rows are read": {
        "data": f"train: {{path: odd.csv}}\n  evaluate: {{cut: 3}}\n  {COLUMNS}"
    },
    "random heads": {"stages": "[{prune_heads: {count: 1, random: true}}]"},
    "named heads": {"stages": "[{prune_heads: {heads: {0: [1]}}}]"},
    "scores in time": {"stages": "[head_importance, {prune_heads: {count: 1}}, {mask_heads: {count: 1}}]"},
    "an optimizer of transformers": {"stages": "[{train: {optimizer: lion_32bit}}]"},
    "a separator": {"data": f"train: {{path: odd.csv, options: {{sep: ';'}}}}\n  evaluate: {{cut: 3}}\n  {COLUMNS}"},
    "a file called BASE": {"base": "./BASE, weights: false"},
}
GOOD = f"train: {{path: rows.csv}}\n  evaluate: {{cut: 0.25}}\n  calibrate: {{cut: 0.25}}\n  {COLUMNS}"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    csv(tmp_path, "rows.csv")
    csv(tmp_path, "odd.csv", ";")
    (tmp_path / "empty.csv").write_text("review,stars\n")
    (tmp_path / "BASE").mkdir()
    (tmp_path / "BASE" / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize("kind", FAULTS)
def test_what_a_run_would_refuse_is_named_before_it(validate, files, tmp_path, kind) -> None:
    if "starter" in kind:
        (tmp_path / "BASE" / "config.json").unlink()
        (tmp_path / "BASE").rmdir()
    changes, expected = FAULTS[kind]
    code, lines = validate(changes.get("data", GOOD), **{k: v for k, v in changes.items() if k != "data"})
    assert code == 2
    assert any(expected in line for line in lines), lines


#: what stands under `base`, and what a run says of it
BASES = {
    "config:bert": "write `config: {model_type: bert}`",
    "a b": "no such folder, and not a Hub id either",
    "''": "the name of a base is empty",
    "empty": "no config.json",
    "package:topwork/none": "has no folder `none`",
    "package:nothing_of_this/x": "is not installed",
    "{config: {model_type: nosuch}}": "unknown model type `nosuch`",
    "{config: {model_type: bert, hidden_siz: 3}}": "did you mean `hidden_size`?",
    "{config: {model_type: bert, hidden_size: 10, num_attention_heads: 3}}": "let `num_attention_heads` divide",
    "{config: {model_type: bert, hidden_size: wide}}": "hidden_size",
    "{config: {model_type: resnet, layer_type: wide}}": "layer_type=wide is not one of",
    "{config: {model_type: bert}, changes: {hidden_siz: 3}}": "did you mean `hidden_size`?",
    "{model: whole, changes: {num_attention_heads: 5}}": "let `num_attention_heads` divide",
    "whole": "has no weights",
    "{config: {model_type: bert}, quantize: {method: torchao}}": "random weights are not quantised",
}


@pytest.mark.parametrize("base", BASES)
def test_a_base_that_no_run_can_open_is_named_with_its_line(tmp_path, monkeypatch, capsys, base) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text('{"model_type": "bert", "id2label": {"0": "a", "1": "b"}}')
    csv(tmp_path, "rows.csv")
    (tmp_path / "r.yaml").write_text(f"task: text-classification\nbase: {base}\ndata:\n  {GOOD}\nstages: [train]\n")
    assert main(["validate", "r.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"r.yaml:2:(7|15): base: ", line) and BASES[base] in line, line


@pytest.mark.parametrize("kind", RIGHT)
def test_what_a_run_takes_is_not_refused(validate, files, kind) -> None:
    changes = RIGHT[kind]
    assert validate(changes.get("data", GOOD), **{k: v for k, v in changes.items() if k != "data"}) == (0, [])


def test_rows_for_the_stage_predict_may_be_those_of_another_role(validate, files) -> None:
    code, (line,) = validate(GOOD, stages="[predict]")
    assert code == 2 and "or let the stage read other rows: `{role: evaluate}`" in line
    assert validate(GOOD, stages="[{predict: {role: evaluate}}]") == (0, [])
