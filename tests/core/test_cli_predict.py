"""`topwork predict`: rows from csv, JSON lines, folders and stdin; bad rows, thresholds, precision, names of files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_bases import BASES

import topwork
from topwork.cli import main

TEXTS = ["good film", "bad film", "fine"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved models for texts, images, boxes and masked words; and three image files, one of them broken."""
    root = tmp_path_factory.mktemp("models")
    for task in ("text-classification", "image-classification", "object-detection", "fill-mask"):
        rows = topwork.load_plugins().task(task).example_rows()
        topwork.build(task, BASES[task], rows=rows).save(root / task)
    (root / "images").mkdir()
    image = topwork.load_plugins().task("image-classification").example_rows()[0]["image"]
    for name in ("a.png", "c.png"):
        image.save(root / "images" / name)
    (root / "images" / "b.png").write_bytes(b"no image")
    return root


@pytest.fixture
def predict(folders, capsys, monkeypatch, tmp_path):
    """(exit code, lines of stdout as JSON, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(task: str, *arguments: str, stdin: str | None = None) -> tuple[int, list, str]:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(["predict", str(folders / task), *arguments])
        shown = capsys.readouterr()
        return code, [json.loads(line) for line in shown.out.splitlines()], shown.err

    return call


def jsonl(column: str = "text") -> str:
    return "".join(json.dumps({column: text}) + "\n" for text in TEXTS)


def csv(column: str = "text") -> str:
    return "\n".join([column, *TEXTS]) + "\n"


@pytest.mark.parametrize("form", [jsonl, csv])
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_rows_from_a_file_and_from_stdin_give_the_same(predict, tmp_path, form, way) -> None:
    code, expected, _ = predict("text-classification", *(f"--input=text={text}" for text in TEXTS))
    assert (code, [line["row"] for line in expected]) == (0, [0, 1, 2])
    (tmp_path / f"rows.{form.__name__}").write_text(form())
    if way == "file":
        code, lines, _ = predict("text-classification", f"rows.{form.__name__}")
    else:
        code, lines, _ = predict("text-classification", "-", stdin=form())
    assert (code, [line["row"] for line in lines]) == (0, [0, 1, 2])
    for line, other in zip(lines, expected, strict=True):
        assert [entry["label"] for entry in line["prediction"]] == [entry["label"] for entry in other["prediction"]]


def test_a_broken_file_among_others_is_an_error_or_a_line(predict, folders) -> None:
    files = [str(folders / "images" / name) for name in ("a.png", "b.png", "c.png")]
    inputs = [f"--input=image={file}" for file in files]
    code, _, err = predict("image-classification", *inputs)
    assert code == 1 and "row 1" in err
    code, lines, _ = predict("image-classification", *inputs, "--on-error", "skip")
    assert (code, [line["row"] for line in lines]) == (0, [0, 1, 2])
    assert ["error" in line for line in lines] == [False, True, False]
    assert [line.get("file") for line in lines if "prediction" in line] == [files[0], files[2]]


def test_a_folder_of_images_names_its_files(predict, folders) -> None:
    code, lines, err = predict("image-classification", str(folders / "images"), "--on-error", "skip")
    assert code == 0, err
    assert [line["row"] for line in lines] == [0, 1, 2]
    names = [line["file"].rpartition("/")[2] for line in lines if "prediction" in line]
    assert names == ["a.png", "c.png"] and "error" in lines[1]


def test_rows_are_numbered_through_all_sources(predict, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl())
    (tmp_path / "b.csv").write_text(csv())
    _, lines, _ = predict("text-classification", "a.jsonl", "b.csv", "-i", "text=x", "--limit", "2")
    assert [line["row"] for line in lines] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("arguments", [["-i", "txt=good film"], ["rows.csv"]])
def test_a_missing_column_is_explained_in_the_words_of_the_command_line(predict, tmp_path, arguments) -> None:
    (tmp_path / "rows.csv").write_text(csv("txt"))
    code, _, err = predict("text-classification", *arguments)
    assert code == 2 and "-c text=txt, or -i text=..." in err and "data.columns" not in err
    assert predict("text-classification", *arguments, "-c", "text=txt")[0] == 0


def test_threshold_batch_size_and_precision(predict, folders) -> None:
    image = str(folders / "images" / "a.png")
    _, (line,), _ = predict("object-detection", f"--input=image={image}", "--threshold", "0")
    assert line["prediction"]
    _, (line,), _ = predict("object-detection", f"--input=image={image}", "--threshold", "0.99")
    assert line["prediction"] == []
    code, _, err = predict("object-detection", f"--input=image={image}", "--threshold", "7")
    assert code == 2 and "--threshold" in err
    for task, cause in (("text-classification", "is for rows with several"), ("fill-mask", "has no option")):
        code, _, err = predict(task, "-i", "text=x", "--threshold", "0.5")
        assert code == 2 and "--threshold" in err and cause in err
    for options in (["--precision", "bf16"], ["--batch-size", "1"]):
        assert len(predict("text-classification", *(f"--input=text={text}" for text in TEXTS), *options)[1]) == 3
    for option in ("--precision", "--on-error"):
        code, _, err = predict("text-classification", "-i", "text=x", option, "flot32")
        assert code == 2 and option in err


def test_an_output_that_is_an_input_is_refused_and_the_input_stays(predict, tmp_path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text\ngood\nbad\n")
    (tmp_path / "link.csv").symlink_to(rows)
    for output in (rows, tmp_path / "link.csv"):
        code, _, err = predict("text-classification", str(rows), "--output", str(output))
        assert code == 2 and "--output" in err and "is one of the inputs" in err
    assert rows.read_text() == "text\ngood\nbad\n" and (tmp_path / "link.csv").is_symlink()


def test_a_pipe_gets_the_lines_and_is_never_replaced_by_a_file(predict, tmp_path) -> None:
    pipe = tmp_path / "lines"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_text)
        code, _, err = predict("text-classification", "-i", "text=good", "--output", str(pipe))
        assert code == 0, err
        assert json.loads(reader.result(timeout=60))["row"] == 0
    assert pipe.is_fifo()
    with pytest.raises(topwork.TopworkError, match="is no file and no folder"):
        topwork.write_text(pipe, "text")
    assert pipe.is_fifo()


def test_empty_stdin(predict) -> None:
    code, lines, err = predict("text-classification", "-", stdin="\n")
    assert (code, lines) == (2, []) and "stdin is empty" in err


def test_what_plugins_print_meanwhile_is_no_line_of_the_output(folders, tmp_path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os, topwork\n"
        "@topwork.hookimpl\n"
        "def load_rows(source, options):\n"
        "    os.write(1, b'noise\\n'), print('more noise')\n"
        "    return [{'text': 'good film'}] if source == 'loud' else None\n"
    )
    call = [
        sys.executable,
        "-m",
        "topwork",
        "--plugin",
        "loud.py",
        "predict",
        str(folders / "text-classification"),
        "loud",
    ]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["prediction"] and "noise" in done.stderr and "more noise" in done.stderr
