"""Options of automatic-speech-recognition, and their form and tokenizer on a base."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from topwork import Base, TaskOptions, UsageError
from topwork_tasks._audio.augmentation import AUGMENT_HELP, AudioAugment
from topwork_tasks._audio.spec_augment import SPEC_AUGMENT_HELP, SpecAugment
from topwork_tasks._classification.options import HeadDropout
from topwork_tasks._text.metrics import UnicodeForm
from topwork_tasks.automatic_speech_recognition import transcripts as _transcripts

HEAD = ("AutoModelForCTC",)


class SpeechRecognitionOptions(TaskOptions):
    """Options of automatic-speech-recognition."""

    form: Literal["auto", "ctc", "seq2seq"] = Field(
        "auto", description="auto: ctc, but seq2seq for checkpoints that write with a decoder"
    )
    vocabulary: Literal["auto", "data", "checkpoint"] = Field(
        "auto", description="whose letters; auto: the checkpoint's where it has some and keeps its task head"
    )
    case: Literal["auto", "keep", "lower", "upper"] = Field(
        "auto", description="of texts before they are learned and compared; auto: as the checkpoint's vocabulary"
    )
    unknown: Literal["refuse", "drop"] = Field("refuse", description="what to do with letters out of the vocabulary")
    normalise: UnicodeForm = Field("none", description="Unicode form of texts before the error rates compare them")
    punctuation: _transcripts.Punctuation = Field(
        "keep", description="ignore: the error rates leave out punctuation and symbols, apostrophes in words excepted"
    )
    timestamps: Literal["word", "char", "segment"] | None = Field(
        None, description="also predict times: of words or characters (ctc), of words or segments (Whisper)"
    )
    chunk_seconds: PositiveFloat | None = Field(None, description="predict longer clips in chunks of this length")
    stride_seconds: NonNegativeFloat | None = Field(
        None, description="context on each side of a chunk; by default a sixth of it"
    )
    max_seconds: PositiveFloat | None = Field(None, description="refuse to train on longer clips")
    upsample: PositiveInt = Field(1, description="frames for each frame of the backbone; generic task head")
    augment: AudioAugment = Field("none", description=AUGMENT_HELP)
    spec_augment: SpecAugment = Field("auto", description=SPEC_AUGMENT_HELP)
    dropout: HeadDropout = 0.1
    generation: dict[str, Any] = Field(default_factory=dict, description="arguments of `generate` (seq2seq)")


def speech_form(base: Base, options: SpeechRecognitionOptions) -> Literal["ctc", "seq2seq"]:
    """Return the form of the options, or the one that suits the architecture and the checkpoint."""
    if options.form != "auto":
        return options.form
    writes = has_class(base, "SPEECH_SEQ_2_SEQ") and not has_class(base, "CTC")
    return "seq2seq" if writes and base.processor("tokenizer") is not None else "ctc"


def has_class(base: Base, kind: str) -> bool:
    """Return whether transformers has a class for the architecture."""
    from transformers.models.auto import modeling_auto

    return getattr(base.config, "model_type", "") in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")


def saved_tokenizer(base: Base, form: str, options: SpeechRecognitionOptions) -> Any | None:
    """Return the checkpoint's tokenizer where the options want it; None: learn one."""
    if options.vocabulary == "data":
        return None
    required = options.vocabulary == "checkpoint"
    # the pieces of a decoder are no letters for a CTC head
    fits = has_class(base, "CTC" if form == "ctc" else "SPEECH_SEQ_2_SEQ")
    tokenizer = base.processor("tokenizer") if fits and (required or base.options.head == "keep") else None
    if tokenizer is None and required:
        raise UsageError("the base has no tokenizer for this form", place="task", hint="choose `vocabulary: data`")
    return tokenizer


def texts(rows: Any, case: _transcripts.Case) -> Iterable[str]:
    """Return the training rows' texts, to learn a vocabulary from."""
    if rows is None:
        raise UsageError(
            "the base has no vocabulary and there are no training rows to learn one from",
            place="task",
            hint="give training rows, or `base.processor`",
        )
    narrow = rows.select_columns(["text"]) if hasattr(rows, "select_columns") else rows
    return [_transcripts.transcript_text(row, index, case) for index, row in enumerate(narrow)]
