"""Rows of texts, prompts or chats as tokens and targets of a causal language model; blocks and packing.

Entry points: `encode_row`, then `blocks` or `pack`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from topwork import DataError, Row, UsageError
from topwork_tasks._text.inputs import column_texts, text_of

TEMPLATE_HINT = "set the task's option `chat_template`, give prompt and completion, or take a base with a chat template"


@dataclass(frozen=True)
class EncodedRow:
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


def check_template(tokenizer: Any) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        UsageError: it has none.
    """
    if tokenizer.chat_template is None:
        raise UsageError("the tokenizer has no chat template, and rows have `messages`", hint=TEMPLATE_HINT)


def is_plain(row: Row) -> bool:
    """Return whether a row is a text to learn or score: messages and a prompt go before a text."""
    return row.get("messages") is None and row.get("prompt") is None


def is_well_formed(row: Row) -> bool:
    """Return whether the row's values have the right types: a chat, a prompt and perhaps its completion, or a text."""
    messages = row.get("messages")
    if messages is not None:
        is_list = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
        return is_list and all(_is_message(message) for message in messages)
    if row.get("prompt") is not None:
        return isinstance(row["prompt"], str) and isinstance(row.get("completion") or "", str)
    return isinstance(row.get("text"), str) and bool(row["text"])


def check_types(row: Row, index: int | None) -> None:
    """Refuse a row that has no text, prompt or messages, or messages that are no chat.

    Raises:
        DataError: it has none, or values of other types.
    """
    if all(row.get(name) is None for name in ("messages", "prompt", "text")):
        raise DataError(
            "has no `text`, `prompt` or `messages`",
            row=index,
            column="text",
            hint="map one in `data.columns`",
        )
    if row.get("messages") is not None and not is_well_formed(row):
        raise DataError("is no chat", row=index, column="messages", hint='write [{"role": ..., "content": ...}, ...]')


def encode_row(tokenizer: Any, row: Row, index: int, targets: bool) -> EncodedRow:
    """Encode a row.

    Args:
        tokenizer: the tokenizer.
        row: the row.
        index: of the row, for errors.
        targets: refuse a row without targets (training).

    Raises:
        DataError: no text, prompt or messages; not of the right type; no targets.
        UsageError: messages, and the tokenizer has no chat template.
    """
    if row.get("messages") is not None:
        return _encode_chat(tokenizer, row, index, targets)
    check_types(row, index)
    if row.get("prompt") is not None:
        return _encode_pair(tokenizer, row, index, targets)
    ids = list(tokenizer(text_of(row, index, "text"))["input_ids"])
    ended = int(tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id])
    ids += [tokenizer.eos_token_id] * ended
    if not ids:
        raise DataError("gives no token", row=index, column="text", hint="leave the row out")
    return EncodedRow(ids, ids, [], ended)


def _encode_pair(tokenizer: Any, row: Row, index: int, targets: bool) -> EncodedRow:
    prompt = list(tokenizer(text_of(row, index, "prompt"))["input_ids"])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if prompt[-1:] == end and end and row["prompt"]:
        prompt = prompt[:-1]  # a template that ends every text must not end the prompt
    if row.get("completion") is None:
        if targets:
            raise DataError("is missing", row=index, column="completion", hint="map it in `data.columns`")
        return EncodedRow(prompt or end, [-100] * len(prompt or end), prompt)
    if not prompt:
        start = tokenizer.bos_token_id
        prompt = end if start is None else [start]
    target = list(tokenizer(text_of(row, index, "completion"), add_special_tokens=False)["input_ids"])
    target += end
    return EncodedRow([*prompt, *target], [*[-100] * len(prompt), *target], prompt)


def _encode_chat(tokenizer: Any, row: Row, index: int, targets: bool) -> EncodedRow:
    check_template(tokenizer)
    messages = row["messages"]
    check_types(row, index)
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    if targets and not turns:
        raise DataError("has nothing that the assistant says", row=index, column="messages", hint="leave the row out")
    questions = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    prompt = _apply_template(tokenizer, questions, True) if questions else []
    ids = _apply_template(tokenizer, messages, False)
    labels = [-100] * len(ids)
    for turn in turns:
        before = _apply_template(tokenizer, messages[:turn], True) if turn else []
        until = _apply_template(tokenizer, messages[: turn + 1], False)
        if ids[: len(until)] != until or until[: len(before)] != before:
            raise UsageError(
                "the chat template writes earlier turns differently once the chat goes on: the assistant's words "
                "cannot be told apart",
                hint="give rows that end with the assistant's only turn, or prompt and completion",
            )
        labels[len(before) : len(until)] = ids[len(before) : len(until)]
    return EncodedRow(ids, labels, prompt)


def _is_message(message: Any) -> bool:
    """Return whether it is a dict with role and content; a message that calls a tool needs no content."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        return False
    return isinstance(message["content"], str | list) or (
        message["content"] is None and bool(message.get("tool_calls"))
    )


def contents(row: Row) -> list[str]:
    """Return the contents of a row's messages; nothing when they are no chat, which `encode_row` refuses."""
    messages = row.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return []
    return [str(message["content"]) for message in messages if _is_message(message)]


def _apply_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], ask: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=True, add_generation_prompt=ask, return_dict=True
    )
    return list(encoded["input_ids"])


def blocks(encoded: EncodedRow, length: int) -> Iterator[EncodedRow]:
    """Yield a row in blocks of at most `length` tokens.

    Blocks of a text overlap by one token, so that every token but the first is predicted once; a prompt that is too
    long loses its first tokens, a completion its last.
    """
    ids, labels = encoded.ids, encoded.labels
    if len(ids) <= length:
        yield encoded
        return
    if -100 not in labels:
        for start in range(0, len(ids) - 1, length - 1):
            yield EncodedRow(ids[start : start + length], ids[start : start + length], [])
        return
    first = next((position for position, label in enumerate(labels) if label != -100), len(labels))
    start = min(max(0, first - length // 2), max(0, len(ids) - length))
    yield EncodedRow(ids[start : start + length], labels[start : start + length], [])


def pack(rows: Sequence[EncodedRow], length: int) -> Iterator[tuple[int, EncodedRow]]:
    """Yield (index of the row in which it starts, block): all rows joined and cut into blocks of `length` tokens.

    Blocks overlap by one token; the last one is shorter. Nothing is lost, and no token is a target twice.
    """
    ids: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    for index, encoded in enumerate(rows):
        ids += encoded.ids
        labels += encoded.labels
        owners += [index] * len(encoded.ids)
    for start in range(0, max(1, len(ids) - 1), length - 1):
        part = slice(start, start + length)
        yield owners[start], EncodedRow(ids[part], labels[part], [])


def continued_tokens(row: Row, encoded: EncodedRow) -> list[int]:
    """Return the tokens of a row that are to be continued."""
    return encoded.ids[: len(encoded.ids) - encoded.ended] if is_plain(row) else encoded.prompt


def full_text(row: Row, completion: str) -> Any:
    """Return the row's text or prompt with its completion; of a chat the messages with the assistant's new one."""
    if row.get("messages") is None:
        before: Any = row.get("text") if is_plain(row) else row.get("prompt")
        return before + completion
    messages = [dict(message) for message in row["messages"]]
    if messages[-1]["role"] == "assistant":
        messages.pop()
    return [*messages, {"role": "assistant", "content": completion}]


def row_texts(rows: Any) -> Iterator[str] | None:
    """Return every text of rows, for learning a tokenizer; None without rows."""
    if rows is None:
        return None
    plain = column_texts(rows, ("text", "prompt", "completion")) or ()
    chats = (content for row in rows for content in contents(row))
    return chain(plain, chats)


def reference(row: Row) -> str | None:
    """Return the true completion: the row's own, or the assistant's last message; None without one."""
    if row.get("messages") is None:
        return None if row.get("completion") is None else str(row["completion"])
    last = row["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else None
