"""The text tasks learn rows by heart, measured in a new process after saving; targets of other rows score at chance,
and a model that was taught such targets is at chance when the truth judges it."""

from __future__ import annotations

import learning
import pytest
from learning_text import CASES


@pytest.mark.learn
@pytest.mark.parametrize("name", CASES)
def test_rows_are_learned_by_heart(name, tmp_path, plugins) -> None:
    learning.learned(CASES[name], tmp_path, plugins)


@pytest.mark.learn
def test_labels_that_say_nothing_teach_nothing(tmp_path, plugins) -> None:
    learning.taught_nothing(CASES["text-classification"], tmp_path, plugins)


def test_every_task_is_learned_by_heart(plugins) -> None:
    import learning_audio
    import learning_vision

    cases = [*CASES.values(), *learning_vision.CASES.values(), *learning_audio.CASES.values()]
    assert {case.task for case in cases} >= set(plugins.tasks)
