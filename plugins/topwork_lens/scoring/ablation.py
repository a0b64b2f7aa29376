"""The two ablation tables of Michel, Levy and Neubig (2019), measured by masking; the model stays unchanged.

Entry points: `ablate` (one attention head removed, their table 1; all but one removed in one layer, their table 2) and
`summary`.
"""

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
    one_removed: bool = True,
    all_but_one: bool = True,
    progress: Callable[[list[Any]], Any] = iter,
) -> dict[str, Json]:
    """Measure the metric, and its change for each masked attention head.

    Args:
        model: the model.
        layers: the layers whose attention heads are masked.
        measure: returns the metric of the model in its present state.
        one_removed: fill the table with single attention heads masked.
        all_but_one: fill the table with single attention heads left in their layer.
        progress: wraps the list of layers.

    Returns:
        "metric": the metric of the unmasked model; "layers": an entry a layer with the changes "one_removed" and
        "all_but_one", a list by original number with None for pruned attention heads.
    """
    baseline = measure()
    layer_tables = []
    for (group, number), layer in progress(list(numbered(layers).items())):
        kept = layer.kept
        layer_table: dict[str, Json] = {"group": group, "number": number, "side": layer.side, "kind": layer.kind}
        layer_table |= {"path": layer.path, "heads": layer.heads, "kept": list(kept)}
        for table_name, is_wanted in (("one_removed", one_removed), ("all_but_one", all_but_one)):
            if not is_wanted:
                continue
            changes: list[float | None] = [None] * layer.heads
            for head in kept:
                masked = [head] if table_name == "one_removed" else [other for other in kept if other != head]
                with gated(model, {layer.path: (layer, factors_of(layer, masked))}):
                    changes[head] = measure() - baseline
            layer_table[table_name] = changes
        layer_tables.append(layer_table)
    return {"metric": baseline, "layers": layer_tables}


def summary(table: dict[str, Json], higher_is_better: bool) -> dict[str, Json]:
    """Summarise the tables of `ablate`; changes are positive where the metric gets better.

    Returns:
        "metric"; "heads", "removable_alone" (change of at most 1 % of the metric), "worst" and "best" change of one
        removed attention head; "layers_fine_with_one": layers that do as well with their best attention head alone.
    """
    sign = 1 if higher_is_better else -1
    singles = [x * sign for layer in table["layers"] for x in layer.get("one_removed", ()) if x is not None]
    best_alone = [
        max(x * sign for x in layer["all_but_one"] if x is not None)
        for layer in table["layers"]
        if any(x is not None for x in layer.get("all_but_one", ()))
    ]
    result: dict[str, Json] = {"metric": table["metric"]}
    if singles:
        harmless = sum(change >= -0.01 * abs(table["metric"]) for change in singles)
        result |= {"heads": len(singles), "removable_alone": harmless, "worst": min(singles), "best": max(singles)}
    if best_alone:
        result["layers_fine_with_one"] = sum(change >= -0.01 * abs(table["metric"]) for change in best_alone)
    return result
