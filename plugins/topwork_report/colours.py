"""The page's colour scale: 32 steps of even lightness, computed, once for light and once for dark paper.

Each scale goes along a curve in OKLCH (Ottosson 2020, "A perceptual color space for image processing"): lightness falls
(or rises) linearly, so equal differences look equal, and the order survives every kind of colour blindness and grey
print; the hue only helps. Low values lie near the paper's own colour in both themes.
"""

from __future__ import annotations

import math

STEPS = 32
_LIGHT_PAPER = ((0.965, 0.015, 105.0), (0.64, 0.105, 195.0), (0.31, 0.115, 275.0))
_DARK_PAPER = ((0.285, 0.035, 265.0), (0.60, 0.105, 205.0), (0.925, 0.095, 100.0))


def level(value: float, low: float, high: float) -> int:
    """Return the step of the scale, 0 to STEPS - 1, for a value between low and high; others are clamped."""
    share = (value - low) / (high - low) if high > low else 0.0
    return max(0, min(STEPS - 1, round(share * (STEPS - 1))))


def scales() -> tuple[list[str], list[str]]:
    """Return the hexadecimal colours of all steps: for a light page, for a dark page."""
    return _scale(_LIGHT_PAPER), _scale(_DARK_PAPER)


def inks(colours: list[str]) -> list[str]:
    """Return black or white for each colour, whichever has the larger contrast (WCAG 2: always at least 4.5)."""
    return ["#000" if (_luminance(colour) + 0.05) ** 2 > 0.05 * 1.05 else "#fff" for colour in colours]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _scale(stops: tuple[tuple[float, float, float], ...]) -> list[str]:
    (first, middle, last) = stops
    colours = []
    for step in range(STEPS):
        share = step / (STEPS - 1)
        lightness = first[0] + (last[0] - first[0]) * share
        # Chroma and hue follow the parabola through the three stops.
        weights = ((1 - share) * (1 - 2 * share), 4 * share * (1 - share), share * (2 * share - 1))
        chroma = sum(weight * stop[1] for weight, stop in zip(weights, stops, strict=True))
        hue = sum(weight * stop[2] for weight, stop in zip(weights, (first, middle, last), strict=True))
        colours.append(_oklch(lightness, max(0.0, chroma), hue))
    return colours


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{_byte(value):02x}" for value in linear)


def _byte(linear: float) -> int:
    value = max(0.0, min(1.0, linear))
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * encoded)
