"""Generated reports of matches with a one-line summary: who beat whom, by how much, where and when.

The facts of the summary are scattered in the report, between sentences that do not matter (the score at half-time, the
next match).

A match (who, where, when) belongs to one split, also where a report only announces it: no summary, no report and no
sentence that names a team stands in both, so none can be learned by heart.
"""

from __future__ import annotations

import random
from typing import Any

COUNTS = {"train": 6000, "test": 300}

_TEAMS = str.split("Lions Bears Hawks Wolves Sharks Bulls Foxes Tigers Eagles Rams")
_PLACES = str.split("Oslo Bern Lima Rome Cork Graz Nice Turin Kyoto Perth")
_DAYS = str.split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_WEATHER = ["It rained all evening.", "The sun was shining.", "A cold wind blew.", "It was a mild night.", ""]
_CROWD = ["The stands were full.", "Few people came.", "The crowd sang to the end.", ""]


def match_reports_dataset(split: str) -> Any:
    """Return the rows of `match_reports` of a split, "train" or "test", as a `datasets.Dataset`."""
    import datasets

    return datasets.Dataset.from_list(match_reports(split))


def match_reports(split: str) -> list[dict[str, str]]:
    """Return rows {"document", "summary"} of a split."""
    draw = random.Random(f"match reports {split}")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    while len(rows) < COUNTS[split]:
        row = _row(draw, split == "test")
        if row["summary"] not in seen:
            seen.add(row["summary"])
            rows.append(row)
    return rows


def _match(draw: random.Random, test: bool, team: str | None = None) -> tuple[str, str, str, str]:
    """Return home, away, stadium and day of a match of a split, with `team` at home when it is given.

    A twentieth of all matches is for testing, the same ones in every process.
    """
    while True:
        home, away = draw.sample(_TEAMS, 2)
        home, away = (team, away if away != team else home) if team else (home, away)
        stadium, day = draw.choice(_PLACES), draw.choice(_DAYS)
        if (random.Random(" ".join([*sorted((home, away)), stadium, day])).random() < 0.05) == test:
            return home, away, stadium, day


def _row(draw: random.Random, test: bool) -> dict[str, str]:
    home, away, stadium, day = _match(draw, test)
    again, third, elsewhere, later = _match(draw, test, draw.choice((home, away)))
    first, second = draw.randrange(6), draw.randrange(6)
    half = f"{draw.randint(0, first)} to {draw.randint(0, second)}"
    opening = draw.choice(
        [f"On {day} the {home} met the {away} in {stadium}.", f"The {home} played the {away} on {day} in {stadium}."]
    )
    between = [
        f"At half-time the score was {half}.",
        draw.choice(_WEATHER),
        draw.choice(_CROWD),
        f"Next the {again} will play the {third} in {elsewhere} on {later}.",
    ]
    draw.shuffle(between)
    end = f"At the end it was {first} to {second}."
    end_index = draw.randrange(1, len(between) + 1)
    sentences = [opening, *between[:end_index], end, *between[end_index:]]
    document = " ".join(sentence for sentence in sentences if sentence)
    if first == second:
        summary = f"{home} and {away} drew {first} to {second} in {stadium} on {day}."
    else:
        winner, loser = (home, away) if first > second else (away, home)
        summary = f"{winner} beat {loser} {max(first, second)} to {min(first, second)} in {stadium} on {day}."
    return {"document": document, "summary": summary}
