"""Page of a recipe's repetitions: means with their intervals, and each seed or fold in a column of its own.

Entry point: `write_repetitions`. The common folder is that of `topwork run --seeds` or `--folds`; the page is one of
several runs side by side (`compare`).
"""

from __future__ import annotations

import json
from pathlib import Path

from topwork import Json, UsageError
from topwork_report.page import PAGE
from topwork_report.pages.compare import MOST_RUNS, write_comparison

_SUMMARY = "summary.json"


def is_repeated(folder: Path) -> bool:
    """Return whether a folder holds repetitions, and not a single run."""
    return (folder / _SUMMARY).is_file() and not (folder / "run.json").is_file()


def write_repetitions(folder: Path) -> dict[str, Json]:
    """Write the page of repetitions into their common folder; of very many only means and intervals.

    Returns:
        As of `write_comparison`.

    Raises:
        UsageError: the summary is damaged.
    """
    try:
        names = [str(name) for name in json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the file is damaged ({error})", place=str(folder / _SUMMARY), hint="run it again") from error
    runs = [folder / name for name in names if (folder / name).is_dir()]
    return write_comparison([folder, *(runs if len(runs) < MOST_RUNS else ())], folder / PAGE)
