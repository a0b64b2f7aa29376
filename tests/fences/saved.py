"""Model folders that were saved once and must go on loading, and what was recorded of them.

`folders/<name>` is the model folder; `record.json` inside it has rows, their predictions and losses, and
what is known of the alterations. A model without a task has `ids` and `logits` instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import topwork
from fences import altered, rows
from fences.models import CASES

FOLDERS = Path(__file__).with_name("folders")
RECORD = "record.json"
IDS = [[5, 9, 31, 7, 2], [8, 8, 3, 39, 11]]
SAVED = [
    "audio-classification wav2vec2",
    "speech CtcHead on speech_to_text",
    "speech whisper",
    "depth DepthHead linear on vit",
    "fill-mask bert",
    "image-classification timm vit",
    "segmentation DenseHead linear on vit",
    "detection DetrHead on vit",
    "question-answering SpanHead",
    "summarization shared pair",
    "text-classification bert",
    "text-generation gpt2",
    "token-classification TokenHead",
    "translation pair",
    "translation SourceEncoder",
]
#: folder -> how its model was made; the folder of a plain model stands apart
MADE: dict[str, Callable[[], topwork.TaskModel]] = {
    **{name.replace(" ", "-"): CASES[name].build for name in SAVED},
    **{f"pruned-{name.replace('_', '-')}": make for name, make in altered.WORKS.items()},
}
PLAIN = "pruned-plain"


def losses(work: topwork.TaskModel, given: list[dict[str, Any]]) -> list[float]:
    """The loss of each row."""
    batch = work.task.collate(work.task.encode(given, "loss", 0), "loss")
    with torch.no_grad():
        return [float(loss) for loss in work.task.row_losses(work.model, batch)]


def logits(model: Any) -> list[Any]:
    """What a plain model answers to `IDS`."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.float().tolist()


def record(work: topwork.TaskModel) -> dict[str, Any]:
    """Two rows, their predictions and losses, and what is altered in the model."""
    given = rows.of(work.task.name)[:2]
    return {
        "rows": rows.to_json(given),
        "predictions": rows.to_json(list(work.predict(given))),
        "losses": losses(work, given),
        "alterations": topwork.alterations(work.model),
    }


def make_all() -> None:
    """Write every folder again."""
    import shutil

    shutil.rmtree(FOLDERS, ignore_errors=True)
    for name, make in MADE.items():
        work = make()
        work.save(FOLDERS / name)
        _write(name, record(topwork.load(FOLDERS / name)))
    model = altered.plain()
    topwork.save_pretrained(model, FOLDERS / PLAIN)
    _write(PLAIN, {"ids": IDS, "logits": logits(model), "alterations": topwork.alterations(model)})


def _write(name: str, value: Any) -> None:
    (FOLDERS / name / RECORD).write_text(json.dumps(value), encoding="utf-8")
