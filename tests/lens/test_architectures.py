"""Sixty architectures in one process: found, captured, gated, pruned, saved and pruned again, as the table says."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest

from architectures import build, checks, eager, run, table
from topwork_lens.capture import capture
from topwork_lens.look import Look

SIXTY = build.sixty()
WAYS = ("fused", "interleaved", "Conv1D", "grouped", "shared", "relative", "windowed", "deformable", "cross")
KNOWN: dict[str, Any] = json.loads(run.TABLE.read_text())["types"]


def test_every_way_of_building_attention_is_there_three_times() -> None:
    count = Counter(way for ways in SIXTY.values() for way in ways)
    assert len(SIXTY) >= 60
    assert all(count[way] >= 3 for way in (*WAYS, "multihead", "timm", "audio")), count


@pytest.mark.parametrize("name", list(SIXTY))
def test_it_is_as_the_table_says(name: str) -> None:
    model, inputs = build.tiny(name)
    record = checks.examine(lambda: (copy.deepcopy(model), copy.deepcopy(inputs)))
    assert not [key for key in table.CHECKS if "WRONG" in str(record.get(key))], record
    assert record.get("batches", True) in (True, checks.ONE_SIZE), record
    entry = table.entry(record)
    known = KNOWN[name]
    assert entry["outcome"] == known["outcome"], record
    assert entry.get("found") == known.get("found"), record
    assert entry.get("ran") == known.get("ran"), record
    worse = [key for key in table.CHECKS if known.get(key) is True and entry.get(key) is not True]
    assert not worse, record


def test_the_table_covers_every_model_type_and_nothing_is_silently_wrong() -> None:
    assert set(KNOWN) == set(build.model_types())
    assert not [name for name, entry in KNOWN.items() for key in table.CHECKS if "WRONG" in str(entry.get(key))]
    assert {entry["outcome"] for entry in KNOWN.values()} <= {"hard", "soft", "refused", "no attention", "not built"}


def test_a_wrong_pruning_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix itself is tested: a masked output that is slightly off counts as wrong."""
    own = checks.outputs
    models = []

    def off(model: Any, inputs: Any) -> Any:
        models.append(model)
        return [output * (1.001 if model is models[0] else 1.0) for output in own(model, inputs)]

    monkeypatch.setattr(checks, "outputs", off)
    model, inputs = build.tiny("bert")
    record = checks.examine(lambda: (copy.deepcopy(model), copy.deepcopy(inputs)))
    assert "WRONG" in str(record["masked"])


def test_a_wrong_capture_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not the library's count as wrong, and weights that are compared with nothing as a failure."""
    model, inputs = build.tiny("t5")
    look = Look(model)
    own, record = eager.library_weights, dict[str, Any]()
    assert checks.captured(model, inputs, look, look.layers, record) is True
    assert record["eager"] == record["context"] == len(look.layers) == 6
    monkeypatch.setattr(eager, "library_weights", lambda *given: [(name, one.roll(1, -1)) for name, one in own(*given)])
    assert "WRONG" in str(checks.captured(model, inputs, look, look.layers, {}))
    monkeypatch.setattr(eager, "library_weights", lambda *given: [])
    monkeypatch.setattr(capture, "received", lambda *given: True)
    assert checks.captured(model, inputs, look, look.layers, {}) is True
    monkeypatch.setattr(capture.Capture, "_explained", lambda *given: None)
    assert "compared with nothing" in str(checks.captured(model, inputs, look, look.layers, {}))
