"""automatic-speech-recognition: the words of a clip.

Two forms. *ctc*: the native `AutoModelForCTC` where the architecture has one (the wav2vec2 family, HuBERT, WavLM,
wav2vec2-bert), else a CTC task head on the backbone of any audio encoder; the vocabulary is the checkpoint's or the
letters of the data. *seq2seq*: `AutoModelForSpeechSeq2Seq` (Whisper), which writes by `generate`. Predictions have the
shape of the Hub's pipeline: {"text"} and, with `timestamps`, {"chunks"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    Units,
    UsageError,
    hookimpl,
)
from topwork_tasks._audio import clips as _audio
from topwork_tasks._audio import frontend as _audio_frontend
from topwork_tasks.automatic_speech_recognition import ctc as _ctc
from topwork_tasks.automatic_speech_recognition import options as choices
from topwork_tasks.automatic_speech_recognition import transcripts as _transcripts
from topwork_tasks.automatic_speech_recognition import whisper as seq2seq

if TYPE_CHECKING:
    import torch
    from torch import nn


class SpeechRecognition(Task):
    """Write down what is said in a clip, by CTC or by a decoder.

    | bad input | what happens |
    |---|---|
    | `audio`, `text`: missing; None | refused |
    | `audio`: a number; neither bytes nor a path; no such file; no sound; cut short; a WAV cut short | refused |
    | `audio`: of no samples; a file of no samples; an MP3 cut short; shorter than the model; NaN in it | refused |
    | `audio`: a sampling rate of 0; a sampling rate of NaN; no sampling rate | refused |
    | `audio`: of three dimensions; an array of texts | refused |
    | `audio`: another sampling rate; stereo; of integers; silence | handled: resampled by soxr, channels averaged |
    | `audio`: longer than `max_seconds` | refused in training, handled in evaluation and predictions: in chunks |
    | `text`: a number; a list | refused |
    | `text`: empty; blank | handled: silence; words that are understood all the same are insertions |
    | `text`: a letter outside the vocabulary | refused in training, handled in evaluation: an error |
    | `text`: a letter with `unknown: drop` | handled: left out |
    | `text`: more letters than frames | handled: no alignment exists, its loss is 0 |

    A text with more tokens than a decoder writes (`form: seq2seq`) is refused.
    """

    name = "automatic-speech-recognition"
    Options = choices.SpeechRecognitionOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "audio": Column("a clip: {bytes, path}, bytes, a path, or {array, sampling_rate}", lazy=True),
        "text": Column("the words that are said", target=True),
    }
    cost_unit = "samples"

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: choices.SpeechRecognitionOptions) -> State:
        base = bases["base"]
        form = choices.form_of(base, options)
        if form == "seq2seq":
            seq2seq.check_timestamps(options.timestamps, base)
        elif options.timestamps == "segment":
            raise UsageError("`timestamps: segment` is for Whisper", place="task", hint="choose word or char")
        tokenizer = choices.saved_tokenizer(base, form, options)
        own = tokenizer is None
        if own and form == "seq2seq" and options.timestamps is not None:
            raise UsageError("a learned vocabulary has no times", place="task", hint="leave `timestamps` out")
        case: _transcripts.Case = "keep" if options.case == "auto" else options.case
        if tokenizer is not None and options.case == "auto" and form == "ctc":
            case = _ctc.natural_case(tokenizer)
        if own:
            tokenizer = (_ctc if form == "ctc" else seq2seq).learn_tokenizer(choices.texts(rows, case))
        clips = None if rows is None else (row.get("audio") for row in rows)
        extractor = _audio_frontend.find_extractor(base, clips)
        trained = base.trained_labels(*choices.HEAD) is not None
        reduction = getattr(base.config, "ctc_loss_reduction", "mean") if trained else "mean"
        native = form == "seq2seq" or choices.has_class(base, "CTC")
        values = {"form": form, "native": native, "case": case, "own_vocabulary": own, "reduction": reduction}
        return State(values, {"feature_extractor": extractor, "tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: choices.SpeechRecognitionOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.form: Literal["ctc", "seq2seq"] = state.values["form"]
        self.case: _transcripts.Case = state.values["case"]
        self.tokenizer = state.processors["tokenizer"]
        self.frontend = _audio_frontend.Frontend(state.processors["feature_extractor"], self.base.config)
        self._blank = int(self.tokenizer.pad_token_id)
        # the generic head of a model of one size counts the frames that a clip fills; `generate` wants the mask too
        self._with_mask = self.frontend.window is not None

    def build(self, weights: bool = True) -> nn.Module:
        fresh = self.state.values["own_vocabulary"]
        if self.form == "seq2seq":
            changes = seq2seq.model_changes(self.tokenizer) if fresh else {}
            model = self.base.native(*seq2seq.HEAD, weights=weights, **changes)
            if model is None:
                raise UsageError("the base has no decoder", place="task", hint="choose `form: ctc`")
            if fresh:
                seq2seq.prepare_generation(model, self.tokenizer)
            seq2seq.keep_generation(model, self.state.values, self.options, restore=not weights)
            return model
        size = _ctc.vocabulary_size(self.tokenizer)
        changes = {
            "vocab_size": size,
            "pad_token_id": self._blank,
            "ctc_loss_reduction": self.state.values["reduction"],
            "ctc_zero_infinity": True,
        }
        found = self.base.native(*choices.HEAD, weights=weights, **changes) if self.state.values["native"] else None
        if found is not None:
            return found
        from topwork_tasks.automatic_speech_recognition.ctc_head import CtcHead

        return CtcHead(
            self.base.backbone(weights=weights),
            size,
            fixed=self.frontend.window is not None,
            dropout=self.options.dropout,
            upsample=self.options.upsample,
        )

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        return _audio.doubtful(row.get("audio"))

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items: list[Item] = []
        for number, row in enumerate(rows):
            if "audio" not in row:
                raise DataError("is missing", row=number, column="audio", hint="map it in `data.columns`")
            target = self._target(row, number) if mode != "predict" else None
            clip = self.frontend.clip(row["audio"], number)
            if target is not None:
                self._check_length(len(clip), number)
                items.append(self._item(clip, number, target))
                continue
            cuts = (self.options.chunk_seconds, self.options.stride_seconds, self.form == "ctc")
            for start, end, left, right in _ctc.chunks_of(len(clip), self.frontend, *cuts):
                items.append(self._item(clip[start:end], number, (end - start, left, right)))
        return items

    def _item(self, clip: Any, number: int, beside: Any) -> Item:
        inputs = self.frontend.features(clip, number, self._with_mask)
        return Item(number, inputs, self.frontend.window or len(clip), beside)

    def _target(self, row: Row, number: int) -> list[int]:
        text = _transcripts.text_of(row, number, self.case)
        if self.form == "seq2seq":
            return seq2seq.target_ids(text, self.tokenizer, self.base.config, number)
        return _ctc.target_ids(text, self.tokenizer, self.options.unknown, number)

    def _limits(self) -> list[tuple[int, str]]:
        """The samples that a clip may have with its text, and who says so."""
        asked, window = self.options.max_seconds, self.frontend.window
        found = [] if asked is None else [(round(asked * self.frontend.rate), "`max_seconds` allows")]
        return found if window is None else [*found, (window, "the model hears at most")]

    def _check_length(self, samples: int, number: int) -> None:
        rate = self.frontend.rate
        for limit, cause in self._limits():
            if samples > limit:
                raise DataError(
                    f"the clip lasts {samples / rate:.2f} s, {cause} {limit / rate:.2f} s, and its text cannot be cut",
                    row=number,
                    column="audio",
                    hint="divide clip and text, or leave the row out",
                )

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        try:
            lengths = [_audio.audio_length(row["audio"], self.frontend.rate) for row in rows]
        except (DataError, KeyError):
            return None  # encoding says which row, and why
        if any(length > limit for length in lengths for limit, _ in self._limits()):
            return None
        return [[self.frontend.window or length] for length in lengths]

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = self.frontend.collate(items, training=mode == "train")
        if mode != "predict" and self.form == "seq2seq":
            inputs["labels"] = seq2seq.label_tensor([item.extra for item in items])
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        return self.frontend.cost_budget(device)

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        losses, tokens = self._losses(model, batch)
        if tokens is not None:
            return losses.sum() / tokens.sum()
        return losses.sum() if self.state.values["reduction"] == "sum" else losses.mean()

    def target_counts(self, batch: Batch) -> tuple[float | torch.Tensor]:
        if self.form == "seq2seq":
            return ((batch.inputs["labels"] != -100).sum(),)
        return (0 if self.state.values["reduction"] == "sum" else len(batch),)

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        losses, tokens = self._losses(model, batch)
        return losses if tokens is None else losses / tokens

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[items], and, where losses are sums over tokens, the tokens of each."""
        import torch

        order: list[int] = []
        losses: list[torch.Tensor] = []
        counts: list[torch.Tensor] = []
        for positions, inputs in self.frontend.groups(batch, model):
            order += positions
            if self.form == "seq2seq":
                inputs.pop("attention_mask", None) if self.frontend.window is not None else None
                found, tokens = seq2seq.token_losses(model, inputs, batch.inputs["labels"][positions])
                counts.append(tokens)
            else:
                found = self._ctc_losses(model, inputs, [batch.items[position] for position in positions])
            losses.append(found)
        back = torch.tensor(order).argsort()
        whole = torch.cat(losses)
        return whole[back.to(whole.device)], torch.cat(counts)[back.to(whole.device)] if counts else None

    def _ctc_losses(self, model: nn.Module, inputs: dict[str, torch.Tensor], items: Sequence[Item]) -> torch.Tensor:
        output = model(**inputs)
        lengths = _ctc.output_lengths(model, output, items, self.frontend.main, inputs.get("attention_mask"))
        targets = [item.extra for item in items]
        per_letter = self.state.values["reduction"] != "sum"
        return _ctc.ctc_losses(output.logits, lengths, targets, self._blank, per_letter)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for positions, inputs in self.frontend.groups(batch, model):
            items = [batch.items[position] for position in positions]
            if self.form == "seq2seq":
                found = seq2seq.generate(model, inputs, self.options.generation, self.options.timestamps)
            else:
                found = self._frames(model, inputs, items)
            for position, part in zip(positions, found, strict=True):
                parts[position] = (part, batch.items[position].extra)
        return parts

    def _frames(self, model: nn.Module, inputs: dict[str, torch.Tensor], items: Sequence[Item]) -> list[Any]:
        """Of each item the best entry of every frame that is its own, and the samples between two frames."""
        output = model(**inputs)
        lengths = _ctc.output_lengths(model, output, items, self.frontend.main, inputs.get("attention_mask")).tolist()
        best = output.logits.argmax(-1).tolist()
        total, upsample = output.logits.shape[1], getattr(model, "upsample", 1)
        found = []
        for item, ids, length in zip(items, best, lengths):
            per_frame = _ctc.samples_per_frame(self.frontend, item, total, upsample)
            samples, left, right = item.extra
            found.append((ids[:length][_ctc.kept_frames(samples, left, right, per_frame)], per_frame))
        return found

    def merge(self, row: Row, parts: Sequence[Any]) -> dict[str, Any]:
        rate, timestamps = self.frontend.rate, self.options.timestamps
        if self.form == "seq2seq":
            timed = [(tokens, tuple(entry / rate for entry in place)) for tokens, place in parts]
            precision = 2 * self.frontend.hop / rate
            return seq2seq.transcript(timed, self.tokenizer, timestamps, precision)
        ids = [entry for (entries, _), _ in parts for entry in entries]
        return _ctc.transcript(ids, self.tokenizer, timestamps, parts[0][0][1], rate)

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        return _transcripts.ErrorRates(self.case)

    def units(self, item: Item) -> Units:
        return self.frontend.units()

    def draw(self, row: Row, prediction: Any) -> Picture:
        rate = self.frontend.rate
        image = _audio.sound_picture(_audio.open_audio(row.get("audio"), None, "audio", rate), rate)
        return _transcripts.draw(row, prediction, self.case, image)

    @classmethod
    def example_rows(cls) -> list[Row]:
        pitches = {"do": 300.0, "re": 600.0, "mi": 1200.0}
        songs = ("do", "re", "mi", "do re", "re mi", "mi do", "do mi re", "re do mi")
        return [
            {"audio": _audio.tone([pitches[name] for name in song.split()], 0.2 * len(song.split())), "text": song}
            for song in songs
        ]


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [SpeechRecognition]
