"""Generating targets: the model's generation config, settled once and saved with it, and its use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import State
from topwork_tasks._text.generation import bounded_length, causal_module, cut_at_stop, seeded_sampling
from topwork_tasks.sequence_to_sequence.options import Seq2SeqOptions
from topwork_tasks.sequence_to_sequence.tokens import Sides

if TYPE_CHECKING:
    import torch

#: what transformers' own default of `max_length` was: it means that nobody chose one
_UNCHOSEN = (None, 20)


def settle_generation(model: Any, sides: Sides, options: Seq2SeqOptions, state: State, *, fresh: bool) -> None:
    """Put what generating needs into the model's generation config (nothing of it belongs on `model.config`).

    Args:
        model: the model.
        sides: its two sides and their tokenizers.
        options: of the task.
        state: of the task, where the settled config is kept.
        fresh: the model has the checkpoint's own config; else the one that was settled before is put back.

    Raises:
        UsageError: more new tokens are requested than the model that writes has positions.
    """
    from transformers import GenerationConfig

    if not fresh and state.values.get("generation"):
        model.generation_config = GenerationConfig(**state.values["generation"])
        _set_special_tokens(model.config, sides)
        return
    config = model.generation_config
    if config.do_sample and not options.generation.do_sample:
        config.update(temperature=None, top_k=None, top_p=None)
    given = options.generation.model_dump(exclude={"stop", "seed"}, exclude_none=True)
    if "max_new_tokens" in given:
        config.max_length = None
    elif sides.form == "prompt" or (config.max_length in _UNCHOSEN and config.max_new_tokens is None):
        given["max_new_tokens"], config.max_length = sides.target_limit, None
    config.update(pad_token_id=sides.target.pad_token_id, **given)
    if sides.form != "prompt":
        config.decoder_start_token_id = sides.start
        forced = sides.forced_language()
        if forced is not None:
            config.forced_bos_token_id = forced
    if sides.form == "pair" or config.eos_token_id is None:
        config.update(eos_token_id=sides.end, bos_token_id=sides.start)
    _bound(config, sides, options)
    _set_special_tokens(model.config, sides)
    state.values["generation"] = {key: value for key, value in config.to_diff_dict().items() if _is_plain(value)}


def _bound(config: Any, sides: Sides, options: Seq2SeqOptions) -> None:
    """Keep generated texts within the positions of the model that writes; a request for more is refused."""
    if sides.positions is None:
        return
    limit = sides.positions - 1 if sides.form == "prompt" else sides.positions
    requested = options.generation.max_new_tokens
    if requested is not None:
        cause = f"the model that writes has {limit} positions"
        bounded_length("generation.max_new_tokens", requested, 0, limit, cause)
    for name in ("max_new_tokens", "max_length"):  # the checkpoint's own may be longer than its positions
        value = getattr(config, name)
        if value is not None and value > limit:
            setattr(config, name, limit)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list)


def _set_special_tokens(config: Any, sides: Sides) -> None:
    """Set what a pair's forward needs to know, where the two configs cannot tell it."""
    if sides.form != "pair":
        return
    config.decoder_start_token_id = sides.start
    config.pad_token_id = sides.target.pad_token_id
    config.eos_token_id = sides.end


def generate_targets(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    tokenizer: Any,
    options: Seq2SeqOptions,
    prompts: bool,
    row: int,
) -> list[str]:
    """Generate the texts of a batch.

    Args:
        model: the model.
        inputs: of the batch.
        tokenizer: of the targets.
        options: of the task.
        prompts: the inputs are prompts, padded on the left; the texts are what comes behind them.
        row: index of the first row, mixed into the seed of sampling.
    """
    stop = options.generation.stop
    stops = {"stop_strings": stop, "tokenizer": tokenizer} if stop else {}
    with seeded_sampling(options.generation.seed, row, inputs["input_ids"].device):
        sequences = causal_module(model).generate(**inputs, **stops)
    if prompts:
        sequences = sequences[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(sequences.tolist(), skip_special_tokens=True)
    return [cut_at_stop(text, stop).strip() for text in texts]
