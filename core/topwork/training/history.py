"""The losses of a training over its steps: `equal_windows` and `mean_loss`.

Trainer logs the mean loss since the last log. A log that a checkpoint or the end of an epoch brings forward is a mean
over few steps beside means over many, which looks like a notch in the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def mean_loss(history: Sequence[dict[str, Any]]) -> float:
    """Return the mean loss over all steps, those before an interruption included; NaN without any."""
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / last if last else math.nan


def equal_windows(history: Sequence[dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """Join logs of losses so that each is a mean over `every` steps.

    What is left at the end of the training is joined with the window before it when it is shorter than half of one.

    Args:
        history: logs in the order of their steps; those without a loss are kept as they are.
        every: steps of a window.
    """
    windows: list[dict[str, Any]] = []
    open_logs: list[tuple[int, dict[str, Any]]] = []  # steps of each log of the window, and the log
    last = 0
    for log in history:
        if "loss" not in log:
            windows.append(log)
            continue
        open_logs.append((log["step"] - last, log))
        last = log["step"]
        if last % every == 0:
            windows.append(_joined(open_logs))
            open_logs = []
    if open_logs:
        rest = sum(steps for steps, _ in open_logs)
        before = next((index for index in range(len(windows) - 1, -1, -1) if "loss" in windows[index]), None)
        if 2 * rest < every and before is not None:
            open_logs.insert(0, (every, windows.pop(before)))
        windows.append(_joined(open_logs))
    return windows


def _joined(logs: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    steps = sum(count for count, _ in logs)
    means = [name for name in ("loss", "teacher_loss") if all(name in log for _, log in logs)]
    return {
        **logs[-1][1],
        **{name: sum(count * log[name] for count, log in logs) / max(1, steps) for name in means},
    }
