"""A budget in latency: the table, dynamic programming against trying everything, and the cut model."""

from __future__ import annotations

import copy
import itertools
import json
from functools import partial
from typing import Any, Literal

import pytest
import torch
from lens_models import make
from lens_recipes import recipe

import topwork
from topwork import UsageError
from topwork.cli import main
from topwork_compress.dynamic import search_table
from topwork_compress.latency import LatencyTable, measure_table, widths
from topwork_compress.units import Choice, Units, members_of
from topwork_lens.look import Look
from topwork_lens.scoring.plain_models import own_loss, single_items


def toy(seed: int) -> tuple[list[Choice], LatencyTable]:
    """2 layers of 2 heads and 4 neurons with random scores, and seconds that are no multiples of anything."""
    generator = torch.Generator().manual_seed(seed)
    choices: list[Choice] = []
    seconds: dict[str, list[tuple[int, float]]] = {}
    kinds: tuple[tuple[Literal["heads", "neurons"], int], ...] = (("heads", 2), ("neurons", 4))
    for layer, (kind, count) in itertools.product(range(2), kinds):
        scores, times = (torch.rand(count + 1, generator=generator).tolist() for _ in range(2))
        choices += [Choice(f"{layer}.{kind}", kind, (index,), 1, scores[index]) for index in range(count)]
        seconds[f"{layer}.{kind}"] = [(kept, sum(times[: kept + 1])) for kept in range(count + 1)]
    return choices, LatencyTable(1.0 + sum(row[-1][1] for row in seconds.values()), seconds)


def tried(choices: list[Choice], table: LatencyTable, budget: float, at_least: int) -> float:
    """Return the largest kept score of all subsets that fit."""
    best = -1.0
    for kept in itertools.product((False, True), repeat=len(choices)):
        counts = dict.fromkeys(table.seconds, 0)
        for choice, stays in zip(choices, kept, strict=True):
            counts[choice.path] += stays
        if min(counts.values()) >= at_least and table.without(counts) <= budget:
            best = max(best, sum(choice.score for choice, stays in zip(choices, kept, strict=True) if stays))
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "at_least"), [(0.5, 0), (0.6, 1), (0.8, 1), (0.97, 0)])
def test_p2_dynamic_programming_finds_what_trying_everything_finds(seed: int, share: float, at_least: int) -> None:
    choices, table = toy(seed)
    budget = share * table.whole
    wanted = tried(choices, table, budget, at_least)
    if wanted < 0:
        with pytest.raises(UsageError, match="cannot be removed"):
            search_table(choices, table, budget, at_least)
        return
    removed, spent = search_table(choices, table, budget, at_least, buckets=10**6)
    kept = [choice for choice in choices if choice not in removed]
    counts = {path: sum(choice.path == path for choice in kept) for path in table.seconds}
    assert table.without(counts) == pytest.approx(spent) and spent <= budget * (1 + 1e-9)
    assert sum(choice.score for choice in kept) == pytest.approx(wanted)
    # few parts of the budget still keep it, and lose little
    rough, spent = search_table(choices, table, budget, at_least, buckets=50)
    assert spent <= budget * (1 + 1e-9)
    assert sum(choice.score for choice in choices if choice not in rough) >= 0.85 * wanted


def test_a_table_is_linear_between_widths_and_never_falls() -> None:
    table = LatencyTable(10.0, {"a": [(8, 4.0), (2, 1.0), (4, 3.0)], "b": [(4, 1.0), (2, 1.5)]})
    assert [table.at("a", kept) for kept in (1, 2, 3, 4, 6, 8)] == [1.0, 1.0, 2.0, 3.0, 3.5, 4.0]
    assert table.at("b", 4) == 1.5  # noise: what keeps more is never faster
    assert table.without({"a": 4, "b": 4}) == 9.0
    with pytest.raises(UsageError, match="a row"):
        LatencyTable(1.0, {"a": []})


def parts(name: str) -> tuple[Any, Any, Any, Units]:
    model, batch = make(name)
    look = Look(model)
    return model, batch, list(single_items(batch)), Units.of(model, look.layers, look.find_blocks(batch))


def synthetic(units: Units, neuron: float, head: float) -> LatencyTable:
    """Seconds in proportion to heads and neurons, one third of the whole beside them."""
    seconds = {}
    for path, unit in units.chosen.items():
        each = neuron if hasattr(unit, "producers") else head
        seconds[path] = [(kept, each * kept) for kept in range(len(unit.kept) + 1)]
    return LatencyTable(1.5 * sum(row[-1][1] for row in seconds.values()), seconds)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_model_is_cut_below_a_budget_by_a_given_table(name: str) -> None:
    model, batch, _, units = parts(name)
    table = synthetic(units, 0.001, 0.02)
    result = topwork.compress(model, [batch], latency=0.6, table=table)
    assert 0.55 * result.before < result.after == result.plan.cost <= 0.6 * result.before
    assert result.before == round(table.whole * 1e9)
    left = {line["path"]: line["after"] for line in result.json()["tables"]["what is left"]}
    assert table.without(left) == pytest.approx(result.after / 1e9)
    assert result.pruned.check is not None and result.pruned.check.difference <= result.pruned.check.tolerance


def test_a_table_decides_what_goes() -> None:
    """Where neurons cost nothing, heads go; and the other way round."""
    counts = []
    for neuron, head in ((1e-9, 1.0), (1.0, 1e-9)):
        model, batch, _, units = parts("bert")
        result = topwork.compress(model, [batch], latency=0.7, table=synthetic(units, neuron, head))
        counts.append(result.plan.counts())
    assert counts[0]["neurons"][0] == counts[0]["neurons"][1] and counts[0]["heads"][1] < counts[0]["heads"][0]
    assert counts[1]["heads"][0] == counts[1]["heads"][1] and counts[1]["neurons"][1] < counts[1]["neurons"][0]


def test_a_table_is_measured_for_each_shape_and_leaves_the_model_alone() -> None:
    model, _, batches, units = parts("llama")
    before = copy.deepcopy(model.state_dict())
    ticks = itertools.count()
    run = partial(own_loss, batch=batches[0])
    table = measure_table(model, units, run, run, clock=lambda: float(next(ticks)))
    assert set(table.seconds) == set(units.chosen)
    for path, unit in units.chosen.items():
        ratio = len(unit.kept) // len(members_of(unit))
        assert [kept for kept, _ in table.seconds[path]] == sorted(ratio * count for count in widths(unit))
        assert table.at(path, len(unit.kept)) >= 1  # each call of the clock is a second
    alike = [path for path in units.chosen if path.endswith("down_proj")]
    assert len({tuple(table.seconds[path]) for path in alike}) == 1 < len(alike)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_stage_and_a_command_take_a_budget_in_latency(tmp_path: Any, capsys: Any) -> None:
    """Times of so small a model say nothing: the budget is kept by the table, or an error says why it cannot be."""
    run = topwork.run(recipe(tmp_path, ["save"]), folder=tmp_path / "run", quiet=True)
    arguments = ["compress", str(run.model_folder), "--data", str(tmp_path / "rows.jsonl"), "--json"]
    code = main([*arguments, "--latency", "0.9", "--output", str(tmp_path / "small")])
    printed = capsys.readouterr()
    if code == 0:
        result = json.loads(printed.out)
        assert result["nanoseconds_predicted"] <= 0.9 * result["nanoseconds_before"] + 1
        assert "latencies" in result["seconds"]
    else:
        assert "cannot be removed" in printed.err or "than the whole model" in printed.err


def test_wrong_tables_are_errors() -> None:
    model, batch, _, units = parts("bert")
    table = synthetic(units, 1.0, 1.0)
    first = next(iter(table.seconds))
    lacking = LatencyTable(table.whole, {path: row for path, row in table.seconds.items() if path != first})
    with pytest.raises(UsageError, match="lacks"):
        topwork.compress(model, [batch], latency=0.5, table=lacking)
    with pytest.raises(UsageError, match="without layers"):
        topwork.compress(model, [batch], latency=0.5, table=table, layers=1)
    with pytest.raises(UsageError, match="cannot be removed"):
        topwork.compress(model, [batch], latency=0.2, table=table)
    with pytest.raises(UsageError, match="one budget"):
        topwork.compress(model, [batch], latency=0.5, macs=0.5)
