"""Connectionist temporal classification (Graves et al. 2006): vocabulary, targets, loss, chunks, text."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork import DataError, Item, UsageError
from topwork_tasks._audio.clips import audio_length
from topwork_tasks.automatic_speech_recognition.transcripts import transcript_text

if TYPE_CHECKING:
    import torch

    from topwork_tasks._audio.frontend import Frontend

Timestamps = Literal["word", "char"]
_DELIMITER, _UNKNOWN, _BLANK = "|", "[UNK]", "[PAD]"
#: rows of a stream whose texts are compared with their clips
_STREAM = 1000


# ---------------------------------------------------------------- vocabulary and targets


def learn_letter_tokenizer(texts: Iterable[str]) -> Any:
    """Learn a `Wav2Vec2CTCTokenizer` of letters.

    The vocabulary is the letters of the texts, sorted, then the word delimiter, the unknown letter and the blank.
    It has no sentence ends: CTC needs none, and each would be one more output.
    """
    from transformers import Wav2Vec2CTCTokenizer

    letters = sorted({letter for text in texts for letter in text} - {" "})
    if not letters:
        raise UsageError("the texts have no letters to learn a vocabulary from", place="data.train")
    if _DELIMITER in letters:
        raise DataError(f"has {_DELIMITER!r}, which stands between words", column="text", hint="remove it")
    names = [*letters, _DELIMITER, _UNKNOWN, _BLANK]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({name: index for index, name in enumerate(names)}), encoding="utf-8")
        made = Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            unk_token=_UNKNOWN,
            pad_token=_BLANK,
            word_delimiter_token=_DELIMITER,
        )
    made.init_kwargs.pop("vocab_file", None)
    return made


def vocabulary_size(tokenizer: Any) -> int:
    """Return the outputs of the task head: one more than the largest id."""
    return max(tokenizer.get_vocab().values()) + 1


def letter_ids(
    text: str, tokenizer: Any, unknown: Literal["refuse", "drop"], row: int | None, column: str = "text"
) -> list[int]:
    """Return the ids of a text's letters; of a tokenizer of pieces, its pieces.

    Raises:
        DataError: a letter that the vocabulary does not have.
    """
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    if delimiter is None:
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    upper = getattr(tokenizer, "do_lower_case", False)
    known = tokenizer.encoder
    ids = []
    for letter in text:
        name = delimiter if letter == " " else letter.upper() if upper else letter
        if name in known:
            ids.append(known[name])
        elif unknown == "refuse":
            raise DataError(
                f"the vocabulary has no {letter!r}",
                row=row,
                column=column,
                hint="correct the text, choose `case`, or set `unknown: drop` to leave such letters out",
            )
    return ids


def natural_case(tokenizer: Any) -> Literal["keep", "lower", "upper"]:
    """Return the case of texts for a checkpoint's vocabulary: it often has letters of one case alone."""
    if getattr(tokenizer, "do_lower_case", False):
        return "lower"
    letters = [name for name in getattr(tokenizer, "encoder", {}) if len(name) == 1 and name.lower() != name.upper()]
    if letters and all(name == name.upper() for name in letters):
        return "upper"
    return "lower" if letters and all(name == name.lower() for name in letters) else "keep"


def unaligned_notes(
    rows: Any, frontend: Frontend, tokenizer: Any, case: Literal["keep", "lower", "upper"], upsample: int
) -> list[str]:
    """Return a sentence about training rows whose texts need more frames than their clips have.

    They have no alignment (a letter takes a frame, and a blank parts two equal ones), so their loss is 0.

    Args:
        rows: training rows.
        frontend: the clips as the network takes them.
        tokenizer: of the texts.
        case: the case that texts get.
        upsample: frames of the output for each frame of the backbone.

    Raises:
        DataError: there is no other row.
    """
    short, total, example = 0, 0, ""
    for index, row in enumerate(rows if hasattr(rows, "__len__") else islice(rows, _STREAM)):
        try:
            ids = letter_ids(transcript_text(row, index, case), tokenizer, "drop", index)
            frames = frontend.output_frames(audio_length(row.get("audio"), frontend.rate))
        except DataError:
            continue  # reading the row for training refuses it, or skips and counts it
        if frames is None:
            return []
        total += 1
        needed = len(ids) + sum(left == right for left, right in pairwise(ids))
        if needed > frames * upsample:
            short += 1
            example = example or f"row {index}: {needed} for {frames * upsample}"
    if total and short == total:
        raise DataError(
            f"every text needs more frames than its clip has ({example}): nothing can be learned",
            column="text",
            hint="raise `upsample`, take a base with more frames a second, or divide the clips rightly",
        )
    cause = f"{short} of {total} texts need more frames than their clips have ({example}): their loss is 0"
    return [f"{cause}; `upsample` makes more frames"] if short else []


# ---------------------------------------------------------------- the loss


def ctc_losses(
    logits: torch.Tensor, lengths: torch.Tensor, targets: Sequence[Sequence[int]], blank: int, per_letter: bool
) -> torch.Tensor:
    """Return -log of the probability of each target, summed over its alignments, float32 [items].

    Args:
        logits: [items, frames, vocabulary].
        lengths: [items], real frames.
        targets: tokens of each item.
        blank: token that stands for no letter.
        per_letter: divide by the target's length, as transformers does under `ctc_loss_reduction: mean`.

    A target that has no alignment, because it is longer than its clip has frames, gives 0 and no gradient.
    """
    import torch
    from torch.nn import functional

    logs = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    counts = torch.tensor([len(target) for target in targets], device=logits.device)
    flat = torch.tensor([entry for target in targets for entry in target], dtype=torch.long, device=logits.device)
    with torch.backends.cudnn.flags(enabled=False):  # its kernel refuses some targets
        losses = functional.ctc_loss(
            logs, flat, lengths.to(logits.device), counts, blank=blank, reduction="none", zero_infinity=True
        )
    return losses / counts.clamp(min=1) if per_letter else losses


def output_lengths(model: Any, output: Any, items: Sequence[Item], main: str, mask: torch.Tensor | None) -> Any:
    """Return the real frames of each item's logits, [items]."""
    import torch

    if getattr(output, "lengths", None) is not None:
        return output.lengths
    count, frames = output.logits.shape[:2]
    core = getattr(model, "module", model)
    method = next(
        (
            method
            for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
            if (method := getattr(core, name, None) or getattr(getattr(core, "base_model", None), name, None))
        ),
        None,
    )
    if mask is None:
        return torch.full((count,), frames)
    if method is None:
        raise UsageError(
            f"{type(core).__name__} does not tell how many frames belong to a clip", hint="set `batch_size: 1`"
        )
    return method(mask.sum(1)).long().clamp(1, frames).cpu()


# ---------------------------------------------------------------- long clips


def chunk_places(length: int, chunk: int, stride: int, align: int) -> list[tuple[int, int, int, int]]:
    """Return (start, end, left, right) of each chunk; `left` and `right` samples are context only.

    Cuts are multiples of `align`, so frames of neighbouring chunks meet. The same cuts as the Hub's pipeline makes.
    """
    chunk, stride = round(chunk / align) * align, round(stride / align) * align
    if length <= chunk:
        return [(0, length, 0, 0)]
    if chunk <= 2 * stride:
        raise UsageError("a chunk must be longer than twice its stride", place="task", hint="lower `stride_seconds`")
    places = []
    for start in range(0, length, chunk - 2 * stride):
        end, left = min(start + chunk, length), stride if start else 0
        last = start + chunk >= length
        if end - start > left:
            places.append((start, end, left, 0 if last else stride))
        if last:
            break
    return places


def chunks_of(
    length: int, frontend: Frontend, chunk_seconds: float | None, stride_seconds: float | None, frames: bool
) -> list[tuple[int, int, int, int]]:
    """Return the chunks of a clip: the whole clip, unless it is longer than `chunk_seconds` or the model's one size.

    Args:
        length: samples of the clip.
        frontend: the clips as the network takes them.
        chunk_seconds: the option; None for no limit but the model's.
        stride_seconds: the option: context on each side of a chunk.
        frames: cuts lie between frames of the model.

    Returns:
        For each chunk its first sample, its end, and the samples of context on its left and on its right.
    """
    chunk_size = None if chunk_seconds is None else round(chunk_seconds * frontend.rate)
    size = min((entry for entry in (chunk_size, frontend.window) if entry is not None), default=None)
    if size is None or length <= size:
        return [(0, length, 0, 0)]
    stride = size / 6 if stride_seconds is None else stride_seconds * frontend.rate
    align = (frontend.samples_per_frame or frontend.time_stride or 2 * frontend.hop) if frames else 1
    return chunk_places(length, size // align * align, round(stride), align)


def kept_frames(samples: int, left: int, right: int, per_frame: float) -> slice:
    """Return the frames of a chunk that are not context."""
    frames = round(samples / per_frame)
    first = round(left / samples * frames)
    return slice(first, frames - round(right / samples * frames) if right else None)


def samples_per_frame(frontend: Frontend, item: Item, frames: int, upsample: int) -> float:
    """Return the samples between two frames of the logits."""
    if frontend.samples_per_frame is not None:
        return frontend.samples_per_frame / upsample
    if frontend.time_stride is not None:
        return frontend.time_stride / upsample
    if frontend.window is not None:
        return frontend.window / frames
    features = len(item.inputs[frontend.main])
    return frontend.hop * max(1, round(features * upsample / frames)) / upsample


# ---------------------------------------------------------------- frames -> text


def ctc_transcript(
    ids: Sequence[int], tokenizer: Any, timestamps: Timestamps | None, per_frame: float, rate: int
) -> dict[str, Any]:
    """Return the text of frames in the shape of the Hub's pipeline: repetitions collapsed, blanks dropped.

    {"text"} and, with `timestamps`, {"chunks": [{"text", "timestamp": (start, end)}]}.

    Args:
        ids: the best token of each frame.
        tokenizer: of the texts.
        timestamps: what gets a time; None for nothing.
        per_frame: samples between two frames, at `rate` samples a second.
        rate: samples a second.
    """
    result: dict[str, Any] = {"text": tokenizer.decode(ids, skip_special_tokens=False) if len(ids) else ""}
    if timestamps is None:
        return result
    offsets: list[Any] = []
    if len(ids):
        offsets = tokenizer.decode(ids, skip_special_tokens=False, output_char_offsets=True)["char_offsets"]
        if timestamps == "word":
            offsets = tokenizer._get_word_offsets(offsets, tokenizer.replace_word_delimiter_char)
    result["chunks"] = [
        {
            "text": entry[timestamps],
            "timestamp": tuple(float(entry[end] * per_frame / rate) for end in ("start_offset", "end_offset")),
        }
        for entry in offsets
    ]
    return result
