"""Facts of a run for the card of its model: metrics, data, removals, recipe. Entry point: `card_facts`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from topwork.data.options import DataOptions
from topwork.files import exists
from topwork.items import Json
from topwork.runs.records import RECIPE
from topwork.saving.model_card import CardFacts

_PATH = re.compile(r"(?<![\w:/.~-])[~/][^\s'\",}\]]*/([^\s'\",}\]/]*)")


def card_facts(results: Sequence[Mapping[str, Json]], data: DataOptions, root: Path, seed: int) -> CardFacts:
    """Return what a run knows for the card of its model; no path of this machine stands in it.

    The metrics are those of the last stage that measured the whole model, unless a later one has changed the model.

    Args:
        results: records of the stages that are done.
        data: of the recipe.
        root: the run folder, which holds the recipe.
        seed: of the run; one without a recipe has not made the model, and its seed is left out.
    """
    recipe = _recipe(root / RECIPE)
    measured = _measured(results)
    removals = [record["result"]["removal"] for record in results if record["result"].get("removal")]
    return CardFacts(
        metrics={key: value for key, value in measured.get("metrics", {}).items() if isinstance(value, int | float)},
        errors={
            key: value
            for key, value in (measured.get("standard_errors") or {}).items()
            if isinstance(value, int | float) and measured["metrics"].get(key) is not None
        },
        role=measured.get("role"),
        rows=measured.get("rows"),
        data=_sources(data),
        removals=removals,
        recipe=recipe,
        seed=None if recipe is None else seed,
    )


def _measured(results: Sequence[Mapping[str, Json]]) -> Mapping[str, Json]:
    for record in reversed(results):
        result: Mapping[str, Json] = record["result"]
        if result.get("metrics") and result.get("measures") == "model":
            return result
        if result.get("change"):
            break
    return {}


def _sources(data: DataOptions) -> dict[str, dict[str, str]]:
    """Return where the rows of each role come from; of a file only its name."""
    sources = {}
    for role in ("train", "calibrate", "evaluate"):
        options = getattr(data, role, None)
        entry = {key: getattr(options, key, None) for key in ("path", "name", "split")}
        if isinstance(entry["path"], list):
            entry["path"] = ", ".join(Path(path).name for path in entry["path"])
        elif entry["path"] and (exists(Path(entry["path"]).expanduser()) or Path(entry["path"]).is_absolute()):
            entry["path"] = Path(entry["path"]).name
        elif options is not None and not entry["path"]:
            entry["path"] = "cut from the training rows"
        known = {key: str(value) for key, value in entry.items() if value}
        if known:
            sources[role] = known
    return sources


def _recipe(file: Path) -> str | None:
    """Return the recipe of a run with the names of files in the place of absolute paths."""
    if not file.is_file():
        return None
    return _PATH.sub(lambda match: match[1], file.read_text(encoding="utf-8"))
