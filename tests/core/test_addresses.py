"""Rows by address: files of stores that fsspec reads, through the command line and `load_plugins().load_rows`."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import fsspec
import pytest
from tiny_bases import BASES

import topwork
from topwork import UsageError
from topwork.cli import main
from topwork.data.options import RowsOptions
from topwork.runs.fingerprints import fingerprint
from topwork.shards.description import describe_sources

ROWS = [{"text": f"a film of {index} acts", "label": "ab"[index % 2], "year": f"0{index}"} for index in range(7)]


@pytest.fixture
def store():
    """A store in memory that no other test uses."""
    memory = fsspec.filesystem("memory")
    memory.mkdirs("/addresses", exist_ok=True)
    yield memory
    memory.rm("/addresses", recursive=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def load(address: str) -> list[dict]:
    return [dict(row) for row in topwork.load_plugins().load_rows(RowsOptions(path=address))]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_rows_of_a_store_are_those_of_local_files(store, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,year\n" + "".join(",".join(row.values()) + "\n" for row in ROWS))
    store.pipe("/addresses/rows.csv", (tmp_path / "rows.csv").read_bytes())
    store.pipe("/addresses/a/1.jsonl.gz", gzip.compress(lines(ROWS[:4])))
    store.pipe("/addresses/b/2.jsonl.gz", gzip.compress(lines(ROWS[4:])))
    local = load(str(tmp_path / "rows.csv"))
    assert local == ROWS  # years keep their zeros, as in any local file
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.write(tmp_path / "rows.csv", "inside/rows.csv")
    for address in (
        "memory://addresses/rows.csv",
        "memory://addresses/*/*.jsonl.gz",
        "memory://addresses/**/*.gz",
        f"file://{tmp_path}/rows.csv",
        f"file://{tmp_path}/*.csv",
        f"zip://inside/rows.csv::file://{tmp_path}/rows.zip",
        f"zip://inside/*.csv::file://{tmp_path}/rows.zip",
    ):
        assert load(address) == ROWS, address


def test_a_folder_of_images_in_a_store_is_one_on_this_machine(store, tmp_path):
    from PIL import Image

    for label, shade in (("dark", 10), ("light", 240)):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("L", (8, 8), shade).save(tmp_path / "images" / label / "0.png")
    store.put(str(tmp_path / "images"), "/addresses/images", recursive=True)
    rows = load("memory://addresses/images")
    assert [(row["label"], row["image"].getpixel((0, 0))) for row in rows] == [(0, 10), (1, 240)]


def test_a_file_that_changed_in_its_store_is_read_anew_and_else_once(store, cache):
    store.pipe("/addresses/rows.jsonl", lines(ROWS))
    mark = fingerprint("memory://addresses/rows.jsonl")
    assert load("memory://addresses/rows.jsonl") == load("memory://addresses/rows.jsonl") == ROWS
    assert len(list((cache / "stores").iterdir())) == 1
    store.pipe("/addresses/rows.jsonl", lines(ROWS[::-1]))
    assert load("memory://addresses/rows.jsonl") == ROWS[::-1]
    assert fingerprint("memory://addresses/rows.jsonl") not in (None, mark)


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("memory://addresses/none.csv", "there is no file at `memory://addresses/none.csv`"),
        ("memory://addresses/*.parquet", "there is no file at"),
        ("wandb://a/b/rows.csv", "cannot be read"),
        ("nobodys://a/rows.csv", "no plugin knows the rows"),
        ("zip://rows.csv::memory://addresses/none.zip", "there is no file at"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_address(address, cause, store):
    with pytest.raises(UsageError, match=r"rows\.csv|none|parquet") as caught:
        load(address)
    assert cause in str(caught.value)


def test_shards_of_rows_in_a_store_are_those_of_a_file(store, tmp_path, capsys):
    topwork.build("text-classification", BASES["text-classification"], rows=ROWS).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    store.pipe("/addresses/rows.jsonl", lines(ROWS))
    for source, out in ((str(tmp_path / "rows.jsonl"), "local"), ("memory://addresses/rows.jsonl", "address")):
        command = ["predict", str(tmp_path / "model"), source, "--shards", "3", "--output", str(tmp_path / out)]
        assert main(command) == 0
    assert (tmp_path / "local/predictions.jsonl").read_bytes() == (tmp_path / "address/predictions.jsonl").read_bytes()
    store.pipe("/addresses/rows.jsonl", lines(ROWS[::-1]))
    assert main(command) == 2
    assert "the data is another one" in capsys.readouterr().err


# ---------------------------------------------------------------- versions of local files


@pytest.mark.parametrize("pattern", ["{}/**/*.jsonl", "~/**/*.jsonl", "file://{}/**/*.jsonl", "~/a/*/*.jsonl"])
def test_a_change_of_any_file_that_a_pattern_matches_is_noticed(pattern, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a" / "b" / "rows.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(lines(ROWS))
    source = pattern.format(tmp_path)
    before = describe_sources([source])
    file.write_bytes(lines(ROWS[::-1]))
    assert describe_sources([source]) != before != [source]


def test_shards_notice_a_change_in_the_middle_of_a_large_file(tmp_path):
    file = Path(tmp_path / "rows.bin")
    with file.open("wb") as large:
        os.truncate(large.fileno(), 70 * 2**20)
    before = describe_sources([str(file)])
    with file.open("r+b") as large:
        large.seek(35 * 2**20)
        large.write(b"changed")
    assert describe_sources([str(file)]) != before
