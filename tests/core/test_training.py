"""The stage `train`: equal to a plain loop of torch, whatever Trainer does; freezing, choosing, faults."""

from __future__ import annotations

import copy
import math

import datasets
import engine_plugin
import numpy as np
import pytest
import torch
from tolerance import about

import topwork
from topwork import DataError, TopworkError, UsageError
from topwork.data.batching import Budget, TrainBatches
from topwork.runs.records import stage_seed
from topwork.training import stream
from topwork.training import trainer as training
from topwork.training.freezing import Freezing, matching

ROWS = engine_plugin.point_rows(41)
BASE = {"config": {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}
SEED = stage_seed(0, 0)


def points(engine, rows=ROWS, seed=0, **options):
    return topwork.build("points", BASE, rows=rows, plugins=engine, seed=seed, **options)


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def train(work, rows=ROWS, **options):
    defaults = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "checkpoint_every": "never",
    }
    return work.train(rows, **{**defaults, **options})


def by_hand(model, task, epochs=2, batch_size=8, accumulate=1, rate=1e-2, clip=1.0, decay=0.0, rows=ROWS):
    """AdamW over the batches that the sampler gives; accumulated batches count by their number of items."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    sampler = TrainBatches([row["cost"] for row in rows], Budget(batch_size), SEED)
    losses = []
    model.train()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        for start in range(0, len(batches), accumulate):
            group = batches[start : start + accumulate]
            optimizer.zero_grad()
            for batch in group:
                chosen = [rows[place] for _, place in batch]
                inputs = task.collate(task.encode(chosen, "train", 0), "train").inputs
                loss = torch.nn.functional.cross_entropy(model(inputs["x"]).logits, inputs["y"])
                (loss * len(batch) / sum(map(len, group))).backward()
                losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return losses


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_equals_a_plain_loop(engine, accumulate):
    work = points(engine)
    model = copy.deepcopy(work.model)
    losses = by_hand(model, work.task, accumulate=accumulate)
    result = train(work, accumulate=accumulate)
    assert same(weights(work.model), weights(model), 1e-6)
    assert result["steps"] == 2 * math.ceil(6 / accumulate) and result["items"] == 41 and result["epochs"] == 2
    assert accumulate > 1 or result["loss"] == about(np.mean(losses))
    assert all(entry["step"] for entry in result["history"]) and result["precision"] == "float32"


def test_the_loss_of_accumulated_batches_is_not_multiplied(engine):
    """Four batches of 8 are one of 32: the network takes **kwargs, which makes Trainer believe the opposite."""
    rows = ROWS[:32]
    apart, together = points(engine), points(engine)
    train(apart, rows, epochs=3, batch_size=8, accumulate=4, clip=0, optimizer="sgd")
    train(together, rows, epochs=3, batch_size=32, clip=0, optimizer="sgd")
    assert not same(weights(apart.model), weights(points(engine).model), 1e-3)
    assert same(weights(apart.model), weights(together.model), 1e-6)


def test_the_same_seed_gives_the_same_numbers(engine):
    works = [points(engine, dropout=0.3, augment=True) for _ in range(3)]
    results = [train(work, seed=seed) for work, seed in zip(works, (5, 5, 6))]
    assert same(weights(works[0].model), weights(works[1].model))
    assert results[0]["history"] == results[1]["history"]
    assert not same(weights(works[0].model), weights(works[2].model), 1e-4)


@pytest.mark.parametrize("every", ["epoch", 2])
def test_evaluation_does_not_disturb_the_training(engine, every):
    never, often = (points(engine, dropout=0.3, draws=True) for _ in range(2))
    train(never, epochs=3)
    result = never.apply("evaluate", {"evaluate": ROWS})
    found = often.apply(
        "train",
        {"train": ROWS, "calibrate": ROWS[:9]},
        epochs=3,
        batch_size=8,
        learning_rate=1e-2,
        schedule="constant",
        evaluate_every=every,
    )
    assert same(weights(never.model), weights(often.model))
    evaluations = [entry for entry in found["history"] if "eval_accuracy" in entry]
    assert len(evaluations) == (3 if every == "epoch" else 9)
    assert often.evaluate(ROWS)["accuracy"] == result["metrics"]["accuracy"]


def test_batches_by_cost_keep_their_budget(engine):
    work = points(engine)
    costs = {tuple(row["x"]): row["cost"] for row in ROWS}
    train(work, batch_cost=30, epochs=2)
    assert sorted(x for batch in work.task.seen for x in batch) == sorted(list(costs) * 2)
    assert all(len(batch) * max(costs[x] for x in batch) <= 30 for batch in work.task.seen)


def test_every_row_once_an_epoch(engine):
    work = points(engine)
    train(work, epochs=3)
    for epoch in range(3):
        seen = [x for batch in work.task.seen[6 * epoch : 6 * epoch + 6] for x in batch]
        assert sorted(seen) == sorted(tuple(row["x"]) for row in ROWS)


# ---------------------------------------------------------------- freezing


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [
        (["backbone"], {"middle", "head"}),
        (["middle"], {"backbone", "head"}),
        (["*.weight"], {"backbone", "middle", "head"}),
        (["backbone", "middle.*"], {"head"}),
    ],
)
def test_what_is_frozen_does_not_move(engine, freeze, moved):
    work = points(engine)
    before = weights(work.model)
    train(work, freeze=freeze, weight_decay=0.1)
    after = weights(work.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == moved
    assert all(name.endswith("bias") for name in changed) or freeze != ["*.weight"]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in work.model.parameters())
    assert not work.model.training


def test_staged_unfreezing_begins_at_its_epoch(engine, monkeypatch):
    work = points(engine)
    states = []
    real = Freezing.at

    def watched(self, epoch):
        states.append(weights(self.model))
        real(self, epoch)

    monkeypatch.setattr(Freezing, "at", watched)
    train(work, epochs=4, freeze=["all"], unfreeze={0: ["head"], 1: ["middle"], 3: ["all"]}, weight_decay=0.1)
    states.append(weights(work.model))
    for part, first in (("head", 0), ("middle", 1), ("backbone", 3)):
        for epoch in range(4):
            for name in (name for name in states[0] if name.startswith(part)):
                moved = not torch.equal(states[epoch][name], states[epoch + 1][name])
                assert moved == (epoch >= first), (name, epoch)


@pytest.mark.parametrize("scaled", [True, False])
def test_statistics_of_frozen_norms_stand_still(engine, scaled):
    for freeze, still in ((["backbone"], True), (["middle"], False)):
        work = points(engine, norm=True, scaled=scaled)
        before = work.model.backbone[1].running_mean.clone()
        train(work, freeze=freeze)
        assert torch.equal(before, work.model.backbone[1].running_mean) == still


def test_freezing_that_makes_no_sense(engine):
    work = points(engine)
    with pytest.raises(UsageError, match="nothing is left to train"):
        train(work, freeze=["all"])
    with pytest.raises(UsageError, match=r"no parameter is called `midle\.weight`; did you mean `middle\.weight`"):
        train(work, freeze=["midle.weight"])
    with pytest.raises(UsageError, match="no parameter is called `nothing`"):
        train(work, freeze=["head"], unfreeze={1: ["nothing"]})
    with pytest.raises(UsageError, match="without `freeze`"):
        train(work, unfreeze={1: ["head"]})
    assert all(parameter.requires_grad for parameter in work.model.parameters())
    assert matching(work.model, ["head", "*.bias"]) == {"head.weight", "head.bias", "backbone.0.bias", "middle.bias"}


def test_what_was_frozen_before_stays_frozen(engine):
    work = points(engine)
    work.model.middle.weight.requires_grad_(False)
    before = work.model.middle.weight.clone()
    train(work, freeze=["backbone"], unfreeze={1: ["all"]})
    assert torch.equal(before, work.model.middle.weight) and not work.model.middle.weight.requires_grad
    assert work.model.backbone[0].weight.requires_grad


# ---------------------------------------------------------------- choosing


class Scripted:
    """Answers the metrics of a list, one evaluation after the other."""

    def __init__(self, monkeypatch, scores):
        from topwork.runs.run import Run

        self.scores, self.roles, self.states = list(scores), [], []
        monkeypatch.setattr(Run, "evaluate", lambda run, role, **rest: self.answer(run, role))

    def answer(self, run, role):
        self.roles.append(role)
        self.states.append(weights(run.model))
        return {"accuracy": self.scores[len(self.roles) - 1], "score": 0.0}


def test_the_best_checkpoint_is_chosen_on_calibrate_rows(engine, monkeypatch):
    script = Scripted(monkeypatch, [0.1, 0.7, 0.3, 0.2])
    work = points(engine)
    result = train(work, epochs=4, keep="best", checkpoint_every="epoch")
    assert script.roles == ["calibrate"] * 4 and result["best"] == 0.7 and result["items"] == 37
    assert same(weights(work.model), script.states[1])
    assert not same(weights(work.model), script.states[3], 1e-4)


def test_patience_stops(engine, monkeypatch):
    script = Scripted(monkeypatch, [0.5, 0.6, 0.6, 0.1, 0.9])
    work = points(engine)
    result = train(work, epochs=9, patience=2)
    assert len(script.roles) == 4 and result["epochs"] == 4
    assert same(weights(work.model), script.states[3])  # keep: last


def test_given_calibrate_rows_are_used(engine):
    work = points(engine)
    result = work.train(ROWS, calibrate=ROWS[:7], epochs=1, evaluate_every="epoch", batch_size=8)
    assert result["items"] == 41
    accuracies = [entry["eval_accuracy"] for entry in result["history"] if "eval_accuracy" in entry]
    assert accuracies == [work.evaluate(ROWS[:7])["accuracy"]]


# ---------------------------------------------------------------- streams


def test_streams_need_steps_and_go_on_from_the_beginning(engine):
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    work = points(engine)
    with pytest.raises(UsageError, match="streaming rows have no end; say `steps`"):
        train(work, stream)
    with pytest.raises(UsageError, match="no epochs for `unfreeze`"):
        train(work, stream, steps=3, freeze=["backbone"], unfreeze={1: ["all"]})
    before = weights(work.model)
    result = train(work, stream, steps=13, batch_size=8)
    assert result["steps"] == 13 and not same(weights(work.model), before, 1e-3)
    seen = [x for batch in work.task.seen for x in batch]
    assert sorted(seen[:41]) == sorted(seen[41:82]) == sorted(tuple(row["x"]) for row in ROWS)
    assert seen[:41] != seen[41:82]
    again = points(engine)
    train(again, stream, steps=13, batch_size=8)
    assert same(weights(work.model), weights(again.model))


def test_streams_by_cost_read_a_window_only(engine):
    read = []

    def rows():
        for number in range(100000):
            read.append(number)
            yield ROWS[number % 41]

    stream = datasets.IterableDataset.from_generator(rows)
    work = points(engine)
    train(work, stream, steps=3, batch_size=2, batch_cost=20)
    assert len(read) < 300
    costs = {tuple(row["x"]): row["cost"] for row in ROWS}
    assert all(len(batch) * max(costs[x] for x in batch) <= 20 for batch in work.task.seen)


# ---------------------------------------------------------------- faults


def test_a_loss_that_is_no_number_stops_the_training(engine):
    for length in ({"steps": 3}, {"epochs": 1}, {"epochs": 9}):
        work = points(engine)
        work.model.head.weight.data[:] = math.nan
        with pytest.raises(TopworkError, match=r"the training loss is nan at step \d"):
            train(work, **length)
        assert all(parameter.requires_grad for parameter in work.model.parameters())


SPOILT = [{**row, "x": None} if number in (3, 40) else row for number, row in enumerate(ROWS)]


def test_bad_rows_are_named_or_skipped_and_counted_once(engine, tmp_path):
    work = points(engine)
    with pytest.raises(DataError, match=r"row 3, column 'x': no coordinates"):
        train(work, SPOILT)
    datasets.Dataset.from_list(SPOILT).to_json(tmp_path / "rows.jsonl")
    for streaming in (False, True):
        recipe = {
            "task": {"name": "points", "augment": True},
            "base": BASE,
            "data": {"train": {"path": str(tmp_path / "rows.jsonl"), "streaming": streaming}, "on_error": "skip"},
            "stages": [{"train": {"steps": 14, "batch_size": 8}}],
        }
        run = topwork.run(recipe, folder=tmp_path / f"run{streaming}", plugins=engine, quiet=True)
        result = run.results[0]["result"]
        assert result["skipped"] == 2 and result["items"] == (None if streaming else 39)
        assert [note["row"] for note in result["skipped_rows"]] == ([None, None] if streaming else [3, 40])


def test_two_trainings_in_one_process_with_different_precision(engine):
    work = points(engine)
    seen = []
    handle = work.model.middle.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32), ("bf16", torch.bfloat16)):
        before = weights(work.model)
        result = train(work, precision=precision)
        assert result["precision"] == precision and set(seen) == {dtype}
        assert not same(before, weights(work.model), 1e-4)
        assert {tensor.dtype for tensor in weights(work.model).values()} == {torch.float32}
        assert "forward" not in work.model.__dict__ and "_original_forward" not in work.model.__dict__
        seen.clear()
        work.predict(ROWS[:3])
        assert set(seen) == {torch.float32}  # the training's autocast went with it
        seen.clear()
    handle.remove()
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(work, precision="fp16")


def test_the_model_is_as_it_was_but_trained(engine, tiny_gpt2):
    rows = engine_plugin.window_rows(12)
    work = topwork.build("windows", {"config": tiny_gpt2}, rows=rows, plugins=engine)
    config = work.model.config.to_dict()
    assert config["use_cache"]
    train(work, rows, gradient_checkpointing=True, batch_size=4)
    assert work.model.config.to_dict() == config
    assert not work.model.is_activation_checkpointing and not work.model.training
    assert work.model.lm_head.weight is work.model.transformer.wte.weight
    vit = points(engine)
    train(vit)
    assert "use_cache" not in vit.model.config.to_dict() or vit.model.config.use_cache
    with pytest.raises(UsageError, match="PointNetwork has no gradient checkpointing"):
        train(vit, gradient_checkpointing=True)


def test_tied_weights_survive_checkpoints(engine, tiny_gpt2):
    rows = engine_plugin.window_rows(20)
    work = topwork.build("windows", {"config": tiny_gpt2}, rows=rows, plugins=engine)
    work.train(rows, epochs=2, keep="best", batch_size=4)
    assert work.model.lm_head.weight is work.model.transformer.wte.weight


# ---------------------------------------------------------------- going on


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        (7, {"checkpoint_every": 3}),
        (7, {"checkpoint_every": "epoch"}),
        (11, {"checkpoint_every": 2, "accumulate": 2, "epochs": 5}),
        (14, {"checkpoint_every": 7, "steps": 14}),  # the last checkpoint is there, the result is not
        (17, {"keep": "best", "evaluate_every": "epoch", "epochs": 3}),
        (13, {"checkpoint_every": "epoch", "freeze": ["all"], "unfreeze": {0: ["head"], 2: ["all"]}}),
    ],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(engine, tmp_path, monkeypatch, stop, options):
    recipe = {
        "task": {"name": "points", "dropout": 0.2, "augment": True},
        "base": BASE,
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [{"train": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, **options}}],
    }
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    whole = topwork.run(recipe, folder=tmp_path / "whole", plugins=engine, quiet=True)
    steps = whole.results[0]["result"]["steps"]
    calls = []

    def kill_step(self, args, state, control, **rest):
        calls.append(state.global_step)
        if state.global_step == stop:
            raise Interrupted

    def kill_end(stage, trainer, seconds):
        raise Interrupted

    with monkeypatch.context() as patch:
        if stop < steps:
            patch.setattr(training.Watch, "on_substep_end", kill_step, raising=False)
            patch.setattr(training.Watch, "on_optimizer_step", kill_step, raising=False)
        else:
            patch.setattr(training, "_result", kill_end)
        with pytest.raises(Interrupted):
            topwork.run(recipe, folder=tmp_path / "killed", plugins=engine, quiet=True)
    checkpoints = tmp_path / "killed/stages/01-train/checkpoints"
    assert list(checkpoints.glob("checkpoint-*/whole"))
    half = checkpoints / "checkpoint-999"  # one that was not written to its end
    half.mkdir()
    (half / "topwork.safetensors").write_bytes(b"half")
    resumed = topwork.resume(tmp_path / "killed", plugins=engine, quiet=True)
    assert same(weights(whole.model), weights(resumed.model))
    first, second = whole.results[0]["result"], resumed.results[0]["result"]
    assert second["loss"] == about(first["loss"])
    assert second["history"] == first["history"]
    assert (first["steps"], first["best"]) == (second["steps"], second["best"])
    assert not checkpoints.exists()


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("files", [1, 3])
def test_a_training_on_streaming_rows_goes_on_without_reading_what_it_has_read(engine, tmp_path, monkeypatch, files):
    """Same weights and losses as without an interruption, in the second pass over the rows, bad rows counted once."""
    rows = [{**row, "x": None} if index in (3, 40) else row for index, row in enumerate(engine_plugin.point_rows(400))]
    for part in range(files):
        datasets.Dataset.from_list(rows[part::files]).to_json(tmp_path / f"rows-{part}.jsonl")
    recipe = {
        "task": "points",
        "base": BASE,
        "data": {"train": {"path": str(tmp_path / "rows-*.jsonl"), "streaming": True}, "on_error": "skip"},
        "stages": [{"train": {"steps": 120, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 40}}],
    }
    read = []
    encode = stream.StreamedBatches._encode

    def counted(batches, window, *rest):
        read.append(len(window))
        return encode(batches, window, *rest)

    monkeypatch.setattr(stream.StreamedBatches, "_encode", counted)
    whole = topwork.run(recipe, folder=tmp_path / "whole", plugins=engine, quiet=True)
    assert sum(read) > 400

    def kill(self, args, state, control, **rest):
        if state.global_step == 112:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(training.Watch, "on_optimizer_step", kill, raising=False)
        with pytest.raises(Interrupted):
            topwork.run(recipe, folder=tmp_path / "killed", plugins=engine, quiet=True)
    read.clear()
    resumed = topwork.resume(tmp_path / "killed", plugins=engine, quiet=True)
    # of other versions of `datasets` the state may miss a row, then all is read again
    assert (
        sum(read) <= 5 * 64 or not stream._keeps_nothing_back()
    )  # the block of step 80 again, what 40 steps take, one block ahead; all would be 528
    assert same(weights(whole.model), weights(resumed.model))
    first, second = whole.results[0]["result"], resumed.results[0]["result"]
    assert second["history"] == first["history"] and second["epochs"] == first["epochs"]
    assert first["skipped"] == second["skipped"] == 2
