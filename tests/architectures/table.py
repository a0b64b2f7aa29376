"""From the records of the matrix to the table that the lens ships: what came out for each model type, and counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CHECKS = ("capture", "gates", "masked", "batches", "loaded", "twice", "empty")
#: what the columns `masked` and `batches` compare, for people
CHECKED_WITH = {
    "masked": "outputs of the masked and the pruned model, 1e-5 of the largest in float32, else again in float64",
    "batches": "the same with rows x tokens of 1x4, 3x4, 4x3, 4x4, 2x2, 9x7, where the model takes them",
    "pruning": "its own check besides: batches of other sizes, with padding where the model knows a mask",
    "configurations": "forms in other random configurations: weights, sizes, layers, attention heads, rows",
    "neurons_equal": "half of the neurons of every block cut, against weights that read them made 0",
    "layers_equal": "each whole layer left out alone, against a list that was cut by hand, or the layer bypassed",
}
#: columns of feed-forward neurons and whole layers (`smaller`): what came out, how many there are, and why not
OUTCOMES = ("neurons", "layers_whole")
SIZES = ("blocks", "cut", "stacked", "left_out")
REASONS = ("neurons_reason", "layers_reason")
EQUAL = ("neurons_equal", "layers_equal")
SMALLER = (*OUTCOMES, *SIZES, *EQUAL, "neurons_unproved", *REASONS)
#: column of how many other random configurations had the same form; see `forms.examine`
AGAIN = "configurations"
#: columns that a record of heads says nothing of
KEPT = (*SMALLER, AGAIN)
#: for how many attention layers of a model type captured weights were compared with what; see `checks.captured`
COMPARED = {
    "eager": "layers as the library's eager weights",
    "context": "layers whose weights @ values are the context",
    "product": "layers whose weights @ values are changed before the output projection",
    "points": "layers that attend to points",
    "unseen": "layers without weights, refused by name",
}


def text(files: Iterable[Path], day: str, before: Mapping[str, Mapping[str, Any]]) -> str:
    """The JSON of the table; of several records of one part of a model type the last one counts.

    Args:
        files: of records.
        day: of the records.
        before: the types of the last table; what no record says stays.
    """
    types = {name: dict(line) for name, line in before.items()}
    for file in files:
        for line in file.read_text().splitlines():
            record = json.loads(line)
            present = types.get(record["type"], {})
            if record.get("part") == "forms":
                # measured again, in other configurations; differences are looked into, not written down
                if record["outcome"] == "same":
                    types[record["type"]] = present | {"configurations": len(record["configurations"])}
            elif record.get("part") == "smaller":
                measured = smaller(record)
                again = {key: present[key] for key in (AGAIN,) if key in present}
                types[record["type"]] = heads_of(present) | again | measured if measured else present
            else:
                types[record["type"]] = entry(record) | {key: present[key] for key in KEPT if key in present}
    types = dict(sorted(types.items()))
    facts = {"date": day, "versions": versions(), "checked_with": CHECKED_WITH, "counts": counts(types)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in types.items())
    head = json.dumps(facts, indent=1)
    return f'{head[:-2]},\n "types": {{\n{lines}\n }}\n}}\n'


def entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    found: dict[str, Any] = {"outcome": record["outcome"]}
    if record["outcome"] == "CRASH":
        found["outcome"] = "refused"
    reason = "check_failed" if record.get("reason") == "CRASH" else record.get("reason")
    reason = reason or ("check_failed" if record["outcome"] == "CRASH" else "")
    if record["outcome"] in ("refused", "CRASH", "not built"):
        found["reason"] = ": ".join(part for part in (reason, record.get("why") or record.get("stranger", "")) if part)
        found["reason"] = " ".join(found["reason"].split())[:160]
    elif record.get("soft_why"):
        found["reason"] = " ".join(record["soft_why"][0].split())[:160]
    if record.get("layers"):
        found |= {"found": record["layers"], "ran": record["ran"], "heads": record["heads"]}
    found |= {name: record[name] for name in COMPARED if record.get(name)}
    if record.get("proves") is False:
        # Masking changes the numbers of the whole model too little: that the pruned one is equal shows nothing there.
        found["unproved"] = True
    for check in CHECKS:
        if check in record:
            found[check] = True if record[check] is True else str(record[check])[:120]
    return found


def heads_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of the table says of attention."""
    return {key: value for key, value in line.items() if key not in KEPT}


def smaller(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of the table says of neurons and whole layers; nothing where they were not measured."""
    if record.get("outcome") == "not built" or str(record.get("why", "")).startswith("OutOfTime"):
        return {}
    if "outcome" in record:
        return {"neurons": "refused", "neurons_reason": " ".join(f"check_failed: {record['why']}".split())[:160]}
    line = {key: record[key] for key in SMALLER if key in record}
    return line | {key: " ".join(line[key].split())[:160] for key in REASONS if key in line}


def counts(types: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Model types by outcome, and by what was checked."""
    found = dict(Counter(one["outcome"] for one in types.values()).most_common())
    for check in CHECKS:
        found[check] = sum(one.get(check) is True for one in types.values())
    for name, words in COMPARED.items():
        found[words] = sum(one.get(name, 0) for one in types.values())
    found["pruned rightly layer by layer, unproved on the whole model"] = sum(
        "unproved" in one for one in types.values()
    )
    found["same form in two other random configurations"] = sum(one.get(AGAIN) == 2 for one in types.values())
    for column, words in zip(OUTCOMES, ("neurons", "whole layers"), strict=True):
        outcomes = Counter(one[column] for one in types.values() if column in one)
        found |= {f"{words}: {outcome}": count for outcome, count in outcomes.most_common()}
    checks = (*CHECKS, *EQUAL)
    found["silently wrong"] = sum("WRONG" in str(one.get(check)) for one in types.values() for check in checks)
    return found


def versions() -> dict[str, str]:
    """Of what the table was made with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("transformers", "torch", "timm")}
