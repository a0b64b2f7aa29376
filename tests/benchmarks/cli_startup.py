"""CPU seconds and imports of the commands that must answer at once: `python tests/benchmarks/cli_startup.py`.

The budget is 0.3 s of CPU time. It is measured here and not asserted in a test: a busy machine must not turn one red.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

BUDGET = 0.3
COMMANDS = (["--help"], ["list"], ["list", "--json"], ["plugins"], ["schema"])


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "topwork", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def slowest_imports(arguments: list[str], count: int = 8) -> list[str]:
    """The imports that cost most by themselves, as `python -X importtime` reports them."""
    call = [sys.executable, "-X", "importtime", "-m", "topwork", *arguments]
    lines = subprocess.run(call, check=True, capture_output=True, text=True, env=os.environ).stderr.splitlines()
    timed = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    costs = [(int(parts[0]), parts[2].strip()) for parts in timed if parts[0].strip().isdigit()]
    return [f"{cost / 1000:6.1f} ms  {name}" for cost, name in sorted(costs, reverse=True)[:count]]


def main() -> None:
    for arguments in COMMANDS:
        seconds = min(cpu_seconds(arguments) for _ in range(3))
        verdict = "within" if seconds <= BUDGET else "OVER"
        print(f"topwork {' '.join(arguments):12} {seconds:.2f} s CPU ({verdict} the budget of {BUDGET} s)")
    print("\nslowest imports of `topwork list`:", *slowest_imports(["list"]), sep="\n")


if __name__ == "__main__":
    main()
