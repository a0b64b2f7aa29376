"""Spoken digits, by eSpeak NG's synthesiser through ctypes: no program is started, nothing is downloaded.

Speakers (variants of eSpeak's voice) of the test split are heard in no training clip; accents are shared. Of the spoken
numbers, no sequence of digits is in both splits (single ones are in the training split only). The synthesiser is not
deterministic to the last bit, so the clips are made once and kept.
"""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

from topwork import UsageError
from topwork_bases.samples.generated import generated_rows

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
SPEAKERS = {
    "train": ("m1", "m2", "m3", "m5", "m6", "m8", "f1", "f2", "f4", "Alex", "Andy", "linda", "max", "ed", "steph"),
    "test": ("m4", "m7", "f3", "f5", "Annie", "Michael"),
}
NUMBERS = {"train": 4000, "test": 240}
_SYNCHRONOUS, _UTF8, _RATE, _PITCH, _CHARACTERS = 2, 1, 1, 3, 1
_SEED = {"train": 1, "test": 2}


class Synthesiser:
    """eSpeak NG's synthesiser; `say` returns 16-bit samples at `rate` samples a second.

    Raises:
        UsageError: the package is not installed, or its library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError, RuntimeError) as error:
            raise UsageError(
                f"spoken samples need the package espeakng-loader: {error}", hint="pip install topwork[samples]"
            ) from error
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0)
        if self.rate <= 0:
            raise UsageError("eSpeak NG does not start", hint="pip install --force-reinstall espeakng-loader")
        self._heard: list[bytes] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._hear)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._heard.append(ctypes.string_at(samples, count * 2))
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> Any:
        """Speak a text; return [samples] int16, without the silence before and after.

        Args:
            text: what is spoken, in English.
            voice: accent+variant.
            speed: words per minute.
            pitch: 0 to 100.

        Raises:
            UsageError: the synthesiser has no such voice.
        """
        import numpy

        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UsageError(f"eSpeak NG has no voice {voice}", hint="pip install -U espeakng-loader")
        self._library.espeak_SetParameter(_RATE, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._heard.clear()
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        clip = numpy.frombuffer(b"".join(self._heard), dtype=numpy.int16)
        loud = numpy.flatnonzero(numpy.abs(clip.astype(numpy.int32)) > 100)
        margin = self.rate // 50
        return clip[max(0, loud[0] - margin) : loud[-1] + margin] if len(loud) else clip


def spoken_digits_dataset(split: str) -> Any:
    """Return clips of one digit of a split, "train" or "test", as a `datasets.Dataset`: columns audio, label."""
    import datasets

    return _clips(digit_clips, split, {"label": datasets.ClassLabel(names=list(WORDS))})


def spoken_numbers_dataset(split: str) -> Any:
    """Return clips of one to four digits of a split, "train" or "test": columns audio, text."""
    import datasets

    return _clips(number_clips, split, {"text": datasets.Value("string")})


def _clips(make: Callable[..., Iterator[dict[str, Any]]], split: str, target: dict[str, Any]) -> Any:
    import datasets

    # `datasets.Audio` would need torchcodec to store what is encoded already
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = generated_rows(make, split, {"audio": stored, **target}, [sys.modules[__name__]])
    return rows.cast_column("audio", datasets.Audio(decode=False))


def flac(samples: Any, rate: int) -> bytes:
    """Encode [samples] int16 at `rate` samples a second as the bytes of a FLAC file."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise UsageError(
            f"spoken samples need the package soundfile: {error}", hint="pip install topwork[samples]"
        ) from error
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format="FLAC")
    return target.getvalue()


def digit_clips(split: str, code: str = "") -> Iterator[dict[str, Any]]:
    """Yield clips of one digit: every speaker with every accent says every digit, twice in the training split."""
    import numpy

    chance, voice = numpy.random.default_rng(_SEED[split]), Synthesiser()
    for turn in range(2 if split == "train" else 1):
        for speaker in SPEAKERS[split]:
            for accent in ACCENTS:
                for digit, word in enumerate(WORDS):
                    clip = voice.say(word, f"{accent}+{speaker}", *_manner(chance))
                    name = f"{word}-{accent}-{speaker}-{turn}.flac"
                    yield {"audio": {"bytes": flac(clip, voice.rate), "path": name}, "label": digit}


def number_clips(split: str, code: str = "") -> Iterator[dict[str, Any]]:
    """Yield clips of one to four digits (for testing two to four), written in words."""
    import numpy

    chance, voice = numpy.random.default_rng(10 + _SEED[split]), Synthesiser()
    for number in range(NUMBERS[split]):
        digits = _digits(chance, split)
        text = " ".join(WORDS[digit] for digit in digits)
        speaker, accent = chance.choice(SPEAKERS[split]), chance.choice(ACCENTS)
        clip = voice.say(text, f"{accent}+{speaker}", *_manner(chance))
        name = f"{number:04d}-{''.join(map(str, digits))}-{accent}-{speaker}.flac"
        yield {"audio": {"bytes": flac(clip, voice.rate), "path": name}, "text": text}


def _manner(chance: Any) -> tuple[int, int]:
    return int(chance.integers(130, 200)), int(chance.integers(35, 65))


def _digits(chance: Any, split: str) -> list[int]:
    """Draw digits of a split.

    Of two to four digits, the test split has those whose sum divides by five; the training split has the others, and
    single digits.
    """
    while True:
        digits = [int(digit) for digit in chance.integers(0, 10, chance.integers(1, 5))]
        if (len(digits) > 1 and sum(digits) % 5 == 0) == (split == "test"):
            return digits
