"""Shards: claims, finished parts, and predictions that many processes share through a folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from claimants import taken_at_once
from tiny_bases import BASES

import topwork
from topwork.cli import main
from topwork.errors import CheckpointError
from topwork.shards.claims import Claims
from topwork.shards.description import rows_of_shard
from topwork.shards.parts import Parts

ROWS = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for task, name in (("text-classification", "texts"), ("text-classification", "others"), ("depth-estimation",) * 2):
        rows = topwork.load_plugins().task(task).example_rows()
        topwork.build(task, BASES[task], rows=rows, seed=len(name)).save(root / name)
    return root


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    draw = random.Random(0)
    words = ["good", "bad", "film", "fine", "plot", "actor", "slow", "great", "dull", "story"]
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    texts = [" ".join(draw.choices(words, k=draw.randint(2, 9))) for _ in range(ROWS)]
    file.write_text("\n".join(["text", *texts]) + "\n")
    return file


@pytest.fixture
def predict(models, capsys):
    def call(*arguments: object, model: str = "texts") -> tuple[int, str]:
        code = main(["predict", str(models / model), *map(str, arguments)])
        return code, capsys.readouterr().err

    return call


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in [*folder.glob("*.jsonl"), folder / "result.json"]}


# ---------------------------------------------------------------- claims


def elsewhere(folder: Path, name: str = "00000.000000") -> Path:
    """A claim of a process on another machine, which gives no sign of life."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"host": "far", "process": 1, "machine": "far", "started": "1"}))
    return folder / name


def test_of_many_who_claim_a_shard_one_gets_it(tmp_path):
    assert sorted(taken_at_once(lambda: tmp_path, 8)) == [False] * 7 + [True]


def test_a_claim_ends_with_its_block_also_by_an_error(tmp_path):
    with Claims(tmp_path) as claims:
        try:
            with claims.holding("00000") as claim:
                assert claim is not None
                raise ValueError
        except ValueError:
            pass
        with claims.holding("00000") as claim:
            assert claim is not None
            claim.done = True
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say which processes live")
def test_a_claim_of_a_process_of_this_machine_that_died_is_taken_over_at_once(tmp_path):
    code = "import sys, pathlib, os; from topwork.shards.claims import Claims\n"
    code += f"claims = Claims(pathlib.Path({str(tmp_path)!r})); held = claims.holding('00000')\n"
    code += "held.__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    with Claims(tmp_path) as claims, claims.holding("00000") as claim:
        assert claim is not None


def test_a_claim_of_another_machine_is_taken_over_after_a_silence_only(tmp_path):
    now = [0.0]
    claim_file = elsewhere(tmp_path / "claims")
    with Claims(claim_file.parent, 60, clock=lambda: now[0]) as claims:

        def taken() -> bool:
            with claims.holding("00000") as claim:
                return claim is not None

        assert not taken()
        now[0] = 59
        assert not taken()
        os.utime(claim_file, (1, 1))  # a sign of life, whatever its clock says
        now[0] = 100
        assert not taken()
        now[0] = 159
        assert not taken()
        now[0] = 160
        assert taken()


def test_two_do_not_take_over_the_same_shard(tmp_path):
    now = [0.0]
    elsewhere(tmp_path)
    with Claims(tmp_path, 60, lambda: now[0]) as first, Claims(tmp_path, 60, lambda: now[0]) as second:
        for claims in (first, second):
            with claims.holding("00000") as claim:
                assert claim is None
        now[0] = 61
        with first.holding("00000") as mine, second.holding("00000") as theirs:
            assert mine is not None and theirs is None


# ---------------------------------------------------------------- parts


def test_of_two_results_of_a_shard_the_first_counts(tmp_path):
    parts = Parts(tmp_path)
    for text, expected in (("first", True), ("second", False)):
        scratch = parts.scratch()
        (scratch / "lines.jsonl").write_text(text)
        assert parts.publish(3, scratch, {"rows": 1, "errors": 0}) is expected
    assert b"".join(parts.verified(3, "lines.jsonl")) == b"first"
    assert parts.finished() == [3] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "text"), [("lines.jsonl", "other"), ("lines.jsonl", None), ("record.json", "{")])
def test_a_part_that_was_changed_is_named(tmp_path, name, text):
    scratch = Parts(tmp_path).scratch()
    (scratch / "lines.jsonl").write_text("first")
    Parts(tmp_path).publish(0, scratch, {})
    file = tmp_path / "00000" / name
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(CheckpointError, match=f"{name}: .*remove the folder .*00000"):
        list(Parts(tmp_path).verified(0, "lines.jsonl"))


@pytest.mark.parametrize(("rows", "shards"), [(10, 3), (7, 7), (100, 16)])
def test_shards_hold_every_row_once(rows, shards):
    indices = [index for shard in range(shards) for index in rows_of_shard(rows, shards, shard)]
    assert indices == list(range(rows))


def test_what_the_dead_left_is_swept_when_all_is_done(predict, rows, tmp_path):
    assert predict(rows, "--output", tmp_path / "out", "--shards", 3)[0] == 0
    (tmp_path / "out" / "result.json").unlink()
    elsewhere(tmp_path / "out" / "claims")  # of a shard that is finished
    (tmp_path / "out" / "claims" / ".half").write_text("{")
    (tmp_path / "out" / "parts" / ".half").mkdir()
    assert predict(rows, "--output", tmp_path / "out")[0] == 0
    assert list((tmp_path / "out" / "claims").iterdir()) == []
    assert {path.name for path in (tmp_path / "out" / "parts").iterdir()} == {"00000", "00001", "00002", "joined.json"}


# ---------------------------------------------------------------- predictions


def test_shards_have_the_lines_of_one_process_and_go_on_where_they_were(predict, rows, tmp_path):
    assert predict(rows, "--output", tmp_path / "whole.jsonl")[0] == 0
    code, shown = predict(rows, "--output", tmp_path / "out", "--shards", 5)
    assert code == 0 and "5 of 5 shards were predicted here" in shown
    first = content(tmp_path / "out")
    lines = [json.loads(line) for line in first["predictions.jsonl"].splitlines()]
    whole = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [line["row"] for line in whole] == list(range(ROWS))
    for line, expected in zip(lines, whole):
        assert line["prediction"][0]["score"] == pytest.approx(expected["prediction"][0]["score"], abs=1e-5)
    for lost in ("parts/00001", "parts/00004"):
        shutil.rmtree(tmp_path / "out" / lost)
    for lost in ("result.json", "predictions.jsonl"):
        (tmp_path / "out" / lost).unlink()
    code, shown = predict(rows, "--output", tmp_path / "out")  # the number of shards is the folder's
    assert code == 0 and "3 of 5 shards are finished" in shown and "2 of 5 shards were predicted here" in shown
    assert content(tmp_path / "out") == first
    code, shown = predict(rows, "--output", tmp_path / "out", "--shards", 5)
    assert code == 0 and "0 of 5 shards were predicted here" in shown


def test_a_folder_takes_part_in_one_work_only(predict, rows, models, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other.csv"
    other.write_text(rows.read_text().replace("good", "poor", 1))
    assert predict(rows, "--output", out, "--shards", 3)[0] == 0
    before = content(out)
    for arguments, model, difference in [
        ((rows,), "others", "the model is another one"),
        ((other,), "texts", "the data is another one"),
        ((rows, "--limit", "60"), "texts", "`rows` is 120 there and 60 here"),
        ((rows, "--batch-size", "8"), "texts", "`items` is 32 there and 8 here"),
        ((rows, "--shards", "4"), "texts", "`shards` is 3 there and 4 here"),
    ]:
        code, shown = predict(*arguments, "--output", out, model=model)
        assert code == 2 and difference in shown, (arguments, shown)
    assert content(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, shown = predict(rows, "--output", tmp_path / "mine", "--shards", 3)
    assert code == 2 and "there is `letter.txt` in it already" in shown


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--shards", "3"], "shards need a folder"),
        (["--max-errors", "3"], "only shards have a budget"),
        (["--shards", "3", "--output", "rows.csv"], "is a file"),
        (["--output", "."], "is a folder"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(predict, rows, monkeypatch, arguments, cause):
    monkeypatch.chdir(rows.parent)
    code, shown = predict("rows.csv", *arguments)
    assert code == 2 and cause in shown


def test_rows_that_cannot_be_used_have_a_file_and_a_budget(predict, tmp_path):
    for name, texts in (("a", ["fine", None, "dull"]), ("b", ["good"] * 4 + [None, "bad"])):
        lines = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    sources = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    code, shown = predict(*sources, "--output", tmp_path / "strict", "--shards", 3)
    assert code == 1 and "row 1" in shown and "a.jsonl" in shown
    assert list((tmp_path / "strict" / "claims").iterdir()) == []
    code, shown = predict(*sources, "--output", tmp_path / "out", "--shards", 3, "--max-errors", 1)
    assert code == 1 and "2 rows cannot be used, more than the 1" in shown
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    for budget in ("2", "0.3"):  # of nine rows
        code, shown = predict(*sources, "--output", tmp_path / "out", "--shards", 3, "--max-errors", budget)
        assert code == 0, shown
        errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
        assert [(error["row"], Path(error["file"]).name) for error in errors] == [(1, "a.jsonl"), (7, "b.jsonl")]
        lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["row"] for line in lines] == [0, 2, 3, 4, 5, 6, 8]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["errors"] == 2


def test_predictions_that_are_files_lie_together(predict, tmp_path):
    (tmp_path / "images").mkdir()
    for index, row in enumerate(topwork.load_plugins().task("depth-estimation").example_rows()[:3]):
        row["image"].save(tmp_path / "images" / f"{index}.png")
    arguments = (tmp_path / "images", "--output", tmp_path / "out", "--shards", 2)
    assert predict(*arguments, model="depth-estimation")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        assert line["file"].endswith(f"{index}.png")
        assert (tmp_path / "out" / "files" / line["prediction"]["predicted_depth"]).is_file()


# ---------------------------------------------------------------- processes


@pytest.mark.faults
def test_two_processes_that_are_killed_again_and_again_write_the_same_bytes(models, rows, tmp_path):
    draw, shards = random.Random(7), ROWS
    context = multiprocessing.get_context("forkserver")  # forks of a process without threads
    preloaded = ["torch", "transformers.models.bert.modeling_bert", "datasets", "topwork_bases.transformers.base"]
    context.set_forkserver_preload([*preloaded, "topwork_tasks.text_classification", "topwork.shards.predicting"])

    def start(folder: str) -> multiprocessing.Process:
        arguments = ["--quiet", "predict", str(models / "texts"), str(rows), "--output", str(tmp_path / folder)]
        process = context.Process(target=main, args=([*arguments, "--shards", str(shards)],))
        process.start()
        return process

    undisturbed = start("undisturbed")
    undisturbed.join()
    processes, kills = [start("out"), start("out")], 0
    while any(process.is_alive() for process in processes):
        finished = len(list((tmp_path / "out").glob("parts/[0-9]*")))
        if kills < 10 and finished >= kills * 3:  # while there is work for all ten
            time.sleep(draw.random() / 50)
            victim = draw.randrange(2)
            os.kill(processes[victim].pid, signal.SIGKILL)
            processes[victim].join()
            processes[victim] = start("out")
            kills += 1
        time.sleep(0.002)
    assert kills >= 3  # all ten, unless the processes outran this one
    assert [process.exitcode for process in processes] == [0, 0]
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES = {
    "gone": Path.unlink,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": flip,
}
JOINED = [("predict", "predictions.jsonl"), ("predict", "result.json"), ("evaluate", "result.json")]


@pytest.fixture(scope="module")
def finished(models, rows, tmp_path_factory) -> Path:
    """Folders of work that is done, and the rows with labels."""
    root = tmp_path_factory.mktemp("finished")
    known = topwork.load(models / "texts").task.example_rows()
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    for command in ("predict", "evaluate"):
        assert main(again(command, models, root, root / command)) == 0
    return root


def again(command: str, models: Path, root: Path, folder: Path) -> list[str]:
    return [command, str(models / "texts"), str(root / "rows.jsonl"), "--shards", "2", "--output", str(folder)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("command", "name"), JOINED)
def test_what_was_damaged_after_the_end_is_joined_anew(command, name, damage, finished, models, tmp_path, capsys):
    folder = Path(shutil.copytree(finished / command, tmp_path / "out"))
    DAMAGES[damage](folder / name)
    assert main(again(command, models, finished, folder)) == 0
    assert content(folder) == content(finished / command)
    shown = json.loads(capsys.readouterr().out or "null")
    assert command == "predict" or shown["rows"] == json.loads((folder / "result.json").read_text())["rows"]


@pytest.mark.parametrize(("command", "name"), JOINED)
def test_a_pipe_in_place_of_joined_results_is_not_replaced(command, name, finished, models, tmp_path, capsys):
    folder = Path(shutil.copytree(finished / command, tmp_path / "out"))
    make_pipe(folder / name)
    assert main(again(command, models, finished, folder)) == 2
    assert f"{folder / name}` is no file and no folder" in capsys.readouterr().err
    assert (folder / name).is_fifo()


@pytest.mark.parametrize(("name", "cause"), [("job.json", "no regular file"), ("parts/00000/states.json", "missing")])
def test_a_pipe_in_a_shared_folder_is_not_waited_for(name, cause, finished, models, tmp_path, capsys):
    folder = Path(shutil.copytree(finished / "evaluate", tmp_path / "out"))
    make_pipe(folder / name)
    (folder / "result.json").unlink()
    assert main(again("evaluate", models, finished, folder)) != 0
    assert cause in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "more", "cause"),
    [
        ("memory://out", (), "only shards are written to a store"),
        ("file://out", (), "names no absolute path"),
        ("ftp://host/out", ("--shards", "2"), "`ftp` is not known to create a file only where there is none"),
        ("zip://out::file:///a.zip", ("--shards", "2"), "`zip` is not known to create a file only where"),
    ],
)
def test_an_address_that_shards_cannot_use_is_refused_by_name(
    address, more, cause, predict, rows, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code, err = predict(rows, "--output", address, *more)
    assert code == 2 and cause in err
    assert main(["run", "quickstart", "--folder", address]) == 2
    assert "is an address, and no path of a file or folder; mount the store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
