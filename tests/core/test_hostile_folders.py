"""Model folders from anybody: loading one executes nothing of it, reads nothing outside it, and says what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import engine_plugin
import pytest
from damage import DAMAGES, unnamed

import conftest
import topwork
from topwork import CheckpointError, TopworkError, UsageError, with_checksum

POINTS = engine_plugin.point_rows(9)


class Pickled:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory) -> Path:
    work = topwork.build("points", {"config": conftest.TINY_BERT}, rows=POINTS, plugins=engine)
    return work.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(folder: Path, file: str, **entries) -> None:
    """Change a file, and what the manifest says of it."""
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**found, **entries}))
    manifest = json.loads((folder / "topwork.json").read_text())
    manifest["contents"].pop(file, None)
    (folder / "topwork.json").write_text(json.dumps(with_checksum(manifest)))


MANIFESTS = {
    "weights elsewhere": {"weights": "../saved/model/topwork.safetensors"},
    "weights at the root": {"weights": "/etc/passwd"},
    "weights no text": {"weights": 3},
    "base elsewhere": {"bases": {"../saved": {"options": {}}}},
    "bases elsewhere": {"bases": {"../saved": {"options": {}}, "base": {"options": {}}}},
    "no base": {"bases": {}},
    "bases a list": {"bases": [1]},
    "base of nothing": {"bases": {"base": None}},
    "base without options": {"bases": {"base": {}}},
    "processor elsewhere": {"processors": ["../saved/model/tokenizer"]},
    "processor no text": {"processors": [3]},
    "processor unknown": {"processors": ["__init__"]},
    "options a list": {"options": [1]},
    "options unknown": {"options": {"zzz": 1}},
    "state a list": {"state": [1]},
    "alterations a list": {"alterations": [3]},
    "alterations of nobody": {"alterations": {"nobody": {}}},
    "aliases a list": {"aliases": [1]},
    "aliases no texts": {"aliases": {"a": 1}},
    "tensors no number": {"tensors": "x"},
    "task a list": {"task": ["a"]},
    "task unknown": {"task": "pionts"},
    "another form": {"form": "native"},
    "newer": {"format": 99},
    "format no number": {"format": "x"},
    "form missing": {"form": None},
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_wrong_is_refused(case: str, folder: Path, engine) -> None:
    change(folder, "topwork.json", **MANIFESTS[case])
    with pytest.raises(TopworkError):
        topwork.load(folder, plugins=engine)


FILES = {
    "empty manifest": ("topwork.json", b""),
    "manifest a number": ("topwork.json", b"3"),
    "manifest a list": ("topwork.json", b"[]"),
    "manifest no text": ("topwork.json", b"\xff\xfe"),
    "manifest too deep": ("topwork.json", b"[" * 100_000),
    "format infinite": ("topwork.json", b'{"format": 1e999}'),
    "config no JSON": ("config.json", b"{"),
    "config a list": ("config.json", b"[]"),
    "no weights": ("topwork.safetensors", b""),
    "header too large": ("topwork.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "header of blanks": ("topwork.safetensors", struct.pack("<Q", 20_000_000) + b"{" + b" " * 20_000_000),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_damaged_is_refused(case: str, folder: Path, engine) -> None:
    name, content = FILES[case]
    (folder / name).write_bytes(content)
    with pytest.raises(TopworkError):
        topwork.load(folder, plugins=engine)


@pytest.mark.parametrize("name", ["topwork.safetensors", "model.safetensors", "pytorch_model.bin"])
def test_no_pickle_is_opened(name: str, folder: Path, engine, tmp_path: Path) -> None:
    (folder / "topwork.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Pickled(tmp_path / "made")))
    with pytest.raises(TopworkError):
        topwork.load(folder, plugins=engine)
    assert not (tmp_path / "made").exists()


def test_weights_that_are_a_link_to_themselves_are_refused(folder: Path, engine) -> None:
    (folder / "topwork.safetensors").unlink()
    (folder / "topwork.safetensors").symlink_to("topwork.safetensors")
    with pytest.raises(TopworkError, match=r"topwork\.safetensors: the weights are missing"):
        topwork.load(folder, plugins=engine)


def test_code_in_a_folder_runs_only_for_whoever_trusts_it(folder: Path, engine, tmp_path: Path) -> None:
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    change(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(TopworkError, match="own"):
        topwork.load(folder, plugins=engine)
    change(folder, "topwork.json", bases={"base": {"origin": {}, "options": {"trust_remote_code": True}}})
    with pytest.raises(TopworkError, match="trust_remote_code=True"):  # what the folder says of itself does not count
        topwork.load(folder, plugins=engine)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TopworkError):  # there is no Config in it
        topwork.load(folder, plugins=engine, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


def test_a_folder_of_a_recipe_is_no_model(tmp_path: Path, engine) -> None:
    with pytest.raises(TopworkError, match=r"topwork\.json"):
        topwork.load(tmp_path, plugins=engine)
    (tmp_path / "file").write_text("")
    with pytest.raises(TopworkError):
        topwork.load(tmp_path / "file", plugins=engine)
    with pytest.raises(UsageError, match="something else"):
        topwork.build("points", {"config": conftest.TINY_BERT}, rows=POINTS, plugins=engine).save(tmp_path)


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory) -> dict[str, Path]:
    """Model folders of several kinds, and others like them: one base, two bases, pruned, without a task."""
    import copy

    from tiny_bases import BERT

    folder, models = tmp_path_factory.mktemp("models"), {}
    rows = [{"text": text, "label": label} for text, label in (("good film", "a"), ("bad film", "b")) for _ in range(4)]
    for prefix, words in (("", "one two three"), ("other ", "four five six")):
        given = [{**row, "text": f"{row['text']} {words}"} for row in rows]
        work = topwork.build("text-classification", copy.deepcopy(BERT), rows=given)
        pairs = [{"source": f"word {word}", "target": f"{word} word"} for word in words.split()]
        both = topwork.build("translation", bases={"encoder": BERT, "decoder": BERT}, rows=pairs, max_target_length=8)
        models[f"{prefix}one base"] = work.save(folder / f"{prefix}one")
        models[f"{prefix}two bases"] = both.save(folder / f"{prefix}two")
        models[f"{prefix}no task"] = topwork.save_pretrained(work.model, folder / f"{prefix}plain")
        topwork.prune_heads(work.model, {0: [1]})
        models[f"{prefix}pruned"] = work.save(folder / f"{prefix}pruned")
    return models


def opened(folder: Path, kind: str) -> object:
    return topwork.from_pretrained(folder) if kind == "no task" else topwork.load(folder)


@pytest.mark.parametrize("kind", ["one base", "two bases", "pruned", "no task"])
@pytest.mark.parametrize("damage", [*DAMAGES, "swap"])
def test_every_damaged_file_of_a_model_folder_is_named(damage, kind, saved_models, tmp_path):
    folder, other = saved_models[kind], saved_models[f"other {kind}"]
    opened(folder, kind)
    faults = unnamed(
        folder, damage, tmp_path / "copy", lambda copy: opened(copy, kind), other if damage == "swap" else None
    )
    assert list(faults) == []


@pytest.mark.parametrize("name", ["topwork.json", "topwork.safetensors", "config.json", "more/pipe"])
def test_a_pipe_in_a_folder_is_named_and_not_waited_for(name: str, folder: Path, engine) -> None:
    file = folder / name
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=f"{name}: this is no regular file"):
        topwork.load(folder, plugins=engine)
