"""The interactive page in a real browser: controls change the picture, keys work, hostile texts do nothing."""

from __future__ import annotations

from collections.abc import Iterator

import chromium
import pytest
from explorer_run import EVIL, make_page

pytestmark = [
    pytest.mark.recipes,  # a browser takes seconds to begin
    pytest.mark.skipif(chromium.program() is None, reason="there is no chromium here (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    with chromium.Chromium(make_page(tmp_path_factory.mktemp("runs") / "run")) as opened:
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


def test_a_count_in_a_table_of_confusions_lists_its_rows(browser: chromium.Chromium) -> None:
    table = "document.getElementById('predictions-stage-14')"
    shown = f"[...{table}.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent)"
    counts = "[...document.querySelectorAll('#stage-14 tr[data-truth] button')]"
    assert browser.run(f"{counts}.map(count => count.textContent)") == ["2", "1"]
    browser.run(f"{counts}[0].focus()")
    browser.press("Enter")
    assert sorted(browser.run(shown)) == ["0", "2"]
    browser.run(f"[...{table}.querySelectorAll('button')].find(each => each.textContent === 'show all rows').click()")
    assert sorted(browser.run(shown)) == ["0", "1", "2", "3"]


def test_a_prediction_opens_with_its_picture_and_closes_by_escape(browser: chromium.Chromium) -> None:
    browser.run(f"{TABLE}.querySelectorAll('th button')[0].click()")  # by row
    browser.run(f"{TABLE}.querySelector('tbody button').focus()")
    browser.press("Enter")
    assert browser.run(f"{TABLE}.querySelector('dialog').open")
    assert browser.run(f"{TABLE}.querySelectorAll('dialog .card img').length") == 1
    assert browser.run(f"{TABLE}.querySelectorAll('dialog .lines-between path').length") > 4  # the attention of row 0
    facts = f"[...{TABLE}.querySelectorAll('dialog dt')].map(name => name.textContent)"
    assert {"truth", "prediction", "confidence", "loss"} <= set(browser.run(facts))
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


def test_a_query_that_looks_at_sampled_points_has_its_box_as_well(browser: chromium.Chromium) -> None:
    choose(browser, row=1, layer=2, head=0)
    chosen = f"{EXPLORER}.querySelector('.with-boxes .chosen-box')"
    assert browser.run(f"{chosen}.getAttribute('x')") == "50"
    assert browser.run(f"{EXPLORER}.querySelectorAll('.lines-between path').length") == 1
    browser.run(f"{EXPLORER}.querySelector('.with-boxes').focus()")
    browser.press("ArrowRight")
    assert browser.run(f"{chosen}.getAttribute('x')") == "10"
    assert browser.run("document.activeElement.classList.contains('with-boxes')")


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


def test_a_pruning_curve_tells_the_range_of_random_choices(browser: chromium.Chromium) -> None:
    chart = "document.querySelector('#stage-13 svg.chart')"
    assert browser.run(f"{chart}.querySelectorAll('.band').length") == 1
    browser.run(f"{chart}.focus()")
    browser.press("End")
    reading = browser.run(f"{chart}.parentElement.querySelector('.reading').textContent")
    assert reading == "heads removed 4: chosen 0.91, random 0.4 (0.4 to 0.7)"


def test_each_layer_has_a_bar_of_what_is_left_of_it(browser: chromium.Chromium) -> None:
    bars = "[...document.querySelectorAll('#stage-13 .left-by-layer rect.kept')].map(bar => bar.getAttribute('width'))"
    assert browser.run(bars) == ["90.0", "180.0", "112.5"]
    titles = "[...document.querySelectorAll('#stage-13 .left-by-layer title')].map(title => title.textContent)"
    assert browser.run(titles) == ["1 of 2 attention heads", "2 of 2 attention heads", "5 of 8 neurons"]
    cards = (
        "[...document.querySelectorAll('.story .pruned .under')].map(card => card.textContent.replace(/\\s+/g, ' '))"
    )
    assert browser.run(cards)[-1].strip() == "of 4 attention heads (25 %) and −3 of 8 neurons (38 %)"


def test_a_point_in_the_map_of_heads_opens_its_attention_head(browser: chromium.Chromium) -> None:
    choose(browser, row=0, layer=0, head=-1)
    points = "document.querySelectorAll('#stage-13 .point-map g[data-path]')"
    browser.run(f"{points}[0].focus()")
    browser.press("ArrowRight")
    assert browser.run(f"document.activeElement === {points}[1]")
    browser.press(" ")
    assert browser.run(f"{EXPLORER}.explorer.head.select.value") == "1"


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
