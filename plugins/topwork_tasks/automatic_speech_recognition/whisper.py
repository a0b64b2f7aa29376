"""Speech recognition by an encoder and a decoder (Whisper and its like): tokenizer, targets, losses, generation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Base, DataError, UsageError
from topwork_tasks.automatic_speech_recognition import word_times

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = ("AutoModelForSpeechSeq2Seq",)
_END, _START = "<|endoftext|>", "<|startoftranscript|>"
# `<|notimestamps|>` must come last: Whisper counts times from the entry after it
_SPECIAL = (_START, "<|translate|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>")


def learn_byte_tokenizer(texts: Iterable[str], vocabulary: int = 1000) -> Any:
    """Learn a `WhisperTokenizer` of byte pairs from the texts; any other text is written in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    made = WhisperTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        pad_token=_END,
        extra_special_tokens=list(_SPECIAL),
    )
    made.set_prefix_tokens()
    return made


def model_changes(tokenizer: Any) -> dict[str, Any]:
    """Return the config entries of a model that starts with a learned tokenizer."""
    end, start = tokenizer.convert_tokens_to_ids([_END, _START])
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": start,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }


def prepare_generation(model: Any, tokenizer: Any) -> None:
    """Set what Whisper's `generate` reads, for a model that starts with a learned tokenizer."""
    settings = model.generation_config
    for name, value in model_changes(tokenizer).items():
        if name not in ("vocab_size", "suppress_tokens", "begin_suppress_tokens"):
            setattr(settings, name, value)
    settings.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    settings.is_multilingual = False
    settings._from_model_config = False  # what is marked so is dropped on reading, with the entries above
    settings.max_length = model.config.max_target_positions
    settings.return_timestamps = False


def keep_generation(model: Any, values: dict[str, Any], options: Any, restore: bool) -> None:
    """Keep the checkpoint's generation config in the task's state, or with `restore` give it back to the model.

    A model saved in topwork's own form (a pruned one) has no other place for it.

    Raises:
        UsageError: `timestamps: word`, and which attention heads follow the sound is not known.
    """
    from transformers import GenerationConfig

    if restore and "generation_config" in values:
        model.generation_config = GenerationConfig.from_dict(values["generation_config"])
    else:
        settings = model.generation_config.to_diff_dict()
        values["generation_config"] = {key: settings[key] for key in settings if key != "transformers_version"}
    if options.timestamps == "word":
        word_times.check_alignment(model, options.generation)


def decoder_ids(text: str, tokenizer: Any, config: Any, row: int | None) -> list[int]:
    """Return prefix, text and end as the decoder must write them, without the token that it starts from.

    Raises:
        DataError: a text longer than the decoder can write.
    """
    ids = list(tokenizer(text).input_ids)
    if ids and ids[0] == getattr(config, "decoder_start_token_id", None):
        ids = ids[1:]
    limit = getattr(config, "max_target_positions", None)
    if limit is not None and len(ids) > limit:
        raise DataError(
            f"the text has {len(ids)} tokens, the decoder writes at most {limit}",
            row=row,
            column="text",
            hint="divide the clip, or leave the row out",
        )
    return ids


def label_tensor(targets: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return targets as [items, longest], padded by -100."""
    import torch

    longest = max((len(target) for target in targets), default=0)
    return torch.tensor([[*target, *[-100] * (longest - len(target))] for target in targets], dtype=torch.long)


def decoder_losses(model: nn.Module, inputs: Mapping[str, Any], labels: torch.Tensor) -> tuple[Any, Any]:
    """Return the sum of the cross-entropies of each item's tokens, [items], and their number."""
    from torch.nn import functional

    logits = model(**inputs, labels=labels).logits.float()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return losses.sum(1), (labels != -100).sum(1)


def generate_tokens(
    model: Any, inputs: dict[str, Any], settings: Mapping[str, Any], timestamps: str | None
) -> list[Any]:
    """Generate the tokens of each item; with `timestamps: word` also the seconds at which each token ends.

    The Hub pipeline's defaults (5 beams, 256 new tokens) hold where neither `settings` nor the checkpoint's generation
    config say otherwise.
    """
    core = getattr(model, "module", model)
    defaults = core.generation_config
    chosen = dict(settings)
    if getattr(defaults, "num_beams", None) in (None, 1):
        chosen.setdefault("num_beams", 5)
    if "max_length" not in chosen and getattr(defaults, "max_length", None) in (None, 20):
        chosen.setdefault("max_new_tokens", min(256, getattr(core.config, "max_target_positions", 512) // 2))
    if timestamps == "word":
        return word_times.generate_with_times(core, inputs, chosen)
    if timestamps:
        chosen["return_timestamps"] = True
    generated = core.generate(**inputs, **chosen)
    tokens = generated["sequences"] if isinstance(generated, dict) else generated
    return tokens.tolist()


def decoder_transcript(
    parts: Sequence[tuple[Any, tuple[float, float, float]]], tokenizer: Any, timestamps: str | None, precision: float
) -> dict[str, Any]:
    """Return the tokens of windows as text, in the shape of the Hub's pipeline.

    Args:
        parts: of each window what `generate` gave and (seconds, seconds of context on the left, on the right).
        tokenizer: of the texts.
        timestamps: what gets a time; None for nothing.
        precision: seconds between two time tokens.
    """
    import numpy

    joined = getattr(tokenizer, "_decode_asr", None)
    if joined is None:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens, _ in parts]
        return {"text": " ".join(text for text in texts if text)}
    if timestamps == "word":
        outputs = word_times.timed_outputs([part for part, _ in parts])
    else:
        outputs = [{"tokens": numpy.array([tokens])} for tokens, _ in parts]
    if len(parts) > 1:
        for output, (_, stride) in zip(outputs, parts):
            output["stride"] = stride
    text, optional = joined(
        outputs,
        return_timestamps="word" if timestamps == "word" else timestamps is not None or None,
        return_language=None,
        time_precision=precision,
    )
    return {"text": text, **optional}


def check_timestamps(timestamps: str | None, base: Base) -> None:
    """Refuse times that this form does not give."""
    if timestamps == "char":
        hint = "a decoder gives `timestamps: segment` or `word`"
        raise UsageError("`timestamps: char` is for CTC", place="task", hint=hint)
    if timestamps and getattr(base.config, "model_type", "") != "whisper":
        raise UsageError("only Whisper writes times", place="task", hint="leave `timestamps` out")
