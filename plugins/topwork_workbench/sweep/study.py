"""Trials of a sweep: each a run of the recipe with other options, judged by its calibrate rows. Entry point: `Sweep`.

The evaluate rows are never used to choose; the best recipe is measured with them as any other. The study lies in
`study.log` of the sweep's folder (optuna's journal): the same call with the same folder goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import topwork
from topwork import Json, Plugins, Recipe, TopworkError, UsageError, hookimpl, write_json
from topwork_workbench.sweep.space import Dimension, grid

if TYPE_CHECKING:
    import optuna

    from topwork import Run

Sampler = Literal["tpe", "random", "grid"]
STUDY, TRIALS, BEST = "study.log", "trials.json", "best.yaml"
#: of training rows, to judge by where the recipe has no calibrate rows
_CALIBRATE = "data.calibrate={cut: 0.1}"
#: failures of the first trials after which a sweep ends
_MOST_FAILURES = 3


class _TrialStopped(BaseException):
    """End of a trial that falls behind the others; no `Exception`, so that nothing takes it for a failure."""


class _Watcher:
    """Observer that reports the evaluations of a training and stops a trial that falls behind."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.reports = trial, 0

    @hookimpl
    def step_logged(self, run: Run, numbers: Mapping[str, float]) -> None:
        metric = run.task.metric()
        if (value := numbers.get(f"eval_{metric.primary}")) is None:
            return
        self.trial.report(value if metric.higher_is_better else -value, self.reports)
        self.reports += 1
        if self.trial.should_prune():
            raise _TrialStopped


@dataclass
class Sweep:
    """Sweep over one recipe.

    Args:
        recipe: a path or the name of a shipped recipe.
        space: what is searched.
        folder: of the sweep; each trial is a run folder in it.
        plugins: what is installed.
        trials: how many; None: all of a grid, else 20.
        sampler: tpe (tree-structured Parzen estimators), random, or grid.
        seeds: runs of each trial, with the recipe's seed and those that follow; their mean counts.
        prune: stop trials whose evaluations on calibrate rows fall below the median of earlier ones.
        overrides: changes of the recipe for all trials.
        keep: keep the run folders of all trials; without it those of the best one stay.
    """

    recipe: str
    space: Sequence[Dimension]
    folder: Path
    plugins: Plugins
    trials: int | None = None
    sampler: Sampler = "tpe"
    seeds: int = 1
    prune: bool = False
    overrides: Sequence[str] = ()
    keep: bool = False
    failures: list[str] = field(default_factory=list)
    #: name of the page in the folder, when a plugin makes one
    page: str | None = field(default=None, init=False)

    def run(self) -> optuna.Study:
        """Run the trials that are missing; write `trials.json` and `best.yaml`.

        Raises:
            UsageError: optuna is not installed, or the folder holds another sweep.
            RecipeError: a key or value that the recipe cannot have.
            TopworkError: the first trials all failed.
        """
        study = self._study()
        wanted = self._wanted()
        done = [trial for trial in study.trials if trial.state.is_finished()]
        for _ in range(max(0, wanted - len(done))):
            study.optimize(self._objective, n_trials=1, catch=(TopworkError,))
            self._judge_failures(study)
            self._write(study)
        self._write(study)
        self.page = self.plugins.hook.sweep_page(folder=self.folder)
        return study

    # ------------------------------------------------------------------ the study

    def _study(self) -> optuna.Study:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise UsageError(
                f"a sweep needs optuna: {error}", place="sweep", hint="pip install 'topwork[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told by `failures`
        self.folder.mkdir(parents=True, exist_ok=True)
        first = self._checked()
        for dimension in self.space:
            for override in dimension.ends():
                self._checked([override])
        if self.prune and all(getattr(stage, "evaluate_every", "never") == "never" for stage in first.stages):
            hint = "-o stages.train.evaluate_every=epoch"
            raise UsageError(
                "no training of the recipe evaluates, so no trial can be stopped", place="--prune", hint=hint
            )
        seed = first.seed
        storage = JournalStorage(JournalFileBackend(str(self.folder / STUDY)))
        known = optuna.get_all_study_names(storage)
        count = len(optuna.load_study(study_name="sweep", storage=storage).trials) if known else 0
        samplers: dict[str, Any] = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed + count),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed + count),
            "grid": lambda: optuna.samplers.GridSampler(grid(self.space), seed=seed),
        }
        study = optuna.create_study(
            study_name="sweep",
            storage=storage,
            sampler=samplers[self.sampler](),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3) if self.prune else optuna.pruners.NopPruner(),
            direction="maximize",
            load_if_exists=True,
        )
        return self._same(study, first.task_name)

    def _same(self, study: optuna.Study, task: str) -> optuna.Study:
        """Refuse to go on with a sweep of something else; trials that were cut off count as failed."""
        from optuna.trial import TrialState

        request: dict[str, Json] = {
            "recipe": self.recipe,
            "task": task,
            "space": [str(dimension) for dimension in self.space],
            "overrides": list(self.overrides),
            "seeds": self.seeds,
        }
        before = study.user_attrs.get("request")
        if before is not None and before != request:
            raise UsageError("the folder holds another sweep", place=str(self.folder), hint="give another folder")
        study.set_user_attr("request", request)
        for trial in study.trials:
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
        return study

    def _wanted(self) -> int:
        if self.trials is not None:
            return self.trials
        if self.sampler != "grid":
            return 20
        count = 1
        for values in grid(self.space).values():
            count *= len(values)
        return count

    def _checked(self, overrides: Sequence[str] = ()) -> Recipe:
        recipe = topwork.load_recipe(self.recipe, [*self.overrides, *overrides], self.plugins)
        if recipe.data.calibrate is None:
            recipe = topwork.load_recipe(self.recipe, [*self.overrides, *overrides, _CALIBRATE], self.plugins)
        return recipe

    # ------------------------------------------------------------------ one trial

    def _objective(self, trial: optuna.Trial) -> float:
        import optuna

        overrides = [dimension.suggest(trial) for dimension in self.space]
        recipe = self._checked(overrides)
        values = []
        for index in range(self.seeds):
            folder = self.folder / f"trial-{trial.number + 1:03d}" / f"seed-{recipe.seed + index}"
            shutil.rmtree(folder, ignore_errors=True)
            release = self.plugins.observe(_Watcher(trial)) if self.prune and index == 0 else lambda: None
            try:
                values.append(self._value(recipe, recipe.seed + index, folder, trial))
            except _TrialStopped:
                raise optuna.TrialPruned from None
            except TopworkError as error:
                self.failures.append(f"trial {trial.number + 1} ({', '.join(overrides)}): {error}")
                raise
            finally:
                release()
        return sum(values) / len(values)

    def _value(self, recipe: Recipe, seed: int, folder: Path, trial: optuna.Trial) -> float:
        """Run once; return the primary metric on calibrate rows, higher is better."""
        from dataclasses import replace

        run = topwork.run(replace(recipe, seed=seed), folder=folder, plugins=self.plugins, quiet=True)
        metric = run.task.metric()
        numbers = run.evaluate("calibrate")
        value = float(numbers[metric.primary])
        trial.set_user_attr("metric", metric.primary)
        trial.set_user_attr("higher_is_better", metric.higher_is_better)
        trial.set_user_attr(f"seed-{seed}", value)
        return value if metric.higher_is_better else -value

    def _judge_failures(self, study: optuna.Study) -> None:
        """End the sweep when nothing but failures came of its first trials."""
        finished = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
        if not finished and len(self.failures) >= min(_MOST_FAILURES, self._wanted()):
            raise TopworkError(f"the first {len(self.failures)} trials failed; the last: {self.failures[-1]}")

    # ------------------------------------------------------------------ what stays

    def _about(self, study: optuna.Study) -> dict[str, Json]:
        """Return what the table and the page say above the trials."""
        completed = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        first = completed[0].user_attrs if completed else {}
        return {
            "recipe": Path(self.recipe).stem,
            "sampler": self.sampler,
            "metric": first.get("metric"),
            "higher_is_better": first.get("higher_is_better", True),
            "best": study.best_trial.number + 1 if completed else None,
        }

    def _write(self, study: optuna.Study) -> None:
        write_json(self.folder / TRIALS, {**self._about(study), "trials": lines(study)})
        completed = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        if not completed:
            return
        best = study.best_trial.number + 1
        runs = sorted((self.folder / f"trial-{best:03d}").glob("seed-*/recipe.yaml"))
        if runs:
            shutil.copyfile(runs[0], self.folder / BEST)
        if not self.keep:
            for trial in self.folder.glob("trial-*"):
                if trial.name != f"trial-{best:03d}":
                    shutil.rmtree(trial, ignore_errors=True)


def lines(study: optuna.Study) -> list[dict[str, Json]]:
    """Return one entry a trial: its number, state, value of the metric and options."""
    entries = []
    for trial in study.trials:
        metric = trial.user_attrs.get("metric")
        seeds = {name: value for name, value in trial.user_attrs.items() if name.startswith("seed-")}
        value = sum(seeds.values()) / len(seeds) if seeds and trial.state.name == "COMPLETE" else None
        entries.append(
            {
                "trial": trial.number + 1,
                "state": trial.state.name.lower(),
                "metric": metric,
                "value": value,
                "seeds": seeds,
                "options": dict(trial.params),
            }
        )
    return entries
