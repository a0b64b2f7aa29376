"""audio-classification: one label, or any number of labels, for a clip.

The native `AutoModelForAudioClassification` where the architecture has one (the wav2vec2 family, HuBERT, WavLM, AST,
Whisper's encoder), else a pooled task head on its backbone: the mean over the frames that are real. Predictions have
the shape of the Hub's pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from topwork import (
    Base,
    Batch,
    Column,
    DataError,
    Item,
    Metric,
    Mode,
    Picture,
    Row,
    State,
    Task,
    TaskOptions,
    Units,
    UsageError,
    hookimpl,
)
from topwork_tasks._audio import clips as _audio
from topwork_tasks._audio import frontend as _audio_frontend
from topwork_tasks._classification import loss as shared

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = ("AutoModelForAudioClassification",)


class AudioClassificationOptions(TaskOptions):
    """Options of audio-classification."""

    multi_label: bool | None = Field(None, description="rows have lists of labels; by default as the base was trained")
    label_names: list[str] | None = Field(None, description="what the data's integers stand for, in order")
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = Field(
        None, description="weights of the labels in the loss: `balanced`, or by name"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")
    max_seconds: PositiveFloat | None = Field(
        None, description="training takes a random piece of this length, prediction the mean over windows of it"
    )
    top_k: PositiveInt | None = Field(5, description="labels in a prediction; null: all")
    pooling: Literal["mean", "first", "own"] = Field("mean", description="of the generic task head")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the generic task head")


class AudioClassification(Task):
    """Put labels on clips of sound: one, or several of them.

    | bad input | what happens |
    |---|---|
    | `audio`, `label`: missing; None | refused |
    | `audio`: a number; neither bytes nor a path; no such file; no sound; cut short; a WAV cut short | refused |
    | `audio`: of no samples; a file of no samples; an MP3 cut short; shorter than the model; NaN in it | refused |
    | `audio`: a sampling rate of 0; a sampling rate of NaN; no sampling rate | refused |
    | `audio`: of three dimensions; an array of texts | refused |
    | `audio`: another sampling rate; stereo; of integers; silence | handled: resampled by soxr, channels averaged |
    | `audio`: longer than `max_seconds` | handled: windows (or the model's one size), scores averaged |
    | `label`: unknown; empty; a list; a float; NaN; True; an integer | refused: the known labels, the nearest |
    | `label`: -1 with `label_names`; a number beyond with `label_names`; a list with `label_names` | refused |
    | `label`: a number with `label_names` | handled: the name at that place |
    | `label`: no list with `multi_label`; None with `multi_label`; None in it with `multi_label` | refused |
    | `label`: unknown with `multi_label` | refused |
    | `label`: empty with `multi_label`; twice with `multi_label` | handled: every label is wrong; counts once |
    """

    name = "audio-classification"
    Options = AudioClassificationOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "audio": Column("a clip: {bytes, path}, bytes, a path, or {array, sampling_rate}", lazy=True),
        "label": Column("a label's name or number; with multi_label a list of them", target=True),
    }
    cost_unit = "samples"

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: AudioClassificationOptions) -> State:
        base = bases["base"]
        kind: shared.Kind = "multi" if _is_multi(base, options) else "single"
        if kind == "multi" and options.label_smoothing:
            raise UsageError("`label_smoothing` is for one label a row", place="task", hint="leave it out")
        labels = rows.select_columns(["label"]) if hasattr(rows, "select_columns") else rows
        names = shared.learn_labels(labels, "label", kind, base, HEAD, options.label_names)
        declared = options.label_names or shared.class_names(rows, "label")
        weights = shared.learn_weights(options.class_weights, labels, kind, names, declared)
        clips = None if rows is None else (row.get("audio") for row in rows)
        extractor = _audio_frontend.find_extractor(base, clips)
        values = {"kind": kind, "label_names": names, "declared": declared, "class_weights": weights}
        return State(values, {"feature_extractor": extractor})

    def __init__(self, bases: Mapping[str, Base], options: AudioClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.kind: shared.Kind = state.values["kind"]
        self.names: list[str] = state.values["label_names"]
        self.declared: list[str] | None = state.values["declared"]
        self.frontend = _audio_frontend.Frontend(state.processors["feature_extractor"], self.base.config)
        asked = None if options.max_seconds is None else round(options.max_seconds * self.frontend.rate)
        if asked is not None and asked < self.frontend.shortest:
            raise UsageError(
                f"`max_seconds: {options.max_seconds}` are {asked} samples, the model needs {self.frontend.shortest}",
                place="task",
                hint="raise it",
            )
        sizes = [size for size in (asked, self.frontend.window) if size is not None]
        self.window = min(sizes, default=None)
        self.repeatable = asked is None

    def build(self, weights: bool = True) -> nn.Module:
        numbered = dict(enumerate(self.names))
        problem = "multi_label_classification" if self.kind == "multi" else "single_label_classification"
        changes: dict[str, Any] = {
            "id2label": numbered,
            "label2id": {name: number for number, name in numbered.items()},
        }
        found = self.base.native(*HEAD, weights=weights, problem_type=problem, **changes)
        if found is not None:
            return found
        from topwork.task_heads import PooledHead

        return PooledHead(
            self.base.backbone(weights=weights), len(numbered), self.options.pooling, self.options.dropout
        )

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        if mode != "predict":
            shared.target(row, self.kind, self.names, self.declared)
        return _audio.may_be_unreadable(row.get("audio"))

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items: list[Item] = []
        for number, row in enumerate(rows):
            if "audio" not in row:
                raise DataError("is missing", row=number, column="audio", hint="map it in `data.columns`")
            label = None
            if mode != "predict":
                label = shared.target(row, self.kind, self.names, self.declared, number)
            clip = self.frontend.clip(row["audio"], number)
            for start, end in self._pieces(len(clip), mode, seed + number):
                inputs = self.frontend.features(clip[start:end], number)
                items.append(Item(number, inputs, self.frontend.window or end - start, label))
        return items

    def _pieces(self, length: int, mode: Mode, seed: int) -> list[tuple[int, int]]:
        """Windows; in training with `max_seconds`, one piece from a random place."""
        if mode == "train" and self.options.max_seconds is not None and self.window is not None:
            import numpy

            start = int(numpy.random.default_rng(seed).integers(0, max(0, length - self.window) + 1))
            return [(start, min(length, start + self.window))]
        return _audio_frontend.clip_windows(length, self.window)

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        try:
            lengths = [_audio.audio_length(row["audio"], self.frontend.rate) for row in rows]
        except (DataError, KeyError):
            return None  # encoding the rows says which one, and why
        return [
            [self.frontend.window or end - start for start, end in self._pieces(length, "train", 0)]
            for length in lengths
        ]

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = self.frontend.collate(items, training=mode == "train")
        if mode != "predict":
            inputs["labels"] = shared.target_tensor([item.extra for item in items], self.kind, len(self.names))
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        return self.frontend.cost_budget(device)

    # ------------------------------------------------------------------ tensors -> numbers

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[items, labels], in float32."""
        import torch

        order: list[int] = []
        found: list[torch.Tensor] = []
        for positions, inputs in self.frontend.groups(batch, model):
            order += positions
            found.append(model(**inputs).logits.float())
        logits = torch.cat(found)
        return logits[torch.tensor(order, device=logits.device).argsort()] if len(found) > 1 else logits

    def _losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return shared.classification_loss(
            self._logits(model, batch),
            batch.inputs["labels"],
            self.kind,
            self.state.values["class_weights"],
            reduction="none",
            smoothing=self.options.label_smoothing if batch.mode == "train" else 0.0,
        )

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self._losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return batch.mean_by_row(self._losses(model, batch))

    def predict(self, model: nn.Module, batch: Batch) -> list[list[float]]:
        return shared.logits_to_scores(self._logits(model, batch), self.kind)

    def merge(self, row: Row, parts: Sequence[list[float]]) -> shared.LabelScores:
        scores = [sum(column) / len(parts) for column in zip(*parts)]
        return shared.LabelScores(scores, self.names, self.options.top_k)

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        top = 5 if self.kind == "single" and len(self.names) > 5 else None
        return shared.ClassificationMetric(self.names, self.kind, declared=self.declared, top=top)

    def units(self, item: Item) -> Units:
        return self.frontend.units()

    def draw(self, row: Row, prediction: Any) -> Picture:
        rate = self.frontend.rate
        clip = _audio.open_audio(row.get("audio"), None, "audio", rate)
        image = _audio.spectrogram_image(clip, rate)
        shown = [(f"{len(clip) / rate:.2f} s", "")]
        return shared.draw_labels(row, prediction, self.kind, self.names, self.declared, shown, image)

    @classmethod
    def example_rows(cls) -> list[Row]:
        melodies = {"rising": (300, 600, 1200), "falling": (1200, 600, 300), "level": (600, 600, 600)}
        return [
            {
                "audio": _audio.tone_clip([pitch * (1 + 0.1 * number) for pitch in pitches], 0.12 + 0.03 * number),
                "label": name,
            }
            for number in range(3)
            for name, pitches in melodies.items()
        ]


def _is_multi(base: Base, options: AudioClassificationOptions) -> bool:
    """What the option says; if it says nothing, what the checkpoint's own task head was trained for."""
    if options.multi_label is not None:
        return options.multi_label
    return getattr(base.config, "problem_type", None) == "multi_label_classification"


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [AudioClassification]
