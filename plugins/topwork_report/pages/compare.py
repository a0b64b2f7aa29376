"""A page of several runs side by side: metrics, curves laid over each other, and where their recipes differ.

Entry point: `write_comparison`. A column is a run folder, or the common folder of `topwork run --seeds` or `--folds`,
whose metrics are means with intervals.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork import Json, UsageError, write_text
from topwork_report.charts import COLOURS, curves
from topwork_report.colours import inks, scales
from topwork_report.formatting import short, words
from topwork_report.page import PAGE, environment
from topwork_report.page_data import PageData, script
from topwork_report.run_files import RunFiles, mappings, number, numbers, read_run
from topwork_report.summary import measures_model, metrics_of

MOST_RUNS = 24
_SUMMARY = "summary.json"  # of `topwork run --seeds` and `--folds`
_WITHOUT_CURVE = ("step", "epoch", "grad_norm")
_MOST_CHARTS = 24


@dataclass
class Column:
    """A run, or the repetitions of one.

    Args:
        name: that tells it from the other columns.
        run: the run; of repetitions the first.
        metrics: (stage, metric) -> value.
        intervals: (stage, metric) -> lower and upper end, where they are known.
        directions: (stage, metric) -> whether higher is better, where the stage says so.
        repetitions: how many runs there were.
    """

    name: str
    run: RunFiles
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)
    intervals: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    directions: dict[tuple[str, str], bool] = field(default_factory=dict)
    repetitions: int = 1

    @property
    def task(self) -> str:
        """Return the name of the run's task, "" where it is not known."""
        task = self.run.about.get("task") or self.run.recipe.get("task")
        name = task.get("name") if isinstance(task, dict) else task
        return name if isinstance(name, str) else ""


def write_comparison(folders: list[Path], file: Path) -> dict[str, Json]:
    """Write the page of several runs.

    Args:
        folders: run folders, or common folders of repetitions.
        file: HTML file to write.

    Returns:
        {"page": the file, "bytes": its size, "problems": files that were missing or damaged}.

    Raises:
        UsageError: a folder is not a run, or there are more than MOST_RUNS.
    """
    if len(folders) > MOST_RUNS:
        raise UsageError(f"{len(folders)} runs are too many for one page", hint=f"name at most {MOST_RUNS}")
    names = _names(folders)
    columns = [_column(folder, name) for folder, name in zip(folders, names, strict=True)]
    problems = [f"{column.name}: {problem}" for column in columns for problem in column.run.problems]
    text, digest = script()
    light, dark = (list(zip(scale, inks(scale), strict=True)) for scale in scales())
    data = PageData()
    charts = {"kind": "curves", "charts": _charts(columns)}
    data.add_charts(charts, "compared")
    links = [_link(column.run.folder, file) for column in columns]
    page = environment().get_template("compare.html.j2").render(
        columns=columns, links=links, facts=_facts(columns), metrics=_metric_rows(columns), charts=charts,
        differences=_differences(columns), problems=problems, light=light, dark=dark, data=data.json(), script=text,
        script_hash=digest,
    )  # fmt: skip
    write_text(file, page)
    return {"page": str(file), "bytes": len(page.encode("utf-8")), "problems": problems}


def _names(folders: list[Path]) -> list[str]:
    """Return the names of the folders, with as many of their parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError("the same run is named twice", hint="name each run once")


def _column(folder: Path, name: str) -> Column:
    if (folder / _SUMMARY).is_file() and not (folder / "run.json").is_file():
        return _repeated(folder, name)
    column = Column(name, read_run(folder))
    for stage, label in zip(column.run.stages, _labels(column.run), strict=True):
        if not measures_model(stage):
            continue
        direction, primary = stage.result.get("higher_is_better"), stage.result.get("primary")
        for metric, value in metrics_of(stage).items():
            column.metrics[label, metric] = value
            if metric == primary and isinstance(direction, bool):
                column.directions[label, metric] = direction
    return column


def _repeated(folder: Path, name: str) -> Column:
    """Return the column of repetitions: means with their intervals, and the first run for everything else."""
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        runs, spreads = [str(run) for run in summary["runs"]], mappings(summary["numbers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the file is damaged ({error})", place=str(folder / _SUMMARY), hint="run it again") from error
    if not runs:
        raise UsageError("no run stands in the summary", place=str(folder / _SUMMARY), hint="run it again")
    first = folder / runs[0]
    column = _column(first if first.is_dir() else folder, name)
    labels = dict(zip((stage.folder.name for stage in column.run.stages), _labels(column.run), strict=True))
    column.metrics, column.repetitions = {}, len(runs)
    for spread in spreads:
        folder_name, mean = str(spread.get("stage")), number(spread.get("mean"))
        key = (labels.get(folder_name, folder_name), str(spread.get("name")))
        if mean is None:
            continue
        column.metrics[key] = mean
        ends = [number(end) for end in spread["interval"]] if isinstance(spread.get("interval"), list) else []
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            column.intervals[key] = (ends[0], ends[1])
    return column


def _labels(run: RunFiles) -> list[str]:
    """Return a name for each stage by which those of several runs are compared: its own, numbered."""
    counts: Counter[str] = Counter()
    labels = []
    for stage in run.stages:
        counts[stage.name] += 1
        labels.append(f"{stage.name} {counts[stage.name]}")
    return labels


def _link(folder: Path, file: Path) -> str | None:
    """Return the address of a run's own page, relative to the page of all; None when it has none."""
    page = folder / PAGE
    return Path(os.path.relpath(page, file.resolve().parent)).as_posix() if page.is_file() else None


def _facts(columns: list[Column]) -> list[tuple[str, list[Any]]]:
    abouts = [column.run.about for column in columns]
    facts: dict[str, list[Any]] = {
        "task": [about.get("task") for about in abouts],
        "seed": [about.get("seed") for about in abouts],
        "started": [str(about.get("started") or "")[:16].replace("T", " ") or None for about in abouts],
        "device": [about.get("device") for about in abouts],
        "repetitions": [column.repetitions if column.repetitions > 1 else None for column in columns],
        "seconds of all stages": [
            round(sum(stage.seconds or 0.0 for stage in column.run.stages), 1) for column in columns
        ],
    }
    return [(name, values) for name, values in facts.items() if any(value is not None for value in values)]


def _metric_rows(columns: list[Column]) -> list[dict[str, Any]]:
    """Return a row for each metric of each stage.

    The best value is marked where the stage says which way is better, and where all values are of one task.
    """
    stages = list(dict.fromkeys(stage for column in columns for stage, _ in column.metrics))
    keys = sorted(
        dict.fromkeys(key for column in columns for key in column.metrics), key=lambda key: stages.index(key[0])
    )
    rows = []
    for key in keys:
        values = [column.metrics.get(key) for column in columns]
        known = [value for value in values if value is not None]
        tasks = {column.task for column, value in zip(columns, values, strict=True) if value is not None}
        direction = next((column.directions[key] for column in columns if key in column.directions), None)
        best = (
            None
            if direction is None or len(set(known)) < 2 or len(tasks) > 1
            else max(known)
            if direction
            else min(known)
        )
        rows.append({
            "stage": key[0],
            "metric": words(key[1]),
            "cells": [(value, column.intervals.get(key)) for value, column in zip(values, columns, strict=True)],
            "best": best,
        })  # fmt: skip
    return rows


def _charts(columns: list[Column]) -> list[dict[str, Any]]:
    """Return a chart for each number of each training and each task, with a curve for each run."""
    series: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
    several = len({column.task for column in columns}) > 1
    for column in columns:
        for stage, label in zip(column.run.stages, _labels(column.run), strict=True):
            for point in mappings(stage.result.get("history")):
                step = number(point.get("step"))
                for name, value in numbers(point).items():
                    if step is not None and name not in _WITHOUT_CURVE:
                        key = (column.task if several else "", label, name)
                        series.setdefault(key, {}).setdefault(column.name, []).append((step, value))
    drawn = []
    for (task, training, name), lines in series.items():
        rows = ", calibrate rows" if name.startswith("eval_") else ""
        title = f"{training}: {words(name.removeprefix('eval_'))}{rows}"
        drawn.append(curves(f"{task}, {title}" if task else title, lines, "step"))
    order = {column.name: index for index, column in enumerate(columns)}
    shown = [chart for chart in drawn if chart][:_MOST_CHARTS]
    for chart in shown:
        for line in chart["lines"]:
            index = order[line["name"]]  # a run has the same colour in every chart
            line |= {"order": index % COLOURS, "dashed": index >= COLOURS}
    return shown


def _differences(columns: list[Column]) -> list[tuple[str, list[str]]]:
    """Return the keys of the recipes whose values are not the same in all runs, with their values."""
    flat = [dict(_leaves(column.run.recipe)) for column in columns]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    rows = [(key, [recipe.get(key) for recipe in flat]) for key in keys]
    return [
        (key, ["–" if value is None else short(value) for value in values])
        for key, values in rows
        if any(value != values[0] for value in values)
    ]


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return (path, value) of everything in a recipe; stages are named with their position."""
    if isinstance(value, dict) and value:
        return [leaf for key, entry in value.items() for leaf in _leaves(entry, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return [leaf for at, entry in enumerate(value, 1) for leaf in _leaves(entry, f"{path} {at}")]
    return [(path, value)]
