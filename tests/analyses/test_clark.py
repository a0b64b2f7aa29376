"""Attention patterns against planted attention and independent formulas; the checks of Clark et al. by name, C1 to C3.

C4 to C6 stand in test_word_relations.py.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy
import pytest
import torch
from analysis_models import classifier
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from tiny_bases import BASES

import topwork
from topwork import AttentionLayer, TopworkError, Units
from topwork_analyses.attention_patterns.distances import HeadDistances, clusters, divergences, head_map
from topwork_analyses.attention_patterns.key_sets import key_sets
from topwork_analyses.attention_patterns.stage import PatternStudy
from topwork_analyses.attention_patterns.statistics_of_heads import Means, head_statistics, pattern

LAYER = AttentionLayer("layer", "out", width=8, heads=2, side="encoder", kind="self")


def _uniform(heads: int, queries: int, keys: int) -> torch.Tensor:
    return torch.full((heads, queries, keys), 1 / keys)


def _random(heads: int, queries: int, keys: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(heads, queries, keys, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)


def _valid(queries: int) -> torch.Tensor:
    return torch.ones(queries, dtype=torch.bool)


def _sets(units: Units, keys: int, layer: AttentionLayer = LAYER, **options: Any) -> list[Any]:
    return key_sets(units, layer, keys, keys, decoder_names=False, **options)


def test_c1_entropy_is_that_of_scipy_and_ln_n_for_uniform_attention() -> None:
    """C1: also with weights of exactly 0, where 0 ln 0 is 0; never above the logarithm of the allowed keys."""
    weights = _random(3, 6, 9)
    weights[0, :, 5:] = 0
    weights = weights / weights.sum(-1, keepdim=True)
    statistics = head_statistics(weights, _valid(6), [])
    wanted = scipy_entropy(weights.double().numpy(), axis=-1).mean(-1)
    assert statistics["entropy"].numpy() == pytest.approx(wanted, abs=1e-6)
    assert (statistics["entropy"] <= math.log(9) + 1e-6).all()
    uniform = head_statistics(_uniform(2, 6, 9), _valid(6), [])
    assert uniform["entropy"].tolist() == pytest.approx([math.log(9)] * 2, abs=1e-6)
    assert uniform["breadth"].tolist() == pytest.approx([1.0] * 2, abs=1e-6)
    causal = torch.tril(torch.ones(1, 6, 6))
    causal = causal / causal.sum(-1, keepdim=True)
    assert head_statistics(causal, _valid(6), [])["breadth"].item() == pytest.approx(1.0, abs=1e-6)


def test_c1_padding_changes_nothing() -> None:
    """C1: padded queries and keys that get no attention leave every statistic as it was."""
    units = Units("token", ["[CLS]", *"abcd", "[SEP]"], [0, 5])
    weights = _random(2, 6, 6)
    padded = torch.zeros(2, 9, 9)
    padded[:, :6, :6] = weights
    padded[:, 6:, 0] = 1
    alone = head_statistics(weights, _valid(6), _sets(units, 6))
    sets = [
        type(chosen)(
            chosen.name,
            torch.nn.functional.pad(chosen.mask, (0, 3, 0, 3)),
            None if chosen.queries is None else torch.nn.functional.pad(chosen.queries, (0, 3)),
        )
        for chosen in _sets(units, 6)
    ]
    together = head_statistics(padded, torch.arange(9) < 6, sets)
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        assert together[name].tolist() == pytest.approx(values.tolist(), abs=1e-6), name


def test_c2_shares_of_offsets_add_up_and_a_planted_head_is_found() -> None:
    """C2: previous, self, next and the rest make 1; a head that looks one ahead has (n - 1) / n there."""
    units = Units("token", ["[CLS]", *"abcdef", "[SEP]"], [0, 7])
    planted = torch.eye(8).roll(1, dims=1)
    planted[-1] = torch.eye(8)[-1]
    weights = torch.stack([planted, _random(1, 8, 8)[0]])
    statistics = head_statistics(weights, _valid(8), _sets(units, 8))
    total = sum(statistics[f"share {name}"] for name in ("previous", "self", "next", "elsewhere"))
    assert total.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert statistics["share next"][0].item() == pytest.approx(7 / 8)
    assert pattern({name: float(values[0]) for name, values in statistics.items()}, ["[SEP]"]) == "next"
    assert statistics["share [SEP]"][1].item() == pytest.approx(float(weights[1, :, 7].mean()), abs=1e-6)
    assert statistics["share [SEP] from [SEP]"][1].item() == pytest.approx(float(weights[1, 7, 7]), abs=1e-6)
    assert statistics["uniform special"].tolist() == pytest.approx([2 / 8] * 2)


def test_directions_and_class_tokens_of_an_image_add_up() -> None:
    units = Units("patch", special=[0], grid=(3, 4))
    weights = _random(2, 13, 13)
    statistics = head_statistics(weights, _valid(13), _sets(units, 13))
    names = ("left", "right", "above", "below", "self", "special")
    assert sum(statistics[f"share {name}"] for name in names).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    planted = torch.zeros(1, 13, 13)
    for patch in range(12):
        planted[0, patch + 1, patch + 1 + (1 if patch % 4 < 3 else 0)] = 1  # its right neighbour, at the edge itself
    planted[0, 0, 0] = 1
    looks = head_statistics(planted, _valid(13), _sets(units, 13))
    assert looks["share right"].item() == pytest.approx(9 / 12)
    assert looks["share near"].item() == pytest.approx(9 / 12)
    assert looks["share special from special"].item() == 1.0


def test_time_lags_of_audio() -> None:
    units = Units("frame", seconds=0.05)
    weights = torch.stack([torch.eye(10).roll(-2, dims=1), torch.full((10, 10), 0.1)])
    weights[0, :2] = torch.eye(10)[0]
    statistics = head_statistics(weights, _valid(10), _sets(units, 10))
    assert statistics["share earlier"].tolist() == pytest.approx([9 / 10, 0.45])
    assert statistics["share self"].tolist() == pytest.approx([1 / 10, 1 / 10])
    assert statistics["share within 0.1 s"].tolist() == pytest.approx([1.0, 0.44])
    assert statistics["uniform earlier"].tolist() == pytest.approx([0.45, 0.45])


def test_names_of_the_input_are_not_those_of_a_decoder() -> None:
    units = Units("token", ["a", "b", "</s>"], [2])
    decoder = AttentionLayer("decoder", "out", width=8, heads=2, side="decoder", kind="self")
    assert "</s>" not in {chosen.name for chosen in _sets(units, 3, decoder)}
    assert "</s>" in {chosen.name for chosen in key_sets(units, decoder, 3, 3, decoder_names=True)}
    cross = AttentionLayer("cross", "out", width=8, heads=2, side="decoder", kind="cross")
    assert {chosen.name for chosen in key_sets(units, cross, 5, 3, decoder_names=False)} == {"special", "</s>"}


def test_c3_divergences_are_scipys_squared_distances() -> None:
    """C3: symmetric, 0 on the diagonal, at most ln 2."""
    weights = _random(5, 7, 6)
    between = divergences(weights)
    wanted = numpy.array(
        [[(jensenshannon(a, b, axis=-1) ** 2).mean() for b in weights.numpy()] for a in weights.numpy()]
    )
    assert between.numpy() == pytest.approx(wanted, abs=1e-6)
    assert torch.equal(between, between.T)
    assert between.diagonal().abs().max() == 0
    apart = divergences(torch.stack([torch.eye(4), torch.eye(4).roll(1, dims=1)]))
    assert apart[0, 1].item() == pytest.approx(math.log(2))


def test_c3_two_planted_clusters_are_mapped_apart() -> None:
    """C3: attention heads of two kinds make two clusters, and a map of silhouette above .8."""
    from sklearn.metrics import silhouette_score

    noise = [_random(1, 8, 8, seed)[0] * 0.05 for seed in range(12)]
    kinds = [torch.eye(8) if index < 6 else torch.eye(8).roll(1, dims=1) for index in range(12)]
    weights = torch.stack([0.95 * kind + part for kind, part in zip(kinds, noise, strict=True)])
    distances = HeadDistances()
    distances.add([weights[:5], weights[5:]], _valid(8))
    mean = distances.mean()
    assert mean is not None
    labels, silhouette = clusters(mean)
    assert silhouette > 0.8
    assert len(set(labels[:6])) == len(set(labels[6:])) == 1 and labels[0] != labels[6]
    assert silhouette_score(head_map(mean), labels) > 0.8
    with pytest.raises(TopworkError, match="2 attention heads"):
        head_map(mean[:2, :2])


def test_means_of_parts_are_those_of_all_rows() -> None:
    rows = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, first, second = Means(), Means(), Means()
    for index, row in enumerate(rows):
        whole.add("layer", {"entropy": row})
        (first if index % 3 else second).add("layer", {"entropy": row})
    first.merge(second)
    assert first.mean("layer", "entropy") == pytest.approx(rows.mean(0).tolist())
    half = first.half_width("layer", "entropy")
    assert half == pytest.approx((2.262157 * rows.std(0) / 10**0.5).tolist(), rel=1e-6)
    assert whole.half_width("layer", "entropy") == pytest.approx(half)
    assert first.rows("layer", "entropy") == 10


@pytest.fixture(scope="module")
def texts() -> tuple[Any, dict[str, Any]]:
    work, rows = classifier(12)
    options = {"tokens": ["river"], "gradients": True, "compared": 3}
    return work, work.apply("attention_patterns", {"evaluate": rows}, **options)


def test_the_stage_reads_a_text_model(texts) -> None:
    work, result = texts
    assert result["rows"] == 12
    layer = result["layers"][0]
    assert {"entropy", "share previous", "share [CLS]", "share [SEP] from [SEP]", "share river", "uniform next"} <= set(
        layer
    )
    assert all(len(layer[f"share {name}"]) == 4 for name in ("self", "special"))
    assert len(result["tables"]["Attention heads"]) == 8
    assert result["maps"][0]["rows"] == 3
    assert len(result["maps"][0]["points"]) == 8
    assert {curve["title"] for curve in result["curves"]} == {
        "Share of attention by layer, encoder",
        "Gradients by layer, encoder",
    }
    assert all(parameter.grad is None for parameter in work.model.parameters())


def test_gradients_are_those_of_the_library(texts) -> None:
    """The mean size of dL/dweight on [SEP], against eager attention with output_attentions."""
    work, rows = classifier(3)
    result = work.apply("attention_patterns", {"evaluate": rows[:2]}, gradients=True, compared=0)
    model = copy.deepcopy(work.model)
    model.set_attn_implementation("eager")
    sizes = []
    for row in rows[:2]:
        (item,) = work.task.encode([row], "loss", 0)
        batch = work.task.collate([item], "loss")
        output = model(**batch.inputs, output_attentions=True)
        (gradient,) = torch.autograd.grad(output.loss, output.attentions[1])
        position = [name.strip() for name in work.task.units(item).names].index("[SEP]")
        sizes.append(gradient[0, :, :, position].abs().mean(-1))
    wanted = torch.stack(sizes).mean(0).tolist()
    assert result["layers"][1]["gradient [SEP]"] == pytest.approx(wanted, rel=1e-4)


def test_what_is_kept_does_not_grow_with_the_rows(texts, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _ = texts
    _, rows = classifier(24)
    sizes = []
    result = PatternStudy.result

    def measured(study: PatternStudy, most: int) -> Any:
        sizes.append(len(pickle.dumps((study.means, study.distances))))
        return result(study, most)

    monkeypatch.setattr(PatternStudy, "result", measured)
    for count in (4, 24):
        work.apply("attention_patterns", {"evaluate": rows[:count]}, compared=2)
    assert sizes[1] <= sizes[0] * 1.01


@pytest.mark.parametrize("name", ["image-classification", "audio-classification", "translation", "text-generation"])
def test_other_tasks_have_patterns_of_their_own(name: str) -> None:
    task = topwork.load_plugins().tasks[name]
    rows = task.example_rows()[:4]
    work = topwork.build(name, copy.deepcopy(BASES[name]), rows=task.example_rows())
    result = work.apply("attention_patterns", {"evaluate": rows}, rows=4, compared=2)
    shares = {key.removeprefix("share ") for layer in result["layers"] for key in layer if key.startswith("share ")}
    wanted = {
        "image-classification": {"left", "right", "above", "below", "special", "near"},
        "audio-classification": {"earlier", "later", "within 0.1 s"},
        "translation": {"previous", "next", "special"},
        "text-generation": {"previous", "next"},
    }[name]
    assert wanted <= shares
    assert all(line["entropy"] is not None for line in result["tables"]["Attention heads"])


@pytest.mark.parametrize("stage", ["attention_patterns", "head_roles"])
def test_a_token_that_stands_in_no_row_is_refused(texts, stage: str) -> None:
    work, _ = texts
    _, rows = classifier(12)
    with pytest.raises(TopworkError, match="no row has the token 'ocean'"):
        work.apply(stage, {"evaluate": rows}, tokens=["ocean"], rows=8)
