"""Model folders: plain ones open in transformers, others nowhere else; strict, whole, movable, without pickle."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil

import engine_plugin
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from tiny_bases import BERT
from torch import nn

import topwork
from topwork import CheckpointError, PluginError, UsageError, alterations
from topwork.files import write_whole
from topwork.saving.model_folder import save_folder
from topwork.saving.weights import distinct, load_weights, save_weights

ROWS = engine_plugin.window_rows(9)
POINTS = engine_plugin.point_rows(9)
IDS = torch.tensor([[3, 4, 5, 6]])


@pytest.fixture(scope="module")
def windows(engine):
    import conftest

    return topwork.build("windows", {"config": conftest.TINY_GPT2}, rows=ROWS, plugins=engine)


@pytest.fixture(scope="module")
def points(engine):

    return topwork.build("points", copy.deepcopy(BERT), rows=POINTS, plugins=engine, norm=True)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- plain models


def test_a_plain_model_opens_in_transformers_with_the_same_logits(windows, tmp_path, engine):
    windows.save(tmp_path / "model")
    with torch.no_grad():
        expected = windows.model(IDS).logits
        for kind in (transformers.AutoModelForCausalLM, transformers.GPT2LMHeadModel):
            opened, info = kind.from_pretrained(tmp_path / "model", output_loading_info=True)
            assert torch.equal(opened(IDS).logits, expected)
            assert not info["missing_keys"] and not info["unexpected_keys"]
        again = topwork.load(tmp_path / "model", plugins=engine)
        assert torch.equal(again.model(IDS).logits, expected) and again.form == "native"
    assert opened.config.use_cache and not again.model.training
    assert {"config.json", "model.safetensors", "topwork.json", "README.md"} <= set(files(tmp_path / "model"))


def test_tied_weights_are_stored_once_and_tied_again(windows, tmp_path, engine):
    windows.save(tmp_path / "model")
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")
    model = topwork.load(tmp_path / "model", plugins=engine).model
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(engine, tmp_path, tiny_gpt2, tiny_bert, dtype):
    for name, task, config, rows in (("a", "windows", tiny_gpt2, ROWS), ("b", "points", tiny_bert, POINTS)):
        work = topwork.build(task, {"config": config}, rows=rows, plugins=engine)
        work.model.to(dtype)
        work.save(tmp_path / name)
        again = topwork.load(tmp_path / name, plugins=engine)
        assert {tensor.dtype for tensor in again.model.parameters()} == {dtype}
        assert same(tensors(work.model), tensors(again.model))
        assert again.predict(rows) == work.predict(rows)


# ---------------------------------------------------------------- all others


def test_a_task_head_of_our_own_opens_nowhere_else(points, tmp_path, engine):
    points.save(tmp_path / "model")
    assert "topwork.safetensors" in files(tmp_path / "model") and "model.safetensors" not in files(tmp_path / "model")
    for kind in (transformers.AutoModel, transformers.BertModel, transformers.AutoModelForSequenceClassification):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            kind.from_pretrained(tmp_path / "model")
    again = topwork.load(tmp_path / "model", plugins=engine)
    assert same(tensors(points.model), tensors(again.model)) and again.form == "generic"
    assert again.predict(POINTS) == points.predict(POINTS)
    assert again.task.state.values == {"classes": [0, 1, 2]} and again.task.options.norm


def test_an_altered_plain_model_opens_nowhere_else(engine, tmp_path, tiny_gpt2):
    work = topwork.build("windows", {"config": tiny_gpt2}, rows=ROWS, plugins=engine)
    topwork.look(work.model, plugins=engine).prune_heads({0: [1]})
    assert alterations(work.model)
    work.save(tmp_path / "model")
    for kind in (transformers.AutoModelForCausalLM, transformers.GPT2LMHeadModel):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            kind.from_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="no plain base"):
        topwork.build("windows", str(tmp_path / "model"), rows=ROWS, plugins=engine)
    again = topwork.load(tmp_path / "model", plugins=engine)
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, work.model(IDS).logits)
    assert again.model.lm_head.weight is again.model.transformer.wte.weight
    without = topwork.load_plugins(disable=["lens"], extra=[engine_plugin])
    with pytest.raises(PluginError, match="nobody put back what `lens` had altered"):
        topwork.load(tmp_path / "model", plugins=without)


def test_two_bases(engine, tmp_path, tiny_bert):
    small = {**tiny_bert, "hidden_size": 16}
    work = topwork.build(
        "couple", bases={"left": {"config": tiny_bert}, "right": {"config": small}}, rows=POINTS, plugins=engine
    )
    work.save(tmp_path / "model")
    assert json.loads((tmp_path / "model/left/config.json").read_text())["hidden_size"] == 32
    assert json.loads((tmp_path / "model/right/config.json").read_text())["hidden_size"] == 16
    again = topwork.load(tmp_path / "model", plugins=engine)
    assert same(tensors(work.model), tensors(again.model)) and again.predict(POINTS) == work.predict(POINTS)
    with pytest.raises(UsageError, match="left, right"):
        topwork.build("couple", {"config": tiny_bert}, rows=POINTS, plugins=engine)


class Sharing(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.register_buffer("first", torch.arange(4.0))
        self.register_buffer("again", self.first)
        self.register_buffer("part", self.first[:2])
        self.register_buffer("none", torch.zeros(0))
        self.register_buffer("nothing", torch.zeros(0))


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path):
    model, other = Sharing(), Sharing()
    aliases = save_weights(model, tmp_path / "w.safetensors")
    assert aliases == {"two.weight": "one.weight", "again": "first"}
    assert set(load_file(tmp_path / "w.safetensors")) == set(distinct(model.state_dict())[0])
    load_weights(other, tmp_path / "w.safetensors", aliases)
    assert same(tensors(model), tensors(other))
    assert other.two.weight is other.one.weight and other.again.data_ptr() == other.first.data_ptr()
    model.one.weight.data.add_(1)
    assert not torch.equal(model.one.weight, other.one.weight)


# ---------------------------------------------------------------- strictness


def spoil(folder, change, name="topwork.safetensors"):
    stored = load_file(folder / name)
    change(stored)
    save_file(stored, folder / name, metadata={"format": "pt"})


def test_weights_that_do_not_fit_are_named(points, tmp_path):
    file = tmp_path / "w.safetensors"

    def refused(change, text):
        save_weights(points.model, file)
        spoil(tmp_path, change, file.name)
        before = tensors(points.model)
        with pytest.raises(CheckpointError, match=text):
            load_weights(points.model, file)
        assert same(before, tensors(points.model))

    refused(lambda stored: stored.pop("head.bias"), "missing head.bias")
    refused(lambda stored: stored.update({"more": torch.zeros(1)}), "left over more")
    refused(lambda stored: stored.update({"head.bias": torch.zeros(5)}), r"head.bias is \(5,\), the model wants \(3,\)")
    file.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        load_weights(points.model, file)


def test_missing_weights_are_never_made_up(windows, points, tmp_path, engine):
    for work, name, key in (
        (windows, "model.safetensors", "transformer.ln_f.bias"),
        (points, "topwork.safetensors", "head.bias"),
    ):
        work.save(tmp_path / "model")
        spoil(tmp_path / "model", lambda stored, key=key: stored.pop(key), name)
        with pytest.raises(CheckpointError, match=r"there are \d+ tensors, \d+ were saved"):
            topwork.load(tmp_path / "model", plugins=engine)
        (tmp_path / "model" / name).write_bytes(b"x" * 100)
        with pytest.raises(CheckpointError, match="cannot read the weights"):
            topwork.load(tmp_path / "model", plugins=engine)
        (tmp_path / "model" / name).unlink()
        with pytest.raises(CheckpointError):
            topwork.load(tmp_path / "model", plugins=engine)


def change_manifest(folder, **entries):
    found = json.loads((folder / "topwork.json").read_text())
    found.update(entries)
    kept = {key: value for key, value in found.items() if value is not None}
    (folder / "topwork.json").write_text(json.dumps(topwork.with_checksum(kept)))


@pytest.mark.parametrize(
    ("entries", "error", "text"),
    [
        ({"format": 2, "topwork": "9.9"}, CheckpointError, "written by topwork 9.9, in a newer format"),
        ({"format": "x"}, CheckpointError, "the manifest is damaged"),
        ({"format": None}, CheckpointError, "the manifest is damaged"),
        ({"weights": None}, CheckpointError, "the manifest is damaged .it lacks `weights`"),
        (
            {"task": "pionts"},
            PluginError,
            "of task `pionts`, which no loaded .*did you mean `points`",
        ),
        ({"form": "plugin"}, CheckpointError, "saved in the form `plugin` and is now built as `generic`"),
        ({"options": {"droppout": 0.1}}, CheckpointError, "the saved option `droppout` does not fit task points"),
        ({"alterations": {"nobody": {}}}, PluginError, "nobody put back what `nobody` had altered"),
        ({"processors": ["tokenizer"]}, CheckpointError, "the tokenizer is missing"),
    ],
)
def test_manifests_that_cannot_be_used(points, tmp_path, engine, entries, error, text):
    points.save(tmp_path / "model")
    change_manifest(tmp_path / "model", **entries)
    with pytest.raises(error, match=text):
        topwork.load(tmp_path / "model", plugins=engine)


def test_folders_that_are_none(tmp_path, engine):
    with pytest.raises(CheckpointError, match=r"no topwork.json; give a folder that topwork saved"):
        topwork.load(tmp_path, plugins=engine)
    for text in ("{", "[]", "3"):
        (tmp_path / "topwork.json").write_text(text)
        with pytest.raises(CheckpointError, match="the manifest is damaged"):
            topwork.load(tmp_path, plugins=engine)


# ---------------------------------------------------------------- whole or not at all


def test_a_failure_leaves_the_old_folder_and_nothing_else(points, tmp_path, monkeypatch):
    from topwork.saving import model_folder

    points.save(tmp_path / "model")
    (tmp_path / "model/note").write_text("old")

    def broken(*arguments):
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "model_card", broken)
        with pytest.raises(RuntimeError, match="disk full"):
            points.save(tmp_path / "model")
        with pytest.raises(RuntimeError, match="disk full"):
            points.save(tmp_path / "new")
    assert files(tmp_path) == ["model"] and (tmp_path / "model/note").read_text() == "old"
    with monkeypatch.context() as patch:  # the very last step fails
        real = os.replace
        patch.setattr(os, "replace", lambda old, new: (broken if new == tmp_path / "model" else real)(old, new))
        with pytest.raises(RuntimeError, match="disk full"):
            points.save(tmp_path / "model")
    assert files(tmp_path) == ["model"] and (tmp_path / "model/note").read_text() == "old"
    points.save(tmp_path / "model")
    assert files(tmp_path) == ["model"] and "note" not in files(tmp_path / "model")


def test_what_is_no_model_folder_is_not_replaced(points, tmp_path):
    (tmp_path / "photos").mkdir()
    points.save(tmp_path / "photos")  # empty: nothing is lost
    (tmp_path / "photos/topwork.json").unlink()
    for target in (tmp_path / "photos", tmp_path):
        with pytest.raises(UsageError, match="something else than a model folder"):
            points.save(target)


def test_whole_files(tmp_path):
    target = tmp_path / "deep/file"
    with pytest.raises(FileNotFoundError), write_whole(target) as temporary:
        temporary.with_name("half").write_text("half")
    assert files(tmp_path / "deep") == []
    with write_whole(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and files(tmp_path / "deep") == ["file"]


# ---------------------------------------------------------------- what lies in it


def test_no_pickle_and_no_path_of_this_machine(points, windows, tmp_path, engine):
    plain = tmp_path / "some/where/gpt"
    windows.model.save_pretrained(plain)
    from_folder = topwork.build("windows", str(plain), rows=ROWS, plugins=engine)
    loaded = topwork.load(from_folder.save(tmp_path / "first"), plugins=engine)
    for number, work in enumerate((points, windows, from_folder, loaded)):
        folder = work.save(tmp_path / f"model{number}")
        for path in folder.rglob("*"):
            assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle")
            if path.suffix in (".json", ".md"):
                assert str(tmp_path) not in path.read_text()
    said = json.loads((tmp_path / "model3/topwork.json").read_text())["bases"]["base"]
    assert said["options"]["model"] == "./gpt"  # where it came from at first, not the folder that it was loaded from
    shutil.move(tmp_path / "model3", tmp_path / "moved")
    shutil.rmtree(tmp_path / "some")
    shutil.rmtree(tmp_path / "first")
    again = topwork.load(tmp_path / "moved", plugins=engine)
    assert again.predict(ROWS) == windows.predict(ROWS)


def test_the_model_card(points, windows, tmp_path):
    save_folder(points, tmp_path / "a", {"accuracy": 0.51239})
    windows.save(tmp_path / "b")
    texts = [(tmp_path / name / "README.md").read_text() for name in "ab"]
    front = [yaml.safe_load(text.split("---\n")[1]) for text in texts]
    assert front[0] == {"library_name": "topwork", "pipeline_tag": "points", "tags": ["topwork"]}
    assert front[1]["library_name"] == "transformers"
    assert "| accuracy | 0.5124 |" in texts[0] and "loads with topwork alone" in texts[0]
    assert "topwork.load(" in texts[1] and "plain transformers" in texts[1]


@pytest.mark.parametrize(
    "label", ["<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "a\n# a heading", "`a`|*b*"]
)
def test_labels_of_strangers_are_plain_text_on_the_card(label, tmp_path):
    rows = [{"text": text, "label": name} for text, name in (("good", label), ("bad", "other")) for _ in range(4)]
    work = topwork.build("text-classification", copy.deepcopy(BERT), rows=rows)
    text = (work.save(tmp_path / "model") / "README.md").read_text().split("---\n")[2]
    body = "\n".join(line for line in text.splitlines() if line.startswith("- "))
    assert "other" in body and "a heading" not in [line.lstrip("# ") for line in text.splitlines()]
    assert not re.search(r"<img|(?<!\\)(\]|`|\||\*)", body)


def test_the_card_of_a_pruned_model_says_so(tmp_path):
    rows = [{"text": text, "label": text} for text in ("good", "bad") for _ in range(4)]
    work = topwork.build("text-classification", copy.deepcopy(BERT), rows=rows)
    assert "structure altered" not in (work.save(tmp_path / "whole") / "README.md").read_text()
    topwork.prune_heads(work.model, {0: [1]})
    assert "structure altered by the plugins: lens" in (work.save(tmp_path / "pruned") / "README.md").read_text()
