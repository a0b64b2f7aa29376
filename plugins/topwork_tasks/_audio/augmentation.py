"""Random changes of training clips: their speed, their loudness, noise on them.

Entry points: `clip_parts`, then `augmented` for one draw. Masks over frames stand in `spec_augment`.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Literal

from topwork_tasks._audio.clips import resample

if TYPE_CHECKING:
    import numpy

ClipPart = Literal["speed", "gain", "noise"]
AudioAugment = Literal["none", "light", "standard"] | list[ClipPart]
_PARTS: dict[str, tuple[ClipPart, ...]] = {
    "none": (),
    "light": ("gain", "noise"),
    "standard": ("speed", "gain", "noise"),
}
#: range of the speed, of the gain in decibels, and of the ratio of signal to noise in decibels
_SPEED, _GAIN, _RATIO = (0.9, 1.1), (-6.0, 6.0), (10.0, 40.0)
AUGMENT_HELP = (
    "random changes of training clips. light: gain, noise; standard: speed, gain, noise; or a list of parts. "
    "speed: .9 to 1.1 times, with the pitch (Ko et al. 2015, Interspeech); gain: by up to 6 dB; "
    "noise: white, 10 to 40 dB below the clip"
)


def clip_parts(augment: AudioAugment) -> tuple[ClipPart, ...]:
    """Return the parts of an option `augment`."""
    return _PARTS[augment] if isinstance(augment, str) else tuple(augment)


def augmented(
    clip: numpy.ndarray, rate: int, parts: tuple[ClipPart, ...], seed: int, bounds: tuple[int, int | None]
) -> numpy.ndarray:
    """Return a clip changed at random, float32 [samples].

    Args:
        clip: float32 [samples].
        rate: samples a second.
        parts: what changes.
        seed: of the draw; another clip has another draw with the same seed.
        bounds: least and most samples that a clip may have; where another speed leaves them, the speed stays.
    """
    import numpy

    draw = numpy.random.default_rng([seed, zlib.crc32(numpy.ascontiguousarray(clip).tobytes())])
    if "speed" in parts:
        changed = resample(clip, round(rate * draw.uniform(*_SPEED)), rate)
        if bounds[0] <= len(changed) and (bounds[1] is None or len(changed) <= bounds[1]):
            clip = changed
    if "gain" in parts:
        clip = clip * numpy.float32(10 ** (draw.uniform(*_GAIN) / 20))
    if "noise" in parts:
        level = float(numpy.sqrt(numpy.mean(numpy.square(clip)))) * 10 ** (-draw.uniform(*_RATIO) / 20)
        clip = clip + numpy.float32(level) * draw.standard_normal(len(clip), dtype=numpy.float32)
    return clip.astype(numpy.float32, copy=False)
