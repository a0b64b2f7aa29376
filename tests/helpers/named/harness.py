"""The models that must work, each by name: one walk for all of them, from a tiny random config to a pruned model in a
folder, through the public door alone.

`text.py`, `sequence.py`, `audio.py`, `vision.py` and `dense.py` say which families there are, which task runs on which,
who makes the task head, and what is exempt and why; the README's table is made of them (`table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import topwork
from topwork.testing import same_predictions

#: task -> who makes the task head ("native", "generic") -> families
Named = Mapping[str, Mapping[str, Sequence[str]]]
#: (pattern of `task/family/form`, fields of `Case`)
Settings = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Exempt:
    """What need not hold: in which cases (a pattern of `task/family/form`), of which names (a pattern), and why.

    An exemption that is not needed any more fails the test of its case.
    """

    cases: str
    names: str
    why: str


@dataclass(frozen=True)
class Case:
    """One family on one task.

    Args:
        form: who makes the task head.
        base: a base, or one for each role.
        options: of the task.
        rows: which of the task's example rows make the batch; None for all.
        training: options of the stage `train`, over `TRAINING`.
        batch_norm: twenty steps are too few for the statistics that count outside training; then the losses of the
            steps themselves are compared.
        attention: whether the lens has to find some.
        unlearned: parameters that get no gradient; the names are those of the model.
        refused: attention layers that the lens refuses to prune; the names are paths, the why stands in its refusal.
    """

    task: str
    family: str
    form: str
    base: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[int] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    batch_norm: bool = False
    attention: bool = True
    unlearned: Sequence[Exempt] = ()
    refused: Sequence[Exempt] = ()

    def __str__(self) -> str:
        return f"{self.task}/{self.family}/{self.form}"


#: Rounds of training in which a loss is halved at the latest. A random model that meets a high learning rate may
#: first get worse, and on another CPU at another step.
ROUNDS = 6
#: a round: twenty steps on one batch
TRAINING = {"steps": 20, "learning_rate": 1e-2, "schedule": "constant", "checkpoint_every": "never"}


def cases(
    named: Named,
    bases: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    unlearned: Sequence[Exempt] = (),
    refused: Sequence[Exempt] = (),
) -> list[Case]:
    """The cases of a table.

    Args:
        bases: by family.
        settings: all that match count, the later over the earlier, the dicts among them joined.
    """
    found = []
    for task, forms in named.items():
        for form, families in forms.items():
            for family in families:
                name = f"{task}/{family}/{form}"
                fields: dict[str, Any] = {"base": bases[family]}
                for pattern, entries in settings:
                    for key, value in entries.items() if fnmatchcase(name, pattern) else ():
                        joined = isinstance(value, Mapping) and key != "base"
                        fields[key] = {**fields.get(key, {}), **value} if joined else value
                exempt = [[one for one in group if fnmatchcase(name, one.cases)] for group in (unlearned, refused)]
                found.append(Case(task, family, form, unlearned=exempt[0], refused=exempt[1], **fields))
    return found


def works(case: Case, plugins: Any, folder: Path) -> None:
    """The walk: build, train, evaluate, predict, save, load, score, prune, save, load."""
    rows = plugins.task(case.task).example_rows()
    several = set(case.base) != {"config"}
    made = {"bases": case.base} if several else {"base": case.base}
    work = topwork.build(case.task, rows=rows, plugins=plugins, **made, **case.options)
    assert work.form == case.form
    learns(case, work, rows if case.rows is None else [rows[number] for number in case.rows])
    assert set(work.task.metric().keys) <= set(work.evaluate(rows[:4]))
    again = comes_back(work, rows[:3], folder / "whole", plugins)
    assert (folder / "whole" / "model.safetensors").exists() == (case.form == "native")
    assert bool(again.look().layers) == case.attention
    if case.attention:
        loses_heads(case, again, rows[:2], folder, plugins)


def learns(case: Case, work: Any, rows: Sequence[Any]) -> None:
    """Training on one batch halves its loss, and reaches every parameter."""
    reached = watched(work.model)
    losses = [] if case.batch_norm else [loss(work, rows)]
    for _ in range(ROUNDS):
        result = work.train(rows, **{**TRAINING, "batch_size": 4 * len(rows), **case.training})
        assert result["items"] <= 4 * len(rows)
        steps = [entry["loss"] for entry in result["history"] if "loss" in entry]
        assert len(steps) == result["steps"]
        losses = losses or steps[:1]
        losses.append(steps[-1] if case.batch_norm else loss(work, rows))
        if losses[-1] < losses[0] / 2:
            break
    assert losses[-1] < losses[0] / 2, f"losses round by round: {', '.join(f'{value:.4g}' for value in losses)}"
    wanted = {name for name, _ in work.model.named_parameters()}  # nothing may be frozen unasked
    exempt = {name for name in wanted if any(fnmatchcase(name, one.names) for one in case.unlearned)}
    left = wanted - reached
    assert left <= exempt, f"without a gradient: {sorted(left - exempt)}"
    assert exempt <= left, f"not exempt any more, they got a gradient: {sorted(exempt - left)}"


def loss(work: Any, rows: Sequence[Any]) -> float:
    """The task's loss of the rows as one batch, without dropout."""
    import torch

    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        return float(work.task.loss(work.model.eval(), batch))


def watched(model: Any) -> set[str]:
    """A set that fills with the names of the parameters that get a gradient that is not zero everywhere."""
    names: set[str] = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda value, name=name: names.add(name) if bool(value.grad.any()) else None
            )
    return names


def comes_back(work: Any, rows: Sequence[Any], folder: Path, plugins: Any) -> Any:
    """What a saved folder gives again, which says the same of the rows."""
    again = topwork.load(work.save(folder), plugins=plugins)
    assert same_predictions(again.predict(rows), work.predict(rows))
    return again


def loses_heads(case: Case, work: Any, rows: Sequence[Any], folder: Path, plugins: Any) -> None:
    """Every attention head gets a score, and the lesser half of each layer goes, except where that is refused."""
    layers = work.look().layers
    scored = work.apply("head_importance", {"calibrate": rows}, run_folder=folder / "scores")
    assert scored["rows"] == len(rows)
    scores = {layer["path"]: layer["scores"] for layer in scored["layers"]}
    assert {path: len(found) for path, found in scores.items()} == {layer.path: layer.heads for layer in layers}

    for one in case.refused:
        assert any(fnmatchcase(path, one.names) for path in scores), f"no attention layer is called {one.names}"
    exempt = {layer.path: one.why for layer in layers for one in case.refused if fnmatchcase(layer.path, one.names)}
    for path, why in exempt.items():
        with pytest.raises(topwork.Refused) as refused:
            work.apply("prune_heads", {"calibrate": rows}, heads={path: [0]})
        assert why in refused.value.cause
    idle = {path for path, found in scores.items() if found and None in found}  # never ran
    assert all(any(fnmatchcase(f"{path}.", one.names) for one in case.unlearned) for path in idle)
    heads = {path: lesser_half(scores[path]) for path in scores if path not in exempt and path not in idle}
    heads = {path: numbers for path, numbers in heads.items() if numbers}
    pruned = work.apply("prune_heads", {"calibrate": rows}, heads=heads)
    assert pruned["heads_before"] - pruned["heads_after"] == sum(map(len, heads.values())) > 0
    assert pruned["check"]["difference"] <= pruned["check"]["tolerance"]
    comes_back(work, rows, folder / "pruned", plugins)


def lesser_half(scores: Sequence[float]) -> list[int]:
    """Numbers of the half of the attention heads that matter least; none of a layer that has one."""
    return sorted(sorted(range(len(scores)), key=lambda number: scores[number])[: len(scores) // 2])
