"""`load_rows` on local files and folders, compared with what was written; bad files name file and line."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from topwork import DataError, RowsOptions, UsageError
from topwork_bases.rows import plugin as data_rows

TABLE = [{"text": "good", "label": 1}, {"text": "bad, very", "label": 0}, {"text": "fine\ttoo", "label": 1}]

#: cells of csv and tsv are text as it was written
WRITTEN = [{**row, "label": str(row["label"])} for row in TABLE]


def load(path, **options):
    return data_rows.load_rows(str(path), RowsOptions(path=str(path), **options))


def write_table(folder: Path, kind: str) -> Path:
    import datasets

    path = folder / f"rows.{kind}"
    table = datasets.Dataset.from_list(TABLE)
    if kind == "csv":
        table.to_csv(path)
    elif kind == "tsv":
        table.to_csv(path, sep="\t")
    elif kind == "json":
        path.write_text(json.dumps(TABLE))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "arrow":
        folder = path.with_suffix("")
        table.save_to_disk(folder)
        next(folder.glob("*.arrow")).rename(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "arrow"])
def test_tables_come_back(tmp_path, kind) -> None:
    path = write_table(tmp_path, kind)
    rows = WRITTEN if kind in ("csv", "tsv") else TABLE
    assert load(path).to_list() == rows
    assert list(load(path, streaming=True)) == rows
    assert load(path, split="train[1:]").to_list() == rows[1:]


def test_text_globs_and_other_names(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    assert load(tmp_path / "a.txt")["text"] == ["one", "two"]
    assert load(tmp_path / "*.txt")["text"] == ["one", "two", "three"]
    renamed = write_table(tmp_path, "csv").rename(tmp_path / "rows.dat")
    with pytest.raises(UsageError, match="format: csv"):
        load(renamed)
    assert load(renamed, format="csv").to_list() == WRITTEN
    with pytest.raises(UsageError, match="did you mean `csv`"):
        load(renamed, format="cvs")
    assert load(renamed, format="csv", options={"names": ["a", "b"], "skiprows": 1}).column_names == ["a", "b"]


def test_folder_of_files_with_splits(tmp_path) -> None:
    (tmp_path / "README.md").write_text("# about")
    for split in ("train", "test"):
        write_table(tmp_path, "jsonl").rename(tmp_path / f"{split}.jsonl")
    assert load(tmp_path, split="test").to_list() == TABLE
    with pytest.raises(UsageError, match=r"several splits: .*name one"):
        load(tmp_path)
    with pytest.raises(UsageError, match="did you mean `train`"):
        load(tmp_path, split="trian")
    with pytest.raises(UsageError, match="slices a stream"):
        load(tmp_path, split="train[:1]", streaming=True)


def test_saved_data_sets(tmp_path) -> None:
    import datasets

    table = datasets.Dataset.from_list(TABLE)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "two")
    assert load(tmp_path / "one").to_list() == TABLE
    assert load(tmp_path / "two", split="test").to_list() == TABLE[:1]
    assert list(load(tmp_path / "one", streaming=True)) == TABLE
    with pytest.raises(UsageError, match="several splits: train, test"):
        load(tmp_path / "two")


def test_image_folder(tmp_path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for number, label in enumerate(("cat", "dog")):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (4, 3), (number, 0, 0)).save(tmp_path / split / label / "1.png")
    rows = load(tmp_path, split="train")
    assert rows.features["label"].names == ["cat", "dog"]
    assert [np.asarray(row["image"])[0, 0, 0] for row in rows] == rows["label"]
    one = load(tmp_path / "train" / "cat" / "1.png")
    assert one[0]["image"].size == (4, 3)


def test_image_folder_with_metadata(tmp_path) -> None:
    from PIL import Image

    objects = {"bbox": [[0, 0, 2, 1]], "category": [5]}
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "objects": objects}) + "\n")
    assert load(tmp_path)[0]["objects"] == objects


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize(("sep", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-16")])
def test_tables_beside_media_are_read_as_written(tmp_path, kind, sep, encoding) -> None:
    from PIL import Image

    names = ("train/a.png", "test/b.png") if kind == "image" else ("train/a.wav", "test/b.wav")
    for name in names:
        if kind == "image":
            (tmp_path / name).parent.mkdir()
            Image.new("L", (4, 3)).save(tmp_path / name)
        else:
            write_clip(tmp_path / name, 1)
    lines = [["file_name", "label", "mask_file_name"], [names[0], "001", names[0]], [names[1], "NA", ""]]
    text = "".join(sep.join(line) + "\r\n" for line in lines)
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    train, test = load(tmp_path, split="train"), load(tmp_path, split="test")
    assert (train["label"], test["label"]) == (["001"], ["NA"])
    assert test.column_names == [kind, "mask", "label"] and test[0]["mask"] is None
    if kind == "image":
        assert train[0]["image"].size == (4, 3)
    (tmp_path / "metadata.csv").write_text(f"file{sep}label\nx{sep}y\n")
    with pytest.raises(DataError, match=r"metadata\.csv: has no column `file_name`"):
        load(tmp_path)


def write_clip(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.full(80, value, np.int16).tobytes())


def test_audio_folder_without_a_decoder(tmp_path) -> None:
    for number, label in enumerate(("no", "yes")):
        for split in ("train", "test"):
            write_clip(tmp_path / split / label / "1.wav", number)
    rows = load(tmp_path, split="train")
    assert rows.features["label"].names == ["no", "yes"]
    for row in rows:
        with wave.open(row["audio"]["path"]) as clip:
            assert np.frombuffer(clip.readframes(1), np.int16)[0] == row["label"]
    assert rows.features["audio"].decode is False
    assert next(iter(load(tmp_path, split="test", streaming=True)))["label"] == 0
    with pytest.raises(UsageError, match="several splits"):
        load(tmp_path)


def test_audio_folder_with_metadata(tmp_path) -> None:
    write_clip(tmp_path / "clips" / "a.wav", 1)
    (tmp_path / "metadata.csv").write_text("file_name,text\nclips/a.wav,hello\n")
    assert load(tmp_path)[0]["text"] == "hello"
    (tmp_path / "metadata.csv").write_bytes("\ufefffile_name;text\r\nclips/a.wav;NA\r\n".encode())
    assert load(tmp_path)[0]["text"] == "NA"  # saved by a spreadsheet: byte order mark, semicolons
    (tmp_path / "metadata.csv").write_text("file_name,text\nclips/b.wav,hello\n")
    with pytest.raises(DataError, match=r"metadata\.csv:2: entry 1 names `clips/b\.wav`"):
        load(tmp_path)


def test_audio_columns_are_never_decoded(tmp_path) -> None:
    import datasets

    write_clip(tmp_path / "a.wav", 1)
    clip = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}
    rows = datasets.Dataset.from_list([{"audio": clip}]).cast_column("audio", datasets.Audio(sampling_rate=8000))
    rows.to_parquet(tmp_path / "clips.parquet")
    loaded = load(tmp_path / "clips.parquet")
    assert loaded[0]["audio"]["bytes"] == clip["bytes"]
    assert loaded.features["audio"].sampling_rate == 8000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n', r"a\.jsonl:2: "),
        ("a.json", b'[\n {"a": 1},\n {"a" 2}\n]', r"a\.json:3: "),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv:3: has 3 fields where the header has 2"),
        ("a.csv", b"a,b\n1,\xff\xfe\n", r"a\.csv:2: not UTF-8"),
        ("a.csv", b"", r"a\.csv: the file is empty"),
        ("a.parquet", b"no parquet", r"a\.parquet: cannot be read as parquet"),
    ],
)
def test_unreadable_files_name_file_and_line(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


@pytest.mark.parametrize("path", ["missing.csv", "./missing", "a/b/c", "*.csv"])
def test_missing_files_are_named(tmp_path, monkeypatch, path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no file"):
        load(path)


def test_empty_folder_and_offline_hub(tmp_path) -> None:
    with pytest.raises(UsageError, match="holds no files"):
        load(tmp_path)
    with pytest.raises(UsageError, match="offline mode is on"):
        load("nobody/nothing")
    assert load("sample:digits") is None
