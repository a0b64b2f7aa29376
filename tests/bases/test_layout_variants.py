"""Variants of layouts that tools and people write: read right, or refused with file, line and mend."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy
import pytest
from layout_files import PLUGINS, image, load, write

from topwork import DataError, DataOptions, RowsOptions, UsageError
from topwork.data.roles import Roles


def rows_of(task, path, split=None, columns=None):
    data = DataOptions(train=RowsOptions(path=str(path), split=split), columns=columns or {})
    return Roles(PLUGINS.tasks[task], PLUGINS, data)("train")


# ---------------------------------------------------------------- YOLO

BOX = "0 .5 .5 .2 .4\n"
PIXELS = [8, 3, 4, 4]


def yolo(folder: Path, content: str, label: str = BOX, images: str = "images/train") -> Path:
    image(folder / images / "a.png")
    write(folder / images.replace("images", "labels") / "a.txt", label)
    return write(folder / "data.yaml", content).parent


@pytest.mark.parametrize(
    ("names", "label", "wanted"),
    [
        ("[yes, no]", BOX, "yes"),
        ("[null, 1.50]", BOX, "null"),
        ("[01, 1e3]", "1 .5 .5 .2 .4\n", "1e3"),
        ("{1: cat, 2: dog}", "2 .5 .5 .2 .4\n", "dog"),
        ("{10: k, 2: x, 0: cat}", "10 .5 .5 .2 .4\n", "k"),
    ],
)
def test_classes_of_yolo_are_named_as_written(tmp_path, names, label, wanted):
    folder = yolo(tmp_path, f"train: images/train\nnames: {names}\n", label)
    assert rows_of("object-detection", folder)[0]["objects"]["category"] == [wanted]


@pytest.mark.parametrize(
    "content",
    [
        "path: /content/elsewhere\ntrain: images/train\nnames: [cat]\n",
        "train: /content/data/images/train\nnames: [cat]\n",
        "train: C:\\data\\images\\train\nnames: [cat]\n",
        "train: ../images/train\nnames: [cat]\n",
        "train: list.txt\nnames: [cat]\n",
        "train: [images/train]\nnames: [cat]\nval:\n",
    ],
)
def test_images_of_yolo_are_found_as_people_name_them(tmp_path, content):
    write(tmp_path / "list.txt", "./images/train/a.png\n")
    rows = load(yolo(tmp_path, content), split="train")
    assert numpy.allclose(rows[0]["objects"]["bbox"], [PIXELS], atol=1e-4)


@pytest.mark.parametrize("listed", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_yolo_without_data_yaml_has_its_list_of_classes(tmp_path, listed):
    yolo(tmp_path, "", images="images")
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / listed, "cat\ndog\n")
    rows = rows_of("object-detection", tmp_path)
    assert rows[0]["objects"]["category"] == ["cat"]


@pytest.mark.parametrize(
    ("shape", "points"), [("[2, 3]", ".9 .9 2 .1 .1 1"), ("[2, 2]", ".9 .9 .1 .1"), ("[1, 2]", ".9 .9")]
)
def test_key_points_of_yolo_are_no_polygon(tmp_path, shape, points):
    folder = yolo(tmp_path, f"train: images/train\nnames: [cat]\nkpt_shape: {shape}\n", f"0 .5 .5 .2 .4 {points}\n")
    assert numpy.allclose(load(folder)[0]["objects"]["bbox"], [PIXELS], atol=1e-4)


@pytest.mark.parametrize(
    ("content", "label", "cause"),
    [
        ("train: images/train\nnc: 3\nnames: [cat]\n", BOX, "`nc` is 3, `names` has 1"),
        ("train: images/train\nnames: {1: cat}\n", BOX, r"a\.txt:1: no box of YOLO \(class 0"),
        ("train: images/train\nnames: [cat]\n", "0 10 5 4 4\n", r"a\.txt:1: .*pixels"),
        ("train: images/train\nnames: {a: cat}\n", BOX, "key that is no number"),
        ("names: [cat]\n", BOX, "names no images"),
    ],
)
def test_faults_of_yolo_name_their_file(tmp_path, content, label, cause):
    with pytest.raises(DataError, match=cause):
        load(yolo(tmp_path, content, label))


@pytest.mark.parametrize("layout", ["yolo", "boxes"])
def test_a_damaged_image_is_named(tmp_path, layout):
    path = yolo(tmp_path, "train: images/train\nnames: [cat]\n")
    if layout == "boxes":
        path = write(tmp_path / "images/train/t.csv", "file,class,xc,yc,w,h\na.png,cat,.5,.5,.1,.1\n")
    (tmp_path / "images/train/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        load(path)


# ---------------------------------------------------------------- images and maps


@pytest.mark.parametrize(
    ("inputs", "maps", "column"),
    [
        ("Images/a.png", "Masks/a.png", "mask"),
        ("img/a.png", "label/a.png", "mask"),
        ("images/img_001.png", "masks/mask_001.png", "mask"),
        ("images/caf\u00e9.png", "masks/cafe\u0301.png", "mask"),
        ("images/a_colors.png", "depths/a_depth.png", "depth"),
        ("image/a.png", "depth_maps/a.png", "depth"),
    ],
)
def test_maps_are_found_beside_images(tmp_path, inputs, maps, column):
    image(tmp_path / inputs)
    image(tmp_path / maps, value=2)
    assert load(tmp_path)[0][column]["path"] == str(tmp_path / maps)


@pytest.mark.parametrize(("maps", "suffix"), [("depth", ".npz"), ("depth", ".pfm"), ("masks", ".mat")])
def test_maps_of_other_formats_are_named(tmp_path, maps, suffix):
    image(tmp_path / "images" / "a.png")
    write(tmp_path / maps / f"a{suffix}", "x")
    with pytest.raises(DataError, match=rf"{maps}: holds {suffix} files"):
        load(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("images/a.png", "images/a.jpg", "masks/a.png"):
        image(tmp_path / name)
    with pytest.raises(DataError, match=r"images/a\.jpg and a\.png differ by their suffix alone"):
        load(tmp_path)


def test_links_to_folders_are_followed(tmp_path):
    for name in ("images", "masks"):
        image(tmp_path / "store" / name / "a.png")
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "part").symlink_to(tmp_path / "store" / name)
    (tmp_path / "data" / "images" / "above").symlink_to(tmp_path / "data")
    assert len(load(tmp_path / "data")) == 1


# ---------------------------------------------------------------- words

KAGGLE = 'Sentence #,Word,POS,Tag\nSentence: 1,EU,NNP,B-ORG\n,"""",SYM,O\nSentence: 2,NA,NNP,B-PER\n'
WORDS, TAGS = [["EU", '"'], ["NA"]], [["B-ORG", "O"], ["B-PER"]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", KAGGLE),
        ("a.csv", 'sentence_id,word,label\n7,EU,B-ORG\n7,"""",O\n3,NA,B-PER\n'),
        ("a.csv", 'token;ner;sent_id\nEU;B-ORG;0\n"""";O;0\nNA;B-PER;1\n'),
        ("a.tsv", 'sentence\ttoken\ttag\n0\tEU\tB-ORG\n0\t"\tO\n1\tNA\tB-PER\n'),
        ("train.txt", 'EU B-ORG\n" O\n\nNA B-PER\n'),
        ("train.tsv", '-DOCSTART-\tO\n\nEU\tB-ORG\n"\tO\n \nNA\tB-PER\n'),
    ],
)
def test_a_word_a_row_is_a_sentence_of_words(tmp_path, name, text):
    rows = rows_of("token-classification", write(tmp_path / name, text))
    assert list(rows["words"]) == WORDS and list(rows["tags"]) == TAGS


def test_other_columns_of_words_can_be_mapped_and_faults_have_their_line(tmp_path):
    file = write(tmp_path / "a.csv", KAGGLE)
    assert list(rows_of("token-classification", file, columns={"tags": "POS"})["tags"])[1] == ["NNP"]
    assert load(file).origin.location(1) == f"{file}:4"
    with pytest.raises(DataError, match=r"b\.csv:3: `word` is empty"):
        load(write(tmp_path / "b.csv", "sentence_id,word,tag\n1,a,O\n1,,O\n"))
    with pytest.raises(UsageError, match="no column for `sentence`"):
        load(write(tmp_path / "c.csv", "word,tag\na,O\n"), format="words")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# O\nB B-X\n\n#tag O\nx O\n", [["#", "B"], ["#tag", "x"]]),
        ("# newdoc\n# id = 4\n# B-X\nB O\n", [["#", "B"]]),
        ("10\u00a0000 B-X\n\u3000 O\n", [["10\u00a0000", "\u3000"]]),
    ],
)
def test_words_of_conll_may_begin_with_a_number_sign_or_hold_spaces(tmp_path, text, words):
    assert load(write(tmp_path / "a.conll", text))["words"] == words


# ---------------------------------------------------------------- exports and chats


def lines(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


SPAN = {"start": 0, "end": 4, "label": "PER"}
MINIMAL = [
    {"text": "none", "label": []},
    {"text": "Anna", "label": [{"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]}]},
]


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([{"text": "none", "label": []}, {"text": "Anna", "label": [[0, 4, "PER"]]}], [[], [SPAN]]),
        ([{"data": "none", "labels": []}, {"data": "Anna", "labels": [[0, 4, "PER"]]}], [[], [SPAN]]),
        (MINIMAL, [[], [SPAN]]),
        (MINIMAL[::-1], [[SPAN], []]),
    ],
)
def test_spans_of_exports_whatever_record_comes_first(tmp_path, form, records, wanted):
    text = json.dumps(records) if form == "json" else lines(*records)
    assert [row["spans"] for row in load(write(tmp_path / f"a.{form}", text))] == wanted


def studio(value, data=None):
    return {"data": data or {"text": "Anna sings"}, "annotations": [{"result": [{"value": value}]}]}


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (studio({"start": 0, "end": 4, "labels": ["PER", "ORG"]}), "has several labels: PER, ORG"),
        (studio({"x": 1, "rectanglelabels": ["cat"]}, {"image": "a.png"}), "has rectanglelabels"),
        (studio({"choices": ["a"]}, {"id": "77", "review": "nice"}), "several texts: id, review"),
        ({"text": "Anna", "label": [[0, 4, "PER"], [0, 4]]}, None),
    ],
)
def test_exports_that_are_not_read_are_refused_with_their_line(tmp_path, record, cause):
    first = (
        {"text": "Anna", "label": [[0, 4, "PER"]]} if cause is None else studio({"start": 0, "end": 4, "labels": "P"})
    )
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{cause or 'is no span'}"):
        load(write(tmp_path / "a.jsonl", lines(first, record)))


def test_numbers_and_named_texts_of_label_studio(tmp_path):
    file = write(tmp_path / "a.json", json.dumps([studio({"rating": 4}, {"id": "77", "review": "nice"})]))
    assert load(file, options={"text": "review"}).to_list() == [{"text": "nice", "label": 4}]


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"system": "S", "conversations": [{"from": "human", "value": "q"}]}, ["S", "q"]),
        ({"system": "S", "history": [["x", "y"]], "instruction": "q", "input": "", "output": "a"}, [*"Sxyqa"]),
    ],
)
def test_chats_keep_their_system_and_their_history(tmp_path, record, wanted):
    rows = load(write(tmp_path / "a.json", json.dumps([record])))
    assert [message["content"] for message in rows[0]["messages"]] == wanted


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        ({"instruction": "a", "input": ""}, "has no `output`"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "unknown speaker 'function_call'"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "turn 1 has no text"),
    ],
)
def test_chats_without_a_text_are_refused_with_their_line(tmp_path, record, cause):
    text = json.dumps([{"instruction": "a", "output": "b"}, record], indent=1)
    with pytest.raises(DataError, match=rf"a\.json:6: {cause}"):
        load(write(tmp_path / "a.json", text))


# ---------------------------------------------------------------- parallel texts


@pytest.mark.parametrize(
    ("first", "second", "languages"),
    [
        ("train.en_US", "train.zh-Hans", {"en_US", "zh-Hans"}),
        ("train.en.txt", "train.de.txt", {"en", "de"}),
        ("train.src", "train.tgt", {"src", "tgt"}),
        ("train.en.gz", "train.de.gz", {"en", "de"}),
        ("train.eng_Latn", "train.deu_Latn", {"eng_Latn", "deu_Latn"}),
    ],
)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_names_of_parallel_texts(tmp_path, first, second, languages, given):
    for name, text in ((first, "a\nb\n"), (second, "c\nd\n")):
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    rows = load(tmp_path if given == "folder" else tmp_path / first)
    assert len(rows) == 2 and set(rows[0]["translation"]) == languages


def test_two_of_several_languages_are_named(tmp_path):
    for language in ("en", "de", "fr"):
        write(tmp_path / f"train.{language}", f"{language}\n")
    with pytest.raises(UsageError, match=r"texts in de, en, fr; name two .*languages: \[de, en\]"):
        load(tmp_path)
    assert load(tmp_path, options={"languages": ["fr", "en"]})[0]["translation"] == {"fr": "fr", "en": "en"}


# ---------------------------------------------------------------- speech


def manifest(folder: Path, *records) -> Path:
    import soundfile

    soundfile.write(folder / "a.wav", numpy.repeat([0.25, -0.5], 1000).astype("float32"), 1000)
    return write(folder / "m.json", lines(*({"audio_filepath": "a.wav", **record} for record in records)))


def test_parts_of_files_in_a_manifest_are_the_clips(tmp_path):
    from topwork_tasks._audio.clips import audio_length, open_audio

    file = manifest(
        tmp_path, {"text": "x", "offset": 0.0, "duration": 1.0}, {"text": "y", "offset": 1.0, "duration": 0.5}
    )
    rows = rows_of("automatic-speech-recognition", file)
    clips = [open_audio(row["audio"], None, "audio", 1000) for row in rows]
    assert [(len(clip), float(clip.mean())) for clip in clips] == [(1000, 0.25), (500, -0.5)]
    assert [audio_length(row["audio"], 1000) for row in rows] == [1000, 500]
    late = rows_of("automatic-speech-recognition", manifest(tmp_path, {"text": "x", "offset": 3.0, "duration": 1.0}))
    with pytest.raises(DataError, match=r"begins at 3 s of .*a\.wav, which has 2 s"):
        open_audio(late[0]["audio"], 0, "audio", 1000)
    with pytest.raises(DataError, match=r"m\.json:1: `duration` is None"):
        load(manifest(tmp_path, {"offset": 3.0}))


def test_labels_of_a_manifest_are_kept(tmp_path):
    file = manifest(tmp_path, {"label": "yes", "duration": 2.0}, {"label": "no", "duration": 2.0})
    assert list(rows_of("audio-classification", file)["label"]) == ["yes", "no"]
