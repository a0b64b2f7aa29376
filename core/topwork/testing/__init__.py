"""Conformance checks for tasks, stages, metrics and bases: what the contracts promise, tried out.

topwork's own tests run them over everything installed; authors of plugins call them in their tests:

    from topwork.testing import check_task
    def test_my_task(tmp_path):
        check_task(MyTask, {"config": {"model_type": "bert", ...}}, tmp_path)

Each check raises AssertionError with what was promised and what was found.

- `tasks`: `check_task`, `build_example`, `example_batch`.
- `parts`: `check_metric`, `check_stage`, `check_stage_result`, `check_base`.
- `plugins`: `check_plugin`, everything that a plugin brings (`topwork plugins check PACKAGE`).
- `promises`: what the checks share, and `same_predictions`.
"""

from topwork.testing.parts import check_base, check_metric, check_stage, check_stage_result
from topwork.testing.plugins import Conformance, check_plugin
from topwork.testing.promises import same_predictions
from topwork.testing.tasks import build_example, check_task, example_batch

__all__ = [
    "Conformance",
    "build_example",
    "check_base",
    "check_metric",
    "check_plugin",
    "check_stage",
    "check_stage_result",
    "check_task",
    "example_batch",
    "same_predictions",
]
