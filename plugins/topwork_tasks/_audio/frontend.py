"""Clips as a network takes them: feature extractor, windows, padding, masks, and which clips share a forward.

Entry points: `find_extractor`, `Frontend`. Reading of clips is in `clips`.

Two kinds of extractors: *ragged* (waveforms, or frames of features; a batch is padded and masked) and *fixed* (AST,
Whisper: every clip becomes a spectrogram of one size, and a longer clip is divided into windows).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Base, Batch, DataError, Item, TopworkError, Units, UsageError
from topwork_tasks._audio.clips import HINT, open_audio

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

#: a clip's numbers do not depend on padding here, if its convolutions are normalised by layer (measured: 1e-7);
#: a group norm takes its mean over the padding as well (measured: 1e-2 and more)
_EXACT = {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat"}
_STATISTICS_CLIPS = 256


# ---------------------------------------------------------------- feature extractors


def find_extractor(base: Base, clips: Iterable[Any] | None) -> Any:
    """Return the base's own feature extractor, or one for its config.

    Args:
        base: the base, whose config says what kind of features its network takes.
        clips: values of the audio column, to learn mean and deviation of spectrograms from; None when there are none.
    """
    saved = base.processor("feature_extractor")
    if saved is not None:
        return saved
    import transformers

    kind = getattr(base.config, "model_type", "")
    if kind == "whisper":
        return _whisper_extractor(base.config)
    if kind == "audio-spectrogram-transformer":
        return _spectrogram_extractor(base.config, clips)
    if kind == "wav2vec2-bert":
        bins = base.config.feature_projection_input_dim // 2
        return transformers.SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    if kind == "speech_to_text":
        bins = base.config.input_feat_per_channel
        return transformers.Speech2TextFeatureExtractor(feature_size=bins, num_mel_bins=bins)
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

    chosen: Any = FEATURE_EXTRACTOR_MAPPING.get(type(base.config), None)
    if chosen is transformers.Wav2Vec2FeatureExtractor:
        masked = getattr(base.config, "feat_extract_norm", "layer") == "layer"
        return chosen(do_normalize=True, return_attention_mask=masked)
    if chosen is None:
        raise UsageError(
            f"the base has no feature extractor, and none is known for `{kind}`",
            hint="say `base.processor: <an id or folder that has one>`",
        )
    return chosen()


def _whisper_extractor(config: Any) -> Any:
    from transformers import WhisperFeatureExtractor

    seconds, rest = divmod(2 * config.max_source_positions * 160, 16000)
    if rest or not seconds:
        raise UsageError(
            f"max_source_positions of {config.max_source_positions} are no whole seconds",
            place=f"base config:{config.model_type}",
            hint="take a multiple of 50",
        )
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)


def _spectrogram_extractor(config: Any, clips: Iterable[Any] | None) -> Any:
    """Make AST's extractor with mean and deviation of the first clips' real frames, as its authors do."""
    import numpy
    from transformers import ASTFeatureExtractor

    size = {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}
    if clips is None:
        raise UsageError(
            "the base has no feature extractor and there are no training rows to learn its mean and deviation from",
            hint="give training rows, or `base.processor`",
        )
    plain = ASTFeatureExtractor(do_normalize=False, **size)
    frontend = Frontend(plain, config)
    total = square = count = 0.0
    for index, value in zip(range(_STATISTICS_CLIPS), clips):
        clip = frontend.clip(value, index)[: frontend.window]
        features = frontend.features(clip, index, with_mask=True)
        real = features["input_values"][features["attention_mask"].astype(bool)].astype(numpy.float64)
        total, square, count = total + real.sum(), square + numpy.square(real).sum(), count + real.size
    if not count:
        raise TopworkError("there are no clips to learn statistics from", place="data.train")
    mean = float(total / count)
    deviation = math.sqrt(max(0.0, float(square / count) - mean**2))
    # numbers of Python, as they come back from JSON: numpy's would make the features float64
    return ASTFeatureExtractor(mean=mean, std=max(1e-3, deviation), **size)


# ---------------------------------------------------------------- clips -> tensors


class Frontend:
    """Clips of rows -> inputs of a network.

    Args:
        extractor: a feature extractor of transformers.
        config: the base's config.
        masks: entries of the config that SpecAugment reads and that the model was given in their place.

    Attributes:
        rate: samples a second. main: the model's first input. window: samples of the model's one size, None if ragged.
        shortest: samples that a clip needs. exact: whether padding leaves a clip's numbers alone.
    """

    def __init__(self, extractor: Any, config: Any, masks: Mapping[str, Any] | None = None) -> None:
        self.extractor, self.config, self._masks = extractor, config, dict(masks or {})
        self.rate = int(extractor.sampling_rate)
        self.main: str = extractor.model_input_names[0]
        #: samples between two positions of the features
        self.hop = int(getattr(extractor, "hop_length", 160) or 160) * int(getattr(extractor, "stride", 1) or 1)
        self.window: int | None = getattr(extractor, "n_samples", None)
        self._spectrogram = type(extractor).__name__ == "ASTFeatureExtractor"
        if self._spectrogram:
            self.window = (extractor.max_length - 1) * 160 + 400
        #: samples between two frames of a model that hears spectrograms of one size in patches
        self.time_stride: int | None = config.time_stride * 160 if self._spectrogram else None
        self.strides = list(zip(getattr(config, "conv_kernel", ()) or (), getattr(config, "conv_stride", ()) or ()))
        if not isinstance(getattr(config, "conv_kernel", None), list | tuple) or self.main != "input_values":
            self.strides = []
        # without strides known: one frame of 25 ms, and for a ragged extractor the next one, 10 ms on
        by_frames = 400 if self._spectrogram else 560
        self.shortest = (
            self._samples_for(1) if self.strides else by_frames if self._spectrogram or not self.window else 1
        )
        self.exact = self.window is not None or (
            getattr(config, "model_type", "") in _EXACT
            and getattr(config, "feat_extract_norm", "layer") == "layer"
            and not getattr(config, "conv_pos_batch_norm", False)
        )

    def _samples_for(self, frames: int) -> int:
        """Return the samples of which the convolutions make this many frames."""
        for kernel, stride in reversed(self.strides):
            frames = (frames - 1) * stride + kernel
        return frames

    @property
    def samples_per_frame(self) -> int | None:
        """Samples between two frames behind the convolutions, None where the config does not tell."""
        if not self.strides:
            return None
        adapter = self.config.adapter_stride**self.config.num_adapter_layers if self._adapts else 1
        return math.prod(stride for _, stride in self.strides) * adapter

    @property
    def _adapts(self) -> bool:
        return bool(getattr(self.config, "add_adapter", False))

    def clip(self, value: Any, row: int | None, column: str = "audio") -> np.ndarray:
        """Open a clip at the model's rate.

        Raises:
            DataError: also when the clip is shorter than the model's first convolutions.
        """
        clip = open_audio(value, row, column, self.rate)
        if len(clip) < self.shortest:
            raise DataError(
                f"the clip has {len(clip)} samples at {self.rate} Hz, the model needs {self.shortest}",
                row=row,
                column=column,
                hint="leave the row out, or join it with its neighbour",
            )
        return clip

    def features(self, clip: np.ndarray, row: int | None, with_mask: bool = False) -> dict[str, np.ndarray]:
        """Return the model's first input of one clip, and the extractor's mask where it has one.

        Of extractors of one size only `with_mask`: their models hear the silence behind a clip.

        Raises:
            DataError: the extractor made numbers that are not finite (some do of pure silence).
        """
        import numpy

        mask_option = {"return_attention_mask": True} if with_mask and not self._spectrogram else {}
        with numpy.errstate(invalid="ignore", divide="ignore"):
            extracted = self.extractor(clip, sampling_rate=self.rate, return_tensors="np", **mask_option)
        features: dict[str, np.ndarray] = {self.main: numpy.asarray(extracted[self.main][0], dtype=numpy.float32)}
        if not numpy.isfinite(features[self.main]).all():
            raise DataError(
                f"{type(self.extractor).__name__} makes no finite numbers of it", row=row, column="audio", hint=HINT
            )
        if with_mask and self._spectrogram:
            real = min(self.extractor.max_length, 1 + (len(clip) - 400) // 160)
            features["attention_mask"] = (numpy.arange(self.extractor.max_length) < real).astype(numpy.int64)
        elif "attention_mask" in extracted and (with_mask or self.window is None):
            mask = numpy.asarray(extracted["attention_mask"][0], dtype=numpy.int64)
            if self.window is not None or (len(mask) == len(features[self.main]) and not mask.all()):
                features["attention_mask"] = mask
        return features

    def collate(self, items: Sequence[Item], training: bool = False) -> dict[str, torch.Tensor]:
        """Return features padded and stacked, without a mask where nothing is padded: then every position is real."""
        import numpy
        import torch

        arrays = [item.inputs[self.main] for item in items]
        longest = max((len(array) for array in arrays), default=0)
        if training and self.window is None:
            longest = max(longest, self._augmentable())
        masks = [item.inputs.get("attention_mask") for item in items]
        if all(len(array) == longest for array in arrays) and all(mask is None for mask in masks):
            return {self.main: torch.from_numpy(numpy.stack(arrays))}
        value = float(getattr(self.extractor, "padding_value", 0.0)) if self.window is None else 0.0
        stacked = numpy.full((len(items), longest, *arrays[0].shape[1:]), value, dtype=numpy.float32)
        # Whisper's features have time last, AST's first: the mask tells its own length
        width = max((len(mask) for mask in masks if mask is not None), default=longest)
        real = numpy.zeros((len(items), max(width, longest) if self.window is None else width), dtype=numpy.int64)
        for number, (array, mask) in enumerate(zip(arrays, masks)):
            stacked[number, : len(array)] = array
            if mask is None:
                real[number, : len(array)] = 1
            else:
                real[number, : len(mask)] = mask
        return {self.main: torch.from_numpy(stacked), "attention_mask": torch.from_numpy(real)}

    def _augmentable(self) -> int:
        """Return the least length of a batch for SpecAugment, which fails on batches shorter than one mask."""
        entries = {name: getattr(self.config, name, None) for name in ("apply_spec_augment", "mask_time_prob")}
        if not all({**entries, **{name: value for name, value in self._masks.items() if name in entries}}.values()):
            return 0
        frames = int(self._masks.get("mask_time_length", getattr(self.config, "mask_time_length", 0)))
        return self._samples_for(frames) if self.strides else frames

    def groups(self, batch: Batch, model: nn.Module) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield positions and inputs of each forward, floats in the model's precision.

        One forward for the batch; where a model's numbers depend on padding, in evaluation one for each length.
        """
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        inputs = {name: batch.inputs[name] for name in (self.main, "attention_mask") if name in batch.inputs}
        inputs[self.main] = inputs[self.main].to(dtype)
        by_length: dict[int, list[int]] = {}
        for position, item in enumerate(batch.items):
            by_length.setdefault(len(item.inputs[self.main]), []).append(position)
        if (
            self.exact
            or model.training
            or (len(by_length) == 1 and next(iter(by_length)) == inputs[self.main].shape[1])
        ):
            yield list(range(len(batch))), inputs
            return
        for length, positions in by_length.items():
            chosen = {name: tensor[positions, :length] for name, tensor in inputs.items()}
            if "attention_mask" in chosen and bool(chosen["attention_mask"].all()):
                del chosen["attention_mask"]
            yield positions, chosen

    def cost_budget(self, device: str) -> int | None:
        """Return the samples of a batch for predictions: clips whose numbers change by padding go alone."""
        if not self.exact:
            return 1
        return 8 * self.rate if device == "cpu" else 320 * self.rate

    def frame_count(self, samples: int) -> int:
        """Return the frames of a clip behind the convolutions, of which masks of SpecAugment hide some."""
        for kernel, stride in self.strides:
            samples = (samples - kernel) // stride + 1
        return max(0, samples if self.strides else samples // self.hop)

    def output_frames(self, samples: int) -> int | None:
        """Return the most frames that a model puts out for a clip; None where the config does not tell."""
        if self.strides and not self._adapts:
            return self.frame_count(samples)
        seconds = self.units().seconds
        if not seconds:
            return None
        adapter = self.config.adapter_stride**self.config.num_adapter_layers if self._adapts else 1
        return math.ceil(samples / (seconds * self.rate * adapter))

    def units(self) -> Units:
        """Return the meaning of the positions of the backbone's tokens."""
        if self._spectrogram:
            config = self.config
            grid = [
                (size - config.patch_size) // stride + 1
                for size, stride in (
                    (config.num_mel_bins, config.frequency_stride),
                    (config.max_length, config.time_stride),
                )
            ]
            seconds = (self.time_stride or 0) / self.rate
            return Units("patch", special=(0, 1), grid=(grid[0], grid[1]), seconds=seconds)
        if self.strides:  # attention lies before an adapter
            return Units("frame", seconds=math.prod(stride for _, stride in self.strides) / self.rate)
        steps = {"whisper": 2, "speech_to_text": 4, "wav2vec2-bert": 1}.get(getattr(self.config, "model_type", ""))
        return Units("frame", seconds=steps * self.hop / self.rate if steps else None)


def clip_windows(length: int, size: int | None) -> list[tuple[int, int]]:
    """Return start and end of the windows that cover a clip, of one size, evenly spread; one for a short clip."""
    if size is None or length <= size:
        return [(0, length)]
    count = -(-length // size)
    starts = [round(index * (length - size) / (count - 1)) for index in range(count)]
    return [(start, start + size) for start in starts]
