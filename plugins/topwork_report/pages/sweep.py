"""Page of a sweep: its trials, the best first, and the value by trial and by option. Entry point: `write_sweep`.

Everything stands in `trials.json`, which `topwork sweep` writes after each trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import Json, UsageError, write_text
from topwork_report.charts import curves
from topwork_report.colours import inks, scales
from topwork_report.formatting import words
from topwork_report.page import PAGE, environment

_TRIALS = "trials.json"
#: a range of numbers so many times its lower end is drawn by its logarithm
_WIDE = 30


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds a sweep."""
    return (folder / _TRIALS).is_file() and not (folder / "run.json").is_file()


def write_sweep(folder: Path) -> dict[str, Json]:
    """Write the page of a sweep into its folder.

    Returns:
        {"page": the file, "bytes": its size, "problems": an empty list}.

    Raises:
        UsageError: the file of the trials is damaged.
    """
    try:
        sweep = json.loads((folder / _TRIALS).read_text(encoding="utf-8"))
        trials = [dict(trial) for trial in sweep["trials"]]
        blocks = _blocks(sweep, trials)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the file is damaged ({error})", place=str(folder / _TRIALS), hint="sweep again") from error
    light, dark = (list(zip(scale, inks(scale), strict=True)) for scale in scales())
    page = (
        environment()
        .get_template("sweep.html.j2")
        .render(name=sweep.get("recipe") or folder.name, blocks=blocks, light=light, dark=dark)
    )
    write_text(folder / PAGE, page)
    return {"page": str(folder / PAGE), "bytes": len(page.encode("utf-8")), "problems": []}


def _blocks(sweep: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sign = 1 if sweep.get("higher_is_better", True) else -1
    done = [trial for trial in trials if isinstance(trial["value"], int | float)]
    ranked = sorted(done, key=lambda trial: -sign * trial["value"])
    facts = [
        ("metric, on calibrate rows", words(sweep.get("metric") or "value")),
        ("better is", "higher" if sign > 0 else "lower"),
        ("sampler", sweep.get("sampler")),
        ("trials", len(trials)),
        *((state, count) for state, count in _states(trials).items()),
        ("best trial", ranked[0]["trial"] if ranked else None),
    ]
    return [
        {"kind": "facts", "title": "", "facts": [(name, value) for name, value in facts if value is not None]},
        {"kind": "curves", "charts": _charts(sweep, done, sign)},
        _table([*ranked, *(trial for trial in trials if trial not in done)]),
    ]


def _states(trials: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    states = [str(trial["state"]) for trial in trials]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _charts(sweep: Mapping[str, Any], done: Sequence[Mapping[str, Any]], sign: int) -> list[dict[str, Any]]:
    """Return charts of the value by trial, beside the best so far, and by each option that is a number."""
    metric = words(sweep.get("metric") or "value")
    values = [(float(trial["trial"]), float(trial["value"])) for trial in done]
    best = [(x, sign * max(sign * y for _, y in values[: index + 1])) for index, (x, _) in enumerate(values)]
    charts = [curves("by trial", {metric: values, "best so far": best}, "trial")]
    for option in dict.fromkeys(name for trial in done for name in trial["options"]):
        points = [(_number(trial["options"].get(option)), float(trial["value"])) for trial in done]
        numbers = [(x, y) for x, y in points if x is not None]
        if len({x for x, _ in numbers}) < 2 or len(numbers) < len(points):
            continue
        low, high = min(numbers)[0], max(numbers)[0]
        if low > 0 and high / low >= _WIDE:
            charts.append(curves(option, {metric: [(math.log10(x), y) for x, y in numbers]}, f"log10 of {option}"))
        else:
            charts.append(curves(option, {metric: numbers}, option))
    return [chart for chart in charts if chart is not None]


def _number(value: Json) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _table(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    options = list(dict.fromkeys(name for trial in trials for name in trial["options"]))
    several = any(len(trial["seeds"]) > 1 for trial in trials)
    columns = ["trial", "state", "value", *(["of each seed"] if several else []), *options]
    rows = [
        [
            trial["trial"],
            trial["state"],
            trial["value"],
            *([", ".join(f"{value:.4g}" for value in trial["seeds"].values())] if several else []),
            *(trial["options"].get(name) for name in options),
        ]
        for trial in trials
    ]
    numeric = [bool(rows) and all(isinstance(row[index], int | float) for row in rows) for index in range(len(columns))]
    table = {"columns": [(name, name) for name in columns], "rows": rows, "numeric": numeric, "left_out": 0}
    return {"kind": "table", "title": "Trials, the best first", **table}
