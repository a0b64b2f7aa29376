"""The interactive page in a real browser: controls change the picture, keys work, hostile texts do nothing."""

from __future__ import annotations

import base64
import random
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import report_run

from topwork_report.page import write_page

pytestmark = [
    pytest.mark.recipes,  # a browser takes seconds to begin
    pytest.mark.skipif(chromium.program() is None, reason="there is no chromium here (Debian: apt install chromium)"),
]
EVIL = "</script><img src=x onerror=\"console.log('run')\">\u2028'\""
MAPS = {"layers": [{"path": "encoder.0", "number": 0, "heads": 2, "kept": [0, 1], "entropy": [0.5, 0.7]}],
        "head_maps": [{"key": "entropy", "title": "Entropy"}]}  # fmt: skip
WORDS = ["[CLS]", EVIL, "film", "[SEP]"]


def packed(weights: list[list[list[float]]], group: str, axes: tuple[int, int]) -> dict:
    """Weights [heads][queries][keys] in 8 bits, each query on the scale of its largest weight."""
    scales = [round(65535 * max(line)) for head in weights for line in head]
    lines = [line for head in weights for line in head]
    data = bytes(round(255 * value / (scale / 65535)) for line, scale in zip(lines, scales) for value in line)
    return {
        "group": group, "number": 0, "path": f"{group}.0", "indices": list(range(len(weights))),
        "queries": axes[0], "keys": axes[1],
        "shape": [len(weights), len(weights[0]), len(weights[0][0])],
        "weights": base64.b64encode(data).decode(),
        "scale": base64.b64encode(struct.pack(f"<{len(scales)}H", *scales)).decode(),
    }  # fmt: skip


def write_clip(file: Path, samples: list[int]) -> None:
    """A WAV file of 8000 samples a second."""
    with wave.open(str(file), "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(8000)
        clip.writeframes(struct.pack(f"<{len(samples)}h", *samples))


def sharp(heads: int, queries: int, keys: int) -> list[list[list[float]]]:
    """Attention head h looks from query q at key q + h alone."""
    return [[[float(key == (query + head) % keys) for key in range(keys)] for query in range(queries)]
            for head in range(heads)]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    root = report_run.make_run(tmp_path_factory.mktemp("runs") / "run")
    folder = report_run.stage(root, 11, "attention", 1.0, MAPS, role="evaluate")
    side = report_run.SIDE
    report_run.digit("3").save(folder / "1.png")
    names = {"names": WORDS, "special": [0, 3], "shown": 4, "length": 4}
    target = {"names": ["<s>", "ein", "Film"], "special": [], "shown": 3, "length": 3}
    heads = [packed(sharp(2, 4, 4), "encoder", (0, 0)), packed(sharp(2, 3, 4), "cross", (1, 0))]
    text = {"row": 0, "caption": EVIL, "names": WORDS, "layers": [{"number": 0, "weights": sharp(1, 4, 4)[0]}],
            "axes": [names, target], "heads": heads}  # fmt: skip
    grid = {"grid": [side, side], "special": [0], "shown": side**2 + 1, "length": side**2 + 1, "merged": 1}
    boxes = [[0, EVIL, 0.25, [0.1, 0.2, 0.5, 0.9]], [1, "cat", 0.75, [0.5, 0.25, 1, 0.75]]]
    queries = {"name": "target", "special": [], "shown": 2, "length": 2, "boxes": boxes}
    flat = [1 / side**2] * side**2
    image = {"row": 1, "image": "1.png", "grid": [side, side], "names": [], "layers": [{"number": 0, "weights": flat}],
             "axes": [grid, queries],
             "heads": [packed(sharp(2, side**2 + 1, side**2 + 1), "encoder", (0, 0)),
                       packed(sharp(2, 2, side**2 + 1), "cross", (1, 0))]}  # fmt: skip
    write_clip(folder / "clip.wav", [0] * 800 + [20000, -20000] * 400)
    frames = {"name": "input", "frames": True, "seconds": 0.1, "shown": 4, "length": 4, "special": [], "merged": 1}
    clip = {"row": 2, "audio": "clip.wav", "names": [], "layers": [{"number": 0, "weights": [0.25] * 4}],
            "axes": [frames], "heads": [packed(sharp(2, 4, 4), "encoder", (0, 0))]}  # fmt: skip
    report_run.write(folder / "attention.json", {"rows": [text, image, clip]})
    relevance = [{"row": 0, "axis": names, "methods": {"rollout": [0.1, 0.2, 0.3, 0.4], EVIL: [0.0, -1.0, 0.5, 0.0]}},
                 {"row": 1, "axis": grid, "methods": {"rollout": [0.5] * (side**2 + 1)}},
                 {"row": 2, "axis": frames, "methods": {"rollout": [0.1] * 4}}]  # fmt: skip
    report_run.stage(root, 12, "anything", 1.0, {"relevance": relevance, "role": "evaluate"}, role="evaluate")
    chance = random.Random(0)
    lines = [{"row": at, "index": at, "caption": EVIL, "badness": chance.random(), "picture": at if at < 8 else None,
              "facts": {"truth": str(at % 10), "prediction": str(at % 9), EVIL: EVIL, "domain": "ab"[at % 2],
                        "length": at, "confidence": 1 / (at + 1)}} for at in range(60)]  # fmt: skip
    table = {"order": "loss, largest first", "rows": 360, "predictions": lines}
    report_run.write(root / "stages/02-evaluate/predictions.json", table)
    write_page(root, title=EVIL)
    with chromium.Chromium(root / "report.html") as opened:
        yield opened


EXPLORER = "document.getElementById('explorer-stage-11')"
TABLE = "document.getElementById('predictions-stage-2')"


def choose(browser: chromium.Chromium, **chosen: object) -> None:
    for name, value in chosen.items():
        select = f"{EXPLORER}.explorer.{name}.select"
        browser.run(f"{select}.value = '{value}', {select}.dispatchEvent(new Event('change')), 0")


def pick(browser: chromium.Chromium, label: str, value: str) -> None:
    """Choose in the table of predictions, by the label of the choice."""
    field = f"[...{TABLE}.querySelectorAll('label')].find(label => label.firstChild.textContent === '{label}')"
    browser.run(f"(select => {{ select.value = '{value}'; select.dispatchEvent(new Event('change')); }})"
                f"({field}.querySelector('select'))")  # fmt: skip


def test_choices_change_the_lines_between_tokens(browser: chromium.Chromium) -> None:
    choose(browser, row=0, layer=0, head=0, view="lines")
    lines = f"[...{EXPLORER}.querySelectorAll('.lines-between path')].map(path => path.getAttribute('d'))"
    straight = browser.run(lines)
    assert len(straight) == 4  # from each token to itself
    choose(browser, head=1)
    assert len(set(browser.run(lines)) - set(straight)) == 4
    choose(browser, layer=1)
    sides = f"['from', 'to'].map(side => {EXPLORER}.querySelector('.side.' + side).children.length)"
    assert browser.run(sides) == [3, 4]  # cross-attention: the target's tokens, the source's
    choose(browser, layer=0)
    assert browser.run(f"{EXPLORER}.querySelectorAll('.all-heads button').length") == 4
    browser.run(f"{EXPLORER}.querySelectorAll('.all-heads button')[3].click()")
    assert browser.run(f"{EXPLORER}.explorer.layer.select.value + {EXPLORER}.explorer.head.select.value") == "11"


def test_a_patch_is_chosen_by_the_arrow_keys(browser: chromium.Chromium) -> None:
    choose(browser, row=1, layer=0, head=0, view="heat")
    reading = f"{EXPLORER}.querySelector('.reading').textContent"
    assert browser.run(reading).startswith("from class token: class token 1")
    browser.run(f"{EXPLORER}.querySelector('.heat-picture').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert browser.run(reading).startswith("from patch 1, 0: patch 1, 0 1")
    choose(browser, head=1)
    assert browser.run(reading).startswith("from patch 1, 0: patch 1, 1 1")
    marked = browser.run(
        f"{EXPLORER}.querySelector('.heat-picture canvas').getContext('2d').getImageData(1, 1, 1, 1).data[3]"
    )
    assert marked == pytest.approx(0.75 * 255, abs=2)


def test_a_cell_of_the_confusion_matrix_lists_its_rows(browser: chromium.Chromium) -> None:
    shown = f"[...{TABLE}.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent)"
    browser.run('document.querySelector(\'#stage-2 g[data-truth="0"][data-prediction="0"]\').focus()')
    browser.press("Enter")
    assert sorted(browser.run(shown)) == ["0"]
    browser.run(f"{TABLE}.querySelector('input[type=search]').dispatchEvent(new Event('input'))")
    for name in ("truth", "prediction"):
        pick(browser, name, "")
    ranks = f"[...{TABLE}.querySelectorAll('tbody tr')].map(row => Number(row.cells[1].textContent))"
    worst = browser.run(ranks)
    assert len(worst) == 15 and worst == sorted(worst, reverse=True)
    browser.run(f"{TABLE}.querySelectorAll('th button')[1].click()")
    best = browser.run(ranks)
    assert best == sorted(best) and best[0] < worst[-1]


def test_a_prediction_opens_with_its_picture_and_closes_by_escape(browser: chromium.Chromium) -> None:
    browser.run(f"{TABLE}.querySelectorAll('th button')[0].click()")  # by row
    browser.run(f"{TABLE}.querySelector('tbody button').focus()")
    browser.press("Enter")
    assert browser.run(f"{TABLE}.querySelector('dialog').open")
    assert browser.run(f"{TABLE}.querySelectorAll('dialog .card img').length") == 1
    assert browser.run(f"{TABLE}.querySelectorAll('dialog .lines-between path').length") > 4  # the attention of row 0
    assert "confidence" in browser.run(f"{TABLE}.querySelector('dialog dl').textContent")
    browser.press("Escape")
    browser.wait(f"!{TABLE}.querySelector('dialog').open")
    browser.run(f"{TABLE}.querySelectorAll('tbody button')[5].click()")
    assert "was not kept. It was of the rows 0, 1, 2" in browser.run(f"{TABLE}.querySelector('dialog').textContent")
    browser.press("Escape")
    browser.wait(f"!{TABLE}.querySelector('dialog').open")


def test_predictions_are_sliced_by_a_column_and_by_quarters(browser: chromium.Chromium) -> None:
    status = f"{TABLE}.querySelector('p[aria-live]').textContent"
    pick(browser, "slice by", "=domain")
    pick(browser, "is", "1")
    assert browser.run(status).startswith("30 of them match")
    pick(browser, "slice by", "=length")
    pick(browser, "is", "0")
    assert browser.run(status).startswith("15 of them match")  # the lowest quarter of 0 to 59
    pick(browser, "order", "uncertain")
    rows = f"[...{TABLE}.querySelectorAll('tbody tr')].map(row => Number(row.cells[0].textContent))"
    assert browser.run(rows) == list(range(14, -1, -1))
    pick(browser, "slice by", "")
    pick(browser, "order", "worst")
    assert browser.run(status).startswith("60 of them match")


def test_a_query_is_drawn_with_its_box(browser: chromium.Chromium) -> None:
    choose(browser, row=1, layer=1, head=0)
    chosen = f"{EXPLORER}.querySelector('.chosen-box')"
    assert browser.run(f"['x', 'y', 'width', 'height'].map(name => Number({chosen}.getAttribute(name)))") == [
        50, 25, 50, 50]  # the best score  # fmt: skip
    reading = f"{EXPLORER}.querySelector('.reading').textContent"
    assert browser.run(reading).startswith("from query 1: cat 0.75: patch 0, 0 1")
    browser.run(f"{EXPLORER}.querySelector('.heat-picture').focus()")
    browser.press("ArrowRight")
    assert browser.run(reading).startswith("from query 0: ") and browser.run(f"{chosen}.getAttribute('x')") == "10"
    browser.run(f"{EXPLORER}.querySelector('.other-box').dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert browser.run(f"{chosen}.getAttribute('x')") == "50"


def test_a_clip_lies_under_its_attention_as_long_as_it_lasts(browser: chromium.Chromium) -> None:
    choose(browser, row=2, layer=0, head=0)
    wave_drawn = f"{EXPLORER}.querySelector('.waveform')"
    assert browser.run(f"{wave_drawn}.style.width") == "50%"  # 0.2 s of the 0.4 s that four frames cover
    ink = (
        f"(line => [100, 600].map(x => line[4 * x + 3]))({wave_drawn}.getContext('2d').getImageData(0, 3, 720, 1).data)"
    )
    assert browser.run(ink) == [0, 255]  # silence, then loud
    assert browser.run(f"{EXPLORER}.querySelectorAll('audio[controls]').length") == 1
    assert browser.run(f"{EXPLORER}.querySelector('.ends').textContent") == "0 s0.40 s"


def test_rollout_and_relevance_stand_beside_the_raw_weights(browser: chromium.Chromium) -> None:
    shown = f"[...{EXPLORER}.querySelectorAll('.relevance-of figcaption')].map(name => name.textContent)"
    choose(browser, row=0, layer=0, head=1)
    assert browser.run(shown) == ["raw weights", "rollout", EVIL]
    tokens = f"{EXPLORER}.querySelectorAll('.relevance-of')[1].querySelectorAll('.shaded-token')"
    shares = f"[...{tokens}].map(token => token.title)"
    assert browser.run(shares) == ["0.1", "0.2", "0.3", "0.4"]
    choose(browser, layer=1)  # cross-attention: its keys are the same tokens
    assert browser.run(shown)[0] == "raw weights"
    choose(browser, row=1, layer=0)
    assert browser.run(f"{EXPLORER}.querySelectorAll('.relevance-of .heat-picture img').length") == 2
    own = "document.getElementById('relevance-stage-12')"
    assert browser.run(f"{own}.querySelectorAll('.relevance-of').length") == 2


def test_a_curve_tells_its_values_by_the_arrow_keys(browser: chromium.Chromium) -> None:
    browser.run("document.querySelector('svg.chart').focus()")
    browser.press("ArrowRight")
    first = browser.run("document.querySelector('svg.chart + .reading').textContent")
    browser.press("ArrowRight")
    second = browser.run("document.querySelector('svg.chart + .reading').textContent")
    assert first.startswith("step 10: loss ") and second.startswith("step 20: loss ")


def test_a_part_of_a_curve_is_zoomed_into(browser: chromium.Chromium) -> None:
    labels = "[...document.querySelectorAll('svg.chart .marks > text')].slice(0, 9).map(text => text.textContent)"
    whole = browser.run(labels)
    browser.run("document.querySelector('svg.chart').focus()")
    for key in ("ArrowRight", "+", "+"):
        browser.press(key)
    assert browser.run("document.querySelector('svg.chart ~ button').hidden") is False
    zoomed = browser.run(labels)
    assert zoomed != whole
    assert (
        browser.run("document.querySelectorAll('svg.chart')[0].querySelectorAll('circle').length") > 0
    )  # few points: dots
    reading = "document.querySelector('svg.chart + .reading').textContent"
    assert browser.run(reading).startswith("step ")
    browser.press("0")
    assert browser.run("document.querySelector('svg.chart ~ button').hidden") is True
    assert browser.run(labels) == whole


def test_a_cell_of_a_map_opens_its_attention_head(browser: chromium.Chromium) -> None:
    choose(browser, row=0, layer=0, head=-1)
    cell = 'document.querySelector(\'#stage-11 g[data-path="encoder.0"][data-head="1"]\')'
    assert browser.run(f"{cell}.getAttribute('role')") == "button"
    browser.run(f"{cell}.focus()")
    browser.press("Enter")
    assert browser.run(f"{EXPLORER}.explorer.head.select.value") == "1"
    assert browser.run("document.activeElement.closest('label').textContent").startswith("attention head")
    assert browser.run("document.querySelectorAll('#stage-4 g[data-path][role]').length") == 0  # no weights of those


def test_hostile_texts_stand_on_the_page_and_do_nothing(browser: chromium.Chromium) -> None:
    choose(browser, row=0, layer=0, head=0, view="lines")
    assert EVIL.replace("\u2028", "") in browser.run("document.body.textContent").replace("\u2028", "")
    assert browser.run("document.querySelectorAll('[onerror]').length") == 0
    assert browser.run("document.scripts.length") == 2
    assert browser.messages == []  # nothing ran, nothing failed, the security policy refused nothing


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_does_not_scroll_sideways(browser: chromium.Chromium, scheme: str) -> None:
    browser.colours(scheme)
    browser.resize(400, 800)
    assert browser.run("document.documentElement.scrollWidth") <= 400
    assert browser.messages == []
