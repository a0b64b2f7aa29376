"""The matrix: examines every model type in worker processes, one at a time, and writes the coverage table.

    python tests/architectures/run.py --shard 1/2 --out records      # JSON lines, one a model type
    python tests/architectures/run.py --part smaller --out records   # neurons and whole layers instead of heads
    python tests/architectures/run.py --part forms --out records     # forms again, in two other configurations
    python tests/architectures/run.py --part smaller --new --limit 60 --out records   # of types without these columns
    python tests/architectures/run.py --table records/*.jsonl        # plugins/topwork_lens/coverage.json; what the
                                                                     # records do not say stays as it was there

A worker that dies or hangs is replaced; its model type is recorded with what stopped it. Model types whose records are
there already are not examined again: delete their lines, or the file.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "plugins" / "topwork_lens" / "coverage.json"
#: model types that one worker examines before a fresh one takes over
BEFORE_RESTART = 60
#: seconds of CPU that one of them may take, and how many times as long a worker is waited for that does not stop
LIMIT, PATIENCE = 240, 60


def table_now() -> dict[str, Any]:
    """What the table says of each model type, as it is now."""
    return json.loads(TABLE.read_text())["types"] if TABLE.exists() else {}


def shard(names: Sequence[str], text: str) -> list[str]:
    """Every n-th name, from the i-th on, for "i/n"."""
    number, count = (int(part) for part in text.split("/"))
    return list(names)[number - 1 :: count]


def recorded(file: Path) -> set[str]:
    """Model types that a file of records has a line of."""
    return {json.loads(line)["type"] for line in file.read_text().splitlines()} if file.exists() else set()


def examine(names: Sequence[str], part: str = "heads", limit: int = LIMIT) -> Iterator[dict[str, Any]]:
    """The record of each model type; see `one.py` for the parts.

    Args:
        names: model types.
        part: what is examined.
        limit: seconds of CPU that one of them may take.
    """
    waiting = list(names)
    while waiting:
        chunk, waiting = waiting[:BEFORE_RESTART], waiting[BEFORE_RESTART:]
        done = 0
        for record in _work(chunk, part, limit):
            done += 1
            yield record
        waiting = chunk[done:] + waiting


def _work(names: Sequence[str], part: str, limit: int) -> Iterator[dict[str, Any]]:
    command = [sys.executable, str(HERE / "one.py"), part, str(limit)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        assert worker.stdin and worker.stdout
        with selectors.DefaultSelector() as ready:
            ready.register(worker.stdout, selectors.EVENT_READ)
            for name in names:
                worker.stdin.write(f"{name}\n".encode())
                worker.stdin.flush()
                line = worker.stdout.readline() if ready.select(limit * PATIENCE) else b""
                if not line:
                    worker.kill()
                    yield {"type": name, "part": part, "outcome": "not built", "why": "the process died or hung"}
                    return
                yield json.loads(line)
        worker.stdin.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th model type, from the i-th on")
    parser.add_argument("--part", choices=("heads", "smaller", "forms"), default="heads", help="what is examined")
    parser.add_argument("--new", action="store_true", help="only types of which the table says nothing about this part")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds of CPU that one model type may take")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the records of this shard")
    parser.add_argument("--table", type=Path, nargs="*", help="write the table from these records")
    parser.add_argument("types", nargs="*", help="model types (all of them when none is named)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    if arguments.table:
        from architectures import table

        TABLE.write_text(table.text(arguments.table, date.today().isoformat(), table_now()))
        return
    from architectures import build

    names = shard(arguments.types or build.model_types(), arguments.shard)
    lines = table_now()
    if arguments.part == "forms":  # of types that have one, those with few attention heads first
        names = [name for name in names if lines.get(name, {}).get("outcome") in ("hard", "soft", "refused")]
        names.sort(key=lambda name: lines[name].get("heads", 0))
    if arguments.new:
        column = {"heads": "outcome", "smaller": "neurons", "forms": "configurations"}[arguments.part]
        names = [name for name in names if column not in lines.get(name, {})]
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = arguments.out / f"{arguments.shard.replace('/', '-of-')}.jsonl"
    done = recorded(records)
    with records.open("a") as file:
        for record in examine([name for name in names if name not in done], arguments.part, arguments.limit):
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(record["type"], record.get("outcome") or record["neurons"], record.get("why", ""), flush=True)


if __name__ == "__main__":
    main()
