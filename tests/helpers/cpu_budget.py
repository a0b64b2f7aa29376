"""CPU seconds a file may take in the default tier, as `budgets.toml` says. The dearest are printed at the end (`-v`
prints all), and marked from one and a half times the budget on; no run fails by it, for seconds hang on the CPU. Time
of child processes counts, waiting and the imports before the first test do not."""

from __future__ import annotations

import resource
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

DEFAULT = 20.0
TOLERANCE = 1.5
SHOWN = 8
LONGER = ("learn", "recipes", "faults", "architectures")  # tiers with limits of their own
_spent: defaultdict[str, float] = defaultdict(float)
_mark = 0.0


def _seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def budgets() -> dict[str, float]:
    return tomllib.loads((Path(__file__).parents[1] / "budgets.toml").read_text(encoding="utf-8"))


def over(spent: dict[str, float], allowed: dict[str, float]) -> dict[str, tuple[float, float]]:
    """The files that took more than they may: name -> (spent, budget)."""
    found = {name: (seconds, allowed.get(name, DEFAULT)) for name, seconds in spent.items()}
    return {name: pair for name, pair in found.items() if pair[0] > TOLERANCE * pair[1]}


def pytest_configure(config: pytest.Config) -> None:
    if config.option.durations is None:
        config.option.durations = 5


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Iterator[None]:
    global _mark
    _mark = _seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """After each phase of a test its seconds go into the report, which also travels from workers of pytest-xdist."""
    global _mark
    report = yield
    now = _seconds()
    longer = any(item.get_closest_marker(name) for name in LONGER)
    report.user_properties.append(("cpu", 0.0 if longer else now - _mark))
    _mark = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # the properties of a test's phases add up in one list: the last one is this phase's; a worker that crashed has none
    if report.user_properties:
        _spent[Path(report.fspath).name] += report.user_properties[-1][1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _spent:
        return
    allowed = budgets()
    dear = sorted(_spent, key=lambda name: _spent[name] / allowed.get(name, DEFAULT), reverse=True)
    terminalreporter.section(f"CPU seconds of test files, spent / budget (all {sum(_spent.values()):.0f} s)")
    too_dear = over(_spent, allowed)
    for name in dear if terminalreporter.verbosity > 0 else dear[:SHOWN]:
        terminalreporter.line(
            f"{_spent[name]:7.1f} / {allowed.get(name, DEFAULT):<5.0f} {name}"
            + ("   OVER BUDGET" if name in too_dear else ""),
            red=name in too_dear,
        )
