"""Files as people store them: links, other Unicode forms, packed or replaced files, names without suffix."""

from __future__ import annotations

import functools
import gzip
import unicodedata

import layout_files
import pytest
from layout_files import PLUGINS, write

from topwork import DataError, DataOptions, RowsOptions, TopworkError, UsageError
from topwork.data.profile import profile_rows
from topwork.data.roles import Roles

image = functools.partial(layout_files.image, size=(4, 4))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def roles_of(task, path, columns=None, **options):
    data = DataOptions(train=RowsOptions(path=str(path), **options), columns=columns or {})
    return Roles(PLUGINS.tasks[task], PLUGINS, data)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"text,label\na,b\n", mtime=0), "a gzip file"),
        (b"PK\x03\x04", "a zip archive or a spreadsheet"),
        (b"PAR1", "a parquet file"),
        (POINTER, "a pointer of Git LFS"),
    ],
)
def test_a_file_that_is_another_kind_is_named(tmp_path, name, content, kind):
    with pytest.raises(DataError, match=rf"{name}: is {kind}"):
        roles_of("text-classification", write(tmp_path / name, content))("train")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_web_page_is_no_table(tmp_path, name):
    with pytest.raises(DataError, match="is a web page, not rows"):
        roles_of("text-classification", write(tmp_path / name, "<!DOCTYPE html>\n<html>, </html>"))("train")


@pytest.mark.parametrize(
    ("name", "cause"),
    [("a.zip", "is an archive"), ("a.7z", "is an archive"), ("a.pkl", "as csv, jsonl or parquet"), ("a.xml", "csv")],
)
def test_what_is_not_read_is_named_with_its_mend(tmp_path, name, cause):
    with pytest.raises(UsageError, match=cause):
        roles_of("text-classification", write(tmp_path / name, b"x"))("train")


@pytest.mark.parametrize("kind", ["images", "tables"])
def test_folders_behind_links_are_read(tmp_path, kind):
    if kind == "images":
        image(tmp_path / "data/cat/a.png"), image(tmp_path / "store/dog/a.png")
        (tmp_path / "data/dog").symlink_to(tmp_path / "store/dog")
        labels = list(roles_of("image-classification", tmp_path / "data")("train")["label"])
    else:
        write(tmp_path / "data/a.csv", "text,label\na,cat\n"), write(tmp_path / "store/b.csv", "text,label\nb,dog\n")
        (tmp_path / "data/more").symlink_to(tmp_path / "store")
        labels = list(roles_of("text-classification", tmp_path / "data")("train")["label"])
    assert sorted(labels) == ["cat", "dog"]


@pytest.mark.parametrize("beside", ["notes.txt", "a.png", "README.md", "Thumbs.db", ".DS_Store"])
def test_other_files_in_a_folder_of_tables_are_no_rows(tmp_path, beside):
    for name in ("train", "test"):
        write(tmp_path / f"{name}.csv", "text,label\na,x\n")
    write(tmp_path / beside, b"\x89PNG\xff")
    assert roles_of("text-classification", tmp_path, split="train")("train").to_list() == [{"text": "a", "label": "x"}]


def test_images_in_a_folder_of_texts_are_no_texts(tmp_path):
    write(tmp_path / "a.txt", "one\n"), write(tmp_path / "b.txt", "two\n"), image(tmp_path / "c.png")
    assert sorted(roles_of("fill-mask", tmp_path)("train")["text"]) == ["one", "two"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_names_in_a_table_find_their_files(tmp_path, form, suffix):
    other = "NFD" if form == "NFC" else "NFC"
    file = image(tmp_path / (unicodedata.normalize(other, "caf\u00e9") + ".png"))
    named = unicodedata.normalize(form, "caf\u00e9") + suffix
    table = write(tmp_path / "t.csv", f"image,label\n{named},x\n")
    assert roles_of("image-classification", table)("train")[0]["image"] == str(file)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_folder_of_files_is_an_option(tmp_path, form):
    file = image(tmp_path / "images" / "7.png")
    rows = "id,label\n7,x\n" if form == "csv" else '{"id": "7", "label": "x"}\n'
    table = write(tmp_path / "meta" / f"t.{form}", rows)
    roles = roles_of("image-classification", table, {"image": "id"}, options={"files": "../images"})
    assert roles("train").select([0])[0]["image"] == str(file)
    doubts = profile_rows(
        PLUGINS.tasks["image-classification"],
        PLUGINS.tasks["image-classification"].Options(),
        roles_of("image-classification", table, {"image": "id"}),
        ["train"],
    ).doubts
    assert any("meta/7 does not exist" in doubt and "options: {files: ...}" in doubt for doubt in doubts)
    with pytest.raises(UsageError, match="there is no folder"):
        roles_of("image-classification", table, {"image": "id"}, options={"files": "nowhere"})("train")


@pytest.mark.parametrize(
    ("task", "suffix", "other"), [("image-classification", ".png", ".heic"), ("audio-classification", ".wav", ".m4a")]
)
def test_files_that_are_left_out_are_counted(tmp_path, task, suffix, other):
    for label in ("cat", "dog"):
        image(tmp_path / label / "a.png").rename(tmp_path / label / f"a{suffix}")
    write(tmp_path / "cat" / f"b{other}", b"x"), write(tmp_path / "Thumbs.db", b"x")
    roles = roles_of(task, tmp_path)
    assert len(roles("train")) == 2 and any(f"1 files of other kinds are left out: {other} 1" in n for n in roles.notes)


@pytest.mark.parametrize("task", ["image-classification", "audio-classification"])
def test_files_that_no_row_of_a_table_names_are_counted(tmp_path, task):
    suffix = ".png" if task.startswith("image") else ".wav"
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png").rename(tmp_path / f"{name}{suffix}")
    write(tmp_path / "metadata.csv", f"file_name,label\na{suffix},x\n")
    roles = roles_of(task, tmp_path)
    assert len(roles("train")) == 1 and any("1 more are named by no row" in note for note in roles.notes)


def test_a_header_that_is_one_column_may_be_several(tmp_path):
    with pytest.raises(TopworkError, match=r"if '\^' stands between columns: `options: \{sep: '\^'\}`"):
        roles_of("text-classification", write(tmp_path / "a.csv", "text^label\na^x\n"))("train")
    file = write(tmp_path / "a.json", '{"text": ["a", "b"], "label": ["x", "y"]}')
    roles = roles_of("text-classification", file)
    roles("train")
    assert any("read as one row with the columns text, label" in note for note in roles.notes)


LISTED = (
    "imagefolder coco voc yolo images-masks images-depth boxes speech-commands common-voice librispeech ljspeech nemo"
    " conll words json chat parallel label-studio doccano audiofolder csv tsv parquet text"
)


@pytest.mark.parametrize("name", LISTED.split())
def test_what_is_read_is_listed(name):
    assert PLUGINS.formats[name]


@pytest.mark.parametrize(("task", "suffix"), [("image-classification", ".png"), ("audio-classification", ".wav")])
def test_a_folder_of_media_says_how_it_was_read(tmp_path, task, suffix):
    for label in ("cat", "dog"):
        image(tmp_path / label / "a.png").rename(tmp_path / label / f"a{suffix}")
    roles = roles_of(task, tmp_path)
    roles("train")
    noun = "images" if suffix == ".png" else "clips"
    said = f"read as a folder of {noun}: 2 {noun}, 2 labels from the names of folders: cat, dog"
    assert any(said in note for note in roles.notes)
