"""Rank correlations of attribution patching with exact patches, on small models that are trained here for each task.

`python tests/benchmarks/attribution.py [TASK ...]`. A line for each task: how the estimates of all attention heads
rank those that were patched exactly, with one gradient a row and with ten (`steps: 10`), beside what heads that were
drawn at random do to the scalar. The scalar is the loss of a row, so the line says what it was before the training.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "helpers")]

DEEP: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 8, "hidden_size": 64, "intermediate_size": 128}
BART: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
#: task -> (case of the learning tests, changes of its config, steps of training)
TASKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "text-classification": ("text-classification", DEEP, 25),
    "token-classification": ("token-classification", DEEP, 25),
    "image-classification": ("image-classification", DEEP, 40),
    "audio-classification": ("audio-classification", DEEP, 40),
    "translation": ("translation, bart", {**BART, "decoder_attention_heads": 4}, 150),
    "question-answering": ("question-answering", DEEP, 25),
    "object-detection": ("object-detection", {}, 100),
    "depth-estimation": ("depth-estimation, dense head", {}, 100),
}


def cases() -> dict[str, Any]:
    """Return the cases of the learning tests by name."""
    from learning_audio import CASES as AUDIO
    from learning_text import CASES as TEXT
    from learning_vision import CASES as VISION

    return {**TEXT, **VISION, **AUDIO}


def measure(name: str, noise: float = 0.3, rows: int = 8) -> dict[str, Any]:
    """Train the model of a task, and return the figures of its line."""
    import torch

    import topwork

    label, sizes, steps = TASKS[name]
    case = cases()[label]
    base = copy.deepcopy(case.base)
    if "config" in base:
        base["config"] |= sizes
    examples = case.rows or topwork.load_plugins().tasks[case.task].example_rows()
    torch.manual_seed(0)
    work = topwork.build(case.task, base, rows=examples, **case.options)
    options: dict[str, Any] = {"noise": noise, "rows": rows}
    before = work.apply("attribution_patching", {"evaluate": examples}, top=1, **options)["metrics"]["scalar"]
    work.apply("train", {"train": examples, "calibrate": examples}, **{**case.training, "steps": steps})
    line: dict[str, Any] = {"before": before}
    for gradients in (1, 10):
        result = work.apply("attribution_patching", {"evaluate": examples}, top=20, steps=gradients, **options)
        metrics = result["metrics"]
        line |= {"heads": result["heads"], "after": metrics["scalar"], "corrupt": metrics["scalar_corrupt"]}
        line |= {f"top {gradients}": metrics["correlation_top"], f"all {gradients}": metrics["correlation_patched"]}
        line |= {"effect": metrics["effect_top"], "random": metrics.get("effect_random")}
    return line


def main(names: list[str]) -> None:
    """Print a line for each task."""
    print(f"{'task':22} heads  -loss before, after, corrupt  top20   all | 10 gradients: top20   all | effect  random")
    for name in names:
        begun = time.process_time()
        line = measure(name)
        random = "none left" if line["random"] is None else f"{line['random']:.3g}"
        print(
            f"{name:22} {line['heads']:5}  {line['before']:6.3f} {line['after']:6.3f} {line['corrupt']:6.3f}"
            f"           {line['top 1']:6.3f} {line['all 1']:6.3f}"
            f" |          {line['top 10']:6.3f} {line['all 10']:6.3f}"
            f" | {line['effect']:.3g}  {random}  ({time.process_time() - begun:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(TASKS))
