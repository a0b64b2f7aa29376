"""The same recipe several times, with other seeds or on other folds of its rows, and the numbers of all runs together.

Entry point: `repeat_run`. Each repetition is an ordinary run in a folder of its own inside a common one. Called again
with the same folder it goes on: finished repetitions are kept, an interrupted one is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.options import CutOptions
from topwork.errors import UsageError
from topwork.files import write_json
from topwork.items import Json
from topwork.runs.execute import execute, new_folder, resume_run
from topwork.runs.records import RECIPE, RUN

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.recipe.recipe import Recipe
    from topwork.runs.run import Run

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Spread:
    """One number of a stage over all repetitions.

    Args:
        stage: position and name, "02-evaluate".
        name: of the number, as in the stage's metrics.
        values: of each repetition.
    """

    stage: str
    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the repetitions."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of a repetition, by n - 1; NaN for a single one."""
        if len(self.values) < 2:
            return math.nan
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of 95 % for the mean by Student's t; None for a single repetition.

        Folds share most of their training rows, so theirs is too narrow.
        """
        if len(self.values) < 2:
            return None
        from scipy.stats import t

        half = float(t.ppf(0.975, len(self.values) - 1)) * self.deviation / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half


@dataclass
class Repetitions:
    """Runs of one recipe.

    Args:
        root: the common folder; `summary.json` in it holds `to_dict`.
        kind: "seeds" or "folds".
        runs: name of each run's folder -> its metrics, by stage and name.
        page: name of a page in the common folder that a plugin wrote, or None.
    """

    root: Path
    kind: str
    runs: Mapping[str, Mapping[tuple[str, str], float]]
    page: str | None = None

    def spreads(self) -> list[Spread]:
        """Return every metric that all repetitions have, in the order of the stages."""
        tables = list(self.runs.values())
        shared = [key for key in tables[0] if all(key in table for table in tables)]
        return [Spread(*key, tuple(table[key] for table in tables)) for key in shared]

    def to_dict(self) -> dict[str, Json]:
        """Return the spreads as JSON, and the folders of the runs."""
        numbers = [
            {
                "stage": spread.stage,
                "name": spread.name,
                "mean": spread.mean,
                "deviation": None if len(spread.values) < 2 else spread.deviation,
                "interval": spread.interval,
                "values": list(spread.values),
            }
            for spread in self.spreads()
        ]
        return {"kind": self.kind, "runs": list(self.runs), "numbers": numbers}


def repeat_run(
    recipe: Recipe,
    plugins: Plugins,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    folder: str | Path | None = None,
    quiet: bool = False,
    save_outside: bool = False,
) -> Repetitions:
    """Run a recipe several times.

    Args:
        recipe: a checked recipe.
        plugins: who brings its task, stages, bases and rows.
        seeds: number of runs, with the recipe's seed and those that follow it.
        folds: number of folds of the training rows; each run evaluates on one and trains on the others.
        folder: the common folder; by default the next free `runs/<name>-<number>`. Finished runs in it are kept.
        quiet: print nothing.
        save_outside: as for a single run.

    Raises:
        UsageError: neither or both of `seeds` and `folds`, a number below 2, folds of a recipe that has evaluate rows
            of its own, or a folder of other repetitions.
        TopworkError: a stage of a run failed; the same call with `folder` goes on.
    """
    kind, recipes = _recipes(recipe, seeds, folds)
    from topwork.process import Process

    process = Process()
    root = new_folder(recipe, process, folder)
    if (root / RUN).exists():
        raise UsageError("the folder holds a single run", place=str(root), hint="give another folder")
    options: dict[str, Any] = {"save_outside": True} if save_outside else {}
    runs = {}
    for name, variant in recipes.items():
        inside = root / name
        if (inside / RUN).is_file():
            _check_same(inside, variant)
            run = resume_run(inside, plugins, quiet=quiet)
        else:
            run = execute(variant, plugins, folder=inside, quiet=quiet, **options)
        runs[name] = _metrics(run)  # and not the run, which holds a model
    done = Repetitions(root, kind, runs)
    if process.main:
        write_json(root / SUMMARY, done.to_dict())
        done.page = plugins.hook.repetitions_page(folder=root)
    return done


def _recipes(recipe: Recipe, seeds: int | None, folds: int | None) -> tuple[str, Mapping[str, Recipe]]:
    if (seeds is None) == (folds is None):
        raise UsageError("give either a number of seeds or a number of folds", place="--seeds, --folds")
    count = seeds if seeds is not None else folds
    assert count is not None
    kind = "seeds" if seeds is not None else "folds"
    if not 2 <= count <= 1000:
        raise UsageError(f"{count} is no number of repetitions", place=f"--{kind}", hint="2 to 1000")
    if kind == "seeds":
        variants = [replace(recipe, seed=recipe.seed + index) for index in range(count)]
        return kind, {f"seed-{variant.seed}": variant for variant in variants}
    given = recipe.data.evaluate
    if recipe.data.train is None or not (given is None or isinstance(given, CutOptions)):
        raise UsageError(
            "folds are made of the training rows, and the recipe has rows of its own to evaluate on",
            place="--folds",
            hint="write `evaluate: {cut: 0.2}`, which the folds replace; or repeat with other seeds: --seeds 5",
        )
    group = given.by if given is not None else None
    cuts = [{"folds": count, "fold": index + 1, **({"by": group} if group else {})} for index in range(count)]
    sections = [CutOptions.model_validate({"cut": cut}) for cut in cuts]
    return kind, {
        f"fold-{index + 1}": replace(recipe, data=recipe.data.model_copy(update={"evaluate": section}))
        for index, section in enumerate(sections)
    }


def _check_same(folder: Path, recipe: Recipe) -> None:
    """Refuse to mix repetitions of different recipes."""
    if (folder / RECIPE).read_text(encoding="utf-8") != recipe.to_yaml():
        raise UsageError(
            "the folder holds repetitions of another recipe", place=str(folder / RECIPE), hint="give another folder"
        )


def _metrics(run: Run) -> dict[tuple[str, str], float]:
    """Return the finite metrics of each stage that measures the model, by stage and name."""
    numbers: dict[tuple[str, str], float] = {}
    for record in run.results:
        metrics = record["result"].get("metrics") or {}
        for name, number in metrics.items():
            if isinstance(number, int | float) and math.isfinite(number):
                numbers[f"{record['index'] + 1:02d}-{record['stage']}", name] = float(number)
    return numbers


def table(done: Repetitions) -> Sequence[Sequence[str]]:
    """Return the spreads as lines of text: stage, name, mean, interval, and the value of each run."""
    lines = []
    for spread in done.spreads():
        low, high = spread.interval or (math.nan, math.nan)
        values = " ".join(f"{value:.4g}" for value in spread.values)
        lines.append((spread.stage, spread.name, f"{spread.mean:.4g}", f"{low:.4g} to {high:.4g}", values))
    return lines
