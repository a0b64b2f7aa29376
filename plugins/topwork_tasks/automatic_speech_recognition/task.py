"""automatic-speech-recognition: the words of a clip.

Two forms. *ctc*: the native `AutoModelForCTC` where the architecture has one (the wav2vec2 family, HuBERT, WavLM,
wav2vec2-bert), else a CTC task head on the backbone of any audio encoder; the vocabulary is the checkpoint's or the
letters of the data. *seq2seq*: `AutoModelForSpeechSeq2Seq` (Whisper), which writes by `generate`. Predictions have the
shape of the Hub's pipeline: {"text"} and, with `timestamps`, {"chunks"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

import topwork as tw
from topwork_tasks._audio import clips as _audio
from topwork_tasks._audio import frontend as _audio_frontend
from topwork_tasks._audio.audio_task import AUDIO_COLUMN, AudioTask
from topwork_tasks._audio.augmentation import clip_parts
from topwork_tasks._audio.spec_augment import fit_masks
from topwork_tasks._text.inputs import token_units
from topwork_tasks.automatic_speech_recognition import ctc as _ctc
from topwork_tasks.automatic_speech_recognition import options as choices
from topwork_tasks.automatic_speech_recognition import transcripts as _transcripts
from topwork_tasks.automatic_speech_recognition import whisper as seq2seq
from topwork_tasks.automatic_speech_recognition.examples import speech_examples

if TYPE_CHECKING:
    import torch
    from torch import nn


class SpeechRecognition(AudioTask):
    """Write down the words of a clip, by CTC or by a decoder. `bad_input.md` says what becomes of bad rows."""

    name = "automatic-speech-recognition"
    Options = choices.SpeechRecognitionOptions
    columns: ClassVar[Mapping[str, tw.Column]] = {
        "audio": AUDIO_COLUMN,
        "text": tw.Column("the words that are said", target=True, kind="text"),
    }
    state_types: ClassVar[Mapping[str, Any]] = {
        "form": Literal["ctc", "seq2seq"],
        "native": bool,
        "case": _transcripts.Case,
        "own_vocabulary": bool,
        "reduction": Literal["mean", "sum"],
        "spec_augment": dict[str, Any],
    }

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, tw.Base], options: choices.SpeechRecognitionOptions) -> tw.State:
        base = bases["base"]
        form = choices.speech_form(base, options)
        if form == "seq2seq":
            seq2seq.check_timestamps(options.timestamps, base)
        elif options.timestamps == "segment":
            raise tw.UsageError("`timestamps: segment` is for Whisper", place="task", hint="choose word or char")
        tokenizer = choices.saved_tokenizer(base, form, options)
        fresh = tokenizer is None
        if fresh and form == "seq2seq" and options.timestamps is not None:
            raise tw.UsageError("a learned vocabulary has no times", place="task", hint="leave `timestamps` out")
        case: _transcripts.Case = "keep" if options.case == "auto" else options.case
        if tokenizer is not None and options.case == "auto" and form == "ctc":
            case = _ctc.natural_case(tokenizer)
        if fresh:
            tokenizer = (_ctc.learn_letter_tokenizer if form == "ctc" else seq2seq.learn_byte_tokenizer)(
                choices.texts(rows, case)
            )
        clips = None if rows is None else (row.get("audio") for row in rows)
        extractor = _audio_frontend.find_extractor(base, clips)
        trained = base.trained_labels(*choices.HEAD) is not None
        reduction = getattr(base.config, "ctc_loss_reduction", "mean") if trained else "mean"
        native = form == "seq2seq" or choices.has_class(base, "CTC")
        values = {"form": form, "native": native, "case": case, "own_vocabulary": fresh, "reduction": reduction}
        notes: list[str] = []
        frontend = _audio_frontend.Frontend(extractor, base.config)
        lengths = _audio.clip_lengths(rows, frontend.rate) if rows is not None else []
        values["spec_augment"] = fit_masks(options.spec_augment, frontend, base.config, lengths, notes)
        if form == "ctc" and rows is not None:
            notes += _ctc.unaligned_notes(rows, frontend, tokenizer, case, options.upsample)
        return tw.State(values, {"feature_extractor": extractor, "tokenizer": tokenizer}, notes)

    def __init__(
        self, bases: Mapping[str, tw.Base], options: choices.SpeechRecognitionOptions, state: tw.State
    ) -> None:
        super().__init__(bases, options, state)
        self.form: Literal["ctc", "seq2seq"] = state.values["form"]
        self.case: _transcripts.Case = state.values["case"]
        self.tokenizer = state.processors["tokenizer"]
        self._masks: dict[str, Any] = state.values.get("spec_augment") or {}
        self.frontend = _audio_frontend.Frontend(state.processors["feature_extractor"], self.base.config, self._masks)
        self._parts = clip_parts(options.augment)
        self.repeatable = not self._parts
        self._blank = int(self.tokenizer.pad_token_id)
        # the generic head of a model of one size counts the frames that a clip fills; `generate` wants the mask too
        self._with_mask = self.frontend.window is not None

    @override
    def build(self, weights: bool = True) -> nn.Module:
        fresh = self.state.values["own_vocabulary"]
        if self.form == "seq2seq":
            changes = {**self._masks, **(seq2seq.model_changes(self.tokenizer) if fresh else {})}
            model = self.base.native(*seq2seq.HEAD, weights=weights, **changes)
            if model is None:
                raise tw.UsageError("the base has no decoder", place="task", hint="choose `form: ctc`")
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
            **self._masks,
        }
        native = self.base.native(*choices.HEAD, weights=weights, **changes) if self.state.values["native"] else None
        if native is not None:
            return native
        from topwork_tasks.automatic_speech_recognition.ctc_head import CtcHead

        return CtcHead(
            self.base.backbone(weights=weights, **self._masks),
            size,
            fixed=self.frontend.window is not None,
            dropout=self.options.dropout,
            upsample=self.options.upsample,
        )

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: tw.Row, mode: tw.Mode) -> bool:
        return _audio.may_be_unreadable(row.get("audio"))

    @override
    def encode(self, rows: Sequence[tw.Row], mode: tw.Mode, seed: int) -> list[tw.Item]:
        items: list[tw.Item] = []
        for index, row in enumerate(rows):
            target = self._target(row, index) if mode != "predict" else None
            clip = self.open_clip(row, index)
            if target is not None:
                self._check_length(len(clip), index)
                if mode == "train":
                    clip = self.training_clip(clip, seed, self._parts, self.frontend.window)
                items.append(self._item(clip, index, target))
                continue
            cuts = (self.options.chunk_seconds, self.options.stride_seconds, self.form == "ctc")
            for start, end, left, right in _ctc.chunks_of(len(clip), self.frontend, *cuts):
                items.append(self._item(clip[start:end], index, (end - start, left, right)))
        return items

    def _item(self, clip: Any, index: int, extra: Any) -> tw.Item:
        inputs = self.frontend.features(clip, index, self._with_mask)
        return tw.Item(index, inputs, self.frontend.window or len(clip), extra)

    def _target(self, row: tw.Row, index: int) -> list[int]:
        text = _transcripts.transcript_text(row, index, self.case)
        if self.form == "seq2seq":
            return seq2seq.decoder_ids(text, self.tokenizer, self.base.config, index)
        return _ctc.letter_ids(text, self.tokenizer, self.options.unknown, index)

    def _limits(self) -> list[tuple[int, str]]:
        """Return the samples that a clip may have with its text, and the reason."""
        longest, window = self.options.max_seconds, self.frontend.window
        limits = [] if longest is None else [(round(longest * self.frontend.rate), "`max_seconds` allows")]
        return limits if window is None else [*limits, (window, "the model hears at most")]

    def _check_length(self, samples: int, index: int) -> None:
        rate = self.frontend.rate
        for limit, cause in self._limits():
            if samples > limit:
                raise tw.DataError(
                    f"the clip lasts {samples / rate:.2f} s, {cause} {limit / rate:.2f} s, and its text cannot be cut",
                    row=index,
                    column="audio",
                    hint="divide clip and text, or leave the row out",
                )

    @override
    def costs(self, rows: Sequence[tw.Row]) -> list[list[int]] | None:
        lengths = None if "speed" in self._parts else self.sample_counts(rows)
        if lengths is None or any(length > limit for length in lengths for limit, _ in self._limits()):
            return None
        return [[self.frontend.window or length] for length in lengths]

    @override
    def collate(self, items: Sequence[tw.Item], mode: tw.Mode) -> tw.Batch:
        inputs = self.frontend.collate(items, training=mode == "train")
        if mode != "predict" and self.form == "seq2seq":
            inputs["labels"] = seq2seq.label_tensor([item.extra for item in items])
        return tw.Batch(inputs, items)

    @override
    def units(self, item: tw.Item) -> tw.Units:
        units = super().units(item)
        if self.form == "seq2seq" and isinstance(item.extra, list):  # of mode "loss": the ids of the target
            units.target_names = ["(start)", *token_units(self.tokenizer, item.extra[:-1]).names]
        return units

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def loss(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        losses, tokens = self._losses(model, batch)
        if tokens is not None:
            return losses.sum() / tokens.sum()
        return losses.sum() if self.state.values["reduction"] == "sum" else losses.mean()

    @override
    def target_counts(self, batch: tw.Batch) -> tuple[float | torch.Tensor]:
        if self.form == "seq2seq":
            return ((batch.inputs["labels"] != -100).sum(),)
        return (0 if self.state.values["reduction"] == "sum" else len(batch),)

    @override
    def row_losses(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        losses, tokens = self._losses(model, batch)
        return losses if tokens is None else losses / tokens

    def _losses(self, model: nn.Module, batch: tw.Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return losses [items], and, where they are sums over tokens, the tokens of each."""
        import torch

        order: list[int] = []
        losses: list[torch.Tensor] = []
        counts: list[torch.Tensor] = []
        for positions, inputs in self.frontend.groups(batch, model):
            order += positions
            if self.form == "seq2seq":
                inputs.pop("attention_mask", None) if self.frontend.window is not None else None
                item_losses, tokens = seq2seq.decoder_losses(model, inputs, batch.inputs["labels"][positions])
                counts.append(tokens)
            else:
                item_losses = self._ctc_losses(model, inputs, [batch.items[position] for position in positions])
            losses.append(item_losses)
        back = torch.tensor(order).argsort()
        whole = torch.cat(losses)
        return whole[back.to(whole.device)], torch.cat(counts)[back.to(whole.device)] if counts else None

    def _ctc_losses(self, model: nn.Module, inputs: dict[str, torch.Tensor], items: Sequence[tw.Item]) -> torch.Tensor:
        output = model(**inputs)
        lengths = _ctc.output_lengths(model, output, items, self.frontend.main, inputs.get("attention_mask"))
        targets = [item.extra for item in items]
        per_letter = self.state.values["reduction"] != "sum"
        return _ctc.ctc_losses(output.logits, lengths, targets, self._blank, per_letter)

    @override
    def predict(self, model: nn.Module, batch: tw.Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for positions, inputs in self.frontend.groups(batch, model):
            items = [batch.items[position] for position in positions]
            if self.form == "seq2seq":
                outputs = seq2seq.generate_tokens(model, inputs, self.options.generation, self.options.timestamps)
            else:
                outputs = self._frames(model, inputs, items)
            for position, part in zip(positions, outputs, strict=True):
                parts[position] = (part, batch.items[position].extra)
        return parts

    def _frames(self, model: nn.Module, inputs: dict[str, torch.Tensor], items: Sequence[tw.Item]) -> list[Any]:
        """Return for each item the best entry of each of its frames, and the samples between two frames."""
        output = model(**inputs)
        lengths = _ctc.output_lengths(model, output, items, self.frontend.main, inputs.get("attention_mask")).tolist()
        best = output.logits.argmax(-1).tolist()
        total, upsample = output.logits.shape[1], getattr(model, "upsample", 1)
        frames = []
        for item, ids, length in zip(items, best, lengths):
            per_frame = _ctc.samples_per_frame(self.frontend, item, total, upsample)
            samples, left, right = item.extra
            frames.append((ids[:length][_ctc.kept_frames(samples, left, right, per_frame)], per_frame))
        return frames

    @override
    def merge(self, row: tw.Row, parts: Sequence[Any]) -> dict[str, Any]:
        rate, timestamps = self.frontend.rate, self.options.timestamps
        if self.form == "seq2seq":
            timed = [(tokens, tuple(entry / rate for entry in context)) for tokens, context in parts]
            precision = 2 * self.frontend.hop / rate
            return seq2seq.decoder_transcript(timed, self.tokenizer, timestamps, precision)
        ids = [entry for (entries, _), _ in parts for entry in entries]
        return _ctc.ctc_transcript(ids, self.tokenizer, timestamps, parts[0][0][1], rate)

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> tw.Metric:
        return _transcripts.ErrorRates(self.case, self.options.normalise, self.options.punctuation)

    @override
    def draw(self, row: tw.Row, prediction: Any) -> tw.Picture:
        image, _, audio = self.spectrogram(row)
        return replace(_transcripts.draw_transcript(row, prediction, self.case, image), audio=audio)

    @classmethod
    @override
    def example_rows(cls) -> list[tw.Row]:
        return speech_examples()
