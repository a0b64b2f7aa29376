"""The one loop, with a task of none to three windows a row, ragged targets, no loss in the model, and `generate`."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass

import datasets
import engine_plugin
import pytest
import torch
from tolerance import about, close

import topwork
from topwork import DataError, TopworkError, UsageError
from topwork.data import loop
from topwork.data.loop import Settings, evaluate_rows, loss_batches, predict_rows
from topwork.process import Process

ROWS = engine_plugin.window_rows(37)
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@dataclass
class Fake:
    """One of several processes, without any other."""

    index: int = 0
    count: int = 1

    def gather(self, value):
        return [value]


@pytest.fixture(scope="module")
def work(engine, tmp_path_factory):
    return topwork.build("windows", {"config": CONFIG}, rows=ROWS, plugins=engine)


@pytest.fixture(scope="module")
def alone(work):
    """The prediction of each row, made one item at a time without the loop."""
    answers = []
    for row in ROWS:
        parts = []
        for window in row["windows"]:
            with torch.no_grad():
                out = work.model.generate(torch.tensor([window]), max_new_tokens=2, min_new_tokens=2, do_sample=False)
            parts.append(out[0, -2:].tolist())
        answers.append(parts)
    return answers


def predicted(work, rows, process=None, **settings):
    limit = settings.pop("limit", None)
    return list(predict_rows(work.task, work.model, rows, Settings(**settings), process or Fake(), limit=limit))


SOURCES = {
    "list": lambda: ROWS,
    "dataset": lambda: datasets.Dataset.from_list(ROWS),
    "stream": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("bucket", [3, 2048])
def test_predictions_come_in_the_order_of_the_rows(work, alone, monkeypatch, source, bucket):
    monkeypatch.setattr(loop, "BUCKET_ROWS", bucket)
    monkeypatch.setattr(loop, "CHUNK", 2)
    found = predicted(work, SOURCES[source](), items=4, cost=30)
    assert [number for number, _, _ in found] == list(range(37))
    assert [prediction for _, _, prediction in found] == alone
    assert [row["target"] for _, row, _ in found] == [row["target"] for row in ROWS]
    assert [len(prediction) for _, _, prediction in found[:5]] == [0, 1, 2, 3, 0]


def test_buckets_end_at_bytes_too(work, alone, monkeypatch):
    sizes = []
    monkeypatch.setitem(loop.BUCKET_BYTES, "cpu", 2000)
    monkeypatch.setattr(loop, "CHUNK", 2)
    real = loop._buckets

    def watched(*arguments):
        for bucket in real(*arguments):
            sizes.append(len(bucket.rows))
            yield bucket

    monkeypatch.setattr(loop, "_buckets", watched)
    assert [prediction for _, _, prediction in predicted(work, ROWS)] == alone
    assert len(sizes) > 3 and sum(sizes) == 37


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("limit", [1, 10, 99])
def test_limit(work, alone, source, limit):
    found = predicted(work, SOURCES[source](), limit=limit)
    assert [prediction for _, _, prediction in found] == alone[:limit]


@pytest.mark.parametrize("source", SOURCES)
def test_processes_share_the_rows(work, alone, source):
    shares = [predicted(work, SOURCES[source](), Fake(index, 3), limit=31) for index in range(3)]
    assert [[number for number, _, _ in share] for share in shares] == [list(range(i, 31, 3)) for i in range(3)]
    together = sorted((entry for share in shares for entry in share), key=lambda entry: entry[0])
    assert [prediction for _, _, prediction in together] == alone[:31]
    batches = [
        list(loss_batches(work.task, work.model, SOURCES[source](), Settings(), Fake(index, 2), limit=9))
        for index in range(2)
    ]
    assert [sorted(n for batch in share for n in batch.row_numbers) for share in batches] == [[2, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize("ahead", [None, 5])
def test_an_endless_iterable_is_answered_as_it_is_read(work, alone, ahead):
    read = []

    def rows():
        for number in itertools.count():
            read.append(number)
            yield {"list": ROWS[number % 37]["windows"], "more": 0}

    found = work.predictions(rows(), columns={"windows": "list"}, items=4, ahead=ahead)
    answers = list(itertools.islice(found, 600))
    assert [number for number, _, _ in answers] == list(range(600))
    assert [prediction for _, _, prediction in answers] == [alone[number % 37] for number in range(600)]
    assert len(read) <= 600 + (ahead or loop.STREAM_ROWS)
    assert work.predict(row for row in ROWS[:3]) == alone[:3]


def test_bad_rows_of_an_iterable(work, alone):
    with pytest.raises(TopworkError, match=r"no column `windows`"):
        work.predict({"window": row["windows"]} for row in ROWS)
    with pytest.raises(TopworkError, match="row 1 is list, not a dict"):
        work.predict(iter([ROWS[0], [1, 2]]))
    given = [ROWS[0], {"windows": None}, {}, ROWS[3]]
    with pytest.raises(DataError) as caught:
        work.predict(iter(given))
    assert caught.value.row == 1
    assert work.predict(iter(given), on_error="skip") == [alone[0], None, None, alone[3]]


def spoilt(*places):
    return [{**row, "windows": None} if number in places else row for number, row in enumerate(ROWS)]


def test_a_bad_row_is_named_by_its_number_in_the_data_set(work, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 4)
    for process, bad in ((Fake(), 30), (Fake(1, 3), 31)):
        with pytest.raises(DataError) as caught:
            predicted(work, spoilt(bad), process)
        assert (caught.value.row, caught.value.column) == (bad, "windows")
        assert str(caught.value) == f"row {bad}, column 'windows': there are no windows; give a list"


def test_bad_rows_are_skipped_and_counted(work, alone, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 4)
    settings = Settings(on_error="skip")
    found = list(predict_rows(work.task, work.model, spoilt(0, 13, 14, 36), settings, Fake()))
    assert [number for number, _, _ in found] == [n for n in range(37) if n not in (0, 13, 14, 36)]
    assert all(prediction == alone[number] for number, _, prediction in found)
    assert [note["row"] for note in settings.skipped] == [0, 13, 14, 36]
    assert settings.skipped[0] == {"row": 0, "column": "windows", "cause": "there are no windows"}


def test_loss_batches_keep_rows_whole(engine, monkeypatch):
    monkeypatch.setattr(loop, "BUCKET_ROWS", 16)
    work = topwork.build("together-windows", {"config": CONFIG}, rows=ROWS, plugins=engine)
    with_items = [number for number, row in enumerate(ROWS) if row["windows"]]
    seen = {}
    for batch in loss_batches(work.task, work.model, ROWS, Settings(items=5), Fake()):
        assert len(batch) <= 5
        assert batch.row_count == len(batch.row_numbers)
        for number, place in zip(batch.row_numbers, range(batch.row_count)):
            items = [item for item, row in zip(batch.items, batch.rows) if row == place]
            assert [item.inputs["ids"] for item in items] == ROWS[number]["windows"]
        with torch.no_grad():
            losses = work.task.row_losses(work.model, batch)
            slow = topwork.Task.row_losses(work.task, work.model, batch)
        close(losses, slow)
        seen.update(zip(batch.row_numbers, losses.tolist()))
    assert sorted(seen) == with_items
    one = topwork.build("windows", {"config": CONFIG}, rows=ROWS, plugins=engine)
    one.model.load_state_dict(work.model.state_dict())
    batches = list(loss_batches(one.task, one.model, ROWS, Settings(items=5), Fake()))
    assert all(batch.row_count == 1 for batch in batches)  # row losses are made one by one: so are the batches
    with torch.no_grad():
        each = {batch.row_numbers[0]: one.task.row_losses(one.model, batch).item() for batch in batches}
    assert each == about(seen)


def test_a_metric_is_the_same_for_any_number_of_processes(work):
    whole = evaluate_rows(work.task, work.model, ROWS, Settings(), Fake()).result()
    shares = [evaluate_rows(work.task, work.model, ROWS, Settings(), Fake(index, 3)) for index in range(3)]
    shares[0].merge(shares[1])
    shares[0].merge(shares[2])
    assert shares[0].result() == about(whole)


class Watched(engine_plugin.Windows):
    """Remembers, weakly, every tensor that it made."""

    def collate(self, items, mode):
        batch = super().collate(items, mode)
        self.made += [weakref.ref(tensor) for tensor in batch.inputs.values()]
        self.alive.append(sum(reference() is not None for reference in self.made))
        return batch


def test_no_tensor_outlives_its_batch(work):
    task = Watched(work.task.bases, work.task.options, work.task.state)
    task.made, task.alive = [], []
    for _ in predict_rows(task, work.model, ROWS, Settings(items=4), Fake()):
        pass
    assert len(task.alive) > 5 and max(task.alive) <= 4  # this batch's two, and at most the two before
    batches = loss_batches(task, work.model, ROWS, Settings(), Fake())
    task.made, task.alive = [], []
    for batch in batches:
        del batch
    assert len(task.alive) > 20 and max(task.alive) <= 4


class Raises(engine_plugin.Windows):
    def predict(self, model, batch):
        assert torch.is_inference_mode_enabled() and not model.training
        raise RuntimeError("no prediction")


class Short(engine_plugin.Windows):
    def predict(self, model, batch):
        return []


def test_modes_are_restoring_model_state_also_after_an_exception(work):
    work.model.train()
    kept = work.model.transformer.h[0].ln_1.eval()
    try:
        assert len(predicted(work, ROWS)) == 37
        assert work.model.training and work.model.transformer.training and not kept.training
        task = Raises(work.task.bases, work.task.options, work.task.state)
        with pytest.raises(RuntimeError, match="no prediction"):
            list(predict_rows(task, work.model, ROWS, Settings(), Fake()))
        assert work.model.training and not kept.training and not torch.is_inference_mode_enabled()
        steps = predict_rows(work.task, work.model, ROWS, Settings(), Fake())
        next(steps)
        assert not work.model.training and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        steps.close()
        assert work.model.training
    finally:
        work.model.eval()
    assert not torch.is_autocast_enabled("cpu")


def test_a_task_that_gives_too_few_parts_is_named(work):
    task = Short(work.task.bases, work.task.options, work.task.state)
    with pytest.raises(TopworkError, match=r"task windows: `predict` gave 0 parts for \d+ items"):
        list(predict_rows(task, work.model, ROWS, Settings(), Fake()))


def test_autocast_while_predicting(work):
    kinds = set()

    class Looks(engine_plugin.Windows):
        def predict(self, model, batch):
            kinds.add(model(**batch.inputs).logits.dtype)
            return [[0, 0]] * len(batch)

    task = Looks(work.task.bases, work.task.options, work.task.state)
    for precision in ("float32", "bf16"):
        list(predict_rows(task, work.model, ROWS, Settings(precision=precision), Fake()))
    assert kinds == {torch.float32, torch.bfloat16}


def test_every_stage_takes_the_task(engine, tmp_path, alone):
    recipe = {
        "task": "windows",
        "base": {"config": CONFIG},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}, "evaluate": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [
            {"train": {"epochs": 2, "batch_size": 5, "learning_rate": 1e-3, "evaluate_every": "epoch", "keep": "best"}},
            {"evaluate": {"loss": True}},
            {"predict": {"role": "evaluate"}},
            "head_importance",
            {"prune_heads": {"count": 1}},
            "evaluate",
            "save",
        ],
    }
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    run = topwork.run(recipe, folder=tmp_path / "run", plugins=engine, quiet=True)
    results = {record["folder"].removeprefix("stages/"): record["result"] for record in run.results}
    calibrate = 3  # a tenth of the rows is kept apart
    kept = [row["windows"] for row in run.rows("train")]
    assert len(kept) == 37 - calibrate and results["01-train"]["items"] == sum(map(len, kept))
    assert results["02-evaluate"]["rows"] == 37
    lines = (tmp_path / "run/stages/03-predict/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 37 and lines[0] == '{"row": 0, "prediction": []}'
    assert results["07-save"]["weights"] == "topwork.safetensors"
    again = topwork.load(run.model_folder, plugins=engine)
    assert again.evaluate(ROWS) == about(results["06-evaluate"]["metrics"])
    (tmp_path / "run/stages/06-evaluate/result.json").unlink()
    resumed = topwork.resume(tmp_path / "run", plugins=engine, quiet=True)
    assert resumed.results[5]["result"]["metrics"] == results["06-evaluate"]["metrics"]


def test_the_conformance_check_passes(engine, tmp_path):
    from topwork.testing import check_task

    check_task(engine_plugin.Windows, {"config": CONFIG}, tmp_path / "1", plugins=engine)
    check_task(engine_plugin.TogetherWindows, {"config": CONFIG}, tmp_path / "2", plugins=engine)
    check_task(engine_plugin.Points, {"config": CONFIG}, tmp_path / "3", plugins=engine)


def test_one_process_alone():
    process = Process()
    assert (process.main, process.index, process.count, process.gather("x")) == (True, 0, 1, ["x"])
    with process.main_first():
        process.barrier()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"precision": "bf61"}, "unknown value of `precision` `bf61`; did you mean `bf16`"),
        ({"on_error": "ignore"}, "unknown value of `on_error` `ignore`"),
        ({"items": 0}, "`items` is 1 or more, not 0"),
        ({"cost": -1}, "`cost` is 0 or more, not -1"),
    ],
)
def test_settings_that_nobody_knows_are_refused(settings, text):
    with pytest.raises(UsageError, match=text):
        Settings(**settings)
