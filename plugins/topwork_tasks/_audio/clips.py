"""Clips from whatever a column holds, as mono samples at the model's rate, and drawings of clips.

Entry point: `open_audio`. soundfile reads, soxr resamples; torchcodec is never needed. Features are in `frontend`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

#: formats whose headers tell the number of samples exactly
_EXACT = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG", "AU", "CAF")
#: samples of a piece of MP3; some encoders count one that holds no sound
_MP3_FRAME = 1152
#: sizes from here on stand for a size that was not known when the file was begun
_UNKNOWN_SIZE = 0x7FFF0000
HINT = "mend the clip, or leave the row out"


def import_package(name: str) -> Any:
    """Import soundfile or soxr; raise an error with the extra to install where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise UsageError(f"audio needs the package {name}: {error}", hint="pip install topwork[audio]") from error


# ---------------------------------------------------------------- clips


def open_audio(value: Any, row: int | None, column: str, rate: int) -> np.ndarray:
    """Open a clip as float32 [samples], one channel, at `rate` samples a second.

    Args:
        value: {bytes, path} as `datasets` has undecoded audio, with {offset, duration} in seconds for a part of the
            file; bytes; a path; {array, sampling_rate}, the array [samples] or two-dimensional with channels; or a
            decoder with `get_all_samples`, as torchcodec has.
        row: index of the row, for messages.
        column: name of the column, for messages.
        rate: samples a second that are wanted.

    Channels are averaged; whole numbers are scaled to -1..1; other rates are resampled by soxr (high quality).

    Raises:
        DataError: None, no audio, an empty clip, a rate that is not positive, samples that are not finite.
    """
    import numpy

    clip, clip_rate = _read(value, row, column)
    if clip.size == 0:
        raise DataError("the clip is empty", row=row, column=column, hint=HINT)
    if not numpy.isfinite(clip).all():
        raise DataError("the clip has samples that are not finite", row=row, column=column, hint=HINT)
    wanted = resampled_length(len(clip), clip_rate, rate)
    if clip_rate != rate:
        clip = resample(clip, clip_rate, rate)
        clip = numpy.pad(clip[:wanted], (0, max(0, wanted - len(clip))))
    if wanted == 0:
        raise DataError("the clip is empty", row=row, column=column, hint=HINT)
    return numpy.ascontiguousarray(clip, dtype=numpy.float32)


def resample(clip: np.ndarray, clip_rate: int, rate: int) -> np.ndarray:
    """Return a clip of `clip_rate` samples a second with `rate` samples a second, by soxr (high quality)."""
    return clip if clip_rate == rate else import_package("soxr").resample(clip, clip_rate, rate)


def resampled_length(samples: int, clip_rate: int, rate: int) -> int:
    """Return the number of samples after resampling."""
    return samples if clip_rate == rate else round(samples * rate / clip_rate)


def audio_length(value: Any, rate: int) -> int:
    """Return the samples that `open_audio` will give, from the header alone where that is exact."""
    if _part_of(value) is not None:
        return len(open_audio(value, None, "audio", rate))
    if isinstance(value, Mapping) and value.get("array") is None:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | str | os.PathLike):
        soundfile = import_package("soundfile")
        source = io.BytesIO(value) if isinstance(value, bytes | bytearray) else os.fspath(value)
        try:
            header = soundfile.info(source)
        except (RuntimeError, OSError):
            header = None
        if header is not None and header.format in _EXACT and header.samplerate > 0:
            return resampled_length(header.frames, header.samplerate, rate)
    return len(open_audio(value, None, "audio", rate))


def clip_lengths(rows: Any, rate: int, most: int = 1000) -> list[int]:
    """Return the samples of the clips of training rows, of at most `most` at even distances; of a stream the first.

    Clips that cannot be read are left out.
    """
    indices = range(0, len(rows), max(1, len(rows) // most)) if hasattr(rows, "__len__") else None
    chosen = (rows[index] for index in indices) if indices is not None else islice(rows, most)
    lengths = []
    for row in chosen:
        try:
            lengths.append(audio_length(row.get("audio"), rate))
        except DataError:
            continue  # reading the row for training refuses it, or skips and counts it
    return lengths


def may_be_unreadable(value: Any) -> bool:
    """Return whether a file's header and its last sample leave doubt that it can be read to its end."""
    if _part_of(value) is not None:
        return True  # the part may lie behind the end of its file
    if isinstance(value, Mapping) and value.get("array") is None:
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, bytes | bytearray | str | os.PathLike):
        return value is None
    source = io.BytesIO(value) if isinstance(value, bytes | bytearray) else os.fspath(value)
    if isinstance(source, str) and not os.path.isfile(source):
        return True
    try:
        with import_package("soundfile").SoundFile(source) as file:
            file.seek(max(0, file.frames - 1))
            return len(file.read(1)) == 0 or file.samplerate <= 0 or _missing_bytes(value) > 0
    except (RuntimeError, OSError, ValueError, TypeError):
        return True


def _part_of(value: Any) -> tuple[float, float | None] | None:
    """Return where a clip begins in its file and how long it is, in seconds; None for a clip that is a whole file."""
    if not isinstance(value, Mapping) or value.get("offset") is None:
        return None
    return float(value["offset"]), value.get("duration")


def _read(value: Any, row: int | None, column: str) -> tuple[np.ndarray, int]:
    part = _part_of(value)
    if value is None:
        raise DataError("is None", row=row, column=column, hint="give a clip, or leave the row out")
    if hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        return _from_array(samples.data.numpy(), samples.sample_rate, row, column)
    if isinstance(value, Mapping):
        if value.get("array") is not None:
            return _from_array(value["array"], value.get("sampling_rate"), row, column)
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | str | os.PathLike):
        return _from_file(value, row, column, part)
    raise DataError(
        f"holds {type(value).__name__}, which is no audio",
        row=row,
        column=column,
        hint="give {bytes, path}, bytes, a path, or {array, sampling_rate}",
    )


def _from_file(
    source: Any, row: int | None, column: str, part: tuple[float, float | None] | None = None
) -> tuple[np.ndarray, int]:
    soundfile = import_package("soundfile")
    inside = isinstance(source, bytes | bytearray)
    name = f"{len(source)} bytes" if inside else os.fspath(source)
    if not inside and not os.path.isfile(source):
        cause = "is no regular file" if os.path.exists(source) else "does not exist"
        hint = "correct the path; of a table, `options: {files: ...}` names the folder of its files"
        raise DataError(f"the file {name} {cause}", row=row, column=column, hint=hint)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if inside else os.fspath(source)) as file:
            rate, frame_count, kind = file.samplerate, file.frames, file.format
            begin, count = _frames(part, rate)
            if begin >= frame_count > 0:
                cause = f"begins at {begin / rate:.3g} s of {name}, which has {frame_count / rate:.3g} s"
                raise DataError(cause, row=row, column=column, hint="correct the offset")
            if begin:
                file.seek(begin)
            clip = file.read(count, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        cause = str(error).splitlines()[0].split(": ", 1)[-1]
        raise DataError(f"cannot be read as audio ({name}): {cause}", row=row, column=column, hint=HINT) from error
    missing = _missing_bytes(source)
    if missing:
        raise DataError(f"the file {name} is cut short by {missing} bytes", row=row, column=column, hint=HINT)
    if part is None and kind == "MP3" and len(clip) + _MP3_FRAME < frame_count:
        cause = f"the file {name} is cut short: {len(clip)} of {frame_count} samples"
        raise DataError(cause, row=row, column=column, hint=HINT)
    return clip.mean(axis=1), _checked_rate(rate, row, column)


def _frames(part: tuple[float, float | None] | None, rate: int) -> tuple[int, int]:
    """Return the first frame of a clip in its file and the number of frames, -1 for all that follow."""
    if part is None:
        return 0, -1
    return round(part[0] * rate), -1 if part[1] is None else round(part[1] * rate)


def _missing_bytes(source: Any) -> int:
    """Return the bytes that a WAV or AIFF file lacks by its own header: soundfile reads such a file without an error.

    Writers who could not go back to the header leave a size of 0, or one near the largest.
    """
    if isinstance(source, bytes | bytearray):
        head, size = bytes(source[:8]), len(source)
    else:
        size = os.path.getsize(source)
        with open(source, "rb") as file:
            head = file.read(8)
    order: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
    if head[:4] not in order:
        return 0
    declared_size = int.from_bytes(head[4:8], order[head[:4]]) + 8
    return declared_size - size if size + 1 < declared_size < _UNKNOWN_SIZE else 0


def _checked_rate(rate: Any, row: int | None, column: str) -> int:
    try:
        known = int(rate) == float(rate) and int(rate) > 0
    except (TypeError, ValueError, OverflowError):
        known = False
    if not known:
        raise DataError(
            f"a sampling rate of {rate!r}", row=row, column=column, hint="say how many samples a second the clip has"
        )
    return int(rate)


def _from_array(value: Any, rate: Any, row: int | None, column: str) -> tuple[np.ndarray, int]:
    import numpy

    checked_rate = _checked_rate(rate, row, column)
    try:
        array = numpy.asarray(value)
        if array.dtype.kind in "iu" and array.dtype.itemsize < 8:
            half = 2.0 ** (8 * array.dtype.itemsize - 1)  # numbers without a sign have silence in their middle
            array = array / half - (array.dtype.kind == "u")
        elif array.dtype.kind in "iu" and array.size and numpy.abs(array).max() > 1:
            raise ValueError("64 bits do not say how loud the loudest is: give int16, or floats from -1 to 1")
        array = array.astype(numpy.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"its array is no array of samples: {error}", row=row, column=column, hint=HINT) from error
    if array.ndim == 2 and min(array.shape) <= 8 and array.shape[0] != array.shape[1]:
        array = array.mean(axis=0 if array.shape[0] < array.shape[1] else 1)
    if array.ndim != 1:
        raise DataError(
            f"its array has the shape {list(array.shape)}",
            row=row,
            column=column,
            hint="give [samples], or [channels, samples] with at most 8 channels",
        )
    return array, checked_rate


# ---------------------------------------------------------------- drawings and examples


def spectrogram_image(clip: np.ndarray, rate: int, width: int = 320, height: int = 96) -> Image:
    """Draw a spectrogram: time to the right, 0 Hz to half the rate upwards, 80 decibels from white to black."""
    import numpy
    from PIL import Image

    size = 512
    step = max(1, (max(len(clip), size) - size) // (width - 1)) if len(clip) > size else 1
    padded = numpy.pad(clip, (0, max(0, size - len(clip))))
    starts = numpy.arange(0, len(padded) - size + 1, step)[: 4 * width]
    frames = padded[starts[:, None] + numpy.arange(size)] * numpy.hanning(size)
    power = 20 * numpy.log10(numpy.abs(numpy.fft.rfft(frames)) + 1e-8)
    level = numpy.clip((power - power.max()) / 80 + 1, 0, 1)
    grey = (255 * (1 - level.T[::-1])).astype(numpy.uint8)
    return Image.fromarray(grey).resize((width, height))


def wav_bytes(samples: bytes, rate: int) -> bytes:
    """Return 16-bit samples of one channel as a WAV file."""
    import wave

    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return target.getvalue()


def tone_clip(pitches: list[float], seconds: float, rate: int = 16000) -> dict[str, Any]:
    """Make a WAV file of tones one after the other over faint noise, as {bytes, path}, for example rows."""
    import array
    import math

    each = round(seconds * rate / len(pitches))
    samples, state = array.array("h"), 1
    for pitch in pitches:
        for n in range(each):
            state = (1103515245 * state + 12345) % 2**31
            samples.append(round(9000 * math.sin(2 * math.pi * pitch * n / rate)) + state // 2**22 - 256)
    return {"bytes": wav_bytes(samples.tobytes(), rate), "path": "-".join(f"{pitch:.0f}" for pitch in pitches) + ".wav"}
