"""The stage `attention`: statistics of every attention head over some rows, and attention weights of a few rows.

The weights (`overlay`) are ready to be drawn over the image or the words by the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import DataError, HasQueryBoxes, Json, Stage, Units, write_json, write_whole
from topwork_lens.head_weights import pack_row

if TYPE_CHECKING:
    import torch

    from topwork import AttentionLayer, Batch, QueryBox, Run
    from topwork_lens.capture.result import Captured
    from topwork_lens.look import Look

_TOKENS = 64
_MAPS: list[Json] = [
    {"key": "entropy", "title": "Entropy", "note": "nats; low: sharp, high: spread out", "fitted": True},
    {"key": "distance", "title": "Attention distance", "note": "in positions or patches", "fitted": True},
    {"key": "special", "title": "On special positions", "note": "share"},
]


class Attention(Stage):
    """Entropy (nats), mean distance (positions or patches) and mass on special positions of every attention head."""

    name: ClassVar[str] = "attention"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "entropy", "distance", "special")

    rows: PositiveInt = Field(8, description="rows that are looked at")
    overlays: NonNegativeInt = Field(4, description="rows whose attention is kept to be drawn: the first ones")
    worst: NonNegativeInt = Field(
        2, description="further rows that are drawn: the worst predictions of the evaluation before, on the same rows"
    )
    head_bytes: NonNegativeInt = Field(
        2_500_000, description="most bytes of the weights of single attention heads, of all rows; 0 keeps none"
    )
    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        layers = look.layers
        tables = Tables(layers)
        overlays: list[dict[str, Json]] = []
        rows = dict(enumerate(first_rows(run.rows(self.role), self.rows)))
        drawn_indices = set(range(min(self.overlays, len(rows))))
        worst = worst_rows(run, self.role, self.worst, without=drawn_indices) if drawn_indices else {}
        drawn_indices |= worst.keys()
        share = self.head_bytes // max(1, len(drawn_indices))
        further = {index: row for index, row in worst.items() if index not in rows}
        for row_index, row in run.progress([*rows.items(), *further.items()], label="attention"):
            items = run.task.encode([row], "predict", run.seed)
            for item in items[:1]:
                units = run.task.units(item)
                batch = run.task.collate([item], "predict").to(run.device)
                is_drawn = row_index in drawn_indices
                captured, parts = capture_attention(look, run, batch, units, is_drawn)
                if row_index in rows:
                    tables.add(captured, units)
                if is_drawn:
                    folder = run.folder if run.process.main else None
                    drawn = overlay(row_index, captured, layers, units, folder)
                    drawn |= described(row_index, row, parts if len(items) == 1 else [], run, units, folder)
                    if share:
                        drawn |= weights_by_head(look, run, row, captured, units, share)
                    overlays.append(drawn)
        statistics = {"layers": tables.json(), "rows": overlays}
        if run.process.main:
            write_json(run.folder / "attention.json", statistics)
        run.process.barrier()
        return {"rows": self.rows, **tables.means(), "layers": statistics["layers"], "head_maps": _MAPS}


def first_rows(rows: Any, count: int) -> list[Any]:
    """Return the first rows of a data set or of anything that can be iterated over."""
    from itertools import islice

    return list(islice(iter(rows), count))


def worst_rows(run: Run, role: str, count: int, *, without: Set[int]) -> dict[int, Any]:
    """Return the rows of the worst predictions of the last evaluation on these rows, by index; at most `count`.

    Args:
        run: that has done the evaluation.
        role: whose rows.
        count: how many.
        without: indices that are left out.
    """
    rows = run.rows(role)
    for record in reversed(run.results):
        file = run.root / record["folder"] / "predictions.json"
        if record["result"].get("role") == role and file.is_file() and isinstance(rows, Sequence):
            listed = json.loads(file.read_text(encoding="utf-8"))["predictions"]
            indices = [line["index"] for line in listed if line["index"] not in without]
            return {index: rows[index] for index in indices[:count]}
    return {}


def capture_attention(
    look: Look, run: Run, batch: Batch, units: Units, with_weights: bool
) -> tuple[Captured, list[Any]]:
    """Capture the statistics of attention during a prediction, and the weights if they are wanted.

    Returns:
        what was captured, and the parts that the task predicted.
    """
    import torch

    special = list(units.special)
    what = ["entropy", "distance", *(["mass"] if special else []), *(["weights"] if with_weights else [])]
    with torch.no_grad(), look.capture(*what, keys=special or None, places=coordinates(units)) as captured:
        parts = run.task.predict(run.model, batch)
    return captured, list(parts)


def weights_by_head(
    look: Look, run: Run, row: Any, captured: Captured, units: Units, most_bytes: int
) -> dict[str, Json]:
    """Return the weights of every attention head on a row, see `pack_row`.

    A decoder that generates reads its own tokens one by one, often several candidates at once; so its weights, and
    those of cross-attention, are captured again while it reads the row's target, where the row has one.

    Args:
        look: at the model.
        run: has the task and the model.
        row: the row.
        captured: weights that were captured during the prediction.
        units: what the positions are.
        most_bytes: that the weights may take.
    """
    import torch

    from topwork_lens.layers.discovery import numbered

    layers = numbered(look.layers)
    by_group, reads = dict.fromkeys((group for group, _ in layers), captured), None
    if "cross" in by_group:
        with suppress(DataError):
            item = run.task.encode([row], "loss", run.seed)[0]
            names = run.task.units(item).target_names
            generates = any(
                len(captured.values.get("weights", {}).get(layer.path, ())) > 1 for layer in layers.values()
            )
            if names or generates:
                batch = run.task.collate([item], "loss").to(run.device)
                with torch.no_grad(), look.capture("weights") as with_target:
                    run.task.row_losses(run.model, batch)
                by_group = {group: captured if group == "encoder" else with_target for group in by_group}
                units, reads = replace(units, target_names=names), "the true target"
    return pack_row(by_group, layers, units, most_bytes, query_boxes(run, row)) | {"decoder": reads}


def query_boxes(run: Run, row: Any) -> Sequence[QueryBox]:
    """Return the boxes that the model's queries give for a row; empty where it has no such queries."""
    import torch

    if not isinstance(run.task, HasQueryBoxes):
        return ()
    items = run.task.encode([row], "predict", run.seed)
    with torch.no_grad():
        return run.task.query_boxes(run.model, run.task.collate(items[:1], "predict").to(run.device))[0]


def described(
    row_index: int, row: Any, parts: list[Any], run: Run, units: Units, folder: Path | None
) -> dict[str, Json]:
    """Return what the task says of a row and its prediction: {"caption", "audio", "spectrogram"}, where it has them.

    Args:
        row_index: index of the row.
        row: the row.
        parts: that were predicted for it; empty where they are not those of the whole row.
        run: has the task.
        units: what the positions are.
        folder: where the clip and its spectrogram are written; None: nowhere.
    """
    if not parts:
        return {}
    picture = run.task.draw(row, run.task.merge(row, parts))
    facts: dict[str, Json] = {"caption": picture.caption}
    name = f"rows/{row_index + 1:04d}"
    if picture.audio is not None:
        facts["audio"] = f"{name}.wav"
        if folder is not None:
            with write_whole(folder / f"{name}.wav") as temporary:
                temporary.write_bytes(picture.audio)
        if picture.image is not None and units.image is None:
            facts["spectrogram"] = f"{name}.png"
            if folder is not None:
                with write_whole(folder / f"{name}.png") as temporary:
                    picture.image.save(temporary, format="PNG")
    return facts


def coordinates(units: Units) -> torch.Tensor | None:
    """Return [positions, 2], row and column of patches, NaN for special positions; None for a sequence."""
    import torch

    if units.grid is None:
        return None
    height, width = units.grid
    special = set(units.special)
    coordinates = torch.full((height * width + len(special), 2), float("nan"), dtype=torch.float64)
    patches = [position for position in range(len(coordinates)) if position not in special]
    for patch, position in enumerate(patches):
        coordinates[position] = torch.tensor([patch // width, patch % width], dtype=torch.float64)
    return coordinates


class Tables:
    """Means over rows of the statistics of each attention head; null where one has no meaning for a layer."""

    NAMES = (("entropy", "entropy"), ("distance", "distance"), ("special", "mass"))

    def __init__(self, layers: list[AttentionLayer]) -> None:
        self.layers = layers
        self.sums: dict[tuple[str, str], tuple[Any, int]] = {}

    def add(self, captured: Captured, units: Units) -> None:
        """Add one row: the mean over its queries that are not padding, and over its forward passes."""
        import torch

        for layer in self.layers:
            valid = captured.values.get("valid", {}).get(layer.path)
            for name, what in self.NAMES:
                calls = captured.values.get(what, {}).get(layer.path)
                if not calls or valid is None:
                    continue
                if name == "special" and (layer.kind == "cross" or layer.form != "dense"):
                    continue
                total, count = torch.zeros(calls[0].shape[1], dtype=torch.float64), 0.0
                for values, mask in zip(calls, valid, strict=True):
                    values = values.double().transpose(0, 1).flatten(1)
                    usable = mask.flatten()[None] & ~values.isnan()
                    total += values.nan_to_num().masked_fill(~usable, 0).sum(-1)
                    count += float(usable[0].sum()) if len(usable) else 0.0
                if count:
                    before, rows = self.sums.get((layer.path, name), (0.0, 0))
                    self.sums[layer.path, name] = (before + total / count, rows + 1)

    def json(self) -> list[dict[str, Json]]:
        """Return an entry a layer; lists have a number for each original attention head, null for pruned ones."""
        from topwork_lens.layers.discovery import numbered

        result = []
        for (_, number), layer in numbered(self.layers).items():
            line: dict[str, Json] = {"path": layer.path, "number": number, "side": layer.side, "kind": layer.kind}
            line |= {"heads": layer.heads, "kept": list(layer.kept)}
            result.append(line | {name: self._by_original_number(layer, name) for name, _ in self.NAMES})
        return result

    def _by_original_number(self, layer: AttentionLayer, name: str) -> list[float | None] | None:
        if (layer.path, name) not in self.sums:
            return None
        total, rows = self.sums[layer.path, name]
        values: list[float | None] = [None] * layer.heads
        for index, head in enumerate(layer.kept):
            values[head] = float(total[index]) / rows
        return values

    def means(self) -> dict[str, Json]:
        """Return the means over all attention heads, for the summary."""
        means: dict[str, Json] = {}
        for name, _ in self.NAMES:
            numbers = [value for layer in self.json() for value in layer[name] or () if value is not None]
            means[name] = sum(numbers) / len(numbers) if numbers else None
        return means


def overlay(
    row_index: int, captured: Captured, layers: list[AttentionLayer], units: Units, folder: Path | None
) -> dict[str, Json]:
    """Return the attention weights of one row, by layer: the mean over attention heads, of the first forward pass.

    For images: weights of the patches, from the class token where there is one, else the mean over all queries. For
    sequences: the matrix [queries][keys] of the first positions.

    Args:
        row_index: index of the row in what was captured.
        captured: the attention weights.
        layers: the layers that are shown.
        units: what the positions are.
        folder: where the image of the row is written; None: nowhere.
    """
    from topwork_lens.layers.discovery import numbered

    special = set(units.special)
    image = None
    if units.image is not None:
        image = f"rows/{row_index + 1:04d}.png"
        if folder is not None:
            with write_whole(folder / image) as temporary:
                units.image.save(temporary, format="PNG")
    by_layer: list[dict[str, Json]] = []
    for (group, number), layer in numbered(layers).items():
        calls = captured.values.get("weights", {}).get(layer.path)
        if not calls or not layer.kept:
            continue
        weights = calls[0][0].float().mean(0)
        shown = _patches(weights, units, special) if units.grid else _rounded(weights[:_TOKENS, :_TOKENS])
        if shown is not None:
            by_layer.append({"number": number, "group": group, "path": layer.path, "weights": shown})
    names = [str(name) for name in list(units.names)[:_TOKENS]]
    grid = list(units.grid) if units.grid else None
    return {"row": row_index, "image": image, "grid": grid, "names": names, "layers": by_layer}


def _patches(weights: torch.Tensor, units: Units, special: set[int]) -> list[float] | None:
    height, width = units.grid or (0, 0)
    if weights.shape[-1] != height * width + len(special) or weights.shape[0] != weights.shape[1]:
        return None
    from_query = weights[min(special)] if special else weights.mean(0)
    return _rounded(from_query[[position for position in range(len(from_query)) if position not in special]], 5)


def _rounded(values: torch.Tensor, digits: int = 3) -> Any:
    def rounded(value: Any) -> Any:
        return [rounded(part) for part in value] if isinstance(value, list) else round(value, digits)

    return rounded(values.tolist())
