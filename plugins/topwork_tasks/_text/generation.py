"""Generating texts: the options of `generate`, generating behind left-padded prompts, and texts of new tokens.

What the options become in an encoder-decoder's generation config lies in `sequence_to_sequence.generation`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from topwork import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


class GenerationOptions(BaseModel):
    """Options of generating texts; what is not given is taken from the model's own generation config."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: PositiveInt = Field(
        64, description="tokens, at most; the default is bounded by half of the model's positions"
    )
    min_new_tokens: int | None = Field(None, ge=0, description="tokens, at least")
    do_sample: bool = Field(False, description="draw tokens at random, by `seed`")
    temperature: PositiveFloat | None = Field(None, description="of the distribution that is drawn from")
    top_k: PositiveInt | None = Field(None, description="draw among this many most probable tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among the fewest tokens of this probability")
    num_beams: PositiveInt | None = Field(None, description="beams of a beam search")
    length_penalty: float | None = Field(None, description="above 0 beams favour long texts")
    repetition_penalty: PositiveFloat | None = Field(None, description="above 1 repeated tokens become less probable")
    no_repeat_ngram_size: PositiveInt | None = Field(None, description="no sequence of this many tokens occurs twice")
    stop: list[str] = Field(default_factory=list, description="end at these strings; they are not part of the text")
    seed: NonNegativeInt = Field(0, description="of `do_sample`; a text depends on the batch that it is drawn in")

    @model_validator(mode="after")
    def _sampling(self) -> GenerationOptions:
        given = [name for name in ("temperature", "top_k", "top_p") if getattr(self, name) is not None]
        if given and not self.do_sample:
            raise ValueError(f"`{given[0]}` needs `do_sample: true`: without it the most probable token is taken")
        return self


def bounded_length(option: str, requested: int, default: int, limit: int | None, cause: str) -> int:
    """Return a length in tokens within the positions of the model that writes.

    Args:
        option: name of the option, for the error.
        requested: the value of the option.
        default: the option's default, which gives way to a smaller limit.
        limit: None when nothing bounds it.
        cause: why there is a limit.

    Raises:
        UsageError: more than the limit was requested.
    """
    if limit is None or requested <= limit:
        return requested
    if requested != default:
        raise UsageError(f"`{option}` is {requested}, {cause}", hint=f"set it to {limit} or less")
    return limit


def length_behind_prompt(option: str, requested: int, default: int, positions: int | None) -> int:
    """Return how many tokens may follow a prompt in the same sequence; the default takes half of it at most.

    Raises:
        UsageError: the request leaves no position for the prompt.
    """
    if positions is None:
        return requested
    limit = positions - positions // 2 if requested == default else positions - 1
    return bounded_length(option, requested, default, limit, f"prompt and text share {positions} positions")


def generate_continuations(
    model: Any, tokenizer: Any, inputs: Mapping[str, torch.Tensor], options: GenerationOptions, most: int, row: int
) -> list[list[int]]:
    """Generate the tokens behind each prompt, without padding.

    Args:
        model: a causal model of transformers.
        tokenizer: its tokenizer.
        inputs: `input_ids` and `attention_mask` [items, positions], padded on the left: a causal model that is padded
            on the right continues the padding.
        options: of generating.
        most: new tokens that there is room for.
        row: index of the first row, mixed into the seed, so that batches differ.
    """
    config, stops = generation_settings(model, tokenizer, options, most)
    with seeded_sampling(options.seed, row, inputs["input_ids"].device):
        sequences = model.generate(**inputs, generation_config=config, **stops)
    ends = set(config.eos_token_id or ())
    new_tokens = sequences[:, inputs["input_ids"].shape[1] :].tolist()
    return [trim_tokens(ids, ends, tokenizer.pad_token_id) for ids in new_tokens]


@contextmanager
def seeded_sampling(seed: int, row: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed and the index of a batch's first row, and leave the random state as it was."""
    import torch

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((int(seed) * 1_000_003 + row) % 2**63)
        yield


def generation_settings(
    model: Any, tokenizer: Any, options: GenerationOptions, most: int
) -> tuple[Any, dict[str, Any]]:
    """Return the model's generation config with the options in it, and the arguments that `generate` wants beside it.

    A text ends at any of the model's own end tokens (a chat model has several) or at the tokenizer's, which is the one
    that training puts behind a completion.
    """
    config = copy.deepcopy(model.generation_config)
    given = options.model_dump(exclude={"stop", "seed", "max_new_tokens"}, exclude_none=True)
    model_ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = {*model_ends, tokenizer.eos_token_id} - {None}
    config.update(max_length=None, max_new_tokens=most, pad_token_id=tokenizer.pad_token_id, **given)
    config.update(stop_strings=options.stop or None, eos_token_id=sorted(ends) or None)
    return config, {"tokenizer": tokenizer} if options.stop else {}


def trim_tokens(ids: Sequence[int], ends: Collection[int], pad: int | None) -> list[int]:
    """Return the tokens up to the first end token (which is kept) or the padding."""
    for position, token in enumerate(ids):
        if token in ends or token == pad:
            return list(ids[: position + (token in ends)])
    return list(ids)


def continuation(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str]) -> str:
    """Return the text of tokens behind a prompt, cut before the first of the stop strings.

    Decoded together with the prompt, because some tokenizers write a space only between words.
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    text = tokenizer.decode([*prompt, *ids], skip_special_tokens=True)[len(before) :]
    return cut_at_stop(text, stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop strings."""
    starts = [text.index(string) for string in stop if string in text]
    return text[: min(starts)] if starts else text


def causal_module(model: nn.Module) -> Any:
    """Return the module that generates, inside the wrapper of a distributed run."""
    return getattr(model, "module", model) if not hasattr(model, "generate") else model
