"""Layouts of chats: ShareGPT's conversations and Alpaca's instructions become `messages`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork import DataError, Table
from topwork_bases.formats.json_records import first_records, located_records
from topwork_bases.formats.layout import Layout, Located, table_of

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read_chat(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read conversations of ShareGPT (`conversations`: from, value) as `messages`, and Alpaca's instructions.

    A record's `system` is the first message; Alpaca's `history` stands before its instruction.

    Raises:
        DataError: an unknown speaker, a turn or an answer without a text; with its line.
    """
    examples: list[Located] = []
    for line, record in located_records(path, options.get("encoding")):
        location = f"{path}:{line}"
        messages = [{"role": "system", "content": str(record["system"])}] if record.get("system") else []
        messages += _turns(record, location) if "conversations" in record else _instruction(record, location)
        examples.append((line, {"messages": messages}))
    return {"train": table_of(examples, path, f"{path}: read as chats: {len(examples)}")}


def _turns(record: Mapping[str, Any], location: str) -> list[dict[str, str]]:
    messages = []
    for number, turn in enumerate(record["conversations"] or (), 1):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker not in _SPEAKERS:
            raise DataError(
                f"{location}: unknown speaker {speaker!r}",
                hint=f"known: {', '.join(_SPEAKERS)}; write turns of tools as messages {{role, content}}",
            )
        if not isinstance(text, str):
            raise DataError(f"{location}: turn {number} has no text", hint="write {from: ..., value: text}")
        messages.append({"role": _SPEAKERS[speaker], "content": text})
    return messages


def _instruction(record: Mapping[str, Any], location: str) -> list[dict[str, str]]:
    if not isinstance(record.get("output"), str):
        raise DataError(f"{location}: has no `output`", hint="write instruction, input and output in every record")
    turns: list[tuple[str, str]] = []
    for pair in record.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{location}: `history` holds {str(pair)[:40]}", hint="write pairs [question, answer]")
        turns += [("user", str(pair[0])), ("assistant", str(pair[1]))]
    prompt = "\n\n".join(text for text in (record.get("instruction"), record.get("input")) if text)
    turns += [("user", prompt), ("assistant", record["output"])]
    return [{"role": role, "content": text} for role, text in turns]


def _is_chat(path: Path) -> bool:
    record = next(iter(first_records(path)), {})
    turns = record.get("conversations")
    shared = isinstance(turns, list) and turns and isinstance(turns[0], dict) and {"from", "value"} <= set(turns[0])
    return bool(shared) or {"instruction", "output"} <= set(record)


LAYOUTS = (
    Layout(
        "chat",
        _is_chat,
        read_chat,
        ("encoding",),
    ),
)
