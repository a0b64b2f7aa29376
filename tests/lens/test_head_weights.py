"""Weights of single attention heads in 8 bits: what is packed is what the model computed, merged and cut as it says."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import Units
from topwork_lens.head_weights import MOST_TOKENS, merge, pack_row, quantise


def unpacked(entry: dict[str, Any]) -> torch.Tensor:
    """Weights of an entry, by the description in the docstring of `pack_row`."""
    weights = torch.frombuffer(bytearray(base64.b64decode(entry["weights"])), dtype=torch.uint8).double()
    scale = torch.frombuffer(bytearray(base64.b64decode(entry["scale"])), dtype=torch.uint16).double()
    heads, queries, keys = entry["shape"]
    return weights.reshape(heads, queries, keys) / 255 * scale.reshape(heads, queries, 1) / 65535


def test_quantised_weights_are_within_their_bound() -> None:
    torch.manual_seed(0)
    weights = torch.softmax(6 * torch.randn(3, 5, 40, dtype=torch.float64), -1)
    error = (unpacked(quantise(weights)) - weights).abs()
    assert bool((error <= weights.amax(-1, keepdim=True) / 510 + 1 / 131070).all())


def test_merged_weights_are_means_of_queries_and_sums_of_keys() -> None:
    torch.manual_seed(1)
    weights = torch.softmax(torch.randn(2, 4, 6), -1)
    groups = [[0], [1, 2], [3]]
    merged = merge(weights, groups, [[0, 1], [2, 3, 4, 5]])
    for head in range(2):
        for at, queries in enumerate(groups):
            wanted = sum(float(weights[head, query, :2].sum()) for query in queries) / len(queries)
            assert float(merged[head, at, 0]) == pytest.approx(wanted, rel=1e-6)
    assert torch.allclose(merged.sum(-1), torch.ones(2, 3, dtype=torch.float64), atol=1e-6)


class Seen:
    """What a capture kept, as `pack_row` reads it."""

    def __init__(self, *calls: torch.Tensor) -> None:
        self.values = {"weights": {"a": list(calls)}}

    def missing(self, what: str) -> dict[str, str]:
        return {}


class Layer:
    path, kept = "a", (0, 2)


def packed(units: Units, *calls: torch.Tensor, most: int = 10**6, group: str = "encoder") -> dict[str, Any]:
    return pack_row({group: Seen(*calls)}, {(group, 0): Layer()}, units, most)


def test_patches_are_merged_until_they_fit_and_the_json_says_so() -> None:
    weights = torch.softmax(torch.randn(1, 2, 65, 65), -1)
    units = Units("patch", special=[0], grid=(8, 8))
    whole = packed(units, weights)
    assert whole["axes"][0]["grid"] == [8, 8] and whole["axes"][0]["merged"] == 1
    assert torch.allclose(unpacked(whole["heads"][0]), weights[0].double(), atol=4e-3)
    small = packed(units, weights, most=2 * 17 * 17)
    assert small["axes"][0]["grid"] == [4, 4] and small["axes"][0]["merged"] == 2
    corner = weights[0, :, 0][:, [1, 2, 9, 10]].sum(-1).double()  # the first four patches, from the class token
    assert torch.allclose(unpacked(small["heads"][0])[:, 0, 1], corner, atol=4e-3)
    none = packed(units, weights, most=5)
    assert none["heads"] == [] and "5 bytes" in none["heads_left_out"]["all"]


def test_long_sequences_are_cut_and_frames_are_merged() -> None:
    weights = torch.softmax(torch.randn(1, 2, 200, 200), -1)
    names = [str(at) for at in range(200)]
    text = packed(Units("token", names=names), weights)
    assert text["heads"][0]["shape"] == [2, MOST_TOKENS, MOST_TOKENS]
    assert text["axes"][0]["names"] == names[:MOST_TOKENS] and text["axes"][0]["length"] == 200
    clip = packed(Units("frame", seconds=0.02), weights)
    assert clip["heads"][0]["shape"] == [2, 67, 67] and clip["axes"][0]["seconds"] == pytest.approx(0.06)


def test_steps_of_a_generation_lie_below_each_other() -> None:
    steps = [torch.softmax(torch.randn(1, 2, rows, keys), -1) for rows, keys in ((3, 3), (1, 4), (1, 5))]
    weights = unpacked(packed(Units("token"), *steps)["heads"][0])
    assert weights.shape == (2, 5, 5)
    assert torch.allclose(weights[:, 4], steps[2][0, :, 0].double(), atol=4e-3)
    assert not weights[:, 0, 3:].any()


@pytest.mark.parametrize("calls", [[torch.ones(4, 2, 3, 3) / 3], [torch.full((1, 2, 3, 3), 2.0)], []])
def test_what_is_no_matrix_of_one_row_is_left_out_with_its_reason(calls: list[torch.Tensor]) -> None:
    left_out = packed(Units("token"), *calls)
    assert left_out["heads"] == [] and left_out["heads_left_out"]["encoder 0"]


def test_a_run_keeps_the_weights_of_both_sides_of_a_translator(tmp_path: Path) -> None:
    recipe = {
        "task": {"name": "translation", "source_language": "en", "target_language": "de"},
        "base": BASES["translation"],
        "data": {"train": {"path": "sample:number-words", "split": "train", "limit": 20}, "evaluate": {"cut": 4}},
        "stages": [{"attention": {"rows": 2, "overlays": 1}}],
    }
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    written = json.loads((run.root / run.results[0]["folder"] / "attention.json").read_text(encoding="utf-8"))
    row = written["rows"][0]
    by_group = {entry["group"]: entry for entry in row["heads"]}
    assert set(by_group) == {"encoder", "decoder", "cross"} and row["heads_left_out"] == {}
    source, target = (row["axes"][by_group["cross"][side]] for side in ("keys", "queries"))
    assert source["name"] == "input" and target["name"] == "target" and row["decoder"] == "the true target"
    for entry in by_group.values():
        assert torch.allclose(unpacked(entry).sum(-1), torch.ones(1, dtype=torch.float64), atol=0.05)
    causal = unpacked(by_group["decoder"])
    assert not causal.triu(1).any()
    text = "".join(target["names"][1:]).replace(" ", "")
    truth = dict(run.rows("evaluate")[0]["translation"])["de"]
    assert truth.replace(" ", "").startswith(text) and len(text) > 3


@pytest.mark.parametrize(
    ("length", "size", "grid"), [(256, (64, 64), [16, 16]), (12, (40, 30), [3, 4]), (13, (64, 64), None)]
)
def test_positions_that_may_tile_the_image_are_marked_as_such(
    length: int, size: tuple[int, int], grid: list[int] | None
) -> None:
    units = Units("patch", image=Image.new("RGB", size))
    weights = torch.softmax(torch.randn(1, 2, length, 4), -1)
    axis = packed(units, weights)["axes"][0]
    assert axis.get("grid") == grid and axis.get("inferred", False) is (grid is not None)
    target = pack_row({"cross": Seen(weights)}, {("cross", 0): Layer()}, units, 10**6)["axes"][0]
    assert "grid" not in target and target["name"] == "target"  # what a decoder asks with is no part of the image
