"""The page of every installed task in a real browser, made of what its own stages wrote."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from page_checks import unreached, weak_texts
from tiny_bases import BASES

import topwork
from topwork_report.page import write_page

pytestmark = [
    pytest.mark.recipes,  # a browser takes seconds to begin, and every task is built
    pytest.mark.skipif(chromium.program() is None, reason="there is no chromium here (Debian: apt install chromium)"),
]
EXPLORER = "document.querySelector('.explorer').explorer"
# What the page shows of the chosen attention head: pixels of canvases, and lines.
VIEW = """(place => [...place.querySelectorAll('.view canvas')].map(canvas => canvas.toDataURL()).join()
          + [...place.querySelectorAll('.view path')].map(path => path.outerHTML).join()
          + place.querySelector('.reading')?.textContent)(document.querySelector('.explorer'))"""

# Roles that say nothing without a name.
NAMED = ("table", "group", "button", "combobox", "searchbox", "textbox", "checkbox", "img", "image", "link", "heading",
         "Audio")  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    page = tmp_path_factory.mktemp("empty") / "empty.html"
    page.write_text("<!DOCTYPE html><title>empty</title>", encoding="utf-8")
    with chromium.Chromium(page) as opened:
        yield opened


def unnamed(browser: chromium.Chromium) -> list[str]:
    """Roles of what stands on the open page without a name, in the browser's tree for screen readers."""
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node.get("ignored")]
    assert {"table", "group", "button", "combobox", "heading"} <= {node["role"]["value"] for node in shown}
    return [node["role"]["value"] for node in shown
            if node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()]  # fmt: skip


@pytest.mark.parametrize("task", sorted(BASES))
def test_a_page_reacts_and_complains_of_nothing(task: str, browser: chromium.Chromium, tmp_path: Path) -> None:
    rows = topwork.load_plugins().tasks[task].example_rows()
    work = topwork.build(task, copy.deepcopy(BASES[task]), rows=rows)
    roles = dict.fromkeys(("calibrate", "evaluate"), rows[:4])
    for name, options in (("evaluate", {}), ("attention", {"rows": 4}), ("head_importance", {"rows": 2})):
        work.apply(name, roles, run_folder=tmp_path, **options)
    written = write_page(tmp_path)
    assert written["sections"] == 3 and written["bytes"] < 5_000_000
    browser.messages.clear()
    browser.open(tmp_path / "report.html")
    assert browser.run("document.querySelectorAll('.explorer, .predictions').length") == 2
    before = browser.run(VIEW)
    browser.run("document.querySelector('.all-heads button:last-of-type').click()")  # another attention head
    assert browser.run(f"{EXPLORER}.state.head") >= 0 and browser.run(VIEW) != before
    browser.run("document.querySelector('g.opens[data-path]').focus()")  # a cell of a map of attention heads
    browser.press("Enter")
    assert browser.run(f"{EXPLORER}.state.head") == 0
    browser.run("document.querySelector('.predictions tbody button').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog').open && document.querySelectorAll('dialog .view').length") == 1
    browser.press("Escape")
    browser.wait("!document.querySelector('dialog').open")
    assert unnamed(browser) == []
    assert unreached(browser) == []
    for scheme in ("light", "dark"):
        browser.colours(scheme)
        assert weak_texts(browser) == []
    assert browser.messages == []
