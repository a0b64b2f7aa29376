"""Base class of tasks on clips of sound: what follows from the clips alone.

Entry points: `AudioTask`, `AUDIO_COLUMN`. A subclass makes `self.frontend`, a `Frontend`, and writes the rest of the
contract of `topwork.Task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from topwork import Column, DataError, Item, Row, Task, Units
from topwork_tasks._audio.augmentation import ClipPart, augmented
from topwork_tasks._audio.clips import audio_length, open_audio, spectrogram_image
from topwork_tasks._audio.frontend import Frontend
from topwork_tasks._audio.preview import AudioView, clip_to_play

AUDIO_COLUMN = Column("a clip: {bytes, path}, bytes, a path, or {array, sampling_rate}", lazy=True, kind="audio")


class AudioTask(Task):
    """Task whose items are clips, or pieces of them, read and resampled by `frontend`.

    Attributes:
        frontend: feature extractor, windows, padding and masks.
    """

    cost_unit = "samples"
    rows_view = AudioView()
    frontend: Frontend

    def open_clip(self, row: Row, index: int) -> Any:
        """Return a row's clip at the model's rate, float32 [samples].

        Raises:
            DataError: it is missing, or cannot be read.
        """
        if "audio" not in row:
            raise DataError("is missing", row=index, column="audio", hint="map it in `data.columns`")
        return self.frontend.clip(row["audio"], index)

    def training_clip(self, clip: Any, seed: int, parts: tuple[ClipPart, ...], window: int | None) -> Any:
        """Return a clip as training takes it: changed at random by the option `augment`, float32 [samples].

        Args:
            clip: float32 [samples].
            seed: of the draw.
            parts: of the option.
            window: samples that an item may have: the same clip must give the same number of items in every epoch, so
                a longer one keeps its speed.
        """
        if not parts:
            return clip
        bounds = (self.frontend.shortest, window)
        if window is not None and len(clip) > window:
            bounds = (len(clip), len(clip))
        return augmented(clip, self.frontend.rate, parts, seed, bounds)

    def sample_counts(self, rows: Sequence[Row]) -> list[int] | None:
        """Return the samples of each row's clip at the model's rate, by the headers of the files.

        None when a clip is missing or cannot be read: encoding the rows names it, with the reason.
        """
        try:
            return [audio_length(row["audio"], self.frontend.rate) for row in rows]
        except (DataError, KeyError):
            return None

    def spectrogram(self, row: Row) -> tuple[Any, float, bytes]:
        """Return the spectrogram of a row's clip as an image, the clip's seconds, and its beginning as a WAV file."""
        rate = self.frontend.rate
        clip = open_audio(row.get("audio"), None, "audio", rate)
        return spectrogram_image(clip, rate), len(clip) / rate, clip_to_play(clip, rate)

    @override
    def cost_budget(self, device: str) -> int | None:
        return self.frontend.cost_budget(device)

    @override
    def units(self, item: Item) -> Units:
        return self.frontend.units()
