"""Generating targets: the model's generation config, settled once and saved with it, and its use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import State
from topwork_tasks._text.generation import causal_module
from topwork_tasks.sequence_to_sequence.options import Seq2SeqOptions
from topwork_tasks.sequence_to_sequence.tokens import Sides

if TYPE_CHECKING:
    import torch

#: what transformers' own default of `max_length` was: it means that nobody chose one
_UNCHOSEN = (None, 20)


def settle(model: Any, side: Sides, options: Seq2SeqOptions, state: State, *, fresh: bool) -> None:
    """Put what generating needs into the model's generation config (nothing of it belongs on `model.config`).

    Args:
        fresh: the model has the checkpoint's own config; else the one that was settled before is put back.
    """
    from transformers import GenerationConfig

    if not fresh and state.values.get("generation"):
        model.generation_config = GenerationConfig(**state.values["generation"])
        _special_tokens(model.config, side)
        return
    config = model.generation_config
    if config.do_sample and not options.generation.do_sample:
        config.update(temperature=None, top_k=None, top_p=None)
    given = options.generation.model_dump(exclude={"stop", "seed"}, exclude_none=True)
    if "max_new_tokens" in given:
        config.max_length = None
    elif side.form == "prompt" or (config.max_length in _UNCHOSEN and config.max_new_tokens is None):
        given["max_new_tokens"], config.max_length = options.max_target_length, None
    config.update(pad_token_id=side.target.pad_token_id, **given)
    if side.form != "prompt":
        config.decoder_start_token_id = side.start
        forced = side.forced()
        if forced is not None:
            config.forced_bos_token_id = forced
    if side.form == "pair" or config.eos_token_id is None:
        config.update(eos_token_id=side.end, bos_token_id=side.start)
    _special_tokens(model.config, side)
    state.values["generation"] = {key: value for key, value in config.to_diff_dict().items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list)


def _special_tokens(config: Any, side: Sides) -> None:
    """What a pair's forward needs to know, where the two configs cannot tell it."""
    if side.form != "pair":
        return
    config.decoder_start_token_id = side.start
    config.pad_token_id = side.target.pad_token_id
    config.eos_token_id = side.end


def generate(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    tokenizer: Any,
    options: Seq2SeqOptions,
    prompts: bool,
    number: int,
) -> list[str]:
    """The texts that a model generates for a batch.

    Args:
        prompts: the inputs are prompts, padded on the left; the texts are what comes behind them.
        number: mixed into the seed of sampling: the number of the first row.
    """
    import torch

    stop = options.generation.stop
    stops = {"stop_strings": stop, "tokenizer": tokenizer} if stop else {}
    devices = [inputs["input_ids"].device] if inputs["input_ids"].is_cuda else []
    with torch.random.fork_rng(devices, enabled=options.generation.do_sample):
        if options.generation.do_sample:
            torch.manual_seed((int(options.generation.seed) * 1_000_003 + number) % 2**63)
        found = causal_module(model).generate(**inputs, **stops)
    if prompts:
        found = found[:, inputs["input_ids"].shape[1] :]
    said = tokenizer.batch_decode(found.tolist(), skip_special_tokens=True)
    return [_before(text, stop).strip() for text in said]


def _before(text: str, stop: list[str]) -> str:
    places = [text.index(entry) for entry in stop if entry in text]
    return text[: min(places)] if places else text
