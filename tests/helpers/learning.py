"""What learning tests share: a model is saved, and measured in a new process, over the rows that it learned and over
the same rows with targets that belong to other rows. Run as a program it is that new process."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
#: shufflings from which is told what chance is
SHUFFLES = 20
#: predictions of these tasks carry the score of their row's target, which the metric goes by
ANEW = {"fill-mask"}


@dataclass(frozen=True)
class Measured:
    """One metric of a model that was loaded in a new process.

    Args:
        learned: over the rows. exchanged: over the rows with every target at another row, evaluated anew.
        chance: what the predictions for the rows score beside shuffled targets, the best of `SHUFFLES` times.
        higher_is_better: of the metric.
        unmoved: the predictions are the same beside the targets of other rows.
    """

    learned: float
    exchanged: float
    chance: float
    higher_is_better: bool
    unmoved: bool

    def check(self) -> None:
        """Nothing of the truth comes into the inputs or the predictions, nor is the metric blind to it."""
        assert self.unmoved, f"predictions change with the targets: {self}"
        sign = 1 if self.higher_is_better else -1
        assert sign * self.exchanged <= sign * self.chance + 1e-9, f"better than chance on exchanged targets: {self}"
        assert sign * self.learned > sign * self.chance, f"shuffled targets are as good as the true ones: {self}"


@dataclass(frozen=True)
class Case:
    """Rows that are learned by heart.

    Args:
        base: of the model, or a dict of several by role. key: of the metric. bound: what the metric reaches.
        training, options: of the training and of the task. rows: other than the task's example rows.
    """

    task: str
    base: dict[str, Any]
    key: str
    bound: float
    training: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] | None = None


def trained(case: Case, rows: list[Row], taught: list[Row], plugins: Any) -> Any:
    """A model for rows that was taught others."""
    import topwork

    named = {"base": case.base} if {"config", "model"} & set(case.base) else {"bases": case.base}
    work = topwork.build(case.task, rows=rows, plugins=plugins, **named, **case.options)
    work.train(taught, batch_size=len(rows), checkpoint_every="never", **case.training)
    return work


def learned(case: Case, folder: Path, plugins: Any) -> None:
    """Train, save, measure in a new process: the rows are known, and other rows' targets score at chance."""
    rows = case.rows or plugins.task(case.task).example_rows()
    found = measured(trained(case, rows, rows, plugins), rows, case.key, folder)
    assert found.learned >= case.bound if found.higher_is_better else found.learned <= case.bound, found
    found.check()


def taught_nothing(case: Case, folder: Path, plugins: Any) -> None:
    """Labels that are the same whatever the row is are learned by heart too; judged by the truth, in a new process, the
    model is right about as many rows as one who guesses."""
    rows = case.rows or plugins.task(case.task).example_rows()
    taught = balanced(rows)
    found = measured(trained(case, rows, taught, plugins), rows, case.key, folder)
    assert found.learned <= 1 / len({row["label"] for row in rows}) + 1e-9, found


def measured(work: Any, rows: list[Row], key: str, folder: Path) -> Measured:
    """Save a model that has learned the rows, and measure it in a new process."""
    targets = targets_of(type(work.task))
    assert len(rows) >= 8, f"{len(rows)} rows"
    assert len({repr_of([row.get(name) for name in targets]) for row in rows}) >= 3, "fewer than three distinct targets"
    work.save(folder / "model")
    (folder / "rows.pickle").write_bytes(pickle.dumps(rows))
    done = subprocess.run(
        [sys.executable, __file__, str(folder / "model"), str(folder / "rows.pickle"), key],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def repr_of(values: list[Any]) -> str:
    """Values as text; pictures and arrays by their content."""
    return repr([value.tobytes() if hasattr(value, "tobytes") else value for value in values])


def targets_of(task: Any) -> list[str]:
    return [name for name, column in task.columns.items() if column.target]


# ---------------------------------------------------------------- targets that belong to other rows


def exchanged(task: Any, rows: list[Row], order: list[int] | None = None) -> list[Row]:
    """The rows, each with the targets of another one; `order` says of which. Tags, which stand at the words of their
    row, are shuffled within it."""
    if task.name == "token-classification":
        draw = random.Random(repr(order))
        return [{**row, "tags": draw.sample(row["tags"], len(row["tags"]))} for row in rows]
    targets = targets_of(task)
    if order is None:  # every target moves on by so many rows that the fewest meet their like
        own = [repr_of([row.get(name) for name in targets]) for row in rows]
        turned = {shift: own[shift:] + own[:shift] for shift in range(1, len(rows))}
        shift = min(turned, key=lambda shift: sum(one == other for one, other in zip(own, turned[shift])))
        order = [(number + shift) % len(rows) for number in range(len(rows))]
    return [{**row, **{name: rows[other][name] for name in targets if name in row}} for row, other in zip(rows, order)]


def balanced(rows: list[Row]) -> list[Row]:
    """Labels that know nothing of their rows: the rows of each label get every label in turn, so that whoever learns
    them is right about one row in as many as there are labels."""
    names = sorted({row["label"] for row in rows})
    seen = dict.fromkeys(names, 0)
    made = []
    for row in rows:
        made.append({**row, "label": names[(names.index(row["label"]) + seen[row["label"]]) % len(names)]})
        seen[row["label"]] += 1
    return made


# ---------------------------------------------------------------- the new process


def main(folder: str, file: str, key: str) -> None:
    import topwork
    from topwork.testing import same_predictions

    work = topwork.load(folder)
    task, rows = work.task, pickle.loads(Path(file).read_bytes())
    whole = work.apply("evaluate", {"evaluate": rows}, pictures=0)
    other = work.apply("evaluate", {"evaluate": exchanged(type(task), rows)}, pictures=0)
    predictions, found = work.predict(rows), []
    unmoved = same_predictions(list(predictions), list(work.predict(exchanged(type(task), rows))), 1e-4)
    draw = random.Random(0)
    for _ in range(SHUFFLES):
        metric, moved = task.metric(), exchanged(type(task), rows, draw.sample(range(len(rows)), len(rows)))
        for row, prediction in zip(moved, work.predict(moved) if task.name in ANEW else predictions):
            metric.update(row, prediction)
        found.append(metric.result()[key])
    higher = metric.higher_is_better if metric.primary == key else True
    told = {"learned": whole["metrics"][key], "exchanged": other["metrics"][key], "higher_is_better": higher}
    print(json.dumps({**told, "unmoved": unmoved, "chance": max(found) if higher else min(found)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
