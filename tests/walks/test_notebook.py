"""The walk of a notebook user: cells of a script, one after the other, in one process and without a recipe."""

from __future__ import annotations

import ast
import sys
import types
from typing import Any

import pytest

from topwork.notebook.bar import NotebookBar

pytestmark = pytest.mark.recipes

CELLS = [
    """
import pandas
import topwork

words = {"yes": ["warm", "bright", "kind"], "no": ["dull", "cold", "slow"]}
frame = pandas.DataFrame([{"text": f"a {w} film", "label": k} for k in words for w in words[k]] * 8)
frame.head()
""",
    """
bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
bert["intermediate_size"] = 32
work = topwork.build("text-classification", base={"config": bert}, rows=frame)
work
""",
    """
history = work.train(frame, epochs=8, learning_rate=0.01)["history"]
pandas.DataFrame(history)
""",
    "work.evaluate(frame)",
    "work.predict('a bright film')",
    "work.predict(['a warm film', 'a cold film'])",
    """
look = topwork.look(work)
look.table()
""",
    """
batch = work.task.collate(work.task.encode([{"text": "a warm film"}], "predict", 0), "predict")
with look.capture("entropy") as seen:
    work.model(**batch.inputs)
seen["entropy", 0].shape
""",
    "work.apply('head_importance', {'calibrate': frame})['layers'][0]['path']",
    "topwork.prune_heads(work.model, {0: [1]})",
    "work.evaluate(frame)",
    "work.train(frame, steps=4, learning_rate=0.01, lora={'r': 2})['lora']['modules']",
    """
folder = work.save("my-model")
again = topwork.load(folder)
again.predict("a bright film") == work.predict("a bright film")
""",
]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does: the value of its last expression is its output."""
    tree = ast.parse(source.strip())
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last is not None else None


def test_the_cells_of_a_notebook(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    outputs = [run_cell(cell, names) for cell in CELLS]
    for output in outputs:  # what a notebook shows of it
        assert len(repr(output)) < 5000
        html = getattr(output, "_repr_html_", None)
        assert html is None or "<" in html()
    trained, single, several = outputs[3], outputs[4], outputs[5]
    assert trained["accuracy"] >= 0.9
    assert [prediction[0]["label"] for prediction in (*single, *several)] == ["yes", "yes", "no"]
    assert len(outputs[6]) == 2
    assert outputs[7][:2] == (1, 2)
    assert [len(layer.kept) for layer in names["topwork"].look(names["work"]).layers] == [1, 2]
    assert len(outputs[11]) == 8
    assert outputs[12] is True


class Display:
    """What a notebook's display showed, in order, as IPython gives it."""

    def __init__(self, shown: list[dict[str, str]]) -> None:
        self.shown = shown

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(bundle)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A process that a notebook's kernel seems to run; returns what its cells show."""
    shown: list[dict[str, str]] = []

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Display:
        assert raw and display_id
        shown.append(bundle)
        return Display(shown)

    package, part = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    part.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", part)
    return shown


def test_progress_bars_show_in_a_notebook_and_go_when_the_work_is_done(notebook, capsys) -> None:
    names: dict[str, Any] = {}
    for cell in CELLS[:3]:
        run_cell(cell, names)
    bars = [bundle for bundle in notebook if "<progress" in bundle["text/html"]]
    steps = [bundle["text/plain"] for bundle in bars if bundle["text/plain"].startswith("step ")]
    assert len(steps) >= 2 and "loss" in steps[-1]  # the beginning and the end at least
    count, total = steps[-1].split()[1].split("/")
    assert count == total and notebook[-1] == {"text/plain": "", "text/html": ""}
    assert capsys.readouterr() == ("", "")


def test_a_quiet_stage_shows_no_bar_in_a_notebook(notebook) -> None:
    names: dict[str, Any] = {}
    for cell in CELLS[:2]:
        run_cell(cell, names)
    names["work"].train(names["frame"], steps=1, quiet=True)
    assert notebook == []


def test_a_label_is_no_markup_in_a_notebook(notebook) -> None:
    bar = NotebookBar(None, "<img src=x onerror=alert(1)>")
    bar.at(3, "<b>")
    bar.close()
    assert all("<img" not in bundle["text/html"] and "<b>" not in bundle["text/html"] for bundle in notebook)
    assert "3/?" in NotebookBar(None, "rows")._picture(3, "")["text/plain"]
