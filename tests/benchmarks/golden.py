"""Every golden check of the four papers and of relevance (M, C, T, X, V) by name, with what its test compared.

    python tests/benchmarks/golden.py [CHECK ...]

The tests themselves are run: what they compare by `pytest.approx`, `torch.testing` or NumPy is a value beside a golden
value, what they compare by < or > is a value beside its bound. A line for each test: how many numbers it compared over
all of its cases, the one with the largest difference, and its bounds; a check without a test that ran is not reached.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

TESTS = Path(__file__).parents[1]
FILES = ("lens/test_importance.py", "lens/test_schedule.py", "lens/test_science.py", "lens/test_ablation.py")
FILES += (
    "lens/test_pruning.py",
    "analyses/test_head_effects.py",
    "analyses/test_clark.py",
    "analyses/test_relevance.py",
)
FILES += ("analyses/test_word_relations.py", "analyses/test_clark_on_bert.py", "analyses/test_layer_statistics.py")
FILES += ("analyses/test_edge_probes.py", "analyses/test_edge_probing_stage.py", "analyses/test_cat_probing.py")
COUNTS = {"M": 10, "C": 7, "T": 5, "X": 5, "V": 5}
CHECKS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
#: V5 is M1, M2 and "masked equals pruned" on networks of every modality
_MODALITIES = re.compile(r"test_(m1|m2|masked_equals_pruned)_.*\[(vit|wav2vec2|detr|whisper|t5)\]")
FAILED = "FAILED"
_NUMBER = r"-?[\d.]+(?:e[-+]?\d+)?"
_BOUND = re.compile(rf"({_NUMBER}) (<=|<|>=|>|==) ({_NUMBER})(?![\w.])")
#: a number of NumPy or of torch as `repr` writes it
_WRAPPED = re.compile(rf"(?:np\.float\d+|tensor)\(({_NUMBER})[^()]*\)")


@dataclass
class Compared:
    """What the cases of one test compared.

    Args:
        cases: how many passed, and how many did not.
        numbers: how many values were compared with golden ones.
        worst: the value and the golden value that differ most.
        bounds: source of an assertion -> the last value, sign and bound.
        others: assertions about something else than numbers.
        reason: why the last case was skipped, or failed.
    """

    cases: list[int] = field(default_factory=lambda: [0, 0])
    numbers: int = 0
    worst: tuple[float, float] = (0.0, 0.0)
    bounds: dict[str, str] = field(default_factory=dict)
    others: int = 0
    reason: str = ""

    def add(self, values: Any, golden: Any) -> None:
        """Note values beside golden ones, of one shape or a single golden one."""
        values, golden = (each.detach() if isinstance(each, torch.Tensor) else each for each in (values, golden))
        try:
            pairs = numpy.broadcast_arrays(numpy.asarray(values, dtype=float), numpy.asarray(golden, dtype=float))
        except (TypeError, ValueError):
            return
        for value, wanted in zip(*(each.ravel() for each in pairs), strict=True):
            self.numbers += 1
            if self.numbers == 1 or abs(value - wanted) > abs(self.worst[0] - self.worst[1]):
                self.worst = float(value), float(wanted)


class Recorder:
    """Plugin of pytest that notes what the tests of checks compare."""

    def __init__(self) -> None:
        self.tests: dict[tuple[str, str], Compared] = {}
        self.running: list[Compared] = []

    def add(self, values: Any, golden: Any) -> None:
        """Note a comparison of the test that runs."""
        for compared in self.running:
            compared.add(values, golden)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Let comparisons count for the checks of a test while it runs."""
        name = item.name.partition("[")[0]
        self.running = [self.tests.setdefault((check, name), Compared()) for check in checks_of(item)]
        return (yield)

    def pytest_assertion_pass(self, item: pytest.Item, orig: str, expl: str) -> None:
        """Note an assertion that held."""
        bounds = _BOUND.findall(_WRAPPED.sub(r"\1", expl.partition("\n")[0]))
        text = " and ".join(f"{_read(value):.4g} {sign} {_read(bound):.4g}" for value, sign, bound in bounds)
        for compared in self.running:
            if bounds and len(text) < 80:
                compared.bounds[" ".join(orig.split())] = text
            compared.others += not bounds

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case."""
        if report.when == "call" or not report.passed:
            for compared in self.running:
                compared.cases[not report.passed] += 1
                if not report.passed:
                    compared.reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else FAILED)


def _read(number: str) -> float:
    """Return a number as pytest shows it: a long one has "..." in place of digits in its middle."""
    return float(re.sub(r"\.\.\.\d*", "", number))


def checks_of(item: pytest.Item) -> list[str]:
    """Return the checks that a test belongs to, by its name."""
    named = re.match(r"test_([mctxv]\d+)_", item.name)
    is_modality = _MODALITIES.match(item.name) is not None and "lens" in item.path.parts
    return ([named[1].upper()] if named and named[1].upper() in CHECKS else []) + (["V5"] if is_modality else [])


@contextlib.contextmanager
def comparisons(add: Callable[[Any, Any], None]) -> Iterator[None]:
    """Note every comparison with a tolerance in the block."""
    scalar = type(pytest.approx(1.0))
    changed: list[tuple[Any, str, Any]] = [
        (scalar, "__eq__", scalar.__eq__),
        (torch.testing, "assert_close", torch.testing.assert_close),
        (numpy.testing, "assert_allclose", numpy.testing.assert_allclose),
    ]

    def equal(self: Any, actual: Any) -> bool:
        add(actual, self.expected)
        return bool(changed[0][2](self, actual))

    def noting(function: Callable[..., None]) -> Callable[..., None]:
        def compare(actual: Any, expected: Any, *args: Any, **options: Any) -> None:
            add(actual, expected)
            function(actual, expected, *args, **options)

        return compare

    try:
        scalar.__eq__ = equal
        for module, name, function in changed[1:]:
            setattr(module, name, noting(function))
        yield
    finally:
        for module, name, function in changed:
            setattr(module, name, function)


def line(name: str, compared: Compared) -> str:
    """Return the line of a test."""
    passed, failed = compared.cases
    text = f"    {name.removeprefix('test_'):78} "
    if not passed:
        return text + (FAILED if compared.reason == FAILED else f"NOT REACHED: {compared.reason}")
    text += f"{passed:3} cases" + (f", {failed} NOT PASSED: {compared.reason}" if failed else "")
    if compared.numbers:
        value, golden = compared.worst
        text += f"; {compared.numbers} numbers, worst {value:.6g}, golden {golden:.6g}, difference {value - golden:.2g}"
    if compared.others:
        text += f"; {compared.others} other assertions hold"
    return text + "".join(f"\n        {source}: {bound}" for source, bound in compared.bounds.items())


def main(names: list[str]) -> int:
    """Run the tests of checks, and print a table; return 1 where a test failed."""
    if unknown := [name for name in names if name not in CHECKS]:
        raise SystemExit(f"not known: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    wanted = names or CHECKS
    chosen = " or ".join(f"test_{name.lower()}_" for name in wanted)
    chosen += " or test_masked_equals_pruned_ or test_m1_ or test_m2_" if "V5" in wanted else ""
    recorder = Recorder()
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "enable_assertion_pass_hook=true",
        "-m",
        "",
        "-n",
        "0",
        "-k",
        chosen,
    ]
    with tempfile.TemporaryDirectory() as compiled, comparisons(recorder.add):
        sys.pycache_prefix = compiled  # files that were compiled before do not report their assertions
        with contextlib.redirect_stdout(sys.stderr):
            code = pytest.main([*options, "-k", chosen, *(str(TESTS / file) for file in FILES)], plugins=[recorder])
    for check in wanted:
        tests = {name: compared for (known, name), compared in recorder.tests.items() if known == check}
        print(f"{check}" if tests else f"{check}: NOT REACHED, it has no test")
        for name, compared in tests.items():
            print(line(name, compared))
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
