"""Times of the words that Whisper writes (Radford et al. 2022, arXiv 2212.04356; the authors' `word_timestamps`): the
attention heads of its decoder that follow the sound, `alignment_heads` of the generation config, read by dynamic time
warping, as transformers does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from topwork import UsageError


def check_alignment(model: Any, settings: Mapping[str, Any]) -> list[list[int]]:
    """The [layer, attention head] pairs that follow the sound: of the recipe's `generation`, else of the checkpoint.

    Raises:
        UsageError: there are none, or the decoder has no such head.
    """
    core = getattr(model, "module", model)
    found = settings.get("alignment_heads", getattr(core.generation_config, "alignment_heads", None))
    if not found:
        raise UsageError(
            "the generation config has no `alignment_heads`: which attention heads follow the sound is not known",
            place="task.timestamps",
            hint="set `generation: {alignment_heads: [[layer, head], ...]}`, or choose `timestamps: segment`",
        )
    layers, heads = core.config.decoder_layers, core.config.decoder_attention_heads
    pairs = [[int(number) for number in pair] for pair in found]
    for layer, head in pairs:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise UsageError(
                f"`alignment_heads` names layer {layer}, attention head {head}, the decoder has {layers} x {heads}",
                place="task.generation",
                hint="count both from 0",
            )
    for number in sorted({layer for layer, _ in pairs}):
        left = core.get_decoder().layers[number].encoder_attn.num_heads
        if left != heads:
            raise UsageError(
                f"{heads - left} attention heads of decoder layer {number} that hear were pruned: `alignment_heads` "
                "goes by number and would mean others",
                place="task.timestamps",
                hint="choose `timestamps: segment`, or prune other layers",
            )
    return pairs


def generate(core: Any, inputs: Mapping[str, Any], chosen: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
    """Of each item its tokens, and the seconds at which each of them ends.

    Items go one by one: in a batch the padding behind a short text would be aligned to the sound with it.

    Args:
        chosen: arguments of `generate`, the defaults filled in.
    """
    pairs = check_alignment(core, chosen)
    chosen = {name: value for name, value in chosen.items() if name != "alignment_heads"}
    told = core.generation_config
    missing = object()
    before = getattr(told, "alignment_heads", missing)
    told.alignment_heads = pairs
    try:
        with _visible(core):
            return [_one(core, inputs, number, chosen) for number in range(len(next(iter(inputs.values()))))]
    finally:
        if before is missing:
            del told.alignment_heads
        else:
            told.alignment_heads = before


def _one(core: Any, inputs: Mapping[str, Any], number: int, chosen: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    alone = {name: value[number : number + 1] for name, value in inputs.items()}
    found = core.generate(**alone, **chosen, return_timestamps=True, return_token_timestamps=True, return_segments=True)
    times = [float(time) for entry in found["segments"][0] for time in entry["token_timestamps"]]
    return found["sequences"][0].tolist(), times


@contextmanager
def _visible(core: Any) -> Iterator[None]:
    """Only the plain implementation of attention tells its weights; the faster ones leave them out without a word."""
    before = core.config._attn_implementation
    if before == "eager":
        yield
        return
    core.set_attn_implementation("eager")
    try:
        yield
    finally:
        core.set_attn_implementation(before)


def outputs(parts: Sequence[tuple[list[int], list[float]]]) -> list[dict[str, Any]]:
    """Windows as the tokenizer's `_decode_asr` reads them."""
    import numpy

    return [{"tokens": numpy.array([tokens]), "token_timestamps": numpy.array([times])} for tokens, times in parts]
