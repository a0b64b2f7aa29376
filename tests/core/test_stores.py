"""Shards in a folder that is given by address: a store that fsspec reaches, and `file://`."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import fsspec
import pytest
from claimants import taken_at_once
from fsspec.implementations.local import LocalFileSystem
from tiny_bases import BASES

import topwork
from topwork import CheckpointError, UsageError
from topwork.cli import main
from topwork.shards import stores
from topwork.shards.claims import Claims
from topwork.shards.stored_parts import StoredParts
from topwork.shards.stores import Store, shared_folder

ROWS = 30


class Shelf(LocalFileSystem):
    """A store whose files lie on this machine, so that processes share it: `shelf:///folder`."""

    protocol = "shelf"

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("shelf://"))


def register():
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    stores.EXCLUSIVE = (*stores.EXCLUSIVE, "shelf")


def in_process(arguments):
    """What a process does that takes part: it knows the store as well."""
    register()
    raise SystemExit(main(arguments))


@pytest.fixture
def shelf(monkeypatch):
    monkeypatch.setattr(stores, "EXCLUSIVE", stores.EXCLUSIVE)
    register()


@pytest.fixture
def memory():
    """The address of a folder in memory that no other test uses."""
    yield "memory://stores/out"
    files = fsspec.filesystem("memory")
    if files.exists("/stores"):
        files.rm("/stores", recursive=True)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with a model and rows of it."""
    folder = tmp_path_factory.mktemp("given")
    examples = topwork.load_plugins().task("text-classification").example_rows()
    rows = [{**examples[index % len(examples)]} for index in range(ROWS)]
    topwork.build("text-classification", BASES["text-classification"], rows=rows).save(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(command, given, output, *more):
    return ["--quiet", command, str(given / "model"), str(given / "rows.jsonl"), "--output", str(output), *more]


def joined(folder: Path | Store) -> dict[str, bytes]:
    names = ("predictions.jsonl", "errors.jsonl", "result.json")
    if isinstance(folder, Path):
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    return {name: content for name in names if (content := folder.read(name)) is not None}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_store_has_the_bytes_of_a_folder_and_goes_on_where_it_was(command, given, memory, tmp_path, capsys):
    assert main(arguments(command, given, tmp_path / "out", "--shards", "5")) == 0
    shown = capsys.readouterr().out
    assert main(arguments(command, given, memory, "--shards", "5")) == 0
    assert capsys.readouterr().out == shown
    store = Store(memory)
    assert joined(store) == joined(tmp_path / "out")
    assert (store / "claims").names() == []
    assert len([name for name in (store / "parts").names() if name.endswith(".json")]) == 6  # five and joined.json
    for lost in ("parts/00002.json", "result.json"):
        store.remove(lost)
    assert main(arguments(command, given, memory)[1:]) == 0  # not quiet; the number of shards is the folder's
    assert "1 of 5 shards were" in capsys.readouterr().err
    assert joined(store) == joined(tmp_path / "out")


def test_a_file_address_is_the_folder_that_it_names(given, tmp_path):
    assert main(arguments("predict", given, f"file://{tmp_path}/out", "--shards", "3")) == 0
    assert main(arguments("predict", given, tmp_path / "plain", "--shards", "3")) == 0
    assert joined(tmp_path / "out") == joined(tmp_path / "plain")
    assert main(arguments("predict", given, f"file://{tmp_path}/lines.jsonl")) == 0
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == ROWS


def test_predictions_that_are_files_are_in_the_store(memory, tmp_path):
    rows = topwork.load_plugins().task("depth-estimation").example_rows()[:3]
    topwork.build("depth-estimation", BASES["depth-estimation"], rows=rows).save(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for index, row in enumerate(rows):
        row["image"].save(tmp_path / "images" / f"{index}.png")
    command = ["predict", str(tmp_path / "model"), str(tmp_path / "images"), "--output", memory, "--shards", "2"]
    assert main(["--quiet", *command]) == 0
    files = Store(memory) / "files"
    for line in (Store(memory).read("predictions.jsonl") or b"").splitlines():
        assert files.size(json.loads(line)["prediction"]["predicted_depth"])


def test_other_work_and_other_files_are_refused_in_a_store(given, memory, capsys):
    store = Store(memory)
    store.write("letter.txt", b"dear")
    assert main(arguments("predict", given, memory, "--shards", "2")) == 2
    assert "there is `letter.txt` in it already" in capsys.readouterr().err
    store.remove("letter.txt")
    assert main(arguments("predict", given, memory, "--shards", "2")) == 0
    assert main(arguments("predict", given, memory, "--shards", "3")) == 2
    assert "`shards` is 2 there and 3 here" in capsys.readouterr().err


def test_a_store_that_replaces_files_is_found_out(memory, monkeypatch):
    monkeypatch.setattr(Store, "create", lambda self, name, content: self.write(name, content) or True)
    with pytest.raises(UsageError, match="replaces a file that is there"):
        Store(memory).check()


def test_of_many_who_claim_a_shard_of_a_store_one_gets_it(shelf, tmp_path):
    taken = taken_at_once(lambda: Store(f"shelf://{tmp_path}/claims"), 6)
    assert sorted(taken) == [False] * 5 + [True]


def test_a_claim_in_a_store_is_taken_over_after_a_silence_only(memory):
    now, store = [0.0], Store(memory)
    store.write("00000.000000", b'{"host": "far", "process": 1, "machine": "far", "started": "1"}')
    with Claims(store, 60, clock=lambda: now[0]) as claims:

        def taken() -> bool:
            with claims.holding("00000") as claim:
                return claim is not None

        assert not taken()
        store.write("00000.000000", b'{"host": "far", "process": 1, "machine": "far", "started": "1"}\n1')
        now[0] = 70
        assert not taken()  # it has given a sign of life since
        now[0] = 140
        assert taken()


def test_of_two_results_of_a_shard_the_first_counts_and_changes_are_named(memory):
    parts = StoredParts(Store(memory))
    for text, expected in (("first", True), ("second", False)):
        scratch = parts.scratch()
        (scratch / "lines.jsonl").write_text(text)
        assert parts.publish(3, scratch, {"rows": 1, "errors": 0}) is expected
    assert b"".join(parts.verified(3, "lines.jsonl")) == b"first" and parts.finished() == [3]
    parts.store.write(f"{parts.record(3)['folder']}/lines.jsonl", b"forst")
    with pytest.raises(CheckpointError, match=r"hash differs; remove memory://.*/00003\.json"):
        list(parts.verified(3, "lines.jsonl"))
    parts.store.write("00004.json", b"")  # of a process that died while it created the record
    scratch = parts.scratch()
    (scratch / "lines.jsonl").write_text("fourth")
    assert not parts.is_finished(4) and parts.publish(4, scratch, {"rows": 1, "errors": 0})


@pytest.mark.faults
@pytest.mark.parametrize("scheme", ["shelf", "file"])
def test_two_processes_that_are_killed_share_a_store(scheme, shelf, given, tmp_path):
    assert main(arguments("predict", given, tmp_path / "whole", "--shards", str(ROWS))) == 0
    context = multiprocessing.get_context("forkserver")  # forks of a process without threads
    context.set_forkserver_preload(["torch", "transformers.models.bert.modeling_bert", "datasets", "topwork.cli"])
    folder = shared_folder(f"{scheme}://{tmp_path}/out")

    def start() -> multiprocessing.Process:
        command = arguments("predict", given, f"{scheme}://{tmp_path}/out", "--shards", str(ROWS))
        process = context.Process(target=in_process, args=(command,))
        process.start()
        return process

    draw, kills, processes = random.Random(0), 0, [start(), start()]
    while any(process.is_alive() for process in processes):
        finished = len(list(tmp_path.glob("out/parts/[0-9]*")))
        if kills < 4 and finished >= 5 * kills + 1:
            victim = draw.randrange(2)
            os.kill(processes[victim].pid, signal.SIGKILL)
            processes[victim].join()
            processes[victim] = start()
            kills += 1
        time.sleep(0.005)
    assert kills and [process.exitcode for process in processes] == [0, 0]
    assert joined(folder) == joined(tmp_path / "whole")
