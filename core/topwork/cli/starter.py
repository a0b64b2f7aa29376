"""Starter recipe of `topwork new`: every option and column of a task, with its description beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic.fields import FieldInfo

from topwork.cli.preview import Preview
from topwork.items import Json
from topwork.recipe.yaml import dump

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

#: a code of ISO 639, perhaps with a script or region
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z]{2,4})?")
STAGES = ("train", "evaluate", "save", "report")
#: usual names of columns by the name that a task gives them; compared without case, spaces and underscores
SYNONYMS = {
    "text": (
        *("sentence", "review", "content", "body", "comment", "utterance", "tweet", "message", "document", "sms"),
        *("sentence1", "text1", "premise", "question1", "reviewbody", "reviewtext", "headline", "post"),
        *("transcription", "transcript", "normalizedtext"),
    ),
    "text_pair": ("sentence2", "text2", "hypothesis", "question2", "second"),
    "label": (
        *("labels", "class", "category", "target", "sentiment", "stars", "rating", "score", "topic", "intent"),
        *("emotion", "goldlabel", "genre", "species", "command", "classname", "labelname", "polarity", "y"),
    ),
    "image": ("img", "picture", "photo", "file", "path", "filename", "imagepath", "imgpath", "rgb", "rgbpath"),
    "audio": (
        *("sound", "recording", "clip", "speech", "file", "path", "filename", "audiopath", "audiofilepath"),
        *("audiofile", "wav", "wavfile", "wavpath"),
    ),
    "words": ("tokens",),
    "tags": ("nertags", "postags", "tag", "labels"),
    "question": ("query",),
    "spans": ("entities",),
    "context": ("passage", "paragraph", "text"),
    "answers": ("answer",),
    "document": ("article", "text", "dialogue", "body", "content"),
    "summary": ("highlights", "abstract", "headline", "title"),
    "source": ("src", "input", "en", "text"),
    "target": ("tgt", "output", "translated", "reference"),
    "transcript": ("transcription", "text", "sentence", "words"),
    "objects": ("annotations", "boxes", "labels"),
    "mask": ("label", "annotation", "segmentation", "segmentationmask", "maskpath"),
    "depth": ("depthmap", "depthpath", "label", "target"),
    "prompt": ("instruction", "input", "question"),
    "completion": ("output", "response", "answer"),
    "messages": ("conversations", "conversation", "chat"),
}


def starter(task: type[Task], base: str, plugins: Plugins, file: str, rows: Preview | None = None) -> str:
    """Return a recipe for the task. Values that must be filled in stand in capitals.

    Args:
        task: the task.
        base: its base (of every role, if it has several).
        plugins: the stages that are installed are used.
        file: the name that the recipe will have, for its first line.
        rows: the training rows; columns that the task reads are looked up among theirs.
    """
    rows = rows or Preview()
    matched = match_columns(task, rows.columns)
    needed = task.rows_view.options_for({name: rows.first.get(column) for name, column in matched.items()})
    lines = [f"# topwork run {file}", *_task(task, needed), *_base(task, base), *_data(task, rows, matched)]
    lines += _stages(plugins)
    return "\n".join(lines) + "\n"


def match_columns(task: type[Task], present: Sequence[str]) -> dict[str, str]:
    """Look up the columns that a task reads among those of the rows: equal names first, then usual ones.

    Two columns named by languages (`en`, `de`) are source and target. A text whose words have tags is read as words.

    Returns:
        the task's column -> the rows' column; without those that match nothing.
    """
    plain = {_plain(name): name for name in reversed(present)}
    matched = {name: plain[_plain(name)] for name in task.columns if _plain(name) in plain}
    columns = sorted(task.columns, key=lambda name: not task.columns[name].required)
    for name in columns:
        for synonym in SYNONYMS.get(name, ()) if name not in matched else ():
            if synonym in plain and plain[synonym] not in matched.values():
                matched[name] = plain[synonym]
                break
    languages = [name for name in present if _LANGUAGE.fullmatch(name)]
    sides = {"source", "target"}
    if sides <= task.columns.keys() and not sides & set(map(_plain, present)) and len(languages) == 2:
        matched |= dict(zip(("source", "target"), languages))
    if "tags" in matched and "text" in matched and not {"words", "spans"} & matched.keys():
        matched["words"] = matched.pop("text")
    return {name: matched[name] for name in task.columns if name in matched}


def _plain(name: str) -> str:
    """Return a name without case, spaces, underscores, hyphens and dots; other signs are a part of it."""
    return re.sub(r"[\s_.-]", "", name.lower())


def _task(task: type[Task], needed: Mapping[str, Json]) -> Iterator[str]:
    yield "task:"
    yield f"  name: {task.name}"
    for name, field in task.Options.model_fields.items():
        lead = "  " if field.is_required() or name in needed else "  # "
        value = _word(needed[name]) if name in needed else _default(field)
        yield f"{lead}{name}: {value}{_comment(field.description)}"


def _base(task: type[Task], base: str) -> Iterator[str]:
    kind = base.removeprefix("config:")
    written = f"{{model: {_word(base)}}}" if kind == base else f"{{config: {{model_type: {_word(kind)}}}}}"
    comment = "  # a Hub id, a local folder, or timm/<name>" if kind == base else "  # from random weights"
    if len(task.roles) == 1:
        yield f"base: {written}{comment}"
        for roles in task.alternatives:
            entries = ", ".join(f"{role}: {written}" for role in roles)
            yield f"# base: {{{entries}}}  # instead: {len(roles)} bases"
        return
    yield "base:"
    for role in task.roles:
        yield f"  {role}: {written}{comment}"


def _data(task: type[Task], rows: Preview, matched: Mapping[str, str]) -> Iterator[str]:
    present, path = rows.columns, _word(rows.path or "ROWS")
    split = f", split: {_word(rows.train)}" if rows.train else ""
    yield "data:"
    yield f"  train: {{path: {path}{split}}}  # a Hub data set, a local file or folder, or sample:<name>"
    if rows.evaluate:
        yield f"  evaluate: {{path: {path}, split: {_word(rows.evaluate)}}}"
    else:
        yield "  evaluate: {cut: 0.1}  # a tenth of the training rows; or {path: ..., split: ...}"
    if present:
        yield f"  # the rows have: {', '.join(_word(name) for name in present)}"
    named = {name for name, column in task.columns.items() if name in matched or column.required}
    # a mapping of comments alone would be null
    yield f"  {'' if named else '# '}columns:  # the task's column: the data set's column"
    for name, column in task.columns.items():
        origin = matched.get(name, name if not present else "COLUMN")
        lead = "    " if name in named else "    # " if named else "  #   "
        yield f"{lead}{name}: {_word(origin)}{_comment(column.description)}"


def _stages(plugins: Plugins) -> Iterator[str]:
    yield "seed: 0"
    yield "stages:"
    for name in STAGES:
        if name in plugins.stages:
            yield f"  - {name}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "VALUE"
    value = field.get_default(call_default_factory=True)
    return _word(value.model_dump(mode="json") if hasattr(value, "model_dump") else value)


def _word(value: object) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, str) and not value.isprintable():  # line ends and the like, which a block would need
        import json

        return json.dumps(value)
    return dump(value, flow=True)


def _comment(text: str | None) -> str:
    return f"  # {' '.join(text.split())}" if text else ""
