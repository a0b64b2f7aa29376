"""Texts for numbers, durations and keys on the page."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# Words of keys that are not written as the keys are.
_WRITTEN = {
    **{
        name: name.upper()
        for name in ("auc", "bleu", "cer", "f1", "id", "kl", "mae", "mcc", "mse", "pq", "rmse", "rouge")
    },
    **{name: name.upper() for name in ("rq", "sq", "wer")},
    "map50": "mAP50",
    "map75": "mAP75",
    "mar100": "mAR100",
    "chrf": "chrF",
    "iou": "IoU",
    "flops": "FLOPs",
    "macs": "MACs",
}
# Beginnings of keys, and what they say of the rest.
_BEGINNINGS = {
    "eval_": "{}, calibrate rows",
    "evaluate_": "{}, evaluate rows",
    "random_": "{} at random",
    "masked_": "{}, masked",
    "n_": "number of {}",
    "num_": "number of {}",
}
_KEY = re.compile(r"[a-z0-9_ ]+")  # anything else, such as a label or a token, is a name already
_LONGEST_PLAIN = 10_000  # whole numbers below it, years among them, have no commas
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short(value: Any) -> str:
    """Return a value as text: four significant digits, whole numbers from 10,000 with commas, None as a dash.

    Structures become shortened JSON.

    Example:
        >>> short(0.123456), short(1234567), short(1993), short(None)
        ('0.1235', '1,234,567', '1993', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return (f"{value:,}" if abs(value) >= _LONGEST_PLAIN else str(value)).replace("-", "−")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        if value == int(value) and abs(value) < 1e15:
            return short(int(value))
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, str):
        return cut(value, 2000)
    return cut(json.dumps(_four_digits(value), ensure_ascii=False), 240)


def _four_digits(value: Any) -> Any:
    """Return the structure with its numbers as `short` would write them."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _four_digits(entry) for key, entry in value.items()}
    return [_four_digits(entry) for entry in value] if isinstance(value, list | tuple) else value


def cut(text: str, most: int) -> str:
    """Return the text, ended by an ellipsis when it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def rounded(value: float) -> str:
    """Return a number of at most three digits, for a cell of a heat map."""
    if abs(value) >= 99.95:
        return f"{value:.0f}".replace("-", "−")
    text = f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """Return a difference with its sign; what sums of floats leave of nothing is 0.

    Example:
        >>> signed(0.25), signed(-1.8e-5), signed(1e-17)
        ('+0.25', '−1.8e−05', '0')
    """
    if abs(value) < 1e-9:
        return "0"
    return ("+" if value > 0 else "") + short(value)


def superscript(power: int) -> str:
    """Return a power of ten, such as `10⁻³` for -3."""
    return "10" + str(power).translate(_RAISED)


def compact(value: float) -> str:
    """Return a count in three digits.

    Example:
        >>> compact(22_700_000)
        '22.7 M'
    """
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return short(int(value))


def duration(seconds: float | None) -> str:
    """Return a duration as text; a dash when it is not known.

    Example:
        >>> duration(161)
        '2 min 41 s'
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def words(key: Any) -> str:
    """Return the name of a key of a JSON file, a metric's among them, as it is written in text.

    Example:
        >>> words("macro_f1"), words("map_small"), words("eval_mean_iou"), words("n_heads")
        ('macro F1', 'mAP small', 'mean IoU, calibrate rows', 'number of heads')
    """
    text = str(key)
    if not _KEY.fullmatch(text):
        return text
    for beginning, said_of in _BEGINNINGS.items():
        if text.startswith(beginning) and len(text) > len(beginning):
            return said_of.format(words(text.removeprefix(beginning)))
    first, *rest = text.replace("_", " ").split(" ")
    return " ".join(
        ["mAP" if first == "map" else _WRITTEN.get(first, first), *(_WRITTEN.get(each, each) for each in rest)]
    )


def heading(name: str) -> str:
    """Return a name with a capital at its beginning, unless its first word has capitals already, such as `mAP`."""
    return name[:1].upper() + name[1:] if name.split(" ")[0].islower() else name
