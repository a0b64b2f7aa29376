"""Inputs that explode: their time and memory are bounded, or they are refused, and the message stays short."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from tiny_bases import BERT, VIT

import topwork
from topwork.cli import main

LONGEST = 2500
#: prints the largest memory of the process in MB
#: a command, and the largest resident memory of its process in MB; `ru_maxrss` would count that of the parent as well
PEAK = """
import sys
from topwork.cli import main
code = main(sys.argv[1:])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024, code)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Classifiers of texts with 5,000 labels, and of images of 32 pixels."""
    from PIL import Image

    root = tmp_path_factory.mktemp("models")
    rows = [{"text": f"word {index % 7}", "label": f"label-{index:05d}"} for index in range(5000)]
    topwork.build("text-classification", BERT, rows=rows).save(root / "texts")
    images = [{"image": Image.new("RGB", (32, 32)), "label": label} for label in "abab"]
    topwork.build("image-classification", VIT, rows=images).save(root / "images")
    return root


def test_a_word_of_a_million_letters_is_one_row_like_others(models, tmp_path, capsys):
    rows = [{"text": "x" * 1_000_000}, {"text": "good"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", str(models / "texts"), str(tmp_path / "rows.jsonl")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["row"] for line in lines] == [0, 1]


def test_thousands_of_labels_and_of_bad_rows_make_a_short_message(models, tmp_path, capsys):
    rows = [{"text": "word", "label": f"no-{index}"} for index in range(10_000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", str(models / "texts"), str(tmp_path / "rows.jsonl")]) == 1
    shown = capsys.readouterr().err
    assert "unknown label 'no-0'" in shown and len(shown) < LONGEST


@pytest.mark.parametrize(
    ("command", "suffix"),
    [("data", "csv"), ("data", "jsonl"), ("evaluate", "csv"), ("predict", "parquet"), ("validate", "parquet")],
)
def test_thousands_of_columns_make_a_short_message(command, suffix, models, tmp_path, capsys):
    import pyarrow
    from pyarrow import parquet

    names, file = [f"column-{index:05d}" for index in range(5000)], tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        file.write_text(f"{','.join(names)}\n{','.join('1' * 5000)}\n")
    elif suffix == "jsonl":
        file.write_text(json.dumps(dict.fromkeys(names, "1")) + "\n")
    else:
        parquet.write_table(pyarrow.table({name: ["1"] for name in names}), file)
    recipe = {"task": "text-classification", "base": BERT, "data": {"train": str(file)}, "stages": ["train"]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    arguments = {
        "data": [str(file), "--task", "text-classification"],
        "validate": [str(tmp_path / "recipe.json")],
        "predict": [str(models / "texts"), str(file)],
        "evaluate": [str(models / "texts"), str(file)],
    }
    assert main([command, *arguments[command]]) != 0
    captured = capsys.readouterr()
    assert "column-00000, column-00001" in captured.err and "(5,000 in all)" in captured.err
    assert len(captured.out + captured.err) < LONGEST


@pytest.mark.parametrize(("labels", "has_table"), [(1000, True), (1001, False), (5000, False)])
def test_thousands_of_labels_make_no_table_of_millions_of_numbers(labels, has_table):
    from topwork_tasks._classification.metric import ClassificationMetric

    metric = ClassificationMetric([f"label {index}" for index in range(labels)])
    metric.update({"label": "label 1"}, [{"label": "label 1", "score": 1.0}])
    result = metric.result()
    assert (result["accuracy"], "confusion" in result) == (1.0, has_table)
    assert len(json.dumps(result)) < 5_000_000


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/random", "/dev/null", "pipe"])
def test_devices_and_pipes_are_no_files_of_rows(name, command, models, tmp_path, capsys):
    if name == "pipe":
        name = str(tmp_path / "rows.jsonl")
        os.mkfifo(name)
    if not Path(name).exists():
        pytest.skip(f"there is no {name} here")
    assert main([command, str(models / "texts"), name]) == 2
    assert f"`{name}` is no regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nested.json", "nested.jsonl"])
def test_lists_within_each_other_a_hundred_thousand_times_are_refused(name, models, tmp_path, capsys):
    lists = "[" * 100_000 + "]" * 100_000
    (tmp_path / name).write_text(lists if name.endswith("json") else f'{{"text": {lists}}}\n')
    assert main(["predict", str(models / "texts"), str(tmp_path / name)]) == 1
    assert f"{name}:1: lists or objects are too deep" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the system has no sockets in folders")
def test_a_socket_is_no_file_of_rows(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("rows.jsonl")
        assert main(["predict", str(models / "texts"), "rows.jsonl"]) == 2
    assert "`rows.jsonl` is no regular file" in capsys.readouterr().err


def test_a_small_png_that_says_it_is_huge_is_refused_before_it_is_unpacked(models, tmp_path, capsys):
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert main(["predict", str(models / "images"), "-i", f"image={tmp_path / 'bomb.png'}"]) == 1
    assert "2500000000 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "begin"), [("b.csv.gz", b"text,label\n"), ("b.jsonl.gz", b'{"text": "'), ("b.json.gz", b'[{"text": "')]
)
def test_a_file_that_grows_without_measure_when_it_is_unpacked_is_refused(name, begin, models, tmp_path, capsys):
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(begin)
        for _ in range(130):
            file.write(b"a" * 1_000_000)
    assert main(["predict", str(models / "texts"), str(tmp_path / name)]) != 0
    assert "unpacked it is more than" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say how large a process was")
@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_an_image_of_a_hundred_megapixels_takes_little_memory(name, models, tmp_path):
    from PIL import Image

    options = {"quality": 50} if name.endswith("jpg") else {"compress_level": 1}
    Image.new("RGB", (10_000, 10_000), (10, 200, 30)).save(tmp_path / name, **options)
    line = [sys.executable, "-c", PEAK, "predict", str(models / "images"), "-i", f"image={tmp_path / name}"]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=300)
    peak, code = shown.stdout.splitlines()[-1].split()
    assert code == "0", shown.stderr[-2000:]
    assert int(peak) <= 1536


@pytest.mark.faults
def test_an_image_of_four_hundred_megapixels_is_refused(models, tmp_path, capsys):
    from PIL import Image

    Image.new("L", (20_000, 20_000)).save(tmp_path / "huge.jpg", quality=30)
    assert main(["predict", str(models / "images"), "-i", f"image={tmp_path / 'huge.jpg'}"]) == 1
    assert "cannot be read as an image" in capsys.readouterr().err
