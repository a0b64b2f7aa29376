"""A generated text, piece by piece while it is written: for a person who waits, not for many rows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from topwork import UsageError
from topwork_tasks._text.generation import GenerationOptions, continuation, settings, trim


class _Tokens:
    """What `generate` calls a streamer: it is given the prompt first, then every new token, then the end."""

    def __init__(self) -> None:
        self.found: queue.Queue[int | None] = queue.Queue()
        self.prompt = True
        self.left = False

    def put(self, value: Any) -> None:
        if self.left:
            raise _Left
        if not self.prompt:
            for token in value.reshape(-1).tolist():
                self.found.put(token)
        self.prompt = False

    def end(self) -> None:
        self.found.put(None)


class _Left(Exception):
    """The reader has gone: nobody wants the rest."""


def stream(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], options: GenerationOptions, most: int
) -> Iterator[str]:
    """Pieces of the text behind one prompt; joined they are what `generate` and `continuation` give.

    A piece is held back while it could still change: half of a character, or the beginning of a stop string.

    Raises:
        UsageError: beams, whose text is known at the end only.
    """
    import torch

    config, stops = settings(model, tokenizer, options, most)
    if (config.num_beams or 1) > 1:
        raise UsageError("beams cannot be streamed: the best is known at the end", hint="leave out `num_beams`")
    tokens, failed = _Tokens(), []

    def write() -> None:
        try:
            with torch.inference_mode():
                model.generate(**inputs, generation_config=config, streamer=tokens, **stops)
        except _Left:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            tokens.end()

    with torch.random.fork_rng([inputs["input_ids"].device] if inputs["input_ids"].is_cuda else []):
        torch.manual_seed(int(options.seed) * 1_000_003 % 2**63)
        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            yield from _pieces(tokens, tokenizer, inputs["input_ids"][0].tolist(), options.stop, config.eos_token_id)
        finally:
            tokens.left = True
            writer.join()
    if failed:
        raise failed[0]


def _pieces(
    tokens: _Tokens, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str], ends: Sequence[int] | None
) -> Iterator[str]:
    ids: list[int] = []
    shown, text = 0, ""
    while (token := tokens.found.get()) is not None:
        ids.append(token)
        text = continuation(tokenizer, prompt, trim(ids, ends or (), tokenizer.pad_token_id), stop)
        sure = len(text) - _unsure(text, stop)
        if sure > shown:
            yield text[shown:sure]
            shown = sure
    if len(text) > shown:
        yield text[shown:]


def _unsure(text: str, stop: Sequence[str]) -> int:
    """How many letters at the end may yet be taken back."""
    if text.endswith("\ufffd"):
        return len(text) - len(text.rstrip("\ufffd"))
    lengths = (length for entry in stop for length in range(1, len(entry)) if text.endswith(entry[:length]))
    return max(lengths, default=0)
