"""Trained models for the benchmark of compression: those of the shipped recipes, and small text encoders.

Entry point: `Trained`. A model is trained as its recipe says and kept in a folder, so that it is trained once.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

import topwork

ROOT = Path(__file__).resolve().parents[2]
MINILM = "compress"
#: the thirteen tasks, each by the recipe that trains it
RECIPES = (
    *("text_classification", "token_classification", "question_answering", "fill_mask", "text_generation"),
    *("summarization", "translation", "image_classification", "image_segmentation", "depth_estimation"),
    *("object_detection", "audio_classification", "automatic_speech_recognition"),
)
#: text encoders from random weights: recipe whose task and rows they have, config, steps
ENCODERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "BERT, 4 x 256": (
        "token_classification",
        {"model_type": "bert", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
        250,
    ),
    "DistilBERT, 3 x 256": (
        "token_classification",
        {"model_type": "distilbert", "dim": 256, "n_layers": 3, "n_heads": 8, "hidden_dim": 1024},
        250,
    ),
}


class Trained:
    """Models by name, trained where the folder does not have them.

    Args:
        folder: where they are kept.
        train: false: only those that the folder has.
    """

    def __init__(self, folder: Path, train: bool = True) -> None:
        self.folder, self.train = folder, train

    def has(self, name: str) -> bool:
        """Return whether there is a model of a name, or it may be trained."""
        return self.train or (self._kept(name) / "model").is_dir()

    def _kept(self, name: str) -> Path:
        return self.folder / name.replace(" ", "").replace(",", "-")

    def model(self, name: str) -> Any:
        """Return the trained model of a recipe, or of one of `ENCODERS`."""
        kept = self._kept(name)
        if not (kept / "model").is_dir():
            recipe = recipe_of(name)
            recipe["stages"] = [recipe["stages"][0], "save"]
            recipe["data"].pop("calibrate", None)
            done = topwork.run(recipe, folder=kept / "run", quiet=True)
            Path(str(done.model_folder)).rename(kept / "model")
        return topwork.load(kept / "model")

    def rows(self, name: str, work: Any) -> tuple[Any, Any]:
        """Return rows to calibrate on, which are training rows, and rows that nothing was fitted to."""
        data = recipe_of(name)["data"]
        specs = [dict(data[role]) for role in ("train", "evaluate")]
        train, held = (work.plugins.load_rows(topwork.RowsOptions.model_validate(spec)) for spec in specs)
        return train.shuffle(seed=0), held


def recipe_of(name: str) -> dict[str, Any]:
    """Return the recipe of a name, as a dict."""
    base, config, steps = ENCODERS.get(name, (name, None, 0))
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / f"{base}.yaml").read_text())
    if name == MINILM:
        recipe["task"]["max_length"] = 128  # texts of the wall times; no word has more than 16 tokens
    if config is not None:
        recipe["base"] = {"config": config}
        recipe["stages"][0]["train"] |= {"steps": steps, "learning_rate": 5.0e-4}
    return recipe


def first(rows: Any, count: int) -> Any:
    """Return at most so many rows."""
    return rows.select(range(min(count, len(rows))))


def copied(work: Any) -> Any:
    """Return a task with a copy of its model."""
    small = copy.copy(work)
    small.model = copy.deepcopy(work.model)
    return small
