"""The README.md of a model folder: what the model is, how to load it, what it reached, for people and for the Hub."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.items import Json
from topwork.saving.alterations import alterations

if TYPE_CHECKING:
    from topwork.saving.parts import TaskParts

#: entries of a list that the card shows
_LISTED = 100
#: of a normal distribution: an interval of 95 % reaches so many standard errors to each side
_REACH = 1.96


@dataclass(frozen=True)
class CardFacts:
    """Facts of a run for the card of its model.

    Args:
        metrics: name -> value, of the model as it is saved.
        errors: name -> standard error, where it is known.
        role: whose rows were measured.
        rows: how many of them.
        data: role -> {"path", "name", "split"} of its rows, each where it is known.
        removals: what was taken away, as in `StageResult.removal`.
        recipe: of the run, as YAML.
        seed: of the run.
        license: an identifier of the Hub, such as apache-2.0.
        languages: codes, such as en.
    """

    metrics: Mapping[str, Json] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    role: str | None = None
    rows: int | None = None
    data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    removals: Sequence[Mapping[str, Json]] = ()
    recipe: str | None = None
    seed: int | None = None
    license: str | None = None
    languages: Sequence[str] = ()


def model_card(
    work: TaskParts, plainly: bool, card: CardFacts | Mapping[str, Json] | None = None, program: str | None = None
) -> str:
    """Return the README.md of a model folder, with the Hub's front matter.

    Args:
        work: the task and its model.
        plainly: plain transformers can load the model.
        card: facts of the run, or metric -> value.
        program: the format, where the folder holds an exported program in the place of weights.
    """
    from huggingface_hub import ModelCard

    task = work.task
    facts = card if isinstance(card, CardFacts) else CardFacts(metrics=card or {})
    count = sum(parameter.numel() for parameter in work.model.parameters())
    how = "It loads in plain transformers, and with" if plainly else "It loads with topwork alone:"
    if program is not None:
        how = f"It is an exported program ({program}), which `topwork predict` runs too:"
    lines = [f"# {task.name}", "", f"{type(work.model).__name__}, {count:,} parameters, made with topwork.", ""]
    lines += [how, "", "```python", "import topwork", "", 'work = topwork.load("path/of/this/folder")', "```", ""]
    lines += [f"- {key}: {_plain_text(value)}" for key, value in task.describe().items()]
    if altered := sorted(alterations(work.model)):
        lines.append(f"- structure altered by the plugins: {', '.join(altered)} (`alterations` in topwork.json)")
    lines += [_removal_line(removal) for removal in facts.removals]
    lines += _metric_lines(facts) + _data_lines(facts) + _recipe_lines(facts)
    data = _front_matter(work, "transformers" if plainly else "topwork", facts)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n" + "\n".join(lines) + "\n", ignore_metadata_errors=True))


def _front_matter(work: TaskParts, library: str, facts: CardFacts) -> Json:
    """Return what the Hub reads: task, library, base, data sets and results."""
    from huggingface_hub import EvalResult, ModelCardData

    task = work.task
    origins = work.origins or {role: {"origin": base.origin} for role, base in task.bases.items()}
    named = str(next(iter(origins.values()))["origin"].get("model") or "")
    public = bool(named) and not named.startswith("./") and not Path(named).exists()
    measured = facts.data.get(facts.role or "", {})
    results = [
        EvalResult(
            task_type=task.name,
            dataset_type=measured["path"],
            dataset_name=measured["path"],
            dataset_config=measured.get("name"),
            dataset_split=measured.get("split"),
            metric_type=name,
            metric_value=value,
        )
        for name, value in facts.metrics.items()
        if measured.get("path") and isinstance(value, int | float)
    ]
    sets = [entry["path"] for entry in facts.data.values() if _HUB_ID.fullmatch(entry.get("path", ""))]
    return ModelCardData(
        language=list(facts.languages) or None,
        license=facts.license,
        library_name=library,
        pipeline_tag=task.name,
        tags=["topwork"],
        base_model=named if public else None,
        datasets=list(dict.fromkeys(sets)) or None,
        model_name=task.name if results else None,
        eval_results=results or None,
    )


_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def _removal_line(removal: Mapping[str, Json]) -> str:
    count, before = (removal.get(key) for key in ("after", "before"))
    line = f"- {_plain_text(removal.get('unit', 'parts'))} {_plain_text(removal.get('how', 'removed'))}: "
    line += f"{count} of {before} are left"
    if removal.get("parameters_before"):
        line += f", {removal['parameters_after']:,} of {removal['parameters_before']:,} parameters"
    return line


def _metric_lines(facts: CardFacts) -> list[str]:
    if not facts.metrics:
        return []
    rows = f" ({facts.rows} rows)" if facts.rows else ""
    lines = ["", f"Measured on the {facts.role} rows{rows}:"] if facts.role else []
    lines += ["", "| metric | value | 95 % interval |", "|---|---|---|"] if facts.errors else ["", *_PLAIN_HEAD]
    for name, value in facts.metrics.items():
        shown = f"{value:.4f}" if isinstance(value, int | float) else "none"
        error = facts.errors.get(name)
        interval = "" if error is None else f"{value - _REACH * error:.4f} to {value + _REACH * error:.4f}"
        lines.append(f"| {_plain_text(name)} | {shown} |" + (f" {interval} |" if facts.errors else ""))
    return lines


_PLAIN_HEAD = ("| metric | value |", "|---|---|")


def _data_lines(facts: CardFacts) -> list[str]:
    if not facts.data:
        return []
    lines = ["", "| rows | source | configuration | split |", "|---|---|---|---|"]
    for role, entry in facts.data.items():
        cells = (_plain_text(entry.get(key, "")) for key in ("path", "name", "split"))
        lines.append(f"| {role} | {' | '.join(cells)} |")
    return lines


def _recipe_lines(facts: CardFacts) -> list[str]:
    seed = [] if facts.seed is None else ["", f"Made with seed {facts.seed}."]
    if not facts.recipe:
        return seed
    # a fence longer than any in the text, which then cannot end it
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", facts.recipe))])
    return [*seed, "", "## Recipe", "", f"{fence}yaml", facts.recipe.rstrip(), fence]


def _plain_text(value: Json) -> str:
    """Return a value as text without markup: label names come from anybody's rows, and a card is shown as a page."""
    text = str(value)
    if isinstance(value, list):
        more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        text = ", ".join(map(str, value[:_LISTED])) + more
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
