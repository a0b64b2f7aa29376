"""What topwork writes as JSON: manifests of model folders, results of stages, the files of a run. `golden.json`.

All keys are kept, and all values but those of `MASKED`: times, sizes of files, versions, and texts that other libraries
write. Numbers were made on a CPU; they are compared with a tolerance.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import topwork
from fences import altered, rows, saved
from fences.models import CASES

MASKED = {
    "sha256",
    "contents",
    "checksum",
    "outputs",
    "begun",
    "seconds",
    "items_per_second",
    "rows_per_second",
    "megabytes",
    "bytes",
    "started",
    "versions",
    "device",
    "kernels",
    "difference",
    "version",
    "topwork",
    "why",
    "form_reason",
    "transformers_version",
}
RELATIVE, ABSOLUTE = 1e-3, 1e-4
#: Digits as they are, 8 x 8: where a CPU has no AVX2, torch scales images to other grey values, one level apart.
UNSCALED = ["base.config.image_size=8", "base.config.patch_size=2"]
#: recipe -> overrides that make it short; `precision` because "auto" depends on the device
RUNS: dict[str, list[str]] = {
    "quickstart": [
        "base.config.num_hidden_layers=2",
        *UNSCALED,
        "stages.0.train={steps: 2, batch_size: 8, precision: float32}",
        "stages.1.evaluate={limit: 12, pictures: 2}",
        "stages.attention={rows: 2, overlays: 1}",
        "stages.head_importance.rows=8",
        "stages.prune_heads.compare_random=1",
        "stages.5.evaluate={limit: 12, loss: true, pictures: 0}",
        "stages.6.train={steps: 1, batch_size: 8, precision: float32}",
        "stages.7.evaluate.limit=12",
    ],
    "bertology": [
        "base.config.num_hidden_layers=2",
        *UNSCALED,
        "stages.0.train={steps: 1, batch_size: 8, precision: float32}",
        "stages.1.evaluate={limit: 12, pictures: 0}",
        "stages.attention={rows: 2, overlays: 0}",
        "stages.head_importance={rows: 4, method: taylor}",
        "stages.prune_schedule={metric: 0.01, share: 0.3, step: 0.1, iterative: true, compare_random: 1, limit: 8}",
        "stages.prune_schedule.importance={rows: 4}",
        "stages.5.evaluate={limit: 12, pictures: 0}",
    ],
}
#: the stages, and forms of results, that those recipes do not have
STAGES: list[Any] = [
    {"train": {"epochs": 2, "batch_size": 2, "precision": "float32", "evaluate_every": "epoch", "keep": "best"}},
    {"head_ablation": {"tables": ["one_removed"]}},
    {"head_importance": {"method": "entropy", "rows": 4}},
    {"mask_heads": {"heads": {0: [1]}}},
    {"prune_heads": {"heads": {1: [0, 2]}}},
    {"prune_schedule": {"share": 0.6, "step": 1, "prune": False, "evaluate": True, "compare": ["random", "taylor"]}},
    "predict",
    "save",
    "report",
]
MANIFESTS = [
    "speech wav2vec2",
    "detection DetrHead on convnext",
    "summarization shared pair",
    "translation pair",
    "translation SourceEncoder",
]


def masked(value: Any) -> Any:
    """JSON without what differs from machine to machine; of the config of a base only its type."""
    if isinstance(value, list):
        return [masked(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if set(value) > {"model_type", "transformers_version"}:
        return {"model_type": value["model_type"]}
    return {key: "..." if key in MASKED else masked(entry) for key, entry in value.items()}


def manifests() -> dict[str, Any]:
    """The manifests of altered models, and of models with several tokenizers or bases."""
    made = {**{name: CASES[name].build for name in MANIFESTS}, **altered.WORKS}
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, make in made.items():
            folder = Path(temporary) / name
            make().save(folder)
            found[name] = masked(json.loads((folder / "topwork.json").read_text(encoding="utf-8")))
        topwork.save_pretrained(altered.plain(), Path(temporary) / "plain")
        found["plain"] = masked(json.loads((Path(temporary) / "plain" / "topwork.json").read_text(encoding="utf-8")))
    found["taught"] = {"alterations": topwork.alterations(altered.taught())}
    return found


def runs() -> dict[str, Any]:
    """Records of the stages of short runs, the entries of `run.json`, and which files lie in the run folder."""
    return {name: run(name) for name in [*RUNS, "stages"]}


def run(name: str) -> dict[str, Any]:
    """A shipped recipe made short, or the recipe "stages"."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "run"
        recipe = name if name in RUNS else _recipe(Path(temporary))
        done = topwork.run(recipe, overrides=RUNS.get(name, ()), folder=root, quiet=True)
        files = {
            re.sub(r"\d{4}\.", "0000.", file.relative_to(root).as_posix()) for file in root.rglob("*") if file.is_file()
        }
        facts = json.loads((root / "run.json").read_text(encoding="utf-8"))
        stages = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(root.glob("stages/*/result.json"))]
        predictions = root.glob("stages/*/predictions.jsonl")
        return {
            "run": {**masked(facts), "plugins": "..."},
            "stages": masked(stages),
            "record": sorted(done.results[0]),
            "files": sorted(files),
            "predictions": [json.loads(line) for file in predictions for line in file.read_text("utf-8").splitlines()],
        }


def _recipe(folder: Path) -> dict[str, Any]:
    case = CASES["text-classification bert"]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.of(case.task)), encoding="utf-8")
    data = {role: {"path": str(file)} for role in ("train", "calibrate", "evaluate", "predict")}
    return {"task": case.task, "base": {"config": case.base}, "data": data, "stages": STAGES}


def evaluations() -> dict[str, Any]:
    """The result of the stage `evaluate` for every task."""
    found = {}
    for name in saved.SAVED:
        work = CASES[name].build()
        result = work.apply("evaluate", {"evaluate": rows.of(work.task.name)}, loss=True, pictures=0)
        found[name] = masked(json.loads(json.dumps(result)))
    return found


def differences(known: Any, found: Any, at: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(known, dict) and isinstance(found, dict):
        for key in known.keys() - found.keys():
            yield f"{at}.{key} is gone"
        for key in found.keys() - known.keys():
            yield f"{at}.{key} is new"
        for key in known.keys() & found.keys():
            yield from differences(known[key], found[key], f"{at}.{key}")
    elif isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        for index, (before, now) in enumerate(zip(known, found)):
            yield from differences(before, now, f"{at}[{index}]")
    elif isinstance(known, float) and isinstance(found, float):
        if not math.isclose(known, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"{at} was {known}, is {found}"
    elif type(known) is not type(found) or known != found:
        yield f"{at} was {known!r}, is {found!r}"
