"""Runs that several processes do together under FSDP2: `accelerate launch --use_fsdp ... sharded_runs.py FOLDER`.

FOLDER/whole is a run to its end, FOLDER/stopped one that ends in the middle of its training, and FOLDER/taken is a run
that one process ended in the middle, which goes on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import topwork
from topwork import hookimpl
from topwork.system.signals import Stopped, requests

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BASE = {"config": {"model_type": "bert", **SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
#: with more rows than two processes can share evenly, all of them in each step
ROWS = 9
STOP = 3


class StopsAt:
    """Asks the run to end after a step, as a signal does."""

    @hookimpl
    def step_logged(self, run: Any, stage: Any, step: int, numbers: Any) -> None:
        """Ask for the end once the step was done."""
        if step == STOP:
            requests.pending = "SIGTERM"


def recipe(folder: Path) -> dict[str, Any]:
    """Return a recipe that trains, prunes and trains again, with its rows in the folder."""
    words = ["good", "fine", "kind", "warm", "bad", "cold", "dull", "weak", "odd"]
    rows = [{"text": " ".join(words[index:] + words[:index]), "label": "ab"[index % 2]} for index in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"batch_size": 16, "learning_rate": 1e-3, "steps": 6, "checkpoint_every": "epoch"}
    first = {**train, "evaluate_every": "epoch", "keep": "best", "freeze": ["*embeddings*"]}
    stages = [{"train": first}, "head_importance", {"prune_heads": {"share": 0.25}}, {"train": train}]
    data = {role: str(folder / "rows.jsonl") for role in ("train", "calibrate", "evaluate")}
    stages += [{"evaluate": {"loss": True}}, "save"]
    return {"task": "text-classification", "base": BASE, "data": data, "stages": stages}


def stopped(folder: Path, root: Path) -> None:
    """Begin a run that ends in the middle of its first training, with a checkpoint."""
    plugins = topwork.load_plugins(extra=[StopsAt()])
    try:
        topwork.run(recipe(folder), folder=root, quiet=True, plugins=plugins)
    except Stopped:
        return
    raise SystemExit("the run was not stopped")


def main(folder: Path) -> None:
    """Do the three runs."""
    topwork.run(recipe(folder), folder=folder / "whole", quiet=True)
    stopped(folder, folder / "stopped")
    topwork.resume(folder / "taken", quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
