"""audio-classification: one label, or any number of labels, for a clip.

The native `AutoModelForAudioClassification` where the architecture has one (the wav2vec2 family, HuBERT, WavLM, AST,
Whisper's encoder), else a pooled task head on its backbone: the mean over the frames that are real. Predictions have
the shape of the Hub's pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat
from typing_extensions import override

from topwork import Base, Batch, Column, Item, Mode, Picture, Row, State, UsageError
from topwork_tasks._audio import clips as _audio
from topwork_tasks._audio import frontend as _audio_frontend
from topwork_tasks._audio.audio_task import AUDIO_COLUMN, AudioTask
from topwork_tasks._audio.augmentation import AUGMENT_HELP, AudioAugment, clip_parts
from topwork_tasks._audio.preview import AudioView
from topwork_tasks._audio.spec_augment import SPEC_AUGMENT_HELP, SpecAugment, fit_masks
from topwork_tasks._classification.classifier import Classifier, ClassifierOptions
from topwork_tasks._classification.scores import LabelScores, logits_to_scores
from topwork_tasks._classification.view import LabelsView

if TYPE_CHECKING:
    import torch
    from torch import nn


class AudioClassificationOptions(ClassifierOptions):
    """Options of audio-classification."""

    max_seconds: PositiveFloat | None = Field(
        None, description="training takes a random piece of this length, prediction the mean over windows of it"
    )
    augment: AudioAugment = Field("none", description=AUGMENT_HELP)
    spec_augment: SpecAugment = Field("auto", description=SPEC_AUGMENT_HELP)
    pooling: Literal["mean", "first", "own"] = Field("mean", description="of the generic task head")


class _ClipsView(LabelsView, AudioView):
    """Clips, and doubts about their labels."""


class AudioClassification(AudioTask, Classifier):
    """Put labels on clips of sound: one, or several of them.

    Rows that it refuses or mends: `_classification/bad_input.md`.
    """

    name = "audio-classification"
    Options = AudioClassificationOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "audio": AUDIO_COLUMN,
        "label": Column("a label's name or number; with multi_label a list of them", target=True, kind="label"),
    }
    HEAD = ("AutoModelForAudioClassification",)
    rows_view = _ClipsView()
    usual_top = 5  # as the Hub's pipeline

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: AudioClassificationOptions) -> State:
        base = bases["base"]
        labels, notes = cls.learn_labels(rows, base, options)
        clips = None if rows is None else (row.get("audio") for row in rows)
        extractor = _audio_frontend.find_extractor(base, clips)
        frontend = _audio_frontend.Frontend(extractor, base.config)
        lengths = _audio.clip_lengths(rows, frontend.rate) if rows is not None else []
        if options.max_seconds is not None:
            lengths = [min(length, round(options.max_seconds * frontend.rate)) for length in lengths]
        masks = fit_masks(options.spec_augment, frontend, base.config, lengths, notes)
        return State({**labels, "spec_augment": masks}, {"feature_extractor": extractor}, notes)

    def __init__(self, bases: Mapping[str, Base], options: AudioClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self._masks: dict[str, Any] = state.values.get("spec_augment") or {}
        self.frontend = _audio_frontend.Frontend(state.processors["feature_extractor"], self.base.config, self._masks)
        requested = None if options.max_seconds is None else round(options.max_seconds * self.frontend.rate)
        if requested is not None and requested < self.frontend.shortest:
            raise UsageError(
                f"`max_seconds: {options.max_seconds}` are {requested} samples, "
                f"the model needs {self.frontend.shortest}",
                place="task",
                hint="raise it",
            )
        sizes = [size for size in (requested, self.frontend.window) if size is not None]
        self.window = min(sizes, default=None)
        self._parts = clip_parts(options.augment)
        self.repeatable = requested is None and not self._parts

    @override
    def build(self, weights: bool = True) -> nn.Module:
        native = self.base.native(*self.HEAD, weights=weights, **self.head_config(), **self._masks)
        if native is not None:
            return native
        from topwork.task_heads import PooledHead

        backbone = self.base.backbone(weights=weights, **self._masks)
        return PooledHead(backbone, len(self.names), self.options.pooling, self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        if mode != "predict":
            self.targets.of(row)
        return _audio.may_be_unreadable(row.get("audio"))

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items: list[Item] = []
        for index, row in enumerate(rows):
            label = None if mode == "predict" else self.targets.of(row, index)
            clip = self.open_clip(row, index)
            if mode == "train":
                clip = self.training_clip(clip, seed, self._parts, None if self.options.max_seconds else self.window)
            for start, end in self._pieces(len(clip), mode, seed + index):
                inputs = self.frontend.features(clip[start:end], index)
                items.append(Item(index, inputs, self.frontend.window or end - start, label))
        return items

    def _pieces(self, length: int, mode: Mode, seed: int) -> list[tuple[int, int]]:
        """Return (start, end) of windows; in training with `max_seconds`, of one piece at random."""
        if mode == "train" and self.options.max_seconds is not None and self.window is not None:
            import numpy

            start = int(numpy.random.default_rng(seed).integers(0, max(0, length - self.window) + 1))
            return [(start, min(length, start + self.window))]
        return _audio_frontend.clip_windows(length, self.window)

    @override
    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        lengths = None if "speed" in self._parts else self.sample_counts(rows)
        if lengths is None:
            return None
        return [
            [self.frontend.window or end - start for start, end in self._pieces(length, "train", 0)]
            for length in lengths
        ]

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = self.frontend.collate(items, training=mode == "train")
        if mode != "predict":
            inputs["labels"] = self.targets.tensor([item.extra for item in items])
        return Batch(inputs, items)

    # ------------------------------------------------------------------ tensors -> numbers

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch in float32, [items, labels]."""
        import torch

        order: list[int] = []
        parts: list[torch.Tensor] = []
        for positions, inputs in self.frontend.groups(batch, model):
            order += positions
            parts.append(model(**inputs).logits.float())
        logits = torch.cat(parts)
        return logits[torch.tensor(order, device=logits.device).argsort()] if len(parts) > 1 else logits

    @override
    def predict(self, model: nn.Module, batch: Batch) -> list[list[float]]:
        return logits_to_scores(self.logits(model, batch), self.kind)

    @override
    def merge(self, row: Row, parts: Sequence[list[float]]) -> LabelScores:
        return self.prediction([sum(column) / len(parts) for column in zip(*parts)])

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        image, seconds, audio = self.spectrogram(row)
        return replace(self.drawn(row, prediction, [(f"{seconds:.2f} s", "")], image), audio=audio)

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        melodies = {"rising": (300, 600, 1200), "falling": (1200, 600, 300), "level": (600, 600, 600)}
        return [
            {
                "audio": _audio.tone_clip([pitch * (1 + 0.1 * index) for pitch in pitches], 0.12 + 0.03 * index),
                "label": name,
            }
            for index in range(3)
            for name, pitches in melodies.items()
        ]
