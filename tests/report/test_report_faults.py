"""The page of a folder with faults: text is inert, damage is named, sizes are bounded, no shape of data breaks it."""

from __future__ import annotations

import base64
import json
import re
import wave
from pathlib import Path
from types import SimpleNamespace

import pytest
import report_run
from tiny_bases import BASES

import topwork
from topwork import UsageError
from topwork.process import Process
from topwork.stages.evaluate import Gallery
from topwork_report import page_data
from topwork_report.command import report
from topwork_report.page import MOST_PICTURES, write_page

make_run, stage, layer, page = report_run.make_run, report_run.stage, report_run.layer, report_run.page
write, digit = report_run.write, report_run.digit
EVIL = "<script>alert('x')</script><img src=https://evil.example/x.png>"


def test_text_from_data_comes_out_inert(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    folder = root / "stages/02-evaluate"
    card = {"row": 1, "caption": EVIL, "badness": 1, "image": None, "text": [[EVIL, ""], [EVIL, EVIL]]}
    write(folder / "pictures.json", [card])
    stage(root, 11, "strange", 1.0, {EVIL: EVIL, "tables": {EVIL: {"columns": [EVIL], "rows": [[EVIL]]}}}, note=EVIL)
    write(root / "recipe.yaml", f'task: x\nbase: "{EVIL}"\n')
    reader = page(root, title=EVIL)
    assert reader.count("script") == 2  # the page's data and its own script
    assert reader.count("img") == 0
    assert reader.count("image") == 2  # the two rows of the attention stage
    assert reader.text.count("alert('x')") >= 8


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{", "the file is damaged: it is not JSON (line 1, column 2)"),
        ("[]", "the file is damaged: it does not hold an object"),
        ('{"result": 3}', "the file is damaged: `result` is not an object"),
        (None, "the file is missing: the stage did not finish, or its result was deleted"),
    ],
)
def test_a_damaged_result_is_named_and_the_rest_is_shown(tmp_path: Path, damage: str | None, message: str) -> None:
    root = make_run(tmp_path / "run")
    file = root / "stages/06-evaluate/result.json"
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    reader = page(root)
    assert f"stages/06-evaluate/result.json: {message}" in reader.text
    assert "After recovery 0.9667" in reader.text
    assert "6 · evaluate" not in reader.text


def test_damaged_artefacts_are_named(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    (root / "stages/02-evaluate/pictures/0003.png").write_bytes(b"no picture")
    (root / "stages/02-evaluate/pictures/0004.png").unlink()
    (tmp_path / "secret.png").write_bytes((root / "stages/02-evaluate/pictures/0001.png").read_bytes())
    cards = json.loads((root / "stages/02-evaluate/pictures.json").read_text())
    cards[4]["image"] = "../../../secret.png"
    write(root / "stages/02-evaluate/pictures.json", cards)
    found = json.loads((root / "stages/03-attention/attention.json").read_text())
    found["rows"][0]["layers"][0]["weights"] = [1, 2, 3]
    write(root / "stages/03-attention/attention.json", found)
    (root / "recipe.yaml").write_text("task: [")
    (root / "run.json").unlink()
    reader = page(root)
    for told in (
        "stages/02-evaluate/pictures/0003.png: the picture is damaged",
        "stages/02-evaluate/pictures/0004.png: the picture is missing",
        "'../../../secret.png' lies outside",
        "stages/03-attention/attention.json: the weights of row 0, layer 0, do not fit a grid of [7, 7]",
        "recipe.yaml: the file is damaged",
        "run.json: the file is missing",
    ):
        assert told in reader.text
    assert reader.count("img") + reader.count("image") == 5 + 2


@pytest.mark.parametrize("value", [None, [], {}, "text", [1, "a"], [[1], [1, 2]], {"a": [None]}, -3, True, [{"b": {}}]])
def test_odd_values_under_known_keys_do_not_break_the_page(tmp_path: Path, value: object) -> None:
    keys = (
        "metrics",
        "tables",
        "history",
        "layers",
        "head_maps",
        "removal",
        "random_baseline",
        "check",
        "primary",
        "measures",
        "change",
        "role",
        "higher_is_better",
    )
    full = {"metrics": {"a": 0.5}, "primary": "a", "measures": "model", "removal": {"before": 4, "after": 2}}
    for index, key in enumerate(keys):
        stage(tmp_path, index + 1, f"odd{index}", 1.0, {**full, key: value})
    for index, key in enumerate(("how", "unit", "before", "after", "parameters_before", "parameters_after", "heads")):
        removal = {"before": 4, "after": 2, "heads": {"a": [1]}, key: value}
        stage(tmp_path, 20 + index, "odd", 1.0, {"removal": removal, "layers": [{"path": "a", "heads": 3}]})
    for index, key in enumerate(("draws", "role", "metrics", "each", "chosen")):
        stage(tmp_path, 30 + index, "odd", 1.0, {"random_baseline": {"metrics": {"a": 0.5}, "draws": 2, key: value}})
    for index, key in enumerate(("key", "title", "note", "fitted", "crossed")):
        maps = [{"key": "scores", key: value}]
        stage(tmp_path, 40 + index, "odd", 1.0, {"head_maps": maps, "layers": [{"path": "a", "scores": [1, 2]}]})
    scored = {"layers": [{"path": "a", "scores": value, "kept": value}], "head_maps": [{"key": "scores"}]}
    folder = stage(tmp_path, 50, "odd", 1.0, {**scored, "tables": {"t": value}})
    write(folder / "attention.json", {"layers": value, "rows": [{"row": value, "grid": value, "names": value,
          "layers": [{"number": value, "weights": value}]}]})  # fmt: skip
    write(folder / "pictures.json", [{"row": value, "caption": value, "image": value, "text": value}])
    assert "50 · odd" in page(tmp_path).text


def test_pictures_are_bounded(tmp_path: Path) -> None:
    for place in (1, 2):
        folder = stage(tmp_path, place, "evaluate", 1.0, {"metrics": {"accuracy": 0.5}})
        (folder / "pictures").mkdir()
        cards = []
        for at in range(40):
            digit("5").save(folder / f"pictures/{at:04d}.png")
            cards.append(
                {"row": at, "caption": f"card {at}", "badness": 0, "image": f"pictures/{at:04d}.png", "text": []}
            )
        write(folder / "pictures.json", cards)
    reader = page(tmp_path)
    assert reader.count("img") == MOST_PICTURES
    assert reader.text.count("28 more pictures stand in the stage's folder") == 2


def test_heads_removed_earlier_keep_their_numbers(tmp_path: Path) -> None:
    layers = [layer(0, kept=[0, 3], scores=[0.5, 0.25])]
    stage(tmp_path, 1, "head_importance", 1.0, {"layers": layers, "head_maps": [{"key": "scores"}]})
    page(tmp_path)
    html = (tmp_path / "report.html").read_text()
    titles = re.findall(r"attention head (\d): ([^<]+)</title>", html)
    assert titles == [("0", "0.5"), ("1", "not there any more"), ("2", "not there any more"), ("3", "0.25")]


def test_a_baseline_of_several_draws_is_shown_as_its_mean(tmp_path: Path) -> None:
    stage(tmp_path, 1, "evaluate", 1.0, {"metrics": {"accuracy": 0.9}, "primary": "accuracy", "measures": "model"})
    drawn = {"draws": 2, "metrics": {"accuracy": 0.6}, "each": [{"accuracy": 0.5}, {"accuracy": 0.7}]}
    stage(tmp_path, 2, "prune_heads", 1.0, {"removal": {"before": 4, "after": 2}, "random_baseline": drawn})
    text = page(tmp_path).text
    assert "As many at random 0.6" in text
    assert "As many at random (mean of 2 draws) accuracy 0.6" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run"):
        write_page(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_clips_are_played_when_they_are_clips_of_the_stage(tmp_path: Path) -> None:
    from topwork_tasks._audio.clips import wav_bytes

    root = make_run(tmp_path / "run")
    folder = root / "stages/02-evaluate"
    clip = wav_bytes(b"\0\1" * 80, 8000)
    for name, data in (("right", clip), ("damaged", b"no clip"), ("long", clip + b"\0" * 2**20)):
        (folder / f"pictures/{name}.wav").write_bytes(data)
    (tmp_path / "secret.wav").write_bytes(clip)
    names = [f"pictures/{name}.wav" for name in ("right", "damaged", "long", "absent")] + [
        "../../../secret.wav",
        7,
        None,
    ]
    write(folder / "pictures.json", [{"row": 1, "caption": "a", "text": [], "audio": name} for name in names])
    reader = page(root)
    assert reader.count("audio") == 1
    assert "pictures/damaged.wav: the clip is damaged" in reader.text
    assert "pictures/absent.wav: the clip is missing" in reader.text
    assert "'../../../secret.wav' lies outside" in reader.text and "long.wav" not in reader.text


@pytest.mark.parametrize("task", ["audio-classification", "automatic-speech-recognition"])
def test_evaluation_writes_the_clips_of_audio_tasks(tmp_path: Path, task: str) -> None:
    rows = topwork.load_plugins().tasks[task].example_rows()[:3]
    work = topwork.build(task, BASES[task], rows=rows)
    gallery = Gallery(work.task, 2)
    for index, (row, prediction) in enumerate(zip(rows, work.predict(rows))):
        gallery(index, row, prediction)
    gallery.write(SimpleNamespace(folder=tmp_path, process=Process()), rows)
    cards = json.loads((tmp_path / "pictures.json").read_text())
    assert len(cards) == 2
    for card in cards:
        with wave.open(str(tmp_path / card["audio"])) as clip:
            assert clip.getnframes() > 100 and clip.getframerate() == work.task.frontend.rate


def heads(**changes: object) -> dict:
    """Weights of a row with one layer, two attention heads and three tokens."""
    text = base64.b64encode(bytes([255] * 18)).decode()
    scale = base64.b64encode(b"\xff\xff" * 6).decode()
    entry = {"group": "encoder", "number": 0, "indices": [0, 1], "shape": [2, 3, 3], "queries": 0, "keys": 0}
    axis = {"name": "input", "names": ["a", "b", "c"], "special": [], "length": 3, "shown": 3}
    return {"row": 1, "axes": [axis], "heads": [{**entry, "weights": text, "scale": scale, **changes}]}


def data_of(root: Path) -> dict:
    """The data that the page carries for its script."""
    html = (root / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="topwork-data">(.*?)</script>', html, re.S)
    assert not set("<>&\u2028\u2029") & set(text)
    return json.loads(text)


def test_data_for_the_script_cannot_end_its_element(tmp_path: Path) -> None:
    evil = "</script><!--<script>&\u2028\u2029" + EVIL
    folder = stage(tmp_path, 1, "attention", 1.0, {"layers": []})
    row = {**heads(), "caption": evil}
    row["axes"][0]["names"] = [evil, "b", "c"]
    write(folder / "attention.json", {"rows": [row]})
    line = {"row": 1, "index": 1, "caption": evil, "badness": 1, "facts": {evil: evil}, "picture": None}
    write(folder / "predictions.json", {"order": evil, "rows": 1, "predictions": [line]})
    reader = page(tmp_path)
    assert reader.count("script") == 2 and reader.count("img") == 0
    data = data_of(tmp_path)
    assert data["attention"][0]["rows"][0]["axes"][0]["names"][0] == evil
    assert data["predictions"][0]["predictions"][0]["facts"] == {evil: evil}


@pytest.mark.parametrize(
    "change",
    [{"shape": [2, 3, 4]}, {"shape": "many"}, {"weights": "?"}, {"weights": None}, {"scale": "AAAA"}, {"queries": 1},
     {"keys": -1}, {"indices": [0]}, {"shape": [2, 3, True]}],
)  # fmt: skip
def test_weights_that_are_not_what_they_say_are_not_given_to_the_script(tmp_path: Path, change: dict) -> None:
    folder = stage(tmp_path, 1, "attention", 1.0, {"layers": []})
    write(folder / "attention.json", {"rows": [heads(**change), heads()]})
    page(tmp_path)
    ((kept,),) = [entry["rows"] for entry in data_of(tmp_path)["attention"]]
    assert kept["heads"][0]["shape"] == [2, 3, 3]


def test_the_page_says_what_its_size_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "MOST_HEAD_BYTES", 100)  # two rows of 24 + 16 characters
    monkeypatch.setattr(page_data, "MOST_LISTED", 3)
    folder = stage(tmp_path, 1, "attention", 1.0, {"layers": []})
    write(folder / "attention.json", {"rows": [heads() for _ in range(5)]})
    lines = [{"row": at, "index": at, "caption": "a", "badness": at, "facts": {}, "picture": None} for at in range(7)]
    write(folder / "predictions.json", {"order": "", "rows": 7, "predictions": lines})
    text = page(tmp_path).text
    assert (
        "3 more rows are left out of the explorer" in text
        and "4 more rows stand in the stage's predictions.json" in text
    )
    data = data_of(tmp_path)
    assert len(data["attention"][0]["rows"]) == 2 and len(data["predictions"][0]["predictions"]) == 3
    assert page_data.MOST_HEAD_BYTES < 5_000_000


def test_headings_say_what_predictions_are_ordered_by(tmp_path: Path) -> None:
    cards = [{"row": at, "caption": "a", "badness": -at, "text": []} for at in range(3)]
    for index, (badness, order) in enumerate([(1, "loss, largest first"), (1, None), (0, "loss, largest first")], 1):
        folder = stage(tmp_path, index, "evaluate", 1.0, {})
        write(folder / "pictures.json", [{**card, "badness": badness * card["badness"]} for card in cards])
        if order:
            write(folder / "predictions.json", {"order": order, "rows": 3, "predictions": []})
    page(tmp_path)
    headings = re.findall("<h3>(Predictions[^<]*)", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert headings == [
        "Predictions by loss, largest first",
        "Predictions, the worst first",
        "Predictions, in the order of the rows",
    ]
