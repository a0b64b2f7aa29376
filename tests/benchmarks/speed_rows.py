"""Rows for the benchmarks of speed: texts and clips of very varied length, pictures of varied size, with what each task
wants beside them. All are made on the spot."""

from __future__ import annotations

import random


def texts(count: int, split: str = "test") -> list[str]:
    """English texts of very varied length: the lengths are spread evenly on a logarithmic scale, 3 to 180 words."""
    from topwork_bases.samples.python_docs import paragraphs

    draw = random.Random(0)
    words = " ".join(row["text"] for row in paragraphs(split)).split()
    lengths = [round(3 * 60 ** draw.random()) for _ in range(count)]
    starts = [draw.randrange(len(words) - 200) for _ in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths)]


def labelled(count: int) -> list[dict]:
    return [{"text": text, "label": "abc"[number % 3]} for number, text in enumerate(texts(count))]


def tagged(count: int) -> list[dict]:
    """A span in each text, so that tags in IOB2 are learned."""
    return [{"text": text, "spans": [{"start": 0, "end": len(text.split()[0]), "label": "X"}]} for text in texts(count)]


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


def documents(count: int) -> list[dict]:
    return [{"document": text, "summary": text.split()[0]} for text in texts(count)]


def pairs(count: int) -> list[dict]:
    return [{"source": text, "target": text.split()[0]} for text in texts(count)]


# ---------------------------------------------------------------- pictures


def picture(number: int, sides: tuple[int, int] = (200, 480)):
    """Blocks of colours under noise; width and height drawn evenly."""
    import numpy
    from PIL import Image

    draw = numpy.random.default_rng([7, number])
    width, height = (int(side) for side in draw.integers(*sides, 2))
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=numpy.uint8))
    smooth = numpy.asarray(coarse.resize((width, height)), dtype=numpy.int16)
    noisy = smooth + draw.integers(-20, 21, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(numpy.uint8))


def pictures(count: int) -> list[dict]:
    return [{"image": picture(number), "label": "abc"[number % 3]} for number in range(count)]


def boxed(count: int) -> list[dict]:
    return [
        {"image": picture(number), "objects": {"bbox": [[10, 10, 60, 60]], "category": ["abc"[number % 3]]}}
        for number in range(count)
    ]


def maps(count: int) -> list[dict]:
    return [mapped(number) for number in range(count)]


def mapped(number: int) -> dict:
    """A picture with a mask of four classes, in bands."""
    import numpy
    from PIL import Image

    image = picture(number)
    bands = numpy.arange(image.height) * 4 // image.height
    mask = numpy.repeat(bands[:, None], image.width, axis=1).astype(numpy.uint8)
    return {"image": image, "mask": Image.fromarray(mask)}


def depths(count: int) -> list[dict]:
    return [deep(number) for number in range(count)]


def deep(number: int) -> dict:
    """A picture with depths from 1 to 9."""
    import numpy

    image = picture(number)
    slope = numpy.linspace(1, 9, image.height, dtype=numpy.float32)
    return {"image": image, "depth": numpy.repeat(slope[:, None], image.width, axis=1)}


# ---------------------------------------------------------------- sound


def clips(count: int) -> list[dict]:
    """Tones under noise, 1 to 12 seconds, the lengths even on a logarithmic scale, 16 kHz; a label and words."""
    import numpy

    rows = []
    for number in range(count):
        draw = numpy.random.default_rng([3, number])
        samples = round(16000 * 12 ** draw.random())
        tone = numpy.sin(numpy.arange(samples) * draw.uniform(0.05, 0.5))
        sound = (0.5 * tone + 0.1 * draw.standard_normal(samples)).astype(numpy.float32)
        said = "one two three four"
        rows.append({"audio": {"array": sound, "sampling_rate": 16000}, "label": "abc"[number % 3], "text": said})
    return rows
