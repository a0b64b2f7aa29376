"""What a manifest says that a task has learned is checked before a task is made of it, for every task and entry."""

from __future__ import annotations

import json
import math

import pytest
from tiny_bases import BASES

import topwork
from topwork import CheckpointError

#: values that no entry of any task can have
WRONG = ["../../x", -1, math.nan, [1, None], [[]]]


@pytest.mark.parametrize("task", BASES)
def test_an_entry_of_another_type_is_refused_by_name(task, plugins, tmp_path):
    work = topwork.build(task, BASES[task], rows=plugins.task(task).example_rows(), plugins=plugins)
    work.save(tmp_path / "model")
    file = tmp_path / "model/topwork.json"
    manifest = json.loads(file.read_text())
    assert manifest["state"] and set(manifest["state"]) <= set(work.task.state_types), "an entry has no type"
    for name in manifest["state"]:
        for value in WRONG:
            changed = {**manifest, "state": {**manifest["state"], name: value}}
            file.write_text(json.dumps(topwork.with_checksum(changed)))
            with pytest.raises(CheckpointError, match=rf"`state\.{name}"):
                topwork.load(tmp_path / "model", plugins=plugins)
    file.write_text(json.dumps(manifest))
    topwork.load(tmp_path / "model", plugins=plugins)


@pytest.mark.parametrize("names", [[], ["a", "a", "b"], [1, 2, 3], ["a", "b", None], "abc", {"a": 1}, ["a", "", "b"]])
def test_label_names_are_texts_none_of_them_twice(names, plugins, tmp_path):
    task = "text-classification"
    work = topwork.build(task, BASES[task], rows=plugins.task(task).example_rows(), plugins=plugins)
    work.save(tmp_path / "model")
    file = tmp_path / "model/topwork.json"
    manifest = json.loads(file.read_text())
    manifest["state"]["label_names"] = names
    file.write_text(json.dumps(topwork.with_checksum(manifest)))
    with pytest.raises(CheckpointError, match=r"`state\.label_names"):
        topwork.load(tmp_path / "model", plugins=plugins)


@pytest.mark.parametrize("inputs", [[], ["attention_mask"]])
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering", "fill-mask"])
def test_a_model_of_texts_reads_tokens(task, inputs, plugins):
    kinds = plugins.task(task)
    kinds.check_state({"inputs": ["input_ids", "attention_mask"]})
    with pytest.raises(CheckpointError, match=r"`state\.inputs` is .*has no `input_ids`"):
        kinds.check_state({"inputs": inputs})
