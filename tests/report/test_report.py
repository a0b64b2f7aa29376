"""The page: what it shows is what the run folder's files hold, in one offline, accessible file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import report_run
from PIL import Image

from topwork_report.colours import STEPS, inks, level, scales
from topwork_report.command import report
from topwork_report.page import write_page
from topwork_report.stage import Report

make_run, stage, layer, page, results = (
    report_run.make_run,
    report_run.stage,
    report_run.layer,
    report_run.page,
    report_run.results,
)
LAYERS, REMOVED, SIDE = report_run.LAYERS, report_run.REMOVED, report_run.SIDE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = make_run(tmp_path_factory.mktemp("runs") / "quickstart-1")
    return root, page(root)


def test_every_number_of_the_results_stands_on_the_page(made: tuple[Path, Any]) -> None:
    root, reader = made
    found = results(root)
    wanted: list[float] = []
    for place in (2, 6, 8):
        wanted += found[place]["metrics"].values()
        wanted += [value for row in found[place]["tables"]["per_label"]["rows"] for value in row[1:]]
        wanted += [count for row in found[place]["tables"]["confusion"]["counts"] for count in row]
    wanted += [score for entry in found[4]["layers"] for score in entry["scores"]]
    pruned = found[5]
    wanted += [pruned[key] for key in ("heads_before", "heads_after", "parameters_before", "parameters_after")]
    wanted += [pruned["check"][key] for key in ("difference", "tolerance", "effect")]
    wanted += [pruned["random_baseline"][key]["accuracy"] for key in ("metrics", "chosen")]
    wanted += [812.25, 12.5, 799.75, 41.5]
    assert len(wanted) > 400
    assert sorted(set(wanted) - set(reader.values)) == []
    measured = json.loads((root / "stages/03-attention/attention.json").read_text())["layers"]
    assert {value for entry in measured for value in entry["entropy"] + entry["distance"]} <= set(reader.values)


def test_the_head_names_what_ran(made: tuple[Path, Any]) -> None:
    _, reader = made
    assert "quickstart" in reader.text
    for fact in ("image-classification", "base vit, from scratch", "2026-02-14 09:30", "torch 2.15.0", "1 min 34 s"):
        assert fact in reader.text


def test_the_story_goes_from_before_pruning_to_recovery(made: tuple[Path, Any]) -> None:
    text = made[1].text
    order = [
        "Before pruning 0.9722",
        "Pruned −8",
        "After pruning 0.9389",
        "As many at random 0.7194",
        "After recovery 0.9667",
    ]
    places = [text.index(label) for label in order]
    assert places == sorted(places)
    assert "−0.0333 against the first" in text
    assert "−0.0055 against the first" in text


def test_pruned_heads_are_crossed_in_the_importance_map(made: tuple[Path, Any]) -> None:
    html = (made[0] / "report.html").read_text()
    crossed = re.findall(r'<g class="removed"[^>]*><title>layer (\d), \S+, attention head (\d): ', html)
    assert sorted((int(at), int(head)) for at, head in crossed) == [
        (at, head) for at in REMOVED for head in REMOVED[at]
    ]
    assert made[1].count("rect", class_="cut") == 8 + 1  # and one in the key
    assert made[1].count("rect", class_="kept") == 16 + 1


def test_each_picture_is_embedded_and_small_enough(made: tuple[Path, Any]) -> None:
    _, reader = made
    images = [found.get("src") or found["href"] for tag, found in reader.tags if tag in ("img", "image")]
    assert len(images) == 8 + 2
    for image in images:
        kind, data = image.split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        assert max(Image.open(BytesIO(base64.b64decode(data))).size) <= 512
    assert all(found["alt"] for tag, found in reader.tags if tag == "img")
    assert len(set(images)) == 8 + 2
    shared = [found["href"].removeprefix("#") for tag, found in reader.tags if tag == "use"]
    assert sorted(shared) == sorted(LAYERS * [found["id"] for tag, found in reader.tags if tag == "image"])


def test_a_picture_is_the_one_of_its_file(made: tuple[Path, Any]) -> None:
    root, reader = made
    sources = [found["src"] for tag, found in reader.tags if tag == "img"]
    original = Image.open(root / "stages/02-evaluate/pictures/0002.png").convert("L")
    shown = [Image.open(BytesIO(base64.b64decode(source.split(",")[1]))).convert("L") for source in sources]
    assert any(image.tobytes() == original.tobytes() for image in shown)


def test_attention_over_a_picture_has_the_grids_strengths(made: tuple[Path, Any]) -> None:
    root, _ = made
    html = (root / "report.html").read_text()
    row = json.loads((root / "stages/03-attention/attention.json").read_text())["rows"][0]
    weights = row["layers"][1]["weights"]
    drawing = re.search(r"<title>Row 0, layer 1: .*?</svg>", html, re.S)
    assert drawing
    strength = {}
    for opacity, path in re.findall(r'opacity="([\d.]+)" d="([^"]+)"', drawing[0]):
        strength.update({(int(x), int(y)): float(opacity) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path)})
    peak = max(weights)
    for y in range(SIDE):
        for x in range(SIDE):
            assert strength.get((x, y), 0.0) / 0.86 == pytest.approx(weights[y * SIDE + x] / peak, abs=1 / 16)


def test_the_page_is_one_offline_inert_file(made: tuple[Path, Any]) -> None:
    root, reader = made
    assert reader.count("link") == reader.count("iframe") == 0
    scripts = [found.get("type", "") for tag, found in reader.tags if tag == "script"]
    assert scripts == ["application/json", ""]  # data that no browser runs, and the page's own script
    for _, found in reader.tags:
        for key, value in found.items():
            assert not re.match(r"\s*(https?:)?//", value), (key, value[:80])
            assert not key.startswith("on")
    html = (root / "report.html").read_text()
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {"#hatch-lo", "#hatch-hi"}
    assert "default-src 'none'" in html
    (own,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "innerHTML" not in own and "eval" not in own and "http" not in own.replace("http://www.w3.org/2000/svg", "")
    assert len(html) < 1_000_000


def test_the_page_is_accessible(made: tuple[Path, Any]) -> None:
    _, reader = made
    drawings = [found for tag, found in reader.tags if tag == "svg"]
    assert all(found.get("role") == "img" or found.get("aria-hidden") == "true" for found in drawings)
    assert reader.count("table") == reader.count("thead") > 5
    headers = [found for tag, found in reader.tags if tag == "th"]
    assert headers
    assert all(found.get("scope") in ("col", "row") for found in headers)
    assert reader.count("html", lang="en") == 1


def test_a_strangers_stage_is_shown_as_plain_numbers_and_tables(made: tuple[Path, Any]) -> None:
    text = made[1].text
    assert "10 · energy" in text
    assert "joules 812.2" in text
    assert "phase joules warm <up> 12.5 go 799.8" in text
    assert "watts cores a 41.5 2" in text
    assert "two three one 3 [1, 2]" in text


def test_a_strangers_stage_with_known_shapes_is_drawn(tmp_path: Path) -> None:
    curve = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    stage(tmp_path, 1, "distil", 1.0, {"history": curve, "metrics": {"agreement": 0.5}})
    reader = page(tmp_path)
    assert reader.count("path", class_="curve") == 1
    assert reader.count("circle") == 3
    assert "agreement 0.5" in reader.text
    chart = {"title": "yield", "x": "depth", "series": {"ours": [[0, 1], [1, 3]], "theirs": [[0, 1], [1, "?"], 7]}}
    stage(tmp_path, 2, "sweep", 1.0, {"curves": [chart, "no chart", {"series": [1]}]})
    reader = page(tmp_path)
    assert reader.count("path", class_="curve") == 3
    assert "theirs" in reader.text and "yield" in reader.text


def test_the_command_makes_the_same_page_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_run(tmp_path / "run")
    write_page(root)
    first = (root / "report.html").read_bytes()
    (root / "report.html").unlink()
    stage(root, 11, "report", 0.3, {"page": "report.html", "sections": 10})  # as the run leaves it when it is done
    report(root)
    assert (root / "report.html").read_bytes() == first
    assert capsys.readouterr().out.strip() == str(root / "report.html")


def test_the_stage_leaves_its_own_folder_out(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    own = root / "stages/11-report"
    own.mkdir()
    said: list[str] = []

    class Process:
        main = True

        def barrier(self) -> None:
            said.append("barrier")

    class Running:
        process, folder = Process(), own

        def say(self, text: str) -> None:
            said.append(text)

    Running.root = root  # type: ignore[attr-defined]
    answer = Report(title="Digits, a third lighter")(Running())  # type: ignore[arg-type]
    assert answer["problems"] == []
    assert answer["sections"] == 10
    assert answer["bytes"] == (root / "report.html").stat().st_size
    assert said == ["barrier"]
    assert "Digits, a third lighter" in (root / "report.html").read_text()


def test_bases_by_role_are_named_by_role(tmp_path: Path) -> None:
    stage(tmp_path, 1, "evaluate", 1.0, {"metrics": {"bleu": 30.5}})
    roles = "{encoder: {model: a/b, head: keep}, decoder: {model: c/d, head: keep}}"
    (tmp_path / "recipe.yaml").write_text(f"task: translation\nbase: {roles}\n")
    assert "task translation base encoder: a/b, decoder: c/d" in page(tmp_path).text


def test_masking_is_told_as_masking(tmp_path: Path) -> None:
    evaluated = {"primary": "accuracy", "measures": "model", "role": "calibrate"}
    stage(tmp_path, 1, "evaluate", 1.0, {"metrics": {"accuracy": 0.9}, **evaluated})
    layers = [{"path": "a", "number": 0, "heads": 4, "kept": [0, 1, 2, 3], "form": "whole"}]
    removal = {"how": "masked", "unit": "attention heads", "before": 4, "after": 3, "heads": {"a": [1]}}
    stage(tmp_path, 2, "mask_heads", 1.0, {"change": "masking", "removal": removal, "layers": layers})
    stage(tmp_path, 3, "evaluate", 1.0, {"metrics": {"accuracy": 0.8}, **evaluated})
    text = page(tmp_path).text
    assert "Masked −1 of 4 attention heads (25 %)" in text
    assert "After masking 0.8" in text
    assert "1 masked, 3 kept" in text


def test_layers_are_named_by_side_and_kind_where_there_are_several(tmp_path: Path) -> None:
    layers = [
        {"path": "e.0", "number": 0, "side": "encoder", "kind": "self", "heads": 2, "kept": [0, 1], "scores": [1, 2]},
        {"path": "d.0", "number": 0, "side": "decoder", "kind": "self", "heads": 2, "kept": [0, 1], "scores": [3, 4]},
        {
            "path": "d.0.x",
            "number": 0,
            "side": "decoder",
            "kind": "cross",
            "heads": 2,
            "kept": [1],
            "scores": [None, 5],
        },
    ]
    maps = [{"key": "scores", "title": "Importance"}]
    stage(tmp_path, 1, "head_importance", 1.0, {"method": "taylor", "layers": layers, "head_maps": maps})
    reader = page(tmp_path)
    for name in ("encoder self 0", "decoder self 0", "decoder cross 0"):
        assert f"layer {name}, " in reader.text
    assert "decoder cross 0, d.0.x, attention head 0: not there any more" in reader.text
    assert {1.0, 2.0, 3.0, 4.0, 5.0} <= set(reader.values)


def test_many_labels_become_a_list_of_the_largest_confusions(tmp_path: Path) -> None:
    labels = [f"label {at}" for at in range(50)]
    counts = [[100 if one == two else 0 for two in range(50)] for one in range(50)]
    counts[7][9], counts[3][4] = 12, 31
    stage(tmp_path, 1, "evaluate", 1.0, {"tables": {"confusion": {"labels": labels, "counts": counts}}})
    assert "largest confusions of 50 labels" in page(tmp_path).text
    assert "truth prediction count label 3 label 4 31 label 7 label 9 12" in page(tmp_path).text


def test_the_plugin_is_light_and_registers_the_stage_and_the_command() -> None:
    code = (
        "import sys; from topwork_report import plugin;"
        "assert not {'jinja2', 'PIL', 'torch', 'numpy'} & set(sys.modules);"
        "print(plugin.register_stages()[0].name, plugin.register_commands()[0].name)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["report", "report"]


def test_the_scale_is_even_in_lightness() -> None:
    def lightness(colour: str) -> float:
        linear = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in linear]
        luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        return 116 * luminance ** (1 / 3) - 16  # CIE 1976 L*

    for colours, sign in zip(scales(), (-1, 1), strict=True):
        values = [lightness(colour) for colour in colours]
        steps = [sign * (after - before) for before, after in pairwise(values)]
        assert len(set(colours)) == STEPS
        assert min(steps) > 0.4 * max(steps)
        for colour, ink in zip(colours, inks(colours), strict=True):
            paper = ((lightness(colour) + 16) / 116) ** 3  # back to luminance
            assert (1.05 / (paper + 0.05) if ink == "#fff" else (paper + 0.05) / 0.05) >= 4.5  # WCAG 2, level AA
    assert [level(value, 0, 1) for value in (-1, 0, 1, 2)] == [0, 0, STEPS - 1, STEPS - 1]


def test_ablations_are_maps_of_attention_heads(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    entry = {"path": "a.0", "number": 0, "heads": 2, "kept": [0, 1]}
    changes = {"one_removed": [-0.25, 0.125], "all_but_one": [-0.5, -0.0625]}
    titles = {"one_removed": "Without the attention head", "all_but_one": "alone in its layer"}
    maps = [{"key": key, "title": title} for key, title in titles.items()]
    stage(root, 99, "head_ablation", 1.0, {"metric": 0.75, "layers": [{**entry, **changes}], "head_maps": maps})
    reader = page(root)
    assert {-0.25, 0.125, -0.5, -0.0625} <= set(reader.values)
    assert "Without the attention head" in reader.text and "alone in its layer" in reader.text


def test_a_band_lies_behind_its_curve_and_points_are_drawn_to_one_scale(tmp_path: Path) -> None:
    root = report_run.make_run(tmp_path / "run")
    series = {"own": [[0, 0.9], [1, 0.5]], "at random": [[0, 0.9], [1, 0.2]]}
    chart = {"title": "accuracy", "x": "share", "series": series,
             "bands": {"at random": [[0, 0.9, 0.9], [1, 0.1, 0.4]], "nothing": [[0, 1, 2]]}}  # fmt: skip
    points = [{"x": x, "y": y, "name": f"head {at}", "short": str(at), "group": at % 2, "path": "a", "head": at}
              for at, (x, y) in enumerate([(0, 0), (0.2, 0), (0, 0.1), (0.2, 0.1)])]  # fmt: skip
    broken = {"points": [{"x": "far", "y": 0}, {"y": 1}, 3]}
    result = {"curves": [chart], "point_maps": [{"title": "Map of heads", "points": points}, broken]}
    report_run.stage(root, 11, "anything", 0.1, result)
    reader = report_run.page(root)
    assert reader.count("path", class_="band") == 1
    spots = [(float(found["cx"]), float(found["cy"])) for tag, found in reader.tags
             if tag == "circle" and found.get("r") == "5" and float(found["cx"]) != 5]  # fmt: skip
    (left, _), (right, _), (_, high), (_, same) = spots
    assert len(spots) == 4 and high == same
    assert (right - left) / (spots[0][1] - high) == pytest.approx(2, abs=0.02)
    assert sum(found.get("data-path") == "a" for _, found in reader.tags) == 4


def test_what_each_layer_has_left_is_drawn_as_bars_by_unit(tmp_path: Path) -> None:
    root = report_run.make_run(tmp_path / "run")
    lines = [{"path": "a", "unit": "attention heads", "before": 4, "after": 1},
             {"path": "b", "unit": "neurons", "before": 64, "after": 16},
             {"path": "c", "unit": "neurons", "before": 32, "after": 32},
             {"path": "d", "unit": "neurons", "before": 8, "after": 9}]  # fmt: skip
    removal = {"how": "pruned", "unit": "attention heads", "before": 4, "after": 1, "by_layer": lines}
    report_run.stage(root, 11, "anything", 0.1, {"removal": removal})
    reader = report_run.page(root)
    assert "attention heads by layer" in reader.text and "neurons by layer" in reader.text
    bars = [float(found["width"]) for tag, found in reader.tags if tag == "rect" and found.get("height") == "11"
            and found.get("class") in ("cut", "kept")]  # fmt: skip
    assert bars == [180, 45, 180, 45, 90, 90]  # of 4, 64 and 64; a layer that grew is left out
