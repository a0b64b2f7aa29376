"""Rows for `predict_speed.py`: texts of very varied length with what each task wants beside them, and pictures."""

from __future__ import annotations

import random


def texts(count: int) -> list[str]:
    """English texts of very varied length: the lengths are spread evenly on a logarithmic scale, 3 to 180 words."""
    from topwork_bases._python_docs import paragraphs

    draw = random.Random(0)
    words = " ".join(row["text"] for row in paragraphs("test")).split()
    lengths = [round(3 * 60 ** draw.random()) for _ in range(count)]
    starts = [draw.randrange(len(words) - 200) for _ in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths)]


def labelled(count: int) -> list[dict]:
    return [{"text": text, "label": "abc"[number % 3]} for number, text in enumerate(texts(count))]


def questions(count: int) -> list[dict]:
    rows = []
    for whole in texts(count):
        text = " ".join(whole.split()[:110])  # one window each: the plain loop knows no more
        word = text.split()[-1]
        found = {"text": [word], "answer_start": [len(text) - len(word)]}
        rows.append({"question": f"What is said about {text.split()[0]}?", "context": text, "answers": found})
    return rows


def prompts(count: int) -> list[dict]:
    return [{"prompt": text, "completion": " and so on"} for text in texts(count)]


def masked(count: int) -> list[dict]:
    return [{"text": " ".join([*text.split()[:-1], "[MASK]", "."])} for text in texts(count)]


def pictures(count: int) -> list[dict]:
    import numpy
    from PIL import Image

    draw = numpy.random.default_rng(0)
    made = [Image.fromarray(draw.integers(0, 256, (224, 224, 3), dtype=numpy.uint8)) for _ in range(count)]
    return [{"image": image, "label": "abc"[number % 3]} for number, image in enumerate(made)]
