"""Layouts of texts: CoNLL and CoNLL-U, parallel files, chats, exports of doccano and label-studio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError
from topwork_bases.formats.layout import Layout, Located, table_of
from topwork_bases.rows.text_files import encoding_of, open_text, parse_json

_UNIVERSAL = {"form": 1, "lemma": 2, "upos": 3, "xpos": 4, "deprel": 7}


def numbered_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of the lines of a file.

    Args:
        path: the file.
        encoding: None detects it.

    Raises:
        DataError: text in another encoding, with its line.
    """
    with open_text(path, encoding, []) as file:
        yield from enumerate((line.rstrip("\r\n") for line in file), 1)


# ---------------------------------------------------------------- CoNLL


def read_conll(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read words and tags, a word a line, sentences apart by empty lines; of CoNLL-U also heads and relations.

    Heads count words from 1, with 0 for the root; they are left out where they are not annotated.

    Args:
        path: a file in the layout of CoNLL, or (`.conllu`) of CoNLL-U.
        options: `word` and `tag`: indices of columns from 0 (-1 is the last), or names of CoNLL-U's columns.
    """
    universal = path.suffix.lower() == ".conllu"
    word = _column(options.get("word", 1 if universal else 0))
    tag = _column(options.get("tag", 3 if universal else -1))
    examples: list[Located] = []
    words: list[str] = []
    tags: list[str] = []
    trees: list[list[str]] = []
    begin = width = 0
    for number, line in [*numbered_lines(path, options.get("encoding")), (0, "")]:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                examples.append((begin, {"words": words, "tags": tags, **_dependencies(trees)}))
            words, tags, trees = [], [], []
            continue
        if line.startswith("#") and not words and ("\t" not in line):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        if universal and ("-" in fields[0] or "." in fields[0]):
            continue  # ranges of several words, and empty nodes
        width = width or len(fields)
        if len(fields) != width or len(fields) < 2:
            raise DataError(
                f"{path}:{number}: has {len(fields)} columns where the first line has {width}",
                hint="write every word with the same columns, at least the word and its tag",
            )
        begin = begin if words else number
        if universal:
            trees.append(fields)
        try:
            words.append(fields[word])
            tags.append(fields[tag])
        except IndexError as error:
            raise UsageError(
                f"{path}:{number}: there is no column {tag}", hint=f"columns are 0 to {width - 1}"
            ) from error
    remark = f"{path}: read as CoNLL: {len(examples)} sentences, words in column {word}, tags in column {tag}"
    return {"train": table_of(examples, path, remark)}


def _dependencies(lines: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return heads and relations of the words of a sentence in CoNLL-U; nothing where some word has none."""
    if not lines or any(len(fields) < 8 or not fields[6].isdigit() for fields in lines):
        return {}
    return {"heads": [int(fields[6]) for fields in lines], "relations": [fields[7] for fields in lines]}


def _column(value: Any) -> int:
    if isinstance(value, str) and value in _UNIVERSAL:
        return _UNIVERSAL[value]
    if not isinstance(value, int):
        raise UsageError(f"`{value}` is no column", hint=f"write a number from 0, or {', '.join(_UNIVERSAL)}")
    return value


# ---------------------------------------------------------------- parallel texts


def _pair(path: Path) -> list[Path]:
    """Return the files of a folder, or beside a file, that have one name and two languages: `train.en`, `train.de`."""
    folder, stem = (path, None) if path.is_dir() else (path.parent, path.name)
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and 2 <= len(file.suffix) <= 4]
    pairs: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix[1:].isalpha() and file.suffix[1:].islower() and len(file.suffix) == 3:
            pairs.setdefault(file.stem, []).append(file)
    whole = {name: group for name, group in pairs.items() if len(group) == 2}
    return [file for name, group in whole.items() if stem is None or name == stem for file in group]


def read_parallel(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read pairs of files with a sentence a line: `train.en` and `train.de` become rows of `translation`."""
    made: dict[str, Table] = {}
    files = _pair(path)
    for first, second in zip(files[::2], files[1::2]):
        texts = [[text for _, text in numbered_lines(file, options.get("encoding"))] for file in (first, second)]
        if len(texts[0]) != len(texts[1]):
            raise DataError(
                f"{first}: has {len(texts[0])} lines, {second} has {len(texts[1])}", hint="give both the same lines"
            )
        languages = first.suffix[1:], second.suffix[1:]
        examples: list[Located] = [
            (number, {"translation": dict(zip(languages, pair))}) for number, pair in enumerate(zip(*texts), 1)
        ]
        split = {"valid": "validation", "dev": "validation", "val": "validation"}.get(first.stem, first.stem)
        remark = f"{first}: read as parallel texts, {' and '.join(languages)}: {len(examples)} pairs"
        made[split] = table_of(examples, first, remark)
    if not made:
        raise UsageError(f"`{path}` holds no pair of files such as train.en and train.de", hint="check the path")
    return made


# ---------------------------------------------------------------- records of JSON with a known shape


def located_records(path: Path, encoding: str | None = None) -> Iterator[tuple[int | None, Any]]:
    """Yield (line, record) of JSON lines, or of a list."""
    with open_text(path, encoding, []) as file:
        text = file.read()
    if text.lstrip().startswith("["):
        yield from ((None, record) for record in parse_json(path, 1, text))
        return
    for number, line in enumerate(text.split("\n"), 1):  # other line ends may stand inside of a text
        if line.strip():
            yield number, parse_json(path, number, line)


def first_record(path: Path) -> Any:
    """Return the first record of a file of JSON, read from its beginning; None where that is none."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson") or not path.is_file():
        return None
    with path.open(encoding=encoding_of(path, None, []), errors="replace") as file:
        head = file.read(2**16).lstrip()
    start = head.find("{")
    if start < 0 or head[:start].strip() not in ("", "["):
        return None
    try:
        return json.JSONDecoder(parse_int=str).raw_decode(head, start)[0]
    except (ValueError, RecursionError):
        return None


_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read_chat(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read conversations of ShareGPT (`conversations`: from, value) as `messages`, and Alpaca's instructions."""
    examples: list[Located] = []
    for line, record in located_records(path, options.get("encoding")):
        if "conversations" in record:
            turns = record["conversations"]
            unknown = next((turn.get("from") for turn in turns if turn.get("from") not in _SPEAKERS), None)
            if unknown is not None:
                location = f"{path}:{line}" if line else str(path)
                raise DataError(f"{location}: unknown speaker {unknown!r}", hint=f"known: {', '.join(_SPEAKERS)}")
            messages = [{"role": _SPEAKERS[turn["from"]], "content": turn["value"]} for turn in turns]
        else:
            prompt = "\n\n".join(text for text in (record.get("instruction"), record.get("input")) if text)
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": record.get("output", "")}]
        examples.append((line, {"messages": messages}))
    return {"train": table_of(examples, path, f"{path}: read as chats: {len(examples)}")}


def _is_chat(path: Path) -> bool:
    record = first_record(path)
    if not isinstance(record, dict):
        return False
    turns = record.get("conversations")
    shared = isinstance(turns, list) and turns and isinstance(turns[0], dict) and {"from", "value"} <= set(turns[0])
    return bool(shared) or {"instruction", "output"} <= set(record)


def read_doccano(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read an export of doccano: spans `[[start, end, label]]`, or labels of texts."""
    examples: list[Located] = []
    for line, record in located_records(path, options.get("encoding")):
        text = record.get("text", record.get("data"))
        marks = record.get("label", record.get("labels"))
        if "entities" in record:
            marks = [[entity["start_offset"], entity["end_offset"], entity["label"]] for entity in record["entities"]]
        if marks and isinstance(marks[0], list):
            spans = [{"start": start, "end": end, "label": label} for start, end, label in marks]
            examples.append((line, {"text": text, "spans": spans}))
        elif "entities" in record:
            examples.append((line, {"text": text, "spans": []}))
        else:
            examples.append((line, {"text": text, "label": marks}))
    spans_in = any("spans" in row for _, row in examples)
    made: list[Located] = [
        (line, {"text": row["text"], "spans": row.get("spans", [])} if spans_in else row) for line, row in examples
    ]
    return {"train": table_of(made, path, f"{path}: read as an export of doccano: {len(made)} texts")}


def _is_doccano(path: Path) -> bool:
    record = first_record(path)
    if not isinstance(record, dict) or not isinstance(record.get("text", record.get("data")), str):
        return False
    marks = record.get("label", record.get("labels"))
    lists = isinstance(marks, list) and bool(marks) and isinstance(marks[0], list) and len(marks[0]) == 3
    entities = record.get("entities")
    return lists or (isinstance(entities, list) and all("start_offset" in entity for entity in entities))


def read_label_studio(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read an export of label-studio: labels or spans of texts, as the last annotation of each task says."""
    examples: list[Located] = []
    left_out = 0
    for line, record in located_records(path, options.get("encoding")):
        annotations = [entry for entry in record.get("annotations", ()) if not entry.get("was_cancelled")]
        if not annotations:
            left_out += 1
            continue
        data = record["data"]
        text = data.get("text", next((value for value in data.values() if isinstance(value, str)), None))
        results = annotations[-1].get("result", [])
        spans = [
            {"start": result["value"]["start"], "end": result["value"]["end"], "label": result["value"]["labels"][0]}
            for result in results
            if "labels" in result.get("value", {})
        ]
        choices = [choice for result in results for choice in result.get("value", {}).get("choices", ())]
        row = (
            {"text": text, "label": choices[0] if len(choices) == 1 else choices}
            if choices
            else {"text": text, "spans": spans}
        )
        examples.append((line, row))
    if any(isinstance(row.get("label"), list) for _, row in examples):
        examples = [
            (line, {**row, "label": row["label"] if isinstance(row["label"], list) else [row["label"]]})
            for line, row in examples
        ]
    remark = (
        f"{path}: read as an export of label-studio: {len(examples)} texts, {left_out} without an annotation left out"
    )
    return {"train": table_of(examples, path, remark)}


def _is_label_studio(path: Path) -> bool:
    record = first_record(path)
    return (
        isinstance(record, dict)
        and isinstance(record.get("data"), dict)
        and isinstance(record.get("annotations"), list)
    )


LAYOUTS = (
    Layout(
        "conll",
        "a word a line with its tags, sentences apart by empty lines; CoNLL-U too: words, tags",
        lambda path: path.suffix.lower() in (".conll", ".conllu", ".bio", ".iob"),
        read_conll,
        ("word", "tag", "encoding"),
    ),
    Layout(
        "parallel",
        "two files with a sentence a line, train.en and train.de: translation",
        lambda path: path.is_dir() and bool(_pair(path)),
        read_parallel,
        ("encoding",),
    ),
    Layout(
        "chat",
        "JSON of ShareGPT (conversations) or Alpaca (instruction, input, output): messages",
        _is_chat,
        read_chat,
        ("encoding",),
    ),
    Layout("doccano", "an export of doccano: text with spans or label", _is_doccano, read_doccano, ("encoding",)),
    Layout(
        "label-studio",
        "an export of label-studio: text with spans or label",
        _is_label_studio,
        read_label_studio,
        ("encoding",),
    ),
)
