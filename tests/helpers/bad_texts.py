"""Faults of texts, labels, tags, spans, answers and messages, by the name of the column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bad_input import PLAIN, Cells, Fault, Form, Row, named

from topwork import Task

#: of words: more than any of the small models takes
MANY = 60
NAN = float("nan")
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def texts(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def long(row: Row) -> str:
        said = str(row.get(column) or "one two three").replace("[MASK]", "red") + " "
        return said * (1500 // len(said) + 1)

    yield from named(column, {"a number": 3, "a list": ["one", "two"]}, form)
    yield from named(column, {"longer than the model": long}, form)
    for name, value in {"empty": "", "blank": " \n ", "strange letters": "\u65e5\u672c \U0001f600 \x00 \u0301"}.items():
        yield from named(column, {name: lambda row, value=value: Cells({column: value, **_placeless(row)})}, form)


def _placeless(row: Row) -> Row:
    """Targets that stand at places of a text, for a text that has none of them."""
    nothing = {"spans": [], "answers": {"text": [], "answer_start": []}}
    return {name: value for name, value in nothing.items() if name in row}


def masked_texts(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    if "answer" not in task.columns:
        yield from texts(task, column, form)
        return
    for fault in texts(task, column, form):
        yield Fault(column, fault.name, lambda row, spoil=fault.spoil: {**spoil(row), "answer": None})
    yield from named(column, {"masks without `answer`": Cells(text="the [MASK] fox", answer=None)})


def mask_answers(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(column, {"no token": "zebra crossing", "more than masks": ["red", "red"], "an empty list": []})
    yield from named(column, {"a number": 3, "None in it": [None]})
    yield from named(column, {"without masks": Cells(text="the red fox", answer="red")})


def spoken_texts(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(column, {"a number": 3, "a list": ["do"], "empty": "", "blank": "  "})
    yield from named(column, {"a letter outside the vocabulary": "do fa", "more letters than frames": "do re mi " * 90})
    yield from named(column, {"a letter with `unknown: drop`": "do fa"}, Form("drop", options={"unknown": "drop"}))


def messages(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    asked, said = {"role": "user", "content": "red"}, {"role": "assistant", "content": "rot"}
    yield from named(column, {"an empty list": [], "a text": "hello", "a number": 3, "a list of texts": ["red"]}, form)
    yield from named(column, {"no role": [{"content": "red"}], "nothing by the assistant": [asked]}, form)
    yield from named(column, {"content None": [asked, {**said, "content": None}]}, form)
    yield from named(column, {"longer than the model": [{**asked, "content": "red " * 9 * MANY}, said]}, form)


def translations(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    values: dict[str, Any] = {"a text": "one house", "no languages": {}, "not the language": {"en": "one", "fr": "un"}}
    yield from named(column, {**values, "None in a language": {"en": "one house", "de": None}}, form)
    yield from named(column, {"a number in a language": {"en": 3, "de": "drei"}, "a number": 3}, form)


# ---------------------------------------------------------------- labels


def labels(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(column, {"unknown": "goood", "a float": 1.0, "a list": ["goood"], "True": True, "empty": ""})
    yield from named(column, {"an integer": 1, "NaN": NAN})
    names = sorted({row[column] for row in task.example_rows()})
    listed = Form("names", options={"label_names": names})
    yield from named(column, {"a list with `label_names`": names[:1], "a number beyond with `label_names`": 99}, listed)
    yield from named(column, {"a number with `label_names`": 1, "-1 with `label_names`": -1}, listed)
    if "multi_label" in task.Options.model_fields:
        several = Form("several", _with_lists, {"multi_label": True})
        values: dict[str, Any] = {
            "no list with `multi_label`": names[0],
            "unknown with `multi_label`": [names[0], "goood"],
        }
        yield from named(
            column, {**values, "None with `multi_label`": None, "None in it with `multi_label`": [None]}, several
        )
        yield from named(column, {"empty with `multi_label`": [], "twice with `multi_label`": names[:1] * 2}, several)
    if "regression" in task.Options.model_fields:
        number = Form("number", _with_numbers, {"regression": True})
        values = {
            "NaN with `regression`": NAN,
            "infinite with `regression`": float("inf"),
            "a text with `regression`": "a",
        }
        yield from named(column, {**values, "None with `regression`": None, "a list with `regression`": [1.0]}, number)
        yield from named(column, {"digits with `regression`": "2.5"}, number)


def _with_lists(rows: list[Row]) -> list[Row]:
    return [{**row, "label": [row["label"]]} for row in rows]


def _with_numbers(rows: list[Row]) -> list[Row]:
    return [{**row, "label": float(number)} for number, row in enumerate(rows)]


# ---------------------------------------------------------------- words, spans, answers


def words(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(column, {"a text": "Ada lived", "None in it": ["Ada", None], "numbers": [1, 2], "a number": 3})
    yield from named(column, {"an empty list": Cells(words=[], tags=[])})
    odd = Cells(words=["Ada", "", "\u00ad"], tags=["B-PER", "O", "O"])
    yield from named(column, {"an empty word": odd})
    long = {"longer than the model": lambda row: Cells({key: row[key] * MANY for key in ("words", "tags")})}
    yield from named(column, long)


def tags(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(
        column, {"fewer than words": ["O"], "more than words": ["O"] * 99, "a text": "B-PER", "a number": 3}
    )
    yield from named(column, {"unknown": lambda row: ["B-PRE", *row["tags"][1:]], "an empty list": []})
    yield from named(column, {"None in it": lambda row: [None, *row["tags"][1:]]})


def spans(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def span(start: Any, end: Any, label: Any = "PER") -> dict[str, Any]:
        return {"start": start, "end": end, "label": label}

    values: dict[str, Any] = {"outside its text": [span(0, 9999)], "of no characters": [span(3, 3)]}
    values |= {"backwards": [span(3, 1)], "without `end`": [{"start": 0, "label": "PER"}], "NaN": [span(NAN, 3)]}
    values |= {"unknown": [span(0, 3, "PRE")], "None as label": [span(0, 3, None)], "a list of texts": ["PER"]}
    values |= {"a text": "PER", "a number": 3, "an empty list": [], "inside a word": [span(0, 1)]}
    yield from named(column, {**values, "overlapping": [span(0, 3), span(1, 8)]}, form)


def answers(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def told(text: Any, start: Any) -> dict[str, Any]:
        return {"text": text, "answer_start": start}

    values: dict[str, Any] = {"a text": "Lima", "a list of texts": ["Lima"], "not at its start": told(["Lima"], [0])}
    values |= {"not in the context": told(["Rio"], [0]), "beyond the context": told(["Lima"], [9999])}
    values |= {"an empty answer": told([""], [0]), "more texts than starts": told(["Lima"], [])}
    values |= {"a start below 0": told(["Lima"], [-4]), "a start None": told(["Lima"], [None])}
    values |= {"a start with a fraction": told(["Lima"], [13.5]), "a text None": told([None], [0])}
    values |= {"no lists": told("Lima", 13), "lists None": told(None, None), "a number": 3, "none": told([], [])}
    yield from named(column, values)


# ---------------------------------------------------------------- forms of rows


def _as_texts(rows: list[Row]) -> list[Row]:
    return [{"text": row["prompt"] + row["completion"]} for row in rows]


def _as_messages(rows: list[Row]) -> list[Row]:
    said = (("user", "prompt"), ("assistant", "completion"))
    return [{"messages": [{"role": role, "content": row[key]} for role, key in said]} for row in rows]


def _as_spans(rows: list[Row]) -> list[Row]:
    made = []
    for row in rows:
        at, found = 0, []
        for word, tag in zip(row["words"], row["tags"]):
            if tag != "O":
                found.append({"start": at, "end": at + len(word), "label": tag[2:]})
            at += len(word) + 1
        made.append({"text": " ".join(row["words"]), "spans": found})
    return made


def _as_translations(rows: list[Row]) -> list[Row]:
    return [{"translation": {"en": row["source"], "de": row["target"]}} for row in rows]


_SPANS = Form("spans", _as_spans)
#: forms in which a task's rows have a column that its example rows have not
FORMS = {
    ("text-generation", "text"): Form("text", _as_texts),
    ("text-generation", "messages"): Form("messages", _as_messages, {"chat_template": CHAT}),
    ("token-classification", "text"): _SPANS,
    ("token-classification", "spans"): _SPANS,
    ("translation", "translation"): Form(
        "translation", _as_translations, {"source_language": "en", "target_language": "de"}
    ),
}
FAULTS = {
    "label": labels,
    "words": words,
    "tags": tags,
    "spans": spans,
    "answers": answers,
    "answer": mask_answers,
    "messages": messages,
    "translation": translations,
    "text": masked_texts,
}
__all__ = ["FAULTS", "FORMS", "PLAIN", "spoken_texts", "texts"]
