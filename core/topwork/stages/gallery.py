"""Predictions that an evaluation keeps for readers: the worst ones drawn, and a table of many.

Entry point: `Gallery`, which the stage `evaluate` hands each prediction.
"""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.table import row_number
from topwork.files import plain, write_json
from topwork.items import Json, Picture

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.task import Task

_MOST_CHARACTERS = 160
_MOST_SLICES = 6  # columns of a row that the task does not read, kept with its prediction
_LONGEST_CELL = 40  # characters
_VERDICTS = ("right", "wrong", "truth")  # marks of text that a row does not have itself


class Gallery:
    """The worst predictions of an evaluation: `most` of them drawn, `listed` of them with their numbers.

    Rows are ranked by their loss where it is known, else by what the task's `draw` says, else by the task's metric of
    the row alone. Drawing is cheap beside predicting, keeping all images is not.

    Args:
        task: the task.
        most: how many predictions are drawn; 0 keeps nothing.
        listed: how many predictions stand in the table.
        losses: losses of the rows, by index; None where they are not known.
    """

    def __init__(self, task: Task, most: int, listed: int = 0, losses: Mapping[int, float] | None = None) -> None:
        from topwork.task import Task

        self.task, self.most, self.listed, self.losses = task, most, listed, losses
        self._plain = type(task).draw is Task.draw  # a drawing that does not say how bad a prediction is
        self._kept: list[tuple[float, int, Picture]] = []
        self._lines: list[tuple[float, int, dict[str, Json]]] = []
        self._measure = ""
        self._count = 0

    def __call__(self, index: int, row: Any, prediction: Any) -> None:
        """Draw the prediction of a row, and keep it when it is among the worst so far."""
        if not self.most:
            return
        self._count += 1
        picture = self.task.draw(row, prediction)
        badness, self._measure = self._rank(index, row, prediction, picture)
        _keep(self._kept, (badness, -index, picture), self.most)
        if self.listed:
            facts = {name: _brief_fact(value) for name, value in picture.facts.items()}
            loss = None if self.losses is None else self.losses.get(index)
            if loss is not None:
                facts["loss"] = loss if math.isfinite(loss) else None
            line = {"caption": picture.caption[:_MOST_CHARACTERS], "badness": badness, "facts": facts}
            text = _own_text(picture)
            line["text"] = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
            _keep(self._lines, (badness, -index, line), self.listed)

    def _rank(self, index: int, row: Any, prediction: Any, picture: Picture) -> tuple[float, str]:
        """Return how bad a prediction is, and what that number measures."""
        if self.losses is not None and index in self.losses:
            loss = self.losses[index]
            return loss if math.isfinite(loss) else 0.0, "loss, largest first"
        if not self._plain:
            return float(picture.badness), f"{picture.measure}, largest first" if picture.measure else ""
        metric = self.task.metric()
        metric.update(row, prediction)
        value = metric.primary_value()
        name = metric.primary.replace("_", " ")
        if not math.isfinite(value):
            value = 0.0
        if metric.higher_is_better:
            return -value, f"{name} of the row alone, lowest first"
        return value, f"{name} of the row alone, largest first"

    def state(self) -> dict[str, Any]:
        """Return what was kept so far, for `restore`: numbers, texts, bytes and collections of them."""
        kept = [(badness, index, _stored(picture)) for badness, index, picture in self._kept]
        return {"kept": kept, "lines": self._lines, "measure": self._measure, "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what another gallery of the same task had kept."""
        self._kept = [(badness, index, _restored(picture)) for badness, index, picture in state["kept"]]
        self._lines, self._measure, self._count = state["lines"], state["measure"], state["count"]

    def write(self, run: Run, rows: Any) -> None:
        """Write pictures.json with pictures/0001.png and 0001.wav ..., and predictions.json, of all processes."""
        drawn = _worst(run.process.gather(self._kept), self.most)
        lines = _worst(run.process.gather(self._lines), self.listed)
        count = sum(run.process.gather(self._count))
        measures = [measure for measure in run.process.gather(self._measure) if measure]
        if not run.process.main or not drawn:
            return
        folder = Path(run.folder)
        positions = {-index: position for position, (_, index, _) in enumerate(drawn)}
        write_json(folder / "pictures.json", [_written(folder, rows, ranked, at) for at, ranked in enumerate(drawn)])
        if lines:
            role = getattr(rows, "role", None)
            indices = [-index for _, index, _ in lines]
            cells = run.roles.further_cells(role, indices, _MOST_SLICES) if role else [{} for _ in lines]
            table = [
                {
                    "row": row_number(rows, -index),
                    "index": -index,
                    **_sliced(line, more),
                    "picture": positions.get(-index),
                }
                for (_, index, line), more in zip(lines, cells, strict=True)
            ]
            order = measures[0] if measures and lines[0][0] != lines[-1][0] else ""
            write_json(folder / "predictions.json", {"order": order, "rows": count, "predictions": table})


def _sliced(line: dict[str, Any], cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the table with short cells of columns that the task does not read: readers slice by them."""
    plain_cells = {
        str(name): value
        for name, value in cells.items()
        if isinstance(value, bool | int | float | str) and len(str(value)) <= _LONGEST_CELL
    }
    further = {name: _brief_fact(value) for name, value in plain_cells.items() if name not in line["facts"]}
    return {**line, "facts": {**line["facts"], **further}}


def _stored(picture: Picture) -> dict[str, Any]:
    """Return a picture with its image as the bytes of a PNG."""
    fields = {**vars(picture), "text": [tuple(piece) for piece in picture.text], "facts": {}}
    if picture.image is not None:
        content = io.BytesIO()
        picture.image.save(content, "PNG")
        fields["image"] = content.getvalue()
    return fields


def _restored(fields: Mapping[str, Any]) -> Picture:
    """Return the picture that `_stored` took apart; its facts stand in the lines of the table."""
    from PIL import Image

    image = None if fields["image"] is None else Image.open(io.BytesIO(fields["image"]))
    return Picture(**{**fields, "image": image})


def _keep(heap: list[Any], ranked: tuple[float, int, Any], most: int) -> None:
    """Put an entry on the heap of the `most` worst, if it is one of them."""
    if len(heap) < most:
        heapq.heappush(heap, ranked)
    elif ranked[:2] > heap[0][:2]:
        heapq.heapreplace(heap, ranked)


def _worst(gathered: list[Any], most: int) -> list[Any]:
    """Return the worst of all processes, the worst first."""
    return sorted((ranked for kept in gathered for ranked in kept), key=lambda ranked: ranked[:2], reverse=True)[:most]


def _own_text(picture: Picture) -> str:
    """Return the text of a row without the truth and the prediction behind it, which stand among its facts as well."""
    pieces = [(str(text), mark) for text, mark in picture.text]
    if {"truth", "prediction"} <= picture.facts.keys():
        while pieces and (pieces[-1][1] in _VERDICTS or not pieces[-1][0].strip(" ->")):
            pieces.pop()
    return "".join(text for text, _ in pieces)


def _brief_fact(value: Any) -> Json:
    """Return a fact as a plain value of bounded length."""
    try:
        value = plain(value)
    except TypeError:
        value = str(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:_MOST_CHARACTERS]


def _written(folder: Path, rows: Any, ranked: tuple[float, int, Picture], position: int) -> dict[str, Json]:
    """Write the files of a picture, and return its line of pictures.json."""
    badness, index, picture = ranked
    name = f"pictures/{position + 1:04d}"
    if picture.image is not None or picture.audio is not None:
        (folder / "pictures").mkdir(exist_ok=True)
    line: dict[str, Json] = {
        "row": row_number(rows, -index),
        "caption": picture.caption,
        "badness": badness,
        "image": None if picture.image is None else f"{name}.png",
        "text": [list(piece) for piece in picture.text],
    }
    if picture.image is not None:
        picture.image.save(folder / line["image"])
    if picture.audio is not None:
        line["audio"] = f"{name}.wav"
        (folder / line["audio"]).write_bytes(picture.audio)
    return line
