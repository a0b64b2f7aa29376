"""Layouts of files in which people have their data: recognised, said, read right, or refused with file and line."""

from __future__ import annotations

import functools
import importlib
import json
import math
import pkgutil
import wave
from pathlib import Path

import layout_files
import numpy
import pytest
from layout_files import PLUGINS, load, write
from tiny_bases import BASES

import topwork
from topwork import DataError, DataOptions, RowsOptions, UsageError
from topwork.data.roles import Roles
from topwork_bases import formats

image = functools.partial(layout_files.image, size=(8, 4))


def clip(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(numpy.zeros(80, numpy.int16).tobytes())


CONLL = "# a comment\n-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n"
CONLLU = """# text = Die im Haus
1\tDie\tder\tDET\tART\t_\t3\tdet\t_\t_
2-3\tim\t_\t_\t_\t_\t_\t_\t_\t_
2\tin\tin\tADP\tAPPR\t_\t3\tcase\t_\t_
3\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize(
    ("name", "text", "options", "wanted"),
    [
        ("a.conll", CONLL, {}, [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]),
        ("a.conll", CONLL, {"tag": 1}, [(["EU", "rejects"], ["NNP", "VBZ"]), (["Peter"], ["NNP"])]),
        ("a.conllu", CONLLU, {}, [(["Die", "in", "Haus"], ["DET", "ADP", "NOUN"])]),
        ("a.conllu", CONLLU, {"tag": "xpos"}, [(["Die", "in", "Haus"], ["ART", "APPR", "NN"])]),
        ("a.conllu", CONLLU, {"tag": "deprel", "word": "lemma"}, [(["der", "in", "Haus"], ["det", "case", "root"])]),
    ],
)
def test_words_a_line(tmp_path, name, text, options, wanted):
    rows = load(write(tmp_path / name, text), options=options)
    assert [(row["words"], row["tags"]) for row in rows] == wanted
    assert "read as CoNLL" in rows.remarks[0]
    assert text.splitlines()[rows.origin.line_of(0) - 1].split()[0] in (wanted[0][0][0], "1")


def test_heads_and_relations_of_conllu(tmp_path):
    rows = load(write(tmp_path / "a.conllu", CONLLU))
    words = [line.split("\t") for line in CONLLU.splitlines() if line.split("\t")[0].isdigit()]
    assert rows[0]["heads"] == [int(fields[6]) for fields in words]
    assert rows[0]["relations"] == [fields[7] for fields in words]
    bare = "\n".join("\t".join([*fields[:6], "_", "_", "_", "_"]) for fields in words) + "\n"
    assert "heads" not in load(write(tmp_path / "b.conllu", bare)).column_names


def test_conllu_keeps_the_text_where_words_follow_each_other_without_a_space(tmp_path):
    """Also behind a range, whose line says what follows it; heads of Japanese words are then looked for in its text."""

    def lines(*words: tuple[str, str, str]) -> str:
        return "".join(f"{number}\t{word}\t_\tX\t_\t_\t0\troot\t_\t{misc}\n" for number, word, misc in words)

    german = lines(
        ("1-2", "im", "SpaceAfter=No"), ("1", "in", "_"), ("2", "dem", "_"), ("3", ",", "_"), ("4", "so", "_")
    )
    spaced = lines(("1", "so", "_"), ("2", "ist", "_"), ("3", "es", "_"))
    japanese = lines(("1", "猫", "SpaceAfter=No|Gloss=cat"), ("2", "が", "SpaceAfter=No"), ("3", "。", "SpaceAfter=No"))
    rows = load(write(tmp_path / "a.conllu", f"# text = im, so\n{german}\n{spaced}\n{japanese}"))
    assert [row["text"] for row in rows] == ["in dem, so", None, "猫が。"]
    assert "text" not in load(write(tmp_path / "b.conllu", spaced)).column_names


def test_columns_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"a\.conll:2: has 1 columns"):
        load(write(tmp_path / "a.conll", "a B\nb\n"))
    with pytest.raises(UsageError, match="no column 7"):
        load(write(tmp_path / "a.conll", "a B\nb C\n"), options={"tag": 7})


def test_parallel_files(tmp_path):
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.en", "one\ntwo\n")
        write(tmp_path / f"{split}.de", "eins\nzwei\n")
    rows = load(tmp_path, split="validation")
    assert rows.to_list() == [
        {"translation": {"de": "eins", "en": "one"}},
        {"translation": {"de": "zwei", "en": "two"}},
    ]
    write(tmp_path / "dev.de", "eins\n")
    with pytest.raises(DataError, match=r"has 1 lines, .*dev\.en has 2"):
        load(tmp_path, split="validation")


CHAT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
ALPACA = {"instruction": "add", "input": "1 2", "output": "3"}
STUDIO = {
    "data": {"text": "Anna sings"},
    "annotations": [{"result": [{"value": {"start": 0, "end": 4, "labels": ["PER"]}}]}],
}
CHOICE = {"data": {"text": "fine"}, "annotations": [{"result": [{"value": {"choices": ["good"]}}]}]}
ENTITIES = {"text": "Anna", "entities": [{"start_offset": 0, "end_offset": 4, "label": "PER"}]}


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}),
        (ALPACA, {"messages": [{"role": "user", "content": "add\n\n1 2"}, {"role": "assistant", "content": "3"}]}),
        (
            {"text": "Anna", "label": [[0, 4, "PER"]]},
            {"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
        ),
        (ENTITIES, {"text": "Anna", "spans": [{"start": 0, "end": 4, "label": "PER"}]}),
        (STUDIO, {"text": "Anna sings", "spans": [{"start": 0, "end": 4, "label": "PER"}]}),
        (CHOICE, {"text": "fine", "label": "good"}),
        ({"text": "a", "label": "x"}, {"text": "a", "label": "x"}),  # plain records stay plain
    ],
)
def test_records_of_known_shapes(tmp_path, form, record, wanted):
    text = json.dumps([record]) if form == "json" else json.dumps(record) + "\n"
    assert load(write(tmp_path / f"a.{form}", text)).to_list() == [wanted]


MAPS = [
    ("images", "masks", "mask"),
    ("img", "annotations", "mask"),
    ("rgb", "depth", "depth"),
    ("images", "depths", "depth"),
]


@pytest.mark.parametrize(("inputs", "targets", "column"), MAPS)
@pytest.mark.parametrize("split", ["", "train/"])
def test_images_beside_maps(tmp_path, inputs, targets, column, split):
    for name in ("a", "b"):
        image(tmp_path / inputs / f"{split}{name}.png")
        image(tmp_path / targets / f"{split}{name}.png", value=3)
    rows = load(tmp_path)
    assert [Path(row["image"]["path"]).stem for row in rows] == ["a", "b"]
    assert Path(rows[1][column]["path"]) == tmp_path / targets / f"{split}b.png"
    assert rows.origin.file_of(1).endswith("b.png") and f"{targets}/: 2 images" in rows.remarks[0]
    (tmp_path / targets / f"{split}b.png").unlink()
    with pytest.raises(DataError, match=rf"b\.png: has no {column}"):
        load(tmp_path)


def test_yolo(tmp_path):
    write(tmp_path / "data.yaml", "names: {0: cat, 1: dog}\ntrain: images/train\nval: images/val\n")
    for split in ("train", "val"):
        image(tmp_path / "images" / split / "a.png", size=(100, 50))
        image(tmp_path / "images" / split / "b.png", size=(100, 50))
        write(tmp_path / "labels" / split / "a.txt", "1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.3 0.1 0.3 0.5\n")
    rows = load(tmp_path, split="train")
    assert rows[0]["objects"]["category"] == [1, 0] and rows.features["objects"]["category"].feature.names == [
        "cat",
        "dog",
    ]
    assert numpy.allclose(rows[0]["objects"]["bbox"], [[40, 15, 20, 20], [10, 5, 20, 20]], atol=1e-4)
    assert rows[1]["objects"] == {"bbox": [], "category": []}
    work = PLUGINS.tasks["object-detection"]
    from topwork import DataOptions
    from topwork.data.roles import Roles

    roles = Roles(work, PLUGINS, DataOptions(train=RowsOptions(path=str(tmp_path), split="train")))
    assert roles("train")[0]["objects"]["category"] == ["dog", "cat"]
    write(tmp_path / "labels" / "val" / "a.txt", "0 0.5 0.5 0.2 0.4\n7 0.5 0.5 0.2 0.4\n")
    with pytest.raises(DataError, match=r"a\.txt:2: no box of YOLO \(class 7 of 2"):
        load(tmp_path, split="validation")


def test_speech_corpora(tmp_path):
    clip(tmp_path / "lj" / "wavs" / "LJ1.wav")
    write(tmp_path / "lj" / "metadata.csv", 'LJ1|He said "no, 3"|He said no, three\n')
    clip(tmp_path / "cv" / "clips" / "a.wav")
    for split in ("train", "dev"):
        write(tmp_path / "cv" / f"{split}.tsv", 'client_id\tpath\tsentence\nx\ta.wav\t"Yes, said\n')
    clip(tmp_path / "libri" / "19" / "198" / "19-198-0001.wav")
    write(tmp_path / "libri" / "19" / "198" / "19-198.trans.txt", "19-198-0001 NORTHANGER ABBEY\n")
    clip(tmp_path / "nemo" / "a.wav")
    write(
        tmp_path / "nemo" / "manifest.json",
        json.dumps({"audio_filepath": "a.wav", "text": "hi", "duration": 0.1}) + "\n",
    )
    assert load(tmp_path / "lj")["text"] == ["He said no, three"]
    assert load(tmp_path / "cv", split="validation")["text"] == ['"Yes, said']
    rows = load(tmp_path / "libri")
    assert (rows[0]["text"], rows[0]["speaker"], rows.origin.line_of(0)) == ("NORTHANGER ABBEY", "19", 1)
    assert load(tmp_path / "nemo" / "manifest.json")[0]["audio"]["path"] == str(tmp_path / "nemo" / "a.wav")
    write(tmp_path / "lj" / "metadata.csv", "LJ1|one\nLJ2|two\n")
    with pytest.raises(DataError, match=r"metadata\.csv:2: names `LJ2`"):
        load(tmp_path / "lj")


def test_a_layout_that_is_not_clear_is_asked_for(tmp_path):
    for folder in ("images", "masks", "depth"):
        image(tmp_path / folder / "a.png")
    with pytest.raises(UsageError, match=r"may be read as images-masks and images-depth; say which: `format"):
        load(tmp_path)
    assert set(load(tmp_path, format="images-depth")[0]) == {"image", "depth"}
    with pytest.raises(UsageError, match="unknown option"):
        load(tmp_path, format="images-depth", options={"scale": 2})


def test_layouts_are_listed():
    assert {"conll", "yolo", "images-masks", "ljspeech", "parallel", "nemo"} <= set(PLUGINS.formats)
    assert PLUGINS.formats.owner("conll").name == "formats"


def test_every_layout_that_is_read_has_its_line_in_the_list():
    rooms = [
        importlib.import_module(f"{formats.__name__}.{room.name}") for room in pkgutil.iter_modules(formats.__path__)
    ]
    read = {layout.name for room in rooms for layout in getattr(room, "LAYOUTS", ())}
    assert read == {name for name in PLUGINS.formats if PLUGINS.formats.owner(name).name == "formats"}


@pytest.mark.parametrize("lists", [True, False])
def test_speech_commands(tmp_path, lists):
    for name in ("yes/s1_nohash_0.wav", "yes/s2_nohash_0.wav", "no/s1_nohash_1.wav", "_background_noise_/hum.wav"):
        clip(tmp_path / name)
    if lists:
        write(tmp_path / "validation_list.txt", "yes/s2_nohash_0.wav\n")
        write(tmp_path / "testing_list.txt", "no/s1_nohash_1.wav\n")
    rows = load(tmp_path, split="train")
    assert [(Path(row["audio"]["path"]).stem, row["label"], row["speaker"]) for row in rows] == (
        [("s1_nohash_0", 1, "s1")]
        if lists
        else [("s1_nohash_1", 0, "s1"), ("s1_nohash_0", 1, "s1"), ("s2_nohash_0", 1, "s2")]
    )
    assert rows.features["label"].names == ["no", "yes"] and "left out" in rows.remarks[0]
    if lists:
        assert load(tmp_path, split="validation")["label"] == [1] and load(tmp_path, split="test")["label"] == [0]
        write(tmp_path / "testing_list.txt", "no/absent.wav\n")
        with pytest.raises(DataError, match=r"testing_list\.txt:1: names `no/absent\.wav`"):
            load(tmp_path)


def test_splits_of_librispeech_and_of_folders_of_clips(tmp_path):
    for split in ("train-clean-100", "dev-clean"):
        clip(tmp_path / "libri" / split / "19" / "198" / "19-198-0001.wav")
        write(tmp_path / "libri" / split / "19" / "198" / "19-198.trans.txt", f"19-198-0001 {split}\n")
    assert load(tmp_path / "libri", split="validation")["text"] == ["dev-clean"]
    for split in ("train", "val"):
        clip(tmp_path / "plain" / split / "a.wav")
    rows = load(tmp_path / "plain", split="validation")
    assert rows.column_names == ["audio"] and rows.origin.file_of(0) == str(tmp_path / "plain" / "val" / "a.wav")


def test_librispeech_as_it_is_unpacked_has_the_splits_of_its_parts(tmp_path):
    for split in ("train-clean-100", "dev-clean"):
        clip(tmp_path / "LibriSpeech" / split / "19" / "198" / "19-198-0001.wav")
        write(tmp_path / "LibriSpeech" / split / "19" / "198" / "19-198.trans.txt", f"19-198-0001 {split}\n")
    write(tmp_path / "LibriSpeech" / "README.TXT", "about\n")
    assert load(tmp_path, split="validation")["text"] == ["dev-clean"]
    assert load(tmp_path, split="train")["text"] == ["train-clean-100"]


@pytest.mark.parametrize("columns", [{}, {"audio": "path", "text": "sentence"}])
def test_one_table_of_common_voice_finds_its_clips(tmp_path, columns):
    clip(tmp_path / "clips" / "a.wav")
    write(tmp_path / "other.tsv", 'client_id\tpath\tsentence\nx\ta.wav\tसे "क\n')
    task = PLUGINS.tasks["automatic-speech-recognition"]
    data = DataOptions(columns=columns, train=RowsOptions(path=str(tmp_path / "other.tsv")))
    row = Roles(task, PLUGINS, data)("train")[0]
    assert row["text"] == 'से "क' and row["audio"]["path"] == str(tmp_path / "clips" / "a.wav")


@pytest.mark.parametrize("name", ["LJ1", "LJ1.wav", "wavs/LJ1.wav"])
@pytest.mark.parametrize("given", ["", "metadata.csv"])
def test_ljspeech_by_its_folder_or_its_table(tmp_path, name, given):
    clip(tmp_path / "wavs" / "LJ1.wav")
    write(tmp_path / "metadata.csv", f"{name}|No 3|no three\n")
    assert load(tmp_path / given)["text"] == ["no three"]


def test_a_text_beside_every_clip_does_not_make_a_folder_of_texts(tmp_path):
    clip(tmp_path / "a.wav")
    write(tmp_path / "a.txt", "hello")
    assert load(tmp_path).column_names == ["audio"]


@pytest.mark.parametrize("category", ["0", "0.0"])
def test_classes_of_yolo_may_be_written_as_floats(tmp_path, category):
    image(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "a.txt", f"{category} 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    assert load(tmp_path)[0]["objects"]["category"] == [0]


def test_arrays_of_depth_beside_images_are_read(tmp_path):
    for name in "ab":
        image(tmp_path / "rgb" / f"{name}.png")
        (tmp_path / "depth").mkdir(exist_ok=True)
        numpy.save(tmp_path / "depth" / f"{name}.npy", numpy.full((4, 8), 2.5, numpy.float32))
    task = PLUGINS.tasks["depth-estimation"]
    rows = Roles(task, PLUGINS, DataOptions(train=RowsOptions(path=str(tmp_path))))("train")
    work = topwork.build("depth-estimation", BASES["depth-estimation"], rows=rows, plugins=PLUGINS)
    assert math.isfinite(work.evaluate(rows)["abs_rel"])


def test_an_unknown_format_names_the_list_of_layouts(tmp_path):
    with pytest.raises(UsageError, match="topwork list formats"):
        load(write(tmp_path / "a.csv", "a\n1\n"), format="cocoo")
