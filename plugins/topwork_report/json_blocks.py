"""Any JSON as tables and lists of facts: for keys of a result that the page has no drawing for."""

from __future__ import annotations

from typing import Any

from topwork_report.charts import HeatRow, heat_map
from topwork_report.formatting import cut, short, words
from topwork_report.run_files import mappings, number

Block = dict[str, Any]
MOST_ROWS = 200  # of a table on the page; the rest stays in the result's JSON
_MOST_LABELS = 40  # of a confusion matrix drawn as a map
_DEEPEST = 4


def blocks_of(values: dict[str, Any], title: str = "", depth: int = 0) -> list[Block]:
    """Return a dict as blocks: its plain values as one list of facts, every structure in it as a table or as blocks.

    Args:
        values: the dict.
        title: of the blocks.
        depth: of `values` in the result; structures deeper than four levels are shortened JSON.
    """
    facts, blocks = [], []
    for key, value in values.items():
        if not isinstance(value, dict | list):
            facts.append((key, value))
        elif not value:
            facts.append((key, "none"))
        elif isinstance(value, list) and not any(isinstance(entry, dict | list) for entry in value):
            facts.append((key, _line(value)))
        else:
            blocks += _structure(f"{title} · {words(key)}" if title else words(key), value, depth)
    return ([{"kind": "facts", "title": title, "facts": facts}] if facts else []) + blocks


def as_table(name: str, value: Any) -> Block | None:
    """Return a table of JSON that has the shape of one; else None.

    Tables are {"columns", "rows"}, a list of dicts, and a dict of dicts; {"labels", "counts"} is a confusion matrix.
    """
    title = words(name)
    if isinstance(value, dict) and isinstance(value.get("labels"), list) and isinstance(value.get("counts"), list):
        return _confusion(title, value)
    if isinstance(value, dict) and isinstance(value.get("columns"), list) and isinstance(value.get("rows"), list):
        rows = [list(row) if isinstance(row, list) else [row] for row in value["rows"]]
        return table(title, value["columns"], rows, keyed=True)
    entries = mappings(value)
    if entries and len(entries) == len(value):
        columns = list(dict.fromkeys(key for entry in entries for key in entry))
        return table(title, columns, [[entry.get(key) for key in columns] for entry in entries], keyed=True)
    if isinstance(value, dict) and value and all(isinstance(entry, dict) for entry in value.values()):
        columns = list(dict.fromkeys(key for entry in value.values() for key in entry))
        rows = [[key, *(entry.get(column) for column in columns)] for key, entry in value.items()]
        return table(title, ["", *columns], rows, keyed=True)
    return None


def table(title: str, columns: list[Any], rows: list[list[Any]], *, keyed: bool = False) -> Block:
    """Return a table block; rows are made as long as the header, and cut at MOST_ROWS.

    Args:
        title: of the table.
        columns: what stands above them; each is shown as text.
        rows: of the table.
        keyed: the columns are keys of JSON: their names are shown, and the keys as tooltips.
    """
    width = max([len(columns), *(len(row) for row in rows)])
    keys = [str(column) for column in columns] + [""] * (width - len(columns))
    filled = [row + [None] * (width - len(row)) for row in rows[:MOST_ROWS]]
    numeric = [
        bool(filled) and all(row[at] is None or number(row[at]) is not None for row in filled) for at in range(width)
    ]
    return {
        "kind": "table",
        "title": title,
        "columns": [(words(key) if keyed else key, key) for key in keys],
        "rows": filled,
        "numeric": numeric,
        "left_out": max(0, len(rows) - MOST_ROWS),
    }


def _structure(title: str, value: Any, depth: int) -> list[Block]:
    as_rows = as_table(title, value)
    if as_rows:
        return [as_rows]
    if isinstance(value, dict) and depth < _DEEPEST:
        return blocks_of(value, title, depth + 1)
    if isinstance(value, list) and all(isinstance(entry, list) for entry in value):
        return [table(title, [""] * max(map(len, value)), value)]
    return [{"kind": "facts", "title": "", "facts": [(title, short(value))]}]


def _line(values: list[Any]) -> str:
    text = ", ".join(short(value) for value in values[:24])
    return f"{text}, … ({len(values)} in all)" if len(values) > 24 else text


def _confusion(title: str, value: dict[str, Any]) -> Block:
    """Return a confusion matrix as a map: a row for each true label, coloured by the share of the row.

    So rare labels are seen as well.
    """
    labels = [short(label) for label in value["labels"]]
    counts = [[number(count) or 0 for count in row] if isinstance(row, list) else [] for row in value["counts"]]
    if len(counts) != len(labels) or any(len(row) != len(labels) for row in counts):
        return table(title, labels, counts)
    if len(labels) > _MOST_LABELS:
        return _largest_confusions(title, labels, counts)
    rows, texts = [], {}
    for at, row in enumerate(counts):
        total = sum(row)
        shares = {column: (count / total if total else None) for column, count in enumerate(row)}
        rows.append(HeatRow(cut(labels[at], 18), f"truth {labels[at]}", shares))
        texts.update({(at, column): short(count) if count else "" for column, count in enumerate(row)})
    chart = heat_map(title, rows, [cut(name, 18) for name in labels], row_title="truth", column_title="prediction",
                     low=0.0, high=1.0, texts=texts)  # fmt: skip
    if chart is None:
        return table(title, labels, counts)
    chart["counts"] = counts
    chart["labels"] = labels
    return {"kind": "heat", "chart": chart, "confusion": True}


def _largest_confusions(title: str, labels: list[str], counts: list[list[float]]) -> Block:
    pairs = [
        (count, labels[truth], labels[guess])
        for truth, row in enumerate(counts)
        for guess, count in enumerate(row)
        if truth != guess and count
    ]
    pairs.sort(reverse=True)
    rows: list[list[Any]] = [[truth, guess, count] for count, truth, guess in pairs[:40]]
    block = table(f"{title}: largest confusions of {len(labels)} labels", ["truth", "prediction", "count"], rows)
    return {**block, "confusions": True}
