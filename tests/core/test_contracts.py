"""Every installed task, stage and base keeps the promises of its contract; every hook is documented and used."""

from __future__ import annotations

import copy
import inspect
import re

import documents
import pytest
from tiny_bases import BASES, BERT, VIT, WAV2VEC2

import topwork
from topwork import hookspecs, load_plugins
from topwork.testing import check_base, check_stage, check_task, same_predictions

PLUGINS = load_plugins()


@pytest.mark.parametrize("name", sorted(PLUGINS.tasks))
def test_task(name, tmp_path):
    check_task(PLUGINS.tasks[name], copy.deepcopy(BASES[name]), tmp_path, plugins=PLUGINS)


@pytest.mark.parametrize("name", sorted(PLUGINS.tasks))
def test_task_passes_every_stage(name, tmp_path):
    """Train, evaluate, predict, importance on the task's own loss, pruning with its check, save, load, the page."""
    task = PLUGINS.tasks[name]
    rows = task.example_rows()
    work = topwork.build(name, copy.deepcopy(BASES[name]), rows=rows, plugins=PLUGINS)
    roles = dict.fromkeys(("train", "calibrate", "evaluate", "predict"), rows)
    trained = work.apply("train", roles, steps=2, batch_size=4, learning_rate=1e-4)
    assert trained["steps"] == 2
    metrics = work.apply("evaluate", roles)["metrics"]
    assert set(metrics) == set(work.task.metric().keys)
    assert work.apply("predict", roles)["rows"] == len(rows)
    scores = work.apply("head_importance", roles, rows=len(rows))
    assert all(score is None or score >= 0 for layer in scores["layers"] for score in layer["scores"])
    assert any(score for layer in scores["layers"] for score in layer["scores"])
    pruned = work.apply("prune_heads", roles, count=1, importance={"method": "random"})
    assert pruned["heads_before"] - pruned["heads_after"] == 1
    predictions = work.predict(rows)
    work.save(tmp_path / "model")
    assert same_predictions(topwork.load(tmp_path / "model", plugins=PLUGINS).predict(rows), predictions)


@pytest.mark.parametrize("name", sorted(PLUGINS.stages))
def test_stage(name):
    check_stage(PLUGINS.stages[name])


BASE_INPUTS = {
    "bert": (BERT, lambda torch: {"input_ids": torch.ones(2, 5, dtype=torch.long)}),
    "vit": (VIT, lambda torch: {"pixel_values": torch.randn(2, 3, 32, 32)}),
    "wav2vec2": (
        WAV2VEC2,
        lambda torch: {
            "input_values": torch.randn(2, 4000),
            "attention_mask": (torch.arange(4000) < torch.tensor([[4000], [2500]])).long(),
        },
    ),
    "timm": (
        {"config": {"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": {"img_size": 64}}},
        lambda torch: {"pixel_values": torch.randn(2, 3, 64, 64)},
    ),
}


@pytest.mark.parametrize("name", sorted(BASE_INPUTS))
def test_base(name):
    import torch

    base, inputs = BASE_INPUTS[name]
    check_base(PLUGINS.load_base(topwork.BaseOptions(**copy.deepcopy(base))), inputs(torch))


def hooks():
    return {name: one for name, one in vars(hookspecs).items() if hasattr(one, "topwork_spec")}


@pytest.mark.parametrize("name", sorted(hooks()))
def test_hook_is_documented_and_called(name):
    """A docstring on its page, a row in the guide of the core, and somebody in the core who calls it."""
    function = hooks()[name]
    assert inspect.getdoc(function)
    arguments = ", ".join(inspect.signature(function).parameters)
    assert f"| `{name}({arguments})` |" in (documents.ROOT / "core" / "README.md").read_text()
    core = sorted((documents.ROOT / "core" / "topwork").rglob("*.py"))
    calls = [f"hook.{name}(", f'"{name}"']
    if name in ("register_tasks", "register_stages", "register_commands"):
        calls.append('f"register_{kind}s"')  # one loop asks for all three kinds
    callers = [file for file in core if any(call in file.read_text() for call in calls)]
    lens = [file for file in (documents.ROOT / "plugins").rglob("*.py") if f"hook.{name}(" in file.read_text()]
    assert callers or lens, f"nobody calls {name}"


@pytest.mark.parametrize("document", sorted(documents.DOCUMENTS))
def test_generated_tables_are_fresh(document):
    text = (documents.ROOT / document).read_text(encoding="utf-8")
    assert documents.generated(document, text) == text, "run `python tests/helpers/documents.py`"


@pytest.mark.parametrize("document", sorted(documents.DOCUMENTS))
def test_links_between_documents_lead_somewhere(document):
    file = documents.ROOT / document
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), f"{document} links to {target}"
