"""From rows of texts, prompts or chats to tokens and targets of a causal language model; blocks and packing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topwork import DataError, Row, UsageError
from topwork_tasks._text.inputs import text_of


@dataclass(frozen=True)
class Encoded:
    """A row as tokens.

    Args:
        ids: prompt and target.
        labels: the same, -100 where the loss does not look.
        prompt: the tokens to be continued when predicting.
        ended: 1 if an end token was added behind the text.
    """

    ids: list[int]
    labels: list[int]
    prompt: list[int]
    ended: int = 0


def is_plain(row: Row) -> bool:
    """Whether a row is a text to learn or score: it has no messages and no prompt, which go before a text."""
    return row.get("messages") is None and row.get("prompt") is None


def well_formed(row: Row) -> bool:
    """Whether what the row has is of the right types: a chat, a prompt and perhaps its completion, or a text."""
    messages = row.get("messages")
    if messages is not None:
        shaped = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
        return shaped and all(_is_message(message) for message in messages)
    if row.get("prompt") is not None:
        return isinstance(row["prompt"], str) and isinstance(row.get("completion") or "", str)
    return isinstance(row.get("text"), str) and bool(row["text"])


def encode_row(tokenizer: Any, row: Row, number: int, targets: bool) -> Encoded:
    """Tokens of a row. With `targets` (training) a row without any is refused."""
    if row.get("messages") is not None:
        return _chat(tokenizer, row, number, targets)
    if row.get("prompt") is not None:
        return _pair(tokenizer, row, number, targets)
    if row.get("text") is None:
        raise DataError(
            "has no `text`, `prompt` or `messages`",
            row=number,
            column="text",
            hint="map one in `data.columns`",
        )
    ids = list(tokenizer(text_of(row, number, "text"))["input_ids"])
    ended = int(tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id])
    ids += [tokenizer.eos_token_id] * ended
    if not ids:
        raise DataError("gives no token", row=number, column="text", hint="leave the row out")
    return Encoded(ids, ids, [], ended)


def _pair(tokenizer: Any, row: Row, number: int, targets: bool) -> Encoded:
    prompt = list(tokenizer(text_of(row, number, "prompt"))["input_ids"])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if prompt[-1:] == end and end and row["prompt"]:
        prompt = prompt[:-1]  # a template that ends every text must not end the prompt
    if row.get("completion") is None:
        if targets:
            raise DataError("is missing", row=number, column="completion", hint="map it in `data.columns`")
        return Encoded(prompt or end, [-100] * len(prompt or end), prompt)
    if not prompt:
        start = tokenizer.bos_token_id
        prompt = end if start is None else [start]
    target = list(tokenizer(text_of(row, number, "completion"), add_special_tokens=False)["input_ids"])
    target += end
    return Encoded([*prompt, *target], [*[-100] * len(prompt), *target], prompt)


def _chat(tokenizer: Any, row: Row, number: int, targets: bool) -> Encoded:
    if tokenizer.chat_template is None:
        raise UsageError("the tokenizer has no chat template", hint="give prompt and completion, or a base with one")
    messages = row["messages"]
    if not well_formed(row):
        raise DataError("is no chat", row=number, column="messages", hint='write [{"role": ..., "content": ...}, ...]')
    turns = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if targets and not turns:
        raise DataError("has nothing that the assistant says", row=number, column="messages", hint="leave the row out")
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    prompt = _template(tokenizer, asked, True) if asked else []
    ids = _template(tokenizer, messages, False)
    labels = [-100] * len(ids)
    for place in turns:
        before = _template(tokenizer, messages[:place], True) if place else []
        until = _template(tokenizer, messages[: place + 1], False)
        if ids[: len(until)] != until or until[: len(before)] != before:
            raise UsageError(
                "the chat template writes earlier turns differently once the chat goes on: what the assistant said "
                "cannot be told apart",
                hint="give rows that end with the assistant's only turn, or prompt and completion",
            )
        labels[len(before) : len(until)] = ids[len(before) : len(until)]
    return Encoded(ids, labels, prompt)


def _is_message(message: Any) -> bool:
    """A dict with role and content; who calls a tool need not say anything."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        return False
    return isinstance(message["content"], str | list) or (
        message["content"] is None and bool(message.get("tool_calls"))
    )


def contents(row: Row) -> list[str]:
    """What is said in a row's messages; nothing when they are no chat, which `encode_row` tells."""
    messages = row.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return []
    return [str(message["content"]) for message in messages if _is_message(message)]


def _template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], ask: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=True, add_generation_prompt=ask, return_dict=True
    )
    return list(encoded["input_ids"])


def blocks(found: Encoded, length: int) -> Iterator[Encoded]:
    """A row in blocks of at most `length` tokens. Blocks of a text overlap by one token, so that every token but the
    first is predicted once; a prompt that is too long loses its first tokens, a completion its last."""
    ids, labels = found.ids, found.labels
    if len(ids) <= length:
        yield found
        return
    if -100 not in labels:
        for start in range(0, len(ids) - 1, length - 1):
            yield Encoded(ids[start : start + length], ids[start : start + length], [])
        return
    first = next((place for place, label in enumerate(labels) if label != -100), len(labels))
    start = min(max(0, first - length // 2), max(0, len(ids) - length))
    yield Encoded(ids[start : start + length], labels[start : start + length], [])


def pack(rows: Sequence[Encoded], length: int) -> Iterator[tuple[int, Encoded]]:
    """(row in which it starts, block): all rows joined and cut into blocks of `length`, which overlap by one token; the
    last one is shorter. Nothing is lost, and no token is a target twice."""
    ids: list[int] = []
    labels: list[int] = []
    owner: list[int] = []
    for number, entry in enumerate(rows):
        ids += entry.ids
        labels += entry.labels
        owner += [number] * len(entry.ids)
    for start in range(0, max(1, len(ids) - 1), length - 1):
        part = slice(start, start + length)
        yield owner[start], Encoded(ids[part], labels[part], [])


def reference(row: Row) -> str | None:
    """What the completion should have been: the row's own, or what the assistant says last."""
    if row.get("messages") is None:
        return None if row.get("completion") is None else str(row["completion"])
    last = row["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else None
