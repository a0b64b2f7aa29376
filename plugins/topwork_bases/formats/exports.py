"""Layouts of annotation tools: exports of texts from doccano and label-studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError
from topwork_bases.formats.json_records import first_records, located_records
from topwork_bases.formats.layout import Layout, Located, table_of

#: keys under which label-studio writes what is chosen for a whole text
_CHOICES = ("choices", "rating", "number")
_SPAN = {"start", "end", "labels"}


# ---------------------------------------------------------------- doccano


def read_doccano(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read an export of doccano: spans `[[start, end, label]]`, or labels of texts.

    Raises:
        DataError: a mark that is no span, with its line.
    """
    records = list(located_records(path, options.get("encoding")))
    with_spans = any(_has_spans(record) for _, record in records)
    examples: list[Located] = []
    for line, record in records:
        row: dict[str, Any] = {"text": record.get("text", record.get("data"))}
        marks = record.get("label", record.get("labels"))
        if not with_spans:
            row["label"] = marks
        elif "entities" in record:
            row["spans"] = [_doccano_span(path, line, _entity(entity)) for entity in record["entities"] or ()]
        else:
            row["spans"] = [_doccano_span(path, line, mark) for mark in marks or ()]
        examples.append((line, row))
    return {"train": table_of(examples, path, f"{path}: read as an export of doccano: {len(examples)} texts")}


def _entity(entity: Any) -> Any:
    if not isinstance(entity, dict):
        return entity
    return [entity.get("start_offset"), entity.get("end_offset"), entity.get("label")]


def _doccano_span(path: Path, line: int, mark: Any) -> dict[str, Any]:
    if not isinstance(mark, list) or len(mark) != 3 or not all(isinstance(end, int) for end in mark[:2]):
        raise DataError(f"{path}:{line}: {str(mark)[:60]} is no span", hint="write [start, end, label]")
    return {"start": mark[0], "end": mark[1], "label": mark[2]}


def _has_spans(record: Mapping[str, Any]) -> bool:
    marks = record.get("label", record.get("labels"))
    lists = isinstance(marks, list) and bool(marks) and all(isinstance(mark, list) and len(mark) == 3 for mark in marks)
    return lists or isinstance(record.get("entities"), list)


def _is_doccano(path: Path) -> bool:
    records = first_records(path)
    if not records or not all(isinstance(record.get("text", record.get("data")), str) for record in records):
        return False
    entities = [record["entities"] for record in records if isinstance(record.get("entities"), list)]
    offsets = all(isinstance(entity, dict) and "start_offset" in entity for group in entities for entity in group)
    return (bool(entities) and offsets) or (not entities and any(map(_has_spans, records)))


# ---------------------------------------------------------------- label-studio


def read_label_studio(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read an export of label-studio, JSON or JSON_MIN: labels or spans of texts.

    Of several annotations of a task the last one that was not cancelled counts; tasks without one are left out.

    Args:
        path: the export.
        options: `encoding`; `text`: the key of the text, where a task has several.

    Raises:
        DataError: annotations of anything but texts, a span with several labels, a text that cannot be told.
    """
    rows: list[Located] = []
    left_out = several = 0
    for line, record in located_records(path, options.get("encoding")):
        if "data" not in record:
            rows.append((line, _minimal(path, line, record)))
            continue
        annotations = [entry for entry in record.get("annotations", ()) if not entry.get("was_cancelled")]
        if annotations:
            rows.append((line, _task(path, line, record["data"], annotations[-1].get("result", []), options)))
        left_out += not annotations
        several += len(annotations) > 1
    remark = f"{path}: read as an export of label-studio: {len(rows)} texts, {left_out} without an annotation left out"
    remark += f"; {several} have several annotations, of which the last counts" if several else ""
    return {"train": table_of(_alike(rows), path, remark)}


def _minimal(path: Path, line: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a record of JSON_MIN, in which the text stands beside its spans."""
    marks = record.get("label")
    if not isinstance(record.get("text"), str) or not isinstance(marks, list | None):
        raise DataError(f"{path}:{line}: has no `text` with spans in `label`", hint="export as JSON")
    return {"text": record["text"], "spans": [_studio_span(path, line, mark) for mark in marks or ()]}


def _task(
    path: Path, line: int, data: Mapping[str, Any], results: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {"text": _text(path, line, data, options.get("text"))}
    values = [result.get("value") or {} for result in results]
    foreign = next((value for value in values if not ({"labels"} | set(_CHOICES)) & set(value)), None)
    if foreign is not None:
        kind = next((key for key in foreign if key.endswith("labels")), ", ".join(foreign) or "nothing")
        raise DataError(
            f"{path}:{line}: an annotation has {kind}, and only spans and labels of texts are read here",
            hint="export images as COCO, YOLO or VOC",
        )
    chosen = [value[key] for value in values for key in _CHOICES if key in value]
    labels = [label for entry in chosen for label in (entry if isinstance(entry, list) else [entry])]
    if labels:
        return {**row, "label": labels[0] if len(labels) == 1 else labels}
    return {**row, "spans": [_studio_span(path, line, value) for value in values if "labels" in value]}


def _text(path: Path, line: int, data: Mapping[str, Any], key: str | None) -> str:
    """Return the text of a task: under the key that is named, under `text`, or its only one."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    if key is None and len(texts) > 1 and "text" not in texts:
        raise DataError(
            f"{path}:{line}: a task has several texts: {', '.join(texts)}",
            hint=f"say which one was annotated: `options: {{text: {next(iter(texts))}}}`",
        )
    chosen = key or ("text" if "text" in texts else next(iter(texts), "text"))
    if chosen not in texts:
        raise DataError(f"{path}:{line}: a task has no text `{chosen}`", hint=f"it has {', '.join(data) or 'nothing'}")
    return texts[chosen]


def _studio_span(path: Path, line: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(value) >= _SPAN or not value["labels"]:
        raise DataError(f"{path}:{line}: {str(value)[:60]} is no span", hint="export spans with start, end and labels")
    if len(value["labels"]) > 1:
        raise DataError(
            f"{path}:{line}: the span {value['start']} to {value['end']} has several labels:"
            f" {', '.join(map(str, value['labels']))}",
            hint="give each span one label",
        )
    return {"start": value["start"], "end": value["end"], "label": value["labels"][0]}


def _alike(rows: Sequence[Located]) -> list[Located]:
    """Return rows with lists of labels where any row has several."""
    if not any(isinstance(row.get("label"), list) for _, row in rows):
        return list(rows)
    several = [(line, row, row.get("label")) for line, row in rows]
    return [(line, {**row, "label": label if isinstance(label, list) else [label]}) for line, row, label in several]


def _is_label_studio(path: Path) -> bool:
    records = first_records(path)
    if not records:
        return False
    first = records[0]
    if isinstance(first.get("data"), dict) and isinstance(first.get("annotations"), list):
        return True
    marks = [record.get("label") for record in records if "text" in record and "data" not in record]
    spans = [mark for group in marks if isinstance(group, list) for mark in group]
    return bool(spans) and all(isinstance(mark, dict) and set(mark) >= _SPAN for mark in spans)


# ---------------------------------------------------------------- exports that are not read

#: tool -> words that its files hold, near their beginning
_TOOLS = {
    "LabelMe": ('"shapes"', '"shape_type"'),
    "CreateML": ('"annotations"', '"coordinates"', '"image"'),
    "VIA (VGG Image Annotator)": ('"shape_attributes"', '"regions"'),
}


def check_tool(path: Path) -> None:
    """Refuse annotations of images in the files of a tool that is not read, by name.

    Args:
        path: a file, or a folder with such files in it.

    Raises:
        UsageError: with the name of the tool.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json"))[:3]
    for file in files:
        if file.suffix.lower() != ".json":
            continue
        with file.open(encoding="utf-8", errors="replace") as opened:
            head = opened.read(2**16)
        tool = next((name for name, words in _TOOLS.items() if all(word in head for word in words)), None)
        if tool is not None:
            raise UsageError(f"`{file}` is an export of {tool}", hint="export as COCO, YOLO or Pascal VOC")


LAYOUTS = (
    Layout("doccano", _is_doccano, read_doccano, ("encoding",)),
    Layout(
        "label-studio",
        _is_label_studio,
        read_label_studio,
        ("encoding", "text"),
    ),
)
