"""A run folder as the quickstart leaves it, and a reader of pages: shared by the tests of the page.

The folder is made up, but each file has the shape that its stage writes.
"""

from __future__ import annotations

import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image, ImageDraw

LAYERS, HEADS, SIDE = 4, 6, 7
REMOVED = {0: [1, 4], 1: [0], 2: [2, 3, 5], 3: [1, 2]}
LABELS = [str(digit) for digit in range(10)]
ATTENTION_MAPS = [
    {"key": "entropy", "title": "Entropy", "note": "nats; low: sharp, high: spread out", "fitted": True},
    {"key": "distance", "title": "Attention distance", "note": "in positions or patches", "fitted": True},
    {"key": "special", "title": "On special positions", "note": "share"},
]
SCORE_MAPS = [{"key": "scores", "title": "Importance of the attention heads (michel)", "crossed": True}]
VOID = {"meta", "img", "br", "link", "input", "hr"}


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def stage(root: Path, position: int, name: str, seconds: float, result: dict, **options: object) -> Path:
    folder = root / "stages" / f"{position:02d}-{name}"
    record = {"stage": name, "index": position - 1, "folder": f"stages/{folder.name}", "seconds": seconds}
    write(folder / "result.json", {**record, "options": options, "result": result})
    return folder


def digit(text: str, side: int = 28) -> Image.Image:
    """A white digit on black, as a stand-in for a scanned one."""
    image = Image.new("L", (side, side), 0)
    ImageDraw.Draw(image).text((side * 0.28, side * 0.02), text, fill=255, font_size=side * 0.85)
    return image


def history(steps: int, start: float, chance: random.Random) -> list[dict]:
    lines: list[dict] = []
    for step in range(10, steps + 1, 10):
        loss = 0.05 + start * math.exp(-step / 90) * (1 + chance.uniform(-0.12, 0.12))
        lines.append({"step": step, "loss": loss, "learning_rate": 1e-3 * (1 - step / steps), "epoch": step / 45})
        if step % 50 == 0:
            accuracy = 1 - 0.55 * math.exp(-step / 70)
            lines.append({"step": step, "eval_loss": loss * 1.15, "eval_accuracy": accuracy})
    return lines


def evaluation(accuracy: float, chance: random.Random) -> dict:
    wrong = round(36 * (1 - accuracy))
    counts = [[0] * 10 for _ in range(10)]
    for truth in range(10):
        counts[truth][truth] = 36 - wrong
        for _ in range(wrong):
            counts[truth][chance.choice([other for other in range(10) if other != truth])] += 1
    rows = [[name, accuracy - 0.01, accuracy + 0.004, accuracy, 36] for name in LABELS]
    tables = {
        "per_label": {"columns": ["label", "precision", "recall", "f1", "support"], "rows": rows},
        "confusion": {"labels": LABELS, "counts": counts},
    }
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.0012}
    return {"metrics": metrics, "primary": "accuracy", "higher_is_better": True, "measures": "model",
            "role": "evaluate", "tables": tables, "rows": 360, "rows_per_second": 812.4, "skipped": 0,
            "skipped_rows": []}  # fmt: skip


def path(number: int) -> str:
    return f"encoder.layer.{number}.attention"


def layer(number: int, **more: object) -> dict:
    return {"path": path(number), "heads": HEADS, "number": number, "side": "encoder", "kind": "self", **more}


def attention(root: Path, position: int, chance: random.Random) -> None:
    folder = root / "stages" / f"{position:02d}-attention"
    rows = []
    for row, name in enumerate("38"):
        image = f"rows/{row + 1:04d}.png"
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        digit(name).save(folder / image)
        small = digit(name).resize((SIDE, SIDE))
        views = []
        for number in range(LAYERS):
            ink = [pixel / 255 for pixel in small.tobytes()]
            weights = [value ** (1 + number) + chance.random() * 0.2 for value in ink]
            views.append({"number": number, "group": "encoder", "path": path(number), "weights": weights})
        rows.append({"row": row * 11, "image": image, "grid": [SIDE, SIDE], "names": [], "layers": views})
    words = ["[CLS]", "a", "quiet", ",", "moving", "film", "[SEP]"]
    matrix = [[math.exp(-abs(one - two)) for two in range(len(words))] for one in range(len(words))]
    text = [{"number": 0, "weights": matrix}, {"number": 3, "weights": [chance.random() ** 3 for _ in words]}]
    rows.append({"row": 5, "image": None, "grid": None, "names": words, "layers": text})
    measured = [
        layer(
            number,
            kept=list(range(HEADS)),
            entropy=[3.8 - number * 0.5 - chance.random() for _ in range(HEADS)],
            distance=[0.2 + 0.1 * number + chance.random() * 0.3 for _ in range(HEADS)],
            special=[chance.random() ** 3 for _ in range(HEADS)],
        )
        for number in range(LAYERS)
    ]
    result = {"rows": 3, "entropy": 2.54, "layers": measured, "head_maps": ATTENTION_MAPS}
    stage(root, position, "attention", 3.1, result, rows=3)
    write(folder / "attention.json", {"layers": measured, "rows": rows})


def pruning(root: Path, position: int) -> None:
    beside = {"random_accuracy": 0.7194, "masked_accuracy": 0.9389}
    before, after = LAYERS * HEADS, LAYERS * HEADS - sum(map(len, REMOVED.values()))
    layers = [
        {
            "path": path(number),
            "form": "hard",
            "heads": HEADS,
            "kept": [head for head in range(HEADS) if head not in cut],
        }
        for number, cut in REMOVED.items()
    ]
    result = {
        "removed": {path(number): cut for number, cut in REMOVED.items()},
        "heads_before": before,
        "heads_after": after,
        "parameters_before": 136394,
        "parameters_after": 111562,
        "layers": layers,
        "check": {"difference": 2.4e-7, "tolerance": 1.0e-5, "effect": 0.31, "proves": True, "layers": {
            path(number): {"difference": 1.1e-7, "tolerance": 1.0e-5, "effect": 0.2, "proves": True}
            for number in range(LAYERS)}},
        "change": "pruning",
        "removal": {
            "how": "pruned",
            "unit": "attention heads",
            "before": before,
            "after": after,
            "parameters_before": 136394,
            "parameters_after": 111562,
            "heads": {path(number): cut for number, cut in REMOVED.items()},
        },
        "random_baseline": {
            "draws": 3,
            "role": "evaluate",
            "metrics": {"accuracy": 0.7194},
            "each": [{"accuracy": value} for value in (0.6984, 0.7512, 0.7086)],
            "chosen": {"accuracy": 0.9389},
        },
        "random": {"draws": 3, "values": [0.6984, 0.7512, 0.7086], **beside},
        **beside,
    }  # fmt: skip
    stage(root, position, "prune_heads", 1.9, result, share=1 / 3)


def make_run(root: Path) -> Path:
    """A run folder as the quickstart leaves it, and a stage of a third party at its end."""
    chance = random.Random(0)
    versions = {"python": "3.11.2", "topwork": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0"}
    about = {"name": "quickstart", "task": "image-classification", "seed": 0, "versions": versions, "device": "cpu",
             "started": "2026-02-14T09:30:11+0000", "processes": 1}  # fmt: skip
    write(root / "run.json", about)
    write(
        root / "recipe.yaml",
        "task: {name: image-classification}\nbase:\n  config: {model_type: vit}\n  head: keep\nseed: 0\n",
    )
    stage(
        root,
        1,
        "train",
        61.2,
        {"change": "training", "steps": 400, "loss": 0.3121, "history": history(400, 2.3, chance)},
        epochs=9,
    )
    folder = stage(root, 2, "evaluate", 1.2, evaluation(0.9722, chance), role="evaluate")
    cards = []
    (folder / "pictures").mkdir()
    for place in range(8):
        image = f"pictures/{place + 1:04d}.png"
        digit(LABELS[place + 1], 700 if place == 0 else 32).save(folder / image)
        cards.append({"row": place * 7, "caption": f"truth {place + 1}, predicted {place} (0.9{place})",
                      "badness": 3.0 - place / 4, "image": image, "text": []})  # fmt: skip
    write(folder / "pictures.json", cards)
    attention(root, 3, chance)
    scores = [
        layer(number, kept=list(range(HEADS)), scores=[
            0.0006 * chance.random() if head in REMOVED[number] else 0.002 + 0.009 * chance.random()
            for head in range(HEADS)])
        for number in range(LAYERS)
    ]  # fmt: skip
    importance = {"method": "michel", "rows": 200, "normalise": "layer", "layers": scores, "head_maps": SCORE_MAPS}
    stage(root, 4, "head_importance", 4.4, importance, method="michel")
    pruning(root, 5)
    stage(root, 6, "evaluate", 1.1, evaluation(0.9389, chance), role="evaluate")
    stage(
        root,
        7,
        "train",
        14.8,
        {"change": "training", "steps": 120, "loss": 0.0921, "history": history(120, 0.4, chance)},
        epochs=2,
    )
    stage(root, 8, "evaluate", 1.1, evaluation(0.9667, chance), role="evaluate")
    stage(root, 9, "save", 0.2, {"folder": "stages/09-save/model", "bytes": 452112, "native": False})
    stage(root, 10, "energy", 5.0, {
        "joules": 812.25, "meter": "rapl",
        "phases": [{"phase": "warm <up>", "joules": 12.5}, {"phase": "go", "joules": 799.75}],
        "hosts": {"a": {"watts": 41.5, "cores": 2}}, "deep": {"one": {"two": 3, "three": [1, 2]}}})  # fmt: skip
    return root


class Reader(HTMLParser):
    """Collects text, attributes and exact values of the page, and holds that its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.values: list[float] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if tag == "data":
            self.values.append(float(found["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(value in found.get(key.rstrip("_"), "").split() for key, value in wanted.items())
            for name, found in self.tags
        )


def page(root: Path, **options: object) -> Reader:
    """Make the page and read it."""
    from topwork_report.page import write_page

    write_page(root, **options)  # type: ignore[arg-type]
    return Reader((root / "report.html").read_text(encoding="utf-8"))


def results(root: Path) -> dict[int, dict]:
    """The stages' results by position."""
    files = sorted((root / "stages").glob("*/result.json"))
    return {int(file.parent.name[:2]): json.loads(file.read_text())["result"] for file in files}
