"""The two ablation tables of Michel, Levy and Neubig (2019): one attention head removed (their table 1), and all but
one removed in one layer (their table 2). Everything is measured by masking; the model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from topwork import AttentionLayer, Json
from topwork_lens.gates import factors_of, gated
from topwork_lens.layers.discovery import numbered


def ablate(
    model: Any,
    layers: Sequence[AttentionLayer],
    measure: Callable[[], float],
    *,
    one: bool = True,
    all_but_one: bool = True,
    progress: Callable[[list[Any]], Any] = iter,
) -> dict[str, Json]:
    """The metric as it is, and its change for each masked attention head, by original number (None: gone already).

    Args:
        measure: the metric of the model as it is now.
        progress: wraps the list of layers.

    Returns:
        "metric"; "layers": for each its "one_removed" and "all_but_one" changes, and "best_alone": the attention head
        with which the layer does best when it is the only one.
    """
    plain = measure()
    found = []
    for (group, number), layer in progress(list(numbered(layers).items())):
        entry: dict[str, Json] = {"group": group, "number": number, "side": layer.side, "kind": layer.kind}
        entry |= {"path": layer.path, "heads": layer.heads, "kept": list(layer.kept or ())}
        for name, wanted in (("one_removed", one), ("all_but_one", all_but_one)):
            if not wanted:
                continue
            changes: list[float | None] = [None] * layer.heads
            for head in layer.kept or ():
                gone = [head] if name == "one_removed" else [other for other in layer.kept or () if other != head]
                with gated(model, {layer.path: (layer, factors_of(layer, gone))}):
                    changes[head] = measure() - plain
            entry[name] = changes
        found.append(entry)
    return {"metric": plain, "layers": found}


def summary(table: dict[str, Json], higher_is_better: bool) -> dict[str, Json]:
    """Numbers about the tables: how many attention heads can go alone without loss, and the worst and best change;
    how many layers do as well with one attention head alone."""
    sign = 1 if higher_is_better else -1
    singles = [x * sign for entry in table["layers"] for x in entry.get("one_removed", ()) if x is not None]
    alone = [
        max(x * sign for x in entry["all_but_one"] if x is not None)
        for entry in table["layers"]
        if any(x is not None for x in entry.get("all_but_one", ()))
    ]
    found: dict[str, Json] = {"metric": table["metric"]}
    if singles:
        harmless = sum(change >= -0.01 * abs(table["metric"]) for change in singles)
        found |= {"heads": len(singles), "removable_alone": harmless, "worst": min(singles), "best": max(singles)}
    if alone:
        found["layers_fine_with_one"] = sum(change >= -0.01 * abs(table["metric"]) for change in alone)
    return found
