"""What changes the loss of training (smoothing, mixing, augmentation) is in force in mode "train" and nowhere else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_bases import BART, BASES, GPT2, VIT, WAV2VEC2

import topwork

#: (task, base, option, a value that changes the training loss much)
CASES: list[tuple[str, Any, str, Any]] = [
    ("text-classification", BASES["text-classification"], "label_smoothing", 0.9),
    ("token-classification", BASES["token-classification"], "label_smoothing", 0.9),
    ("audio-classification", WAV2VEC2, "label_smoothing", 0.9),
    ("summarization", BART, "label_smoothing", 0.9),
    ("translation", BART, "label_smoothing", 0.9),
    ("translation", GPT2, "label_smoothing", 0.9),
    ("audio-classification", WAV2VEC2, "augment", "standard"),
    ("automatic-speech-recognition", WAV2VEC2, "augment", "standard"),
    ("image-classification", VIT, "label_smoothing", 0.9),
    ("image-classification", VIT, "mixup", 1.0),
    ("image-classification", VIT, "cutmix", 1.0),
    ("image-classification", VIT, "augment", "strong"),
    ("object-detection", BASES["object-detection"], "augment", "strong"),
    ("image-segmentation", BASES["image-segmentation"], "augment", "strong"),
    ("depth-estimation", BASES["depth-estimation"], "augment", "strong"),
]
NAMES = [f"{task}-{base['config']['model_type']}-{option}" for task, base, option, _ in CASES]
over_all_changes = pytest.mark.parametrize(("task", "base", "option", "value"), CASES, ids=NAMES)
#: names of options that belong to training alone
TRAINING_ONLY = re.compile(r"smooth|mixup|cutmix|augment|noise|jitter|spec_?aug|mask_time|flip|crop|perturb")

#: options whose change happens in a layer of the model, and like dropout only while the model trains
LAYERS_OF_THE_MODEL = {"spec_augment"}


def pair(task, base, option, value, plugins):
    """The same model twice: with the option off, and with the value."""
    rows = plugins.task(task).example_rows()
    off = plugins.task(task).Options.model_fields[option].default
    works = [topwork.build(task, base, rows=rows, plugins=plugins, **{option: chosen}) for chosen in (off, value)]
    works[1].model.load_state_dict(works[0].model.state_dict())
    return *works, rows[:4]


def losses(work, rows, mode):
    batch = work.task.collate(work.task.encode(rows, mode, 0), mode)
    with torch.no_grad():
        torch.manual_seed(0)
        whole = work.task.loss(work.model, batch)
        torch.manual_seed(0)
        return whole, work.task.row_losses(work.model, batch) if mode == "loss" else None


def test_every_option_of_this_kind_stands_in_the_table(plugins):
    for name, task in plugins.tasks.items():
        known = {option for of_task, _, option, _ in CASES if of_task == name}
        options = {option for option in task.Options.model_fields if TRAINING_ONLY.search(option)}
        assert options - LAYERS_OF_THE_MODEL == known, name


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@over_all_changes
def test_a_change_of_training_is_in_force_in_mode_train_alone(task, base, option, value, training, plugins):
    plain, changed, rows = pair(task, base, option, value, plugins)
    for work in (plain, changed):
        work.model.train(training)
        for module in work.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    torch.testing.assert_close(losses(changed, rows, "loss"), losses(plain, rows, "loss"))
    before, after = losses(plain, rows, "train")[0], losses(changed, rows, "train")[0]
    assert abs(after - before) > 2e-5 * before


@over_all_changes
def test_losses_of_evaluation_and_importance_are_those_of_the_unchanged_loss(task, base, option, value, plugins):
    *works, rows = pair(task, base, option, value, plugins)
    evaluated, scores = [], []
    for work in works:
        evaluated.append(work.evaluate(rows, loss=True)["loss"])
        layers = work.apply("head_importance", {"calibrate": rows}, rows=4)["layers"]
        scores.append([score for layer in layers for score in layer["scores"] if score is not None])
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-6)
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.parametrize("task", BASES)
def test_a_batch_knows_the_mode_that_it_was_collated_in(task, plugins):
    rows = plugins.task(task).example_rows()[:2]
    work = topwork.build(task, BASES[task], rows=plugins.task(task).example_rows(), plugins=plugins)
    for mode in ("train", "loss", "predict"):
        batch = work.task.collate(work.task.encode(rows, mode, 0), mode)
        assert batch.mode == batch.to("cpu").mode == mode
