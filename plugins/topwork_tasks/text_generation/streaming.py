"""A generated text, piece by piece while the model writes it: for a person who waits, not for many rows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from topwork import UsageError
from topwork_tasks._text.generation import (
    GenerationOptions,
    continuation,
    generation_settings,
    seeded_sampling,
    trim_tokens,
)


class _TokenStreamer:
    """Streamer for `generate`, which gives it the prompt first, then every new token, then the end."""

    def __init__(self) -> None:
        self.tokens: queue.Queue[int | None] = queue.Queue()
        self.is_prompt = True
        self.is_closed = False

    def put(self, value: Any) -> None:
        if self.is_closed:
            raise _ReaderClosed
        if not self.is_prompt:
            for token in value.reshape(-1).tolist():
                self.tokens.put(token)
        self.is_prompt = False

    def end(self) -> None:
        self.tokens.put(None)


class _ReaderClosed(Exception):
    """The reader has stopped reading: the rest need not be generated."""


def stream(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], options: GenerationOptions, most: int
) -> Iterator[str]:
    """Yield pieces of the text behind one prompt; joined they are the result of `generate` and `continuation`.

    A piece is held back while it could still change: half of a character, or the beginning of a stop string.

    Raises:
        UsageError: beams, whose text is known at the end only.
    """
    import torch

    config, stops = generation_settings(model, tokenizer, options, most)
    if (config.num_beams or 1) > 1:
        raise UsageError("beams cannot be streamed: the best is known at the end", hint="leave out `num_beams`")
    streamer, failures = _TokenStreamer(), []

    def write() -> None:
        try:
            with torch.inference_mode():
                model.generate(**inputs, generation_config=config, streamer=streamer, **stops)
        except _ReaderClosed:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            streamer.end()

    with seeded_sampling(options.seed, 0, inputs["input_ids"].device):
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            yield from _pieces(streamer, tokenizer, inputs["input_ids"][0].tolist(), options.stop, config.eos_token_id)
        finally:
            streamer.is_closed = True
            writer.join()
    if failures:
        raise failures[0]


def _pieces(
    streamer: _TokenStreamer, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str], ends: Sequence[int] | None
) -> Iterator[str]:
    ids: list[int] = []
    shown, text = 0, ""
    while (token := streamer.tokens.get()) is not None:
        ids.append(token)
        text = continuation(tokenizer, prompt, trim_tokens(ids, ends or (), tokenizer.pad_token_id), stop)
        sure = len(text) - _unsure(text, stop)
        if sure > shown:
            yield text[shown:sure]
            shown = sure
    if len(text) > shown:
        yield text[shown:]


def _unsure(text: str, stop: Sequence[str]) -> int:
    """Return how many letters at the end may still change."""
    if text.endswith("\ufffd"):
        return len(text) - len(text.rstrip("\ufffd"))
    lengths = (length for string in stop for length in range(1, len(string)) if text.endswith(string[:length]))
    return max(lengths, default=0)
