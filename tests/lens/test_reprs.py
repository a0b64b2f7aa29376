"""What a model's layers, tables and captures print in a terminal and in a notebook."""

from __future__ import annotations

import copy

import lens_models
import pandas
import pytest
import torch

import topwork
from topwork import UsageError
from topwork_lens.look import Look
from topwork_lens.tables import LayerTable, ranges

NAMES = ("bert", "llama", "bart", "swin", "timm_vit")


@pytest.mark.parametrize("name", NAMES)
def test_a_look_and_its_table_print_one_short_line_a_layer(name: str) -> None:
    model, _ = lens_models.make(name)
    look = Look(model)
    for text in (repr(look), str(look.table())):
        assert all(layer.path in text for layer in look.layers)
        assert max(map(len, text.splitlines())) < 200
    assert repr(look).startswith(f"Look({type(model).__name__})")
    assert len(str(look.table()).splitlines()) == len(look.layers) + 1
    assert look._repr_html_().count("<tr>") == len(look.layers) + 1
    for layer in look.layers:
        assert repr(layer).startswith(f"AttentionLayer({layer.path!r}, ")
        assert len(repr(layer)) < 200


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_a_list_of_dicts_and_a_data_frame(name: str) -> None:
    table = Look(lens_models.make(name)[0]).table()
    assert isinstance(table, list)
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["path"]) == [line["path"] for line in table]
    assert {"prunable", "maskable", "capturable", "why", "gates"} <= set(frame.columns)
    assert list(table["path"]) == list(frame["path"])
    assert table.groupby("group")["heads"].sum().equals(frame.groupby("group")["heads"].sum())
    assert table[0] == table[:1][0]
    assert copy.deepcopy(table) == table
    with pytest.raises(AttributeError, match="colour"):
        _ = table.colour


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_prints_shapes_by_layer(name: str) -> None:
    model, batch = lens_models.make(name)
    look = Look(model)
    with torch.no_grad(), look.capture("entropy", "distance") as seen:
        assert repr(seen) == "Captured (nothing ran yet)"
        lens_models.first_output(model, lens_models.without_labels(batch, model))
    shape = " x ".join(map(str, seen["entropy", look.layers[0].path].shape))
    assert shape in repr(seen)
    assert shape in seen._repr_html_()
    if name == "bart":
        assert "there is no distance" in repr(seen)


@pytest.mark.parametrize("name", ["bert", "llama", "bart"])
def test_scores_print_a_line_a_layer(name: str) -> None:
    model, batch = lens_models.make(name)
    importance = Look(model).importance([batch])
    lines = repr(importance).splitlines()
    assert lines[0].startswith("Importance(michel, ")
    assert len(lines) == len(importance.layers) + 2
    score = importance.layers[0].scores[1]
    assert f"{score:.3g}" in lines[2]
    assert f"<td>{score:.3g}</td>" in importance._repr_html_()


def test_what_is_printed_is_escaped_in_notebooks() -> None:
    assert "&lt;b&gt;" in LayerTable([{"path": "<b>"}])._repr_html_()
    assert LayerTable()._repr_html_() == "<p>(no attention layer)</p>"


@pytest.mark.parametrize(("indices", "text"), [([], "-"), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8")])
def test_indices_are_written_as_ranges(indices: list[int], text: str) -> None:
    assert ranges(indices) == text


@pytest.mark.parametrize("heads", [[(0, 1), (0, 3), (2, 0)], ((0, [1, 3]), (2, 0)), {(0, 1), (0, 3), (2, 0)}])
def test_attention_heads_may_be_given_as_pairs(heads: object) -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.mask_heads({0: [1, 3], 2: [0]}):
        expected = model(**inputs).logits
    with torch.no_grad(), look.mask_heads(heads):  # type: ignore[arg-type]
        assert torch.equal(model(**inputs).logits, expected)


def test_pairs_of_a_group_and_an_index_name_a_layer() -> None:
    look = Look(lens_models.make("bart")[0])
    assert look.keep_masked([(("cross", -1), 2), (("encoder", 0), 1)]) == {
        look["cross", 1].path: [2],
        look["encoder", 0].path: [1],
    }


@pytest.mark.parametrize("name", ["bert", "llama", "vit"])
def test_negative_indices_count_from_the_last_layer(name: str) -> None:
    look = Look(lens_models.make(name)[0])
    last = len(look.layers)
    assert [look[-index].path for index in range(1, last + 1)] == [layer.path for layer in reversed(look.layers)]
    assert look[f"{look.layers[0].side}.-1"] == look.layers[-1]
    with pytest.raises(Exception, match="attention layer"):
        look[-last - 1]


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.int64, "numpy"])
def test_a_head_mask_of_transformers_4_chooses_its_zeros(kind: object) -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    mask = torch.ones(3, 4)
    mask[0, [1, 3]] = mask[2, 0] = 0
    given = mask.numpy() if isinstance(kind, str) else mask.to(kind)  # type: ignore[call-overload]
    with torch.no_grad(), look.mask_heads({0: [1, 3], 2: [0]}):
        expected = model(**inputs).logits
    with torch.no_grad(), look.mask_heads(given):
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("name", "mask", "cause"),
    [
        ("bert", torch.ones(2, 4), "does not fit 3 layers of 4 heads"),
        ("bert", torch.full((3, 4), 0.5), "a head mask has 0.5"),
        ("bart", torch.ones(3, 4), "one kind of attention"),
    ],
)
def test_other_head_masks_are_refused(name: str, mask: torch.Tensor, cause: str) -> None:
    look = Look(lens_models.make(name)[0])
    with pytest.raises(UsageError, match=cause), look.mask_heads(mask):
        pass


def test_results_of_pruning_count_and_show_the_first_indices() -> None:
    model, batch = lens_models.make("bert")
    pruned = topwork.prune(model, heads={0: [1]}, neurons={0: range(1, 40), 1: [3]}, check=batch)
    text = repr(pruned)
    assert "heads 12 -> 11" in text and "neurons " in text and "bert.encoder.layer.0.attention: [1]" in text
    assert "[1, 2, 3, 4, 5, 6, ... 39 in all]" in text and "difference=" in text
    assert len(text) < 700
    model, batch = lens_models.make("bert")
    compressed = topwork.compress(model, [batch], macs=0.6)
    assert repr(compressed).startswith(f"Compressed(macs {compressed.before} -> {compressed.after}, heads 12 -> ")
    assert len(repr(compressed)) < 400 and len(repr(compressed.plan)) < 700
