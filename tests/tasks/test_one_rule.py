"""Rules of several tasks are one rule: options, numbering of labels, class weights, scores, units, costs."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_bases import BASES
from torch import nn

import topwork
from topwork import load_plugins
from topwork_bases.transformers.base import TransformersBase

TASKS = {name: task for name, task in load_plugins().tasks.items() if name in BASES}
CLASSIFIERS = ("text-classification", "image-classification", "audio-classification")
#: options of one name that are not the same thing in every task that has them, and why
DIFFERENT = {
    "share": "of tokens that are masked; of weights that two sides have in common",
    "decoder": "DPT's decoder ends in one number for a pixel",
    "augment": "what can change of an image is not what can change of a clip",
    "pooling": "decoders of texts have a last token",
    "prompt": "the words that follow the source say what comes next",
    "generation": "the length of targets is known from rows; Whisper has arguments of its own",
    "tokenizer": "models that write learn bytes, models that read learn words",
    "punctuation": "SQuAD compares without it; error rates of texts keep it",
    "stride": "SQuAD's 128 tokens; a quarter of the window",
    "threshold": "the defaults are those of transformers' pipelines",
    "top_k": "how many of two, of a vocabulary, of the answers",
}
#: what `Item.cost` counts, and what the positions of an item are
UNITS = {"tokens": "token", "pixels": "patch", "samples": "frame"}


def work(task: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return topwork.build(task, BASES[task], rows=TASKS[task].example_rows(), **options)


def option_of(task: str, name: str) -> tuple[str, str, str]:
    field = TASKS[task].Options.model_fields[name]
    return str(field.annotation), str(field.metadata), repr(field.get_default(call_default_factory=True))


def having(*names: str) -> list[str]:
    return [task for task in TASKS if set(names) <= set(TASKS[task].Options.model_fields)]


def test_options_of_one_name_have_one_type_and_one_default() -> None:
    names = {name for task in TASKS.values() for name in task.Options.model_fields}
    differing = {name for name in names if len({option_of(task, name) for task in having(name)}) > 1}
    assert differing == set(DIFFERENT)


@pytest.mark.parametrize("option", ["label_smoothing", "dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "much"])
def test_shares_outside_their_range_are_refused_alike(option, value) -> None:
    faults = set()
    for task in having(option):
        with pytest.raises(ValidationError) as refused:
            TASKS[task].Options(**{option: value})
        faults.add(tuple((error["loc"], error["type"], error["msg"]) for error in refused.value.errors()))
    assert len(faults) == 1


@pytest.mark.parametrize("task", having("label_names"))
def test_config_numbers_the_labels_and_back(task) -> None:
    built = work(task)
    names = list(built.task.label_names) if hasattr(built.task, "label_names") else list(built.task.names)
    config = built.model.config
    assert len(names) >= 3
    assert {int(index): name for index, name in config.id2label.items()} == dict(enumerate(names))
    assert config.label2id == {name: index for index, name in enumerate(names)}


@pytest.mark.parametrize("task", having("dropout"))
def test_dropout_is_that_of_the_generic_task_head(task, monkeypatch) -> None:
    monkeypatch.setattr(TransformersBase, "native", lambda self, *auto, **changes: None)
    options = {"form": "ctc"} if task == "automatic-speech-recognition" else {}
    if options:  # its state says whether the architecture has a class of its own
        monkeypatch.setattr("topwork_tasks.automatic_speech_recognition.options.has_class", lambda base, kind: False)
    for share in (0.37, 0.0):
        model = work(task, dropout=share, **options).model
        own = [
            module.p
            for name, module in model.named_modules()
            if isinstance(module, nn.Dropout) and "backbone" not in name
        ]
        assert own == [share]


# ---------------------------------------------------------------- classifications


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"class_weights": {"zzzzzzzzzz": 2.0}}, "^task.class_weights: unknown label 'zzzzzzzzzz'"),
        ({"class_weights": {"zzzzzzzzzz": -1.0}}, "greater than or equal to 0"),
        ({"class_weights": "heavy"}, "balanced"),
        ({"label_smoothing": 0.1, "multi_label": True}, "one label a row"),
        ({"top_k": 0}, "greater than 0"),
        ({"label_names": ["a", "a"]}, "stands twice"),
    ],
)
def test_bad_options_of_classifiers_are_refused_alike(options, cause) -> None:
    messages = set()
    for task in CLASSIFIERS:
        names = {row["label"] for row in TASKS[task].example_rows()}
        with pytest.raises(topwork.TopworkError, match=cause) as refused:
            work(task, **options)
        text = str(refused.value)
        for name in sorted(names, key=len, reverse=True):
            text = text.replace(name, "LABEL")
        messages.add(text.replace(task, "TASK"))
    assert len({message.split("LABEL")[0] for message in messages}) == 1, messages


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_class_weights_multiply_the_losses_of_their_rows(task) -> None:
    rows = TASKS[task].example_rows()
    name = rows[0]["label"]
    plain, weighted = work(task), work(task, class_weights={name: 3.0})
    weighted.model.load_state_dict(plain.model.state_dict())
    losses = []
    for built in (plain, weighted):
        batch = built.task.collate(built.task.encode(rows, "loss", 0), "loss")
        with torch.no_grad():
            losses.append(built.task.row_losses(built.model.eval(), batch))
            assert built.task.loss(built.model, batch).item() == pytest.approx(losses[-1].mean().item(), rel=1e-5)
    factors = torch.tensor([3.0 if row["label"] == name else 1.0 for row in rows])
    torch.testing.assert_close(losses[1], losses[0] * factors)


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_top_k_chooses_the_likeliest_of_all_scores(task) -> None:
    rows = TASKS[task].example_rows()[:3]
    everything = work(task, top_k="all").predict(rows)
    for scores in everything:
        values = [entry["score"] for entry in scores]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
    assert [list(scores) for scores in work(task, top_k=2).predict(rows)] == [list(scores)[:2] for scores in everything]
    usual = TASKS[task].usual_top
    assert {len(scores) for scores in work(task).predict(rows)} == {min(usual, len(everything[0]))}


# ---------------------------------------------------------------- units, costs, scores


@pytest.mark.parametrize("task", TASKS)
def test_units_and_costs_are_those_of_the_modality(task) -> None:
    built = work(task).task
    rows = built.example_rows()[:3]
    items = built.encode(rows, "loss", 0)
    units = [built.units(item) for item in items]
    assert {unit.kind for unit in units} == {UNITS[built.cost_unit]}
    if built.cost_unit == "tokens":
        ids = [item.inputs.get("input_ids", item.inputs.get("ids")) for item in items]
        assert [len(unit.names) for unit in units] == [len(tokens) for tokens in ids]
    on_cpu, on_gpu = built.cost_budget("cpu"), built.cost_budget("cuda")
    assert on_cpu is not None
    assert on_gpu is None or on_gpu >= on_cpu


@pytest.mark.parametrize("task", TASKS)
def test_quick_looks_pass_good_rows_and_draw_nothing_at_random(task) -> None:
    built = work(task).task
    rows = built.example_rows()
    state = random.getstate(), torch.random.get_rng_state()
    for mode in ("loss", "predict"):
        looks = [built.precheck(row, mode) for row in rows]
        assert looks == [built.precheck(row, mode) for row in rows]
        if mode == "loss":
            assert not any(looks)
    assert random.getstate() == state[0]
    assert torch.equal(torch.random.get_rng_state(), state[1])


def scores_in(prediction: Any) -> list[float]:
    """Return every `score` of a prediction, however deep it stands."""
    if isinstance(prediction, dict):
        own = [prediction["score"]] if isinstance(prediction.get("score"), float) else []
        return own + [score for value in prediction.values() for score in scores_in(value)]
    if isinstance(prediction, list | tuple):
        return [score for entry in prediction for score in scores_in(entry)]
    return []


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_predictions_are_probabilities(task) -> None:
    built = work(task)
    for prediction in built.predict(built.task.example_rows()[:3]):
        for score in scores_in(prediction):
            assert math.isfinite(score)
            assert 0 <= score <= 1


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_one_label_for_all_rows_is_said_to_be_doubtful(task) -> None:
    """A high accuracy may be the share of the most frequent label."""
    rows = TASKS[task].example_rows()
    built = work(task)
    metric, names = built.task.metric(), built.task.label_names
    for row in rows:
        metric.update(row, [{"label": names[0], "score": 0.9}, {"label": names[1], "score": 0.1}])
    (doubt,) = metric.doubts()
    assert doubt.startswith(f"all {len(rows)} predictions are `{names[0]}`")
    metric.update(rows[0], [{"label": names[1], "score": 0.9}, {"label": names[0], "score": 0.1}])
    assert metric.doubts() == []
