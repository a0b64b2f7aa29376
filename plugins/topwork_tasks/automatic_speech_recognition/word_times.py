"""Times of the words that Whisper writes (Radford et al. 2022, arXiv 2212.04356; the authors' `word_timestamps`).

The attention heads of its decoder that follow the audio, `alignment_heads` of the generation config, are read by
dynamic time warping, as transformers does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from topwork import UsageError


def check_alignment(model: Any, settings: Mapping[str, Any]) -> list[list[int]]:
    """Return the [layer, attention head] pairs that follow the audio: of the recipe, else of the checkpoint.

    Raises:
        UsageError: there are none, or the decoder has no such head.
    """
    core = getattr(model, "module", model)
    alignment = settings.get("alignment_heads", getattr(core.generation_config, "alignment_heads", None))
    if not alignment:
        raise UsageError(
            "the generation config has no `alignment_heads`: which attention heads follow the sound is not known",
            place="task.timestamps",
            hint="set `generation: {alignment_heads: [[layer, head], ...]}`, or choose `timestamps: segment`",
        )
    layers, heads = core.config.decoder_layers, core.config.decoder_attention_heads
    pairs = [[int(layer_index) for layer_index in pair] for pair in alignment]
    for layer, head in pairs:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise UsageError(
                f"`alignment_heads` names layer {layer}, attention head {head}, the decoder has {layers} x {heads}",
                place="task.generation",
                hint="count both from 0",
            )
    for layer_index in sorted({layer for layer, _ in pairs}):
        left = core.get_decoder().layers[layer_index].encoder_attn.num_heads
        if left != heads:
            raise UsageError(
                f"{heads - left} attention heads of decoder layer {layer_index} were pruned: `alignment_heads` "
                "goes by number and would mean others",
                place="task.timestamps",
                hint="choose `timestamps: segment`, or prune other layers",
            )
    return pairs


def generate_with_times(
    core: Any, inputs: Mapping[str, Any], chosen: dict[str, Any]
) -> list[tuple[list[int], list[float]]]:
    """Return for each item its tokens, and the seconds at which each of them ends.

    Items go one by one: in a batch the padding behind a short text would be aligned to the sound with it.

    Args:
        core: a Whisper model of transformers.
        inputs: of `generate`, for several items.
        chosen: arguments of `generate`, the defaults filled in.
    """
    pairs = check_alignment(core, chosen)
    chosen = {name: value for name, value in chosen.items() if name != "alignment_heads"}
    config = core.generation_config
    missing = object()
    before = getattr(config, "alignment_heads", missing)
    config.alignment_heads = pairs
    try:
        with _eager_attention(core):
            return [_generate_item(core, inputs, item, chosen) for item in range(len(next(iter(inputs.values()))))]
    finally:
        if before is missing:
            del config.alignment_heads
        else:
            config.alignment_heads = before


def _generate_item(
    core: Any, inputs: Mapping[str, Any], item: int, chosen: Mapping[str, Any]
) -> tuple[list[int], list[float]]:
    alone = {name: value[item : item + 1] for name, value in inputs.items()}
    generated = core.generate(
        **alone, **chosen, return_timestamps=True, return_token_timestamps=True, return_segments=True
    )
    times = [float(time) for entry in generated["segments"][0] for time in entry["token_timestamps"]]
    return generated["sequences"][0].tolist(), times


@contextmanager
def _eager_attention(core: Any) -> Iterator[None]:
    """Use the plain implementation of attention inside: the faster ones return no weights, without an error."""
    before = core.config._attn_implementation
    if before == "eager":
        yield
        return
    core.set_attn_implementation("eager")
    try:
        yield
    finally:
        core.set_attn_implementation(before)


def timed_outputs(parts: Sequence[tuple[list[int], list[float]]]) -> list[dict[str, Any]]:
    """Return windows as the tokenizer's `_decode_asr` reads them."""
    import numpy

    return [{"tokens": numpy.array([tokens]), "token_timestamps": numpy.array([times])} for tokens, times in parts]
