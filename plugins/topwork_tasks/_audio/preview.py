"""Rows of audio tasks before any model exists: length, a waveform to see and a clip to hear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import DataError, Picture, Row, RowsView, UsageError
from topwork_tasks._audio.clips import audio_length, may_be_unreadable, open_audio, wav_bytes

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

RATE = 16_000  # samples a second of what people hear on a page
MOST_SECONDS = 10
#: lengths in seconds that are worth a doubt
SHORT, LONG = 0.5, 60.0
#: clips that are decoded to look for doubts, and a sample that no recording has
MOST_DECODED, LOUD = 100, 4.0


class AudioView(RowsView):
    """Length of clips, a waveform and a player."""

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return the length of the row's clip in seconds from its header; nothing where the file cannot be read."""
        try:
            return {"seconds": audio_length(row.get("audio"), RATE) / RATE}
        except (DataError, UsageError):
            return {}

    def preview(self, row: Row, options: Any) -> Picture:
        """Render the waveform of the row's clip, and its first ten seconds to play."""
        rest = {name: value for name, value in row.items() if name != "audio"}
        caption = super().preview(rest, options).caption
        try:
            clip = open_audio(row.get("audio"), None, "audio", RATE)
        except (DataError, UsageError) as error:
            return Picture(f"cannot be read: {error.cause}")
        return Picture(caption, image=draw_waveform(clip), audio=clip_to_play(clip, RATE))

    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        """Refuse a row whose clip cannot be read."""
        if whole or may_be_unreadable(row.get("audio")):
            open_audio(row.get("audio"), None, "audio", RATE)

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name clips without sound, clips whose samples leave -1 to 1, very short and very long ones."""
        seconds = [measures["seconds"] for row in rows if (measures := self.measure(row, options))]
        doubts = []
        if short := sum(length < SHORT for length in seconds):
            doubts.append(
                f"{short} of {len(seconds)} clips are shorter than {SHORT} s: SpecAugment may mask them whole"
            )
        if long := sum(length > LONG for length in seconds):
            doubts.append(f"{long} of {len(seconds)} clips are longer than {LONG:.0f} s")
        step = max(1, len(rows) // MOST_DECODED)
        peaks = [peak for row in rows[::step] if (peak := _peak(row)) is not None]
        if silent := sum(peak == 0 for peak in peaks):
            doubts.append(f"{silent} of {len(peaks)} clips that were decoded are silent from beginning to end")
        if loud := sum(peak > LOUD for peak in peaks):
            doubts.append(f"{loud} of {len(peaks)} clips that were decoded have samples far outside of -1 to 1")
        return doubts


def _peak(row: Row) -> float | None:
    """Return the largest sample of a clip, whatever its sign; None where it cannot be read."""
    import numpy

    try:
        return float(numpy.abs(open_audio(row.get("audio"), None, "audio", RATE)).max())
    except (DataError, UsageError):
        return None


def draw_waveform(clip: numpy.ndarray, width: int = 320, height: int = 80) -> Image:
    """Draw the extremes of the samples that fall into each column of pixels."""
    import numpy
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    scale = float(numpy.abs(clip).max(initial=0)) or 1.0
    for column, samples in enumerate(numpy.array_split(clip, width)):
        low, high = (float(samples.min()), float(samples.max())) if len(samples) else (0.0, 0.0)
        middle = (height - 1) / 2
        pen.line((column, middle - high / scale * middle, column, middle - low / scale * middle), fill=(43, 95, 168))
    return image


def clip_to_play(clip: Any, rate: int) -> bytes:
    """Return the first ten seconds of samples in -1 .. 1 as a WAV file."""
    import numpy

    beginning = numpy.clip(clip[: MOST_SECONDS * rate], -1, 1)
    return wav_bytes((beginning * 32767).astype("<i2").tobytes(), rate)
