"""A run folder whose page has everything that reacts, with hostile texts in it: shared by the tests in a browser."""

from __future__ import annotations

import base64
import random
import struct
import wave
from pathlib import Path

import report_run

from topwork_report.page import write_page

EVIL = "</script><img src=x onerror=\"console.log('run')\">\u2028'\""
MAPS = {"layers": [{"path": "encoder.0", "number": 0, "heads": 2, "kept": [0, 1], "entropy": [0.5, 0.7]}],
        "head_maps": [{"key": "entropy", "title": "Entropy"}]}  # fmt: skip
WORDS = ["[CLS]", EVIL, "film", "[SEP]"]


def packed(weights: list[list[list[float]]], group: str, axes: tuple[int, int]) -> dict:
    """Weights [heads][queries][keys] in 8 bits, each query on the scale of its largest weight."""
    scales = [round(65535 * max(line)) for head in weights for line in head]
    lines = [line for head in weights for line in head]
    data = bytes(round(255 * value / (scale / 65535)) for line, scale in zip(lines, scales) for value in line)
    return {
        "group": group, "number": 0, "path": f"{group}.0", "indices": list(range(len(weights))),
        "queries": axes[0], "keys": axes[1],
        "shape": [len(weights), len(weights[0]), len(weights[0][0])],
        "weights": base64.b64encode(data).decode(),
        "scale": base64.b64encode(struct.pack(f"<{len(scales)}H", *scales)).decode(),
    }  # fmt: skip


def write_clip(file: Path, samples: list[int]) -> None:
    """A WAV file of 8000 samples a second."""
    with wave.open(str(file), "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(8000)
        clip.writeframes(struct.pack(f"<{len(samples)}h", *samples))


def sharp(heads: int, queries: int, keys: int) -> list[list[list[float]]]:
    """Attention head h looks from query q at key q + h alone."""
    return [[[float(key == (query + head) % keys) for key in range(keys)] for query in range(queries)]
            for head in range(heads)]  # fmt: skip


def axes() -> dict[str, dict]:
    """Descriptions of positions: tokens, a target's tokens, patches of an image, queries with boxes, points, frames."""
    side = report_run.SIDE
    boxes = [[0, EVIL, 0.25, [0.1, 0.2, 0.5, 0.9]], [1, "cat", 0.75, [0.5, 0.25, 1, 0.75]]]
    return {
        "tokens": {"names": WORDS, "special": [0, 3], "shown": 4, "length": 4},
        "target": {"names": ["<s>", "ein", "Film"], "special": [], "shown": 3, "length": 3},
        "patches": {"grid": [side, side], "special": [0], "shown": side**2 + 1, "length": side**2 + 1, "merged": 1},
        "queries": {"name": "target", "special": [], "shown": 2, "length": 2, "boxes": boxes},
        "points": {"name": "positions", "special": [], "shown": 3, "length": 3},
        "frames": {"name": "input", "frames": True, "seconds": 0.1, "shown": 4, "length": 4, "special": [],
                   "merged": 1},
    }  # fmt: skip


def write_attention(folder: Path) -> None:
    """Write `attention.json` of a stage: rows of a text, of an image with boxes, and of a clip."""
    known, side = axes(), report_run.SIDE
    report_run.digit("3").save(folder / "1.png")
    heads = [packed(sharp(2, 4, 4), "encoder", (0, 0)), packed(sharp(2, 3, 4), "cross", (1, 0))]
    text = {"row": 0, "caption": EVIL, "names": WORDS, "layers": [{"number": 0, "weights": sharp(1, 4, 4)[0]}],
            "axes": [known["tokens"], known["target"]], "heads": heads}  # fmt: skip
    flat = [1 / side**2] * side**2
    image = {"row": 1, "image": "1.png", "grid": [side, side], "names": [], "layers": [{"number": 0, "weights": flat}],
             "axes": [known["patches"], known["queries"], known["points"]],
             "heads": [packed(sharp(2, side**2 + 1, side**2 + 1), "encoder", (0, 0)),
                       packed(sharp(2, 2, side**2 + 1), "cross", (1, 0)),
                       packed(sharp(2, 2, 3), "sampled", (1, 2))]}  # fmt: skip
    write_clip(folder / "clip.wav", [0] * 800 + [20000, -20000] * 400)
    clip = {"row": 2, "audio": "clip.wav", "names": [], "layers": [{"number": 0, "weights": [0.25] * 4}],
            "axes": [known["frames"]], "heads": [packed(sharp(2, 4, 4), "encoder", (0, 0))]}  # fmt: skip
    report_run.write(folder / "attention.json", {"rows": [text, image, clip]})


def write_pruning(root: Path) -> None:
    """Write a stage with curves beside a band of random choices, what each layer has left, and a map of heads."""
    steps = [0, 2, 4]
    band = [[step, 0.8 - step / 10, 0.9 - step / 20] for step in steps]
    left = [{"path": f"encoder.{number}", "unit": "attention heads", "before": 2, "after": 1 + number}
            for number in range(2)]  # fmt: skip
    left.append({"path": "encoder.0.mlp", "unit": "neurons", "before": 8, "after": 5})
    removal = {"how": "pruned", "unit": "attention heads", "before": 4, "after": 3, "by_layer": left}
    points = [{"x": 0.1 + head, "y": 0.2, "name": f"{EVIL} head {head}", "short": f"0-{head}", "group": head,
               "path": "encoder.0", "head": head} for head in range(2)]  # fmt: skip
    report_run.stage(root, 13, "curve", 1.0, {
        "removal": removal,
        "curves": [{"title": "F1 by heads removed", "x": "heads removed", "bands": {"random": band}, "series": {
            "chosen": [[step, 0.95 - step / 100] for step in steps], "random": [[x, low] for x, low, _ in band]}}],
        "point_maps": [{"title": "Heads by Jensen-Shannon distance", "points": points}],
        "tables": {"by_share": [{"eval_f1": 0.5, "n_heads": 3}],
                   "wide": [{f"share of {word} {word}": 0.12345 for word in "abcdefghijklmno"}]},
    })  # fmt: skip


def write_predictions(root: Path) -> None:
    """Write the table of predictions of the first evaluation: 60 lines, the first eight of them drawn."""
    chance = random.Random(0)
    lines = [{"row": at, "index": at, "caption": EVIL, "text": f"{at} {EVIL}", "badness": chance.random(),
              "picture": at if at < 8 else None,
              "facts": {"truth": str(at % 10), "prediction": str(at % 9), EVIL: EVIL, "domain": "ab"[at % 2],
                        "length": at, "confidence": 1 / (at + 1), "loss": at / 60}} for at in range(60)]  # fmt: skip
    table = {"order": "loss, largest first", "rows": 360, "predictions": lines}
    report_run.write(root / "stages/02-evaluate/predictions.json", table)


def write_many_labels(root: Path) -> None:
    """Write an evaluation with more labels than a confusion matrix is drawn for, and a few of its predictions."""
    labels = [f"label {number}" for number in range(70)]
    counts = [[int(prediction == truth) for prediction in range(70)] for truth in range(70)]
    counts[3][4], counts[5][6] = 2, 1
    folder = report_run.stage(
        root, 14, "evaluate", 1.0, {"tables": {"confusion": {"labels": labels, "counts": counts}}}
    )
    pairs = [(3, 4), (5, 6), (3, 4), (7, 7)]
    lines = [{"row": row, "index": row, "caption": "", "badness": 1.0, "picture": None,
              "facts": {"truth": labels[truth], "prediction": labels[prediction]}}
             for row, (truth, prediction) in enumerate(pairs)]  # fmt: skip
    report_run.write(folder / "predictions.json", {"order": "", "rows": 4, "predictions": lines})


def make_page(root: Path) -> Path:
    """Make the run folder and its page; returns the page's file."""
    report_run.make_run(root)
    write_attention(report_run.stage(root, 11, "attention", 1.0, MAPS, role="evaluate"))
    known = axes()
    relevance = [{"row": 0, "axis": known["tokens"],
                  "methods": {"rollout": [0.1, 0.2, 0.3, 0.4], EVIL: [0.0, -1.0, 0.5, 0.0]}},
                 {"row": 1, "axis": known["patches"], "methods": {"rollout": [0.5] * (report_run.SIDE**2 + 1)}},
                 {"row": 2, "axis": known["frames"], "methods": {"rollout": [0.1] * 4}}]  # fmt: skip
    report_run.stage(root, 12, "anything", 1.0, {"relevance": relevance, "role": "evaluate"}, role="evaluate")
    write_pruning(root)
    write_predictions(root)
    write_many_labels(root)
    write_page(root, title=EVIL)
    return root / "report.html"
