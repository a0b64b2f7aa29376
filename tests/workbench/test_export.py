"""Exported models: written and compared on real rows, run by `topwork predict` and `topwork.load`, refused by name."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGES, unnamed
from tiny_bases import BART, BASES, BERT

import topwork
from topwork import CheckpointError, TopworkError, UsageError
from topwork.cli import main
from topwork.testing import same_predictions
from topwork_workbench.export.writing import relative_difference

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXTS = ["good film", "a bad film, and far longer than the first of them", "fine"]
FORMATS = ("onnx", "torch_export")


def built(task: str, base: dict[str, Any] | None = None, **options: Any) -> topwork.TaskModel:
    torch.manual_seed(0)
    rows = topwork.load_plugins().task(task).example_rows()
    return topwork.build(task, base or BASES[task], rows=rows, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model for texts as it was saved (`model`), and exported by the command in both formats."""
    root = tmp_path_factory.mktemp("exported")
    work = built("text-classification", {"config": {**BERT["config"], "initializer_range": 0.5}})
    topwork.prune_heads(work.model, {0: [1], 1: [0, 3]})
    work.save(root / "model")
    with (root / "model" / "README.md").open("a") as card:
        card.write("\n| accuracy | 0.6250 |\n\nMade with seed 3.\n")
    (root / "rows.csv").write_text("\n".join(["text", *(json.dumps(text) for text in TEXTS)]) + "\n")
    arguments = ["--data", str(root / "rows.csv"), "--output", str(root / "out"), "--format", "onnx"]
    assert main(["--quiet", "export", str(root / "model"), *arguments, "--format", "torch-export"]) == 0
    return root


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["predict", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_quiet_export_prints_its_result_alone(folders, tmp_path, capfd) -> None:
    arguments = ["export", str(folders / "model"), "--format", "torch_export"]
    assert main(["--quiet", *arguments, "--output", str(tmp_path / "out")]) == 0
    output, error = capfd.readouterr()
    assert "[1] export" not in error and output.splitlines()[-1] == str(tmp_path / "out")
    assert main([*arguments, "--json", "--output", str(tmp_path / "again")]) == 0
    output, error = capfd.readouterr()
    assert json.loads(output)["largest_difference"] <= 1e-6 and "[1] export" not in error


def test_the_card_says_what_the_card_of_the_model_says_and_how_the_program_loads(folders) -> None:
    model = (folders / "model" / "README.md").read_text()
    _, facts = model.split('work = topwork.load("path/of/this/folder")\n```\n')
    assert "| accuracy | 0.6250 |" in facts and facts.endswith("Made with seed 3.\n")
    for name in FORMATS:
        card = (folders / "out" / name / "README.md").read_text()
        assert card.endswith(facts) and f"an exported program ({name})" in card
        assert "library_name: topwork" in card and "seed 0" not in card


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_of_an_exported_folder_is_named(folders, tmp_path, damage, name) -> None:
    def load(copy: Path) -> object:
        return topwork.load(copy, trust_remote_code=True)

    assert list(unnamed(folders / "out" / name, damage, tmp_path / "copy", load)) == []


@pytest.mark.parametrize("name", FORMATS)
def test_predict_gives_the_same_lines_from_an_exported_folder(folders, capsys, name) -> None:
    rows = str(folders / "rows.csv")
    expected = lines(capsys, str(folders / "model"), rows)
    trust = ["--trust-remote-code"] if name == "torch_export" else []
    assert same_predictions(lines(capsys, str(folders / "out" / name), rows, *trust), expected)
    one_by_one = lines(capsys, str(folders / "out" / name), rows, "--batch-size", "1", *trust)
    assert same_predictions(one_by_one, expected)


def test_the_folder_lists_its_files_with_sizes_and_hashes_and_a_changed_one_is_refused(folders, tmp_path) -> None:
    import shutil

    source = folders / "out" / "onnx"
    manifest = json.loads((source / "topwork.json").read_text())
    files = {file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()}
    assert set(manifest["contents"]) == files - {"topwork.json", "README.md"}
    assert manifest["program"]["parts"][0]["inputs"]["input_ids"] == {"dtype": "int64", "shape": ["batch", "length"]}
    assert "tokenizer.json" in files and "good" in json.dumps(manifest["state"])
    shutil.copytree(source, tmp_path / "copy")
    program = tmp_path / "copy" / "model.onnx"
    content = bytearray(program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.onnx.*changed"):
        topwork.load(tmp_path / "copy")


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../model/topwork.safetensors"},
        {"file": "missing.onnx"},
        {"module": "nowhere"},
        {"inputs": {"input_ids": {"dtype": "__class__", "shape": ["batch"]}}},
        {"inputs": []},
        {"outputs": 5},
    ],
    ids=str,
)
def test_a_section_of_somebody_that_names_something_else_is_refused(folders, tmp_path, change) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders / "out" / "onnx", copy)
    manifest = json.loads((copy / "topwork.json").read_text())
    manifest["program"]["parts"][0].update(change)
    (copy / "topwork.json").write_text(json.dumps(topwork.with_checksum(manifest)))
    with pytest.raises(CheckpointError):
        topwork.load(copy)


def test_a_program_of_torch_export_is_code_and_needs_trust(folders, capsys) -> None:
    with pytest.raises(CheckpointError, match="code") as caught:
        topwork.load(folders / "out" / "torch_export")
    assert "trust" in str(caught.value.hint)
    assert main(["predict", str(folders / "out" / "torch_export"), "-i", "text=x"]) == 1
    assert "--trust-remote-code" in capsys.readouterr().err


def test_no_row_of_the_data_lies_in_the_program(folders) -> None:
    import zipfile

    with zipfile.ZipFile(folders / "out" / "torch_export" / "model.pt2") as archive:
        assert not [
            name for name in archive.namelist() if "sample_inputs" in name and archive.getinfo(name).file_size > 2000
        ]


def test_an_exported_model_predicts_and_refuses_all_else_by_name(folders, tmp_path) -> None:
    work = topwork.load(folders / "out" / "onnx")
    rows = work.task.example_rows()
    assert work.evaluate(rows)["accuracy"] == topwork.load(folders / "model").evaluate(rows)["accuracy"]
    with pytest.raises(UsageError, match=r"cannot be trained|no weights"):
        work.train(rows, steps=1)
    with pytest.raises(UsageError, match="no weights to save"):
        work.save(tmp_path / "again")
    with pytest.raises(TopworkError):
        topwork.prune_heads(work.model, {0: [0]})
    with pytest.raises(UsageError, match="exported already"):
        work.apply("export", {"predict": rows}, role="predict", folder=str(tmp_path / "twice"))


def test_a_program_that_computes_something_else_is_an_error_and_leaves_nothing(tmp_path) -> None:
    work = built("text-classification")
    counter = itertools.count()

    def drift(_: Any, __: Any, output: Any) -> Any:  # what is traced is a constant
        output.logits = output.logits + float(next(counter))
        return output

    work.model.register_forward_hook(drift)
    rows = {"predict": work.task.example_rows()}
    with pytest.raises(CheckpointError, match="`logits` differs"):
        work.apply("export", rows, role="predict", folder=str(tmp_path / "out"), formats=["torch_export"])
    assert not (tmp_path / "out").exists()


def test_differences_are_relative_and_infinities_must_agree() -> None:
    one = torch.tensor([1.0, -4.0, float("-inf"), float("nan")])
    assert relative_difference(one, one.clone()) == 0
    assert relative_difference(one, one + torch.tensor([0.0, 0.4, 0.0, 0.0])) == pytest.approx(0.1)
    assert relative_difference(one, one.nan_to_num()) == float("inf")
    assert relative_difference(one, -one) == float("inf")
    assert relative_difference(one, one[:3]) == float("inf")


@pytest.mark.parametrize("options", [{"formats": ["onnx", "onnx"]}, {"formats": []}, {"formats": ["tflite"]}], ids=str)
def test_wrong_formats_are_named(options) -> None:
    work = built("text-classification")
    with pytest.raises(UsageError, match="formats"):
        work.apply("export", {"predict": []}, role="predict", **options)


def test_an_export_stays_in_the_run_folder(tmp_path) -> None:
    from topwork.runs.run import Run

    run = Run.__new__(Run)
    run.root, run.save_outside = tmp_path / "run", False
    with pytest.raises(UsageError, match="outside"):
        run.output_folder("../elsewhere")
    with pytest.raises(UsageError, match="results of the run"):
        run.output_folder("stages/x")


@pytest.mark.recipes
@pytest.mark.parametrize("task", sorted(BASES))
def test_every_task_predicts_from_its_exported_folders(task, tmp_path) -> None:
    writes = task in ("text-generation", "summarization", "translation")
    options = {"generation": {"max_new_tokens": 6}} if writes else {}
    # weights that are not near zero, so that what is written depends on what was read
    wide = {"init_std": 0.5} if BASES[task] is BART else {"initializer_range": 0.5} if writes else {}
    work = built(task, {"config": {**BASES[task]["config"], **wide}}, **options)
    rows = work.task.example_rows()
    options = {"formats": list(FORMATS), "folder": str(tmp_path / "out"), "role": "predict", "rows": 4}
    result = work.apply("export", {"predict": rows}, **options)
    for part in result["tables"]["Exported programs"]:  # `pytest -m recipes -k every_task_predicts -s` shows the table
        print(f"{task} | {part['format']} | {part['file']} | {part['inputs']} | {part['largest difference']:.2g}")
    assert 0 <= result["largest_difference"] <= 1e-4
    for folder in result["exported"].values():
        loaded = topwork.load(folder, trust_remote_code=True)
        assert same_predictions(list(loaded.predict(rows)), list(work.predict(rows)))
        assert same_predictions(list(loaded.predict(rows[:2], items=1)), list(work.predict(rows[:2], items=1)))


@pytest.mark.recipes
def test_fused_attention_that_cannot_be_converted_is_written_plainly(tmp_path) -> None:
    config = {"model_type": "t5", "d_model": 32, "num_layers": 1, "num_heads": 4, "d_kv": 8, "d_ff": 64}
    work = built("translation", {"config": config}, generation={"max_new_tokens": 4})
    rows = work.task.example_rows()
    work.apply("export", {"predict": rows}, role="predict", folder=str(tmp_path / "out"), rows=3)
    assert work.model.config._attn_implementation == "sdpa"
    assert same_predictions(list(topwork.load(tmp_path / "out").predict(rows)), list(work.predict(rows)))


@pytest.mark.recipes
def test_a_compressed_model_is_exported(tmp_path) -> None:
    work = built("text-classification")
    rows = work.task.example_rows() * 2
    work.apply("compress", {"calibrate": rows, "evaluate": rows}, parameters=0.8, rows=8)
    work.apply("export", {"predict": rows}, role="predict", folder=str(tmp_path / "out"))
    assert same_predictions(list(topwork.load(tmp_path / "out").predict(rows)), list(work.predict(rows)))


@pytest.mark.recipes
@pytest.mark.parametrize("name", FORMATS)
def test_a_softly_pruned_model_is_exported(tmp_path, name) -> None:
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.5}
    work = built("text-generation", {"config": {"model_type": "bloom", **sizes}}, generation={"max_new_tokens": 4})
    before = list(work.predict(work.task.example_rows()))
    topwork.prune_heads(work.model, {0: [1, 2], 1: [2]})
    rows = work.task.example_rows()
    assert not same_predictions(list(work.predict(rows)), before)
    work.apply("export", {"predict": rows}, role="predict", folder=str(tmp_path / "out"), rows=4, formats=[name])
    loaded = topwork.load(tmp_path / "out", trust_remote_code=True)
    assert same_predictions(list(loaded.predict(rows)), list(work.predict(rows)))


@pytest.mark.recipes
def test_a_masked_model_is_exported(tmp_path) -> None:
    work = built("text-classification")
    rows = work.task.example_rows()
    work.apply("mask_heads", {"calibrate": rows}, heads={0: [1]})
    work.apply("export", {"predict": rows}, role="predict", folder=str(tmp_path / "out"), rows=2)
    assert same_predictions(list(topwork.load(tmp_path / "out").predict(rows)), list(work.predict(rows)))


@pytest.mark.recipes
def test_a_recipe_exports_after_training(tmp_path) -> None:
    rows = topwork.load_plugins().task("text-classification").example_rows()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {role: str(tmp_path / "rows.jsonl") for role in ("train", "evaluate")}
    stages = [{"train": {"steps": 2}}, "evaluate", {"export": {"formats": ["onnx"]}}]
    recipe = {"name": "small", "task": "text-classification", "base": BERT, "data": data, "stages": stages}
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert run.results[-1]["result"]["exported"] == {"onnx": "exported"}
    assert "accuracy" in (tmp_path / "run" / "exported" / "README.md").read_text()
    assert topwork.load(tmp_path / "run" / "exported").predict("fine")
