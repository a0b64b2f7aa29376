"""The page without a mouse, without good eyes, and on paper: contrast, keys, what a screen reader is told, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from explorer_run import make_page
from page_checks import unreached, weak_texts

pytestmark = [
    pytest.mark.recipes,  # a browser takes seconds to begin
    pytest.mark.skipif(chromium.program() is None, reason="there is no chromium here (Debian: apt install chromium)"),
]
EXPLORER = "document.getElementById('explorer-stage-11')"
TABLE = "document.getElementById('predictions-stage-2')"
SPOKEN = f"{EXPLORER}.querySelector('[role=status]').textContent"
LINES = f"[...{EXPLORER}.querySelectorAll('.lines-between path')].map(path => path.getAttribute('d'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    with chromium.Chromium(make_page(tmp_path_factory.mktemp("runs") / "run")) as opened:
        yield opened


def show(browser: chromium.Chromium, **state: int) -> None:
    changes = ", ".join(f"{name}: {value}" for name, value in state.items())
    browser.run(f"{EXPLORER}.explorer.set({{{changes}}}), 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser: chromium.Chromium, scheme: str) -> None:
    browser.colours(scheme)
    for row in range(3):
        show(browser, row=row, layer=0, head=1, query=1)
        assert weak_texts(browser) == []
    browser.run(f"{TABLE}.querySelector('tbody button').click()")
    assert weak_texts(browser) == []
    browser.press("Escape")
    browser.wait(f"!{TABLE}.querySelector('dialog').open")


def test_weak_text_is_noticed(browser: chromium.Chromium) -> None:
    browser.colours("light")
    browser.run("document.querySelector('h1').style.opacity = 0.4, 0")
    assert [text.split()[1] for text in weak_texts(browser)] == ["H1"]
    browser.run("document.querySelector('h1').style.opacity = '', 0")


def test_keys_reach_all_that_reacts(browser: chromium.Chromium) -> None:
    for row in range(3):
        show(browser, row=row, layer=0, head=0, query=-1)
        assert unreached(browser) == []


def test_the_focus_is_seen_wherever_it_goes(browser: chromium.Chromium) -> None:
    show(browser, row=0, layer=0, head=0, query=-1)
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; }), 0")
    browser.run("(heading => { heading.tabIndex = -1; heading.focus(); })(document.querySelector('h1'))")
    seen = set()
    for _ in range(80):
        browser.press("Tab")
        focused = browser.run("""(element => element && element !== document.body && [element.tagName,
            element.matches("g") ? getComputedStyle(element.querySelector("rect, circle")).strokeWidth !== "0px"
            : getComputedStyle(element).outlineStyle !== "none"])(document.activeElement)""")
        if focused:
            seen.add(focused[0])
            assert focused[1], browser.run("document.activeElement.outerHTML.slice(0, 200)")
    assert {"A", "BUTTON", "SELECT", "SUMMARY", "svg"} <= seen


def test_lines_to_a_token_are_pinned_by_keys(browser: chromium.Chromium) -> None:
    show(browser, row=0, layer=0, head=0, query=-1)
    assert len(browser.run(LINES)) == 4
    right = f"{EXPLORER}.querySelector('.side.to')"
    browser.run(f"{right}.children[0].focus()")
    browser.press("ArrowDown")
    assert browser.run(f"document.activeElement === {right}.children[1]")
    to_second = browser.run(LINES)
    assert len(to_second) == 1
    browser.press("Enter")
    browser.run("document.activeElement.blur()")
    assert browser.run(LINES) == to_second
    assert browser.run(f"[...{right}.children].map(name => name.ariaPressed)") == ["false", "true", "false", "false"]
    browser.run(f"{right}.children[1].click()")
    assert len(browser.run(LINES)) == 4


def test_a_screen_reader_is_told_what_a_choice_shows(browser: chromium.Chromium) -> None:
    show(browser, row=1, layer=0, head=0, query=0)
    browser.run(f"window.region = {EXPLORER}.querySelector('[role=status]'), 0")
    assert browser.run(SPOKEN) == (
        "row 1, layer encoder 0, attention head 0, from class token: class token 1; patch 0, 0 0; patch 0, 1 0"
    )
    browser.run(f"{EXPLORER}.querySelector('.heat-picture').focus()")
    browser.press("ArrowRight")
    assert "from patch 0, 0: patch 0, 0 1;" in browser.run(SPOKEN)
    show(browser, head=-1)
    assert "mean of all attention heads" in browser.run(SPOKEN)
    assert browser.run(f"window.region === {EXPLORER}.querySelector('[role=status]')")  # one that is new says nothing
    select = "document.querySelector('.relevance select')"
    browser.run(f"{select}.value = '1', {select}.dispatchEvent(new Event('change')), 0")
    assert browser.run("document.querySelector('.relevance [role=status]').textContent").startswith("rollout: most on")


def test_nothing_on_the_page_moves_by_itself(browser: chromium.Chromium) -> None:
    assert browser.run("document.getAnimations().length") == 0
    style = browser.run("document.querySelector('style').textContent")
    assert "transition" not in style and "animation" not in style and "scroll-behavior" not in style


def test_columns_are_named_in_words_and_keep_their_keys(browser: chromium.Chromium) -> None:
    heads = "[...document.querySelectorAll('#stage-13 .b-table th span')].map(name => [name.textContent, name.title])"
    assert browser.run(heads) == [["F1, calibrate rows", "eval_f1"], ["number of heads", "n_heads"]]
    assert "content" in browser.run(f"[...{TABLE}.querySelectorAll('th')].map(head => head.textContent)")


def test_paper_is_light_and_without_controls(browser: chromium.Chromium) -> None:
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.call("Emulation.setEmulatedMedia", **media)
    browser.wait("matchMedia('print').matches")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(252, 252, 250)"
    assert browser.run("[...document.querySelectorAll('.controls, .table-buttons')]"
                       ".every(element => getComputedStyle(element).display === 'none')")  # fmt: skip
    assert weak_texts(browser) == []
    browser.resize(720, 1000)  # A4, in CSS pixels between its margins
    assert browser.run("document.documentElement.scrollWidth") <= 720  # a wide table is not cut
    browser.call("Emulation.setEmulatedMedia", media="")


def test_an_image_is_never_shown_smaller_than_it_is(tmp_path: Path, browser: chromium.Chromium) -> None:
    browser.resize(1280, 800)
    show(browser, row=1, layer=0, head=0, query=0)
    wide = f"{EXPLORER}.querySelector('.view .heat-picture').getBoundingClientRect().width"
    assert browser.run(wide) == pytest.approx(420, abs=1)  # of 28 pixels
    large = "Object.assign(document.createElement('canvas'), {width: 500, height: 400}).toDataURL()"
    browser.run(f"{EXPLORER}.querySelector('.view .heat-picture img').src = {large}, 0")
    browser.wait(f"Math.abs({wide} - 500) < 1")
    assert browser.messages == []
