"""The stage that looks at attention: entropy, distance and mass of every attention head over some rows, and, for a
few of them, what was attended to, ready to be drawn over the picture or the words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import Json, Stage, Units, write_json, write_whole

if TYPE_CHECKING:
    import torch

    from topwork import AttentionLayer, Batch, Run
    from topwork_lens.capture.result import Captured

_TOKENS = 64


class Attention(Stage):
    """Entropy (nats), mean distance (positions or patches) and mass on special positions of every attention head."""

    name: ClassVar[str] = "attention"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "entropy", "distance", "special")

    rows: PositiveInt = Field(8, description="rows that are looked at")
    overlays: NonNegativeInt = Field(4, description="rows whose attention is kept to be drawn")
    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")

    def reads(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        layers = look.layers
        tables = Tables(layers)
        overlays: list[dict[str, Json]] = []
        for number, row in enumerate(run.progress(first_rows(run.rows(self.role), self.rows), label="attention")):
            for item in run.task.encode([row], "predict", run.seed)[:1]:
                units = run.task.units(item)
                batch = run.task.collate([item], "predict").to(run.device)
                wants = number < self.overlays
                seen = watch(look, run, batch, units, wants)
                tables.add(seen, units)
                if wants:
                    overlays.append(overlay(number, seen, layers, units, run.folder if run.process.main else None))
        found = {"layers": tables.json(), "rows": overlays}
        if run.process.main:
            write_json(run.folder / "attention.json", found)
        run.process.barrier()
        return {"rows": self.rows, **tables.means(), "layers": found["layers"]}


def first_rows(rows: Any, count: int) -> list[Any]:
    """The first rows of a data set or of anything that can be iterated over."""
    from itertools import islice

    return list(islice(iter(rows), count))


def watch(look: Any, run: Run, batch: Batch, units: Units, wants: bool) -> Captured:
    """Predict with the model watched."""
    import torch

    places = coordinates(units)
    special = list(units.special)
    what = ["entropy", "distance", *(["mass"] if special else []), *(["weights"] if wants else [])]
    with torch.no_grad(), look.capture(*what, keys=special or None, places=places) as seen:
        run.task.predict(run.model, batch)
    return seen


def coordinates(units: Units) -> torch.Tensor | None:
    """[positions, 2] of patches, NaN for special positions; None for a sequence."""
    import torch

    if units.grid is None:
        return None
    height, width = units.grid
    special = set(units.special)
    places = torch.full((height * width + len(special), 2), float("nan"), dtype=torch.float64)
    patches = [position for position in range(len(places)) if position not in special]
    for patch, position in enumerate(patches):
        places[position] = torch.tensor([patch // width, patch % width], dtype=torch.float64)
    return places


class Tables:
    """Means over rows of what each attention head does. A number that has no meaning for a layer stays null."""

    NAMES = (("entropy", "entropy"), ("distance", "distance"), ("special", "mass"))

    def __init__(self, layers: list[AttentionLayer]) -> None:
        self.layers = layers
        self.sums: dict[tuple[str, str], tuple[Any, int]] = {}

    def add(self, seen: Captured, units: Units) -> None:
        """Take one row: the mean over its queries that are no padding, and over its forward passes."""
        import torch

        for layer in self.layers:
            valid = seen.found.get("valid", {}).get(layer.path)
            for name, what in self.NAMES:
                calls = seen.found.get(what, {}).get(layer.path)
                if not calls or valid is None:
                    continue
                if name == "special" and (layer.kind == "cross" or layer.form != "dense"):
                    continue
                total, count = torch.zeros(calls[0].shape[1], dtype=torch.float64), 0.0
                for values, good in zip(calls, valid, strict=True):
                    values = values.double().transpose(0, 1).flatten(1)
                    usable = good.flatten()[None] & ~values.isnan()
                    total += values.nan_to_num().masked_fill(~usable, 0).sum(-1)
                    count += float(usable[0].sum()) if len(usable) else 0.0
                if count:
                    before, rows = self.sums.get((layer.path, name), (0.0, 0))
                    self.sums[layer.path, name] = (before + total / count, rows + 1)

    def json(self) -> list[dict[str, Json]]:
        """One entry a layer; a list has one number for each original attention head, null for those that are gone."""
        from topwork_lens.layers.discovery import numbered

        found = []
        for (_, number), layer in numbered(self.layers).items():
            entry: dict[str, Json] = {"path": layer.path, "number": number, "side": layer.side, "kind": layer.kind}
            entry |= {"heads": layer.heads, "kept": list(layer.kept or ())}
            for name, _ in self.NAMES:
                entry[name] = self._spread(layer, name)
            found.append(entry)
        return found

    def _spread(self, layer: AttentionLayer, name: str) -> list[float | None] | None:
        if (layer.path, name) not in self.sums:
            return None
        total, rows = self.sums[layer.path, name]
        values: list[float | None] = [None] * layer.heads
        for position, original in enumerate(layer.kept or ()):
            values[original] = float(total[position]) / rows
        return values

    def means(self) -> dict[str, Json]:
        """The means over all attention heads, for the summary."""
        found: dict[str, Json] = {}
        for name, _ in self.NAMES:
            numbers = [value for layer in self.json() for value in layer[name] or () if value is not None]
            found[name] = sum(numbers) / len(numbers) if numbers else None
        return found


def overlay(
    number: int, seen: Captured, layers: list[AttentionLayer], units: Units, folder: Path | None
) -> dict[str, Json]:
    """What one row's positions attend to, per layer, the mean over its attention heads (of the first forward pass).

    For pictures: weights of the patches, from the class token where there is one, else the mean over all queries. For
    sequences: the matrix [queries][keys] of the first positions.
    """
    from topwork_lens.layers.discovery import numbered

    special = set(units.special)
    image = None
    if units.image is not None:
        image = f"rows/{number + 1:04d}.png"
        if folder is not None:
            with write_whole(folder / image) as temporary:
                units.image.save(temporary, format="PNG")
    found: list[dict[str, Json]] = []
    for (group, index), layer in numbered(layers).items():
        calls = seen.found.get("weights", {}).get(layer.path)
        if not calls or not layer.kept:
            continue
        weights = calls[0][0].float().mean(0)
        shown = _patches(weights, units, special) if units.grid else _rounded(weights[:_TOKENS, :_TOKENS])
        if shown is not None:
            found.append({"number": index, "group": group, "path": layer.path, "weights": shown})
    names = [str(name) for name in list(units.names)[:_TOKENS]]
    grid = list(units.grid) if units.grid else None
    return {"row": number, "image": image, "grid": grid, "names": names, "layers": found}


def _patches(weights: torch.Tensor, units: Units, special: set[int]) -> list[float] | None:
    height, width = units.grid or (0, 0)
    if weights.shape[-1] != height * width + len(special) or weights.shape[0] != weights.shape[1]:
        return None
    from_query = weights[min(special)] if special else weights.mean(0)
    return _rounded(from_query[[position for position in range(len(from_query)) if position not in special]], 5)


def _rounded(values: torch.Tensor, digits: int = 3) -> Any:
    def cut(value: Any) -> Any:
        return [cut(entry) for entry in value] if isinstance(value, list) else round(value, digits)

    return cut(values.tolist())
