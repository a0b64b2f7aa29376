"""`topwork importance`: scores over shards are those over all rows, with standard errors."""

from __future__ import annotations

import json
import random
import shutil

import numpy
import pytest
from tiny_bases import BASES

import topwork
from topwork.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder, rows in a file, and the rows."""
    folder, draw = tmp_path_factory.mktemp("saved"), random.Random(0)
    words = ["good", "bad", "film", "fine", "plot", "actor", "slow", "great", "dull", "story"]
    rows = [
        {"text": " ".join(draw.choices(words, k=draw.randint(2, 9))), "label": draw.choice(["good", "bad"])}
        for _ in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    topwork.build("text-classification", BASES["text-classification"], rows=rows).save(folder / "model")
    return folder, rows


def scores(result: dict) -> numpy.ndarray:
    return numpy.array([layer["scores"] for layer in result["layers"]])


@pytest.mark.parametrize("method", ["michel", "entropy"])
def test_scores_over_shards_are_those_over_all_rows(saved, tmp_path, capsys, method):
    folder, rows = saved
    line = ["--quiet", "importance", str(folder / "model"), str(folder / "rows.jsonl"), "--normalise", "none"]
    line += ["--method", method, "--output", str(tmp_path / "out"), "--shards", "6"]
    assert main(line) == 0
    result = json.loads(capsys.readouterr().out)
    work = topwork.load(folder / "model")
    batches = work.loss_batches(rows)
    expected = work.look().importance(batches, method, row_losses=work.task.row_losses, normalise="none")
    assert result["rows"] == expected.rows == 60 and result["groups"] == 6
    assert scores(result) == pytest.approx(scores(expected.json()), rel=1e-4, abs=1e-7)
    # the jackknife of a mean over groups of one size is the textbook's error of the mean of their means
    sums = [json.loads((tmp_path / "out" / "parts" / f"{part:05d}" / "record.json").read_text()) for part in range(6)]
    assert [record["rows"] for record in sums] == [10] * 6
    from safetensors.torch import load_file

    parts = [load_file(tmp_path / "out" / "parts" / f"{part:05d}" / "sums.safetensors") for part in range(6)]
    for layer in result["layers"]:
        means = numpy.array([part[layer["path"]].numpy() / 10 for part in parts])
        assert layer["standard_errors"] == pytest.approx((means.std(0, ddof=1) / 6**0.5).tolist(), rel=1e-6, abs=1e-12)


def test_the_same_command_goes_on_and_another_one_is_refused(saved, tmp_path, capsys):
    folder, _ = saved
    line = ["importance", str(folder / "model"), str(folder / "rows.jsonl"), "--output", str(tmp_path / "out")]
    assert main(line) == 0
    first = (tmp_path / "out" / "result.json").read_bytes()
    (tmp_path / "out" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out" / "parts" / "00003")
    assert main(line) == 0
    assert (tmp_path / "out" / "result.json").read_bytes() == first
    shown = capsys.readouterr().err
    assert "15 of 16 shards are finished already" in shown
    assert main([*line, "--method", "taylor"]) == 2
    assert "`method` is 'michel' there and 'taylor' here" in capsys.readouterr().err
    assert main([*line, "--method", "random"]) == 2


def test_scores_in_a_store_are_those_in_a_folder(saved, tmp_path, capsys):
    import fsspec

    folder, _ = saved
    line = ["--quiet", "importance", str(folder / "model"), str(folder / "rows.jsonl"), "--shards", "3", "--output"]
    try:
        for output in (tmp_path / "out", "memory://scores/out", "memory://scores/out"):
            assert main([*line, str(output)]) == 0
        shown = capsys.readouterr().out
        assert shown == 3 * (tmp_path / "out" / "result.json").read_text()
    finally:
        fsspec.filesystem("memory").rm("/scores", recursive=True)
