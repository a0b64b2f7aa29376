"""The keys of "mass": positions and masks for each row, and names, against sums over the full weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lens_models
import numpy
import pytest
import torch
from tolerance import close

from architectures import build
from topwork import Refused, UsageError
from topwork_lens.capture import fast_reductions
from topwork_lens.look import Look

NAMES = ("bert", "llama", "bart", "t5", "vit", "gpt2", "wav2vec2", "timm_vit")


@pytest.fixture(params=["blocks", "formula"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute a reduction."""
    if request.param == "formula":
        monkeypatch.setattr(fast_reductions, "LEAST", 1)


def masses(name: str, keys: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(mass, weights, queries that are no padding) of the first self-attention of each side of a model."""
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", "mass", keys=keys) as seen:
        lens_models.first_output(model, inputs)
    layers = {layer.side: layer for layer in reversed(look.layers) if layer.kind == "self"}
    return [
        (seen["mass", layer.path], seen["weights", layer.path], seen.calls("valid", layer.path)[0])
        for layer in layers.values()
    ]


def compare(name: str, keys: Any, chosen: Any) -> None:
    """`chosen`: (item, query, number of keys) -> the keys that are meant."""
    for mass, weights, valid in masses(name, keys):
        items, _, queries, count = weights.shape
        for item in range(items):
            for query in range(queries):
                if valid[item, query]:
                    expected = weights[item, :, query, chosen(item, query, count)].sum(-1)
                    close(mass[item, :, query], expected, scale=1.0)


@pytest.mark.parametrize("form", [list, torch.tensor, numpy.array])
@pytest.mark.parametrize("name", NAMES)
def test_positions_for_each_row_are_not_flattened(name: str, form: Any) -> None:
    rows = [[3], [2], [0], [-1]]
    compare(name, form(rows), lambda item, query, count: rows[item])


@pytest.mark.parametrize("name", NAMES)
def test_rows_may_have_different_numbers_of_positions(name: str) -> None:
    rows = [[3, 1], [2], [0, 2, 3], [-1]]
    compare(name, rows, lambda item, query, count: rows[item])


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_masks_for_all_rows_and_for_each(name: str) -> None:
    count = masses(name, [0])[0][1].shape[-1]
    mask = torch.rand(4, count) > 0.5
    compare(name, mask, lambda item, query, count: mask[item].nonzero()[:, 0].tolist())
    compare(name, mask[0].tolist(), lambda item, query, count: mask[0].nonzero()[:, 0].tolist())
    compare(name, mask[1].numpy(), lambda item, query, count: mask[1].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(("key", "shift"), [("previous", -1), ("self", 0), ("next", 1)])
@pytest.mark.parametrize("name", NAMES)
def test_keys_counted_from_the_query(name: str, key: str, shift: int) -> None:
    compare(name, key, lambda item, query, count: [query + shift] if 0 <= query + shift < count else [])


def test_several_names_are_counted_once_each() -> None:
    compare("bert", ["self", "previous", "self"], lambda item, query, count: [q for q in (query - 1, query) if q >= 0])


def test_duplicates_are_counted_once() -> None:
    compare("bert", [0, 0, 1], lambda item, query, count: [0, 1])


@pytest.mark.parametrize("kind", ["special", "separator"])
@pytest.mark.parametrize("name", ["llama", "bart", "t5", "gpt2"])
def test_special_tokens_are_those_of_the_config(name: str, kind: str) -> None:
    model, batch = lens_models.make(name)
    config = model.config
    names = ("bos", "cls", "sep", "eos") if kind == "special" else ("sep", "eos")
    ids = [getattr(config, f"{token}_token_id", None) for token in names]
    ids = [index for index in ids if index is not None][: 1 if kind == "separator" else None]
    inputs = lens_models.without_labels(batch, model)
    inputs["input_ids"][:, 2] = ids[0]
    look = Look(model)
    encoder = [layer for layer in look.layers if layer.kind == "cross" or layer.side == look.layers[0].side]
    with torch.no_grad(), look.capture("weights", "mass", keys=kind) as seen:
        lens_models.first_output(model, inputs)
    chosen = torch.isin(inputs["input_ids"], torch.tensor(ids))
    assert chosen.any()
    for layer in encoder:
        expected = (seen["weights", layer.path] * chosen[:, None, None]).sum(-1)
        valid = seen.calls("valid", layer.path)[0]
        close(seen["mass", layer.path].transpose(1, 2)[valid], expected.transpose(1, 2)[valid], scale=1.0)


def test_special_tokens_are_those_of_the_tokenizer_where_there_is_one() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    tokenizer = SimpleNamespace(cls_token_id=7, sep_token_id=9, bos_token_id=None, eos_token_id=None)
    owner = SimpleNamespace(model=model, task=SimpleNamespace(tokenizer=tokenizer))
    inputs["input_ids"][:, 1], inputs["input_ids"][:, 3] = 7, 9
    look = Look(owner)
    for kind, ids in (("special", [7, 9]), ("separator", [9])):
        with torch.no_grad(), look.capture("weights", "mass", keys=kind) as seen:
            model(**inputs)
        chosen = torch.isin(inputs["input_ids"], torch.tensor(ids))
        close(seen["mass", 0], (seen["weights", 0] * chosen[:, None, None]).sum(-1), scale=1.0)


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ([[[0]]], "shape"),
        ([[0], [1]], "given for 2 rows, and there are 4"),
        (torch.ones(2, 9, dtype=torch.bool), "given for 2 rows, and there are 4"),
        (torch.ones(5, dtype=torch.bool), "5 positions, and there are 9 keys"),
        ([[0], [99], [0], [0]], "99.*there are 9"),
        ("first", "kind of key"),
        (["self", 3], "must be positions"),
        ([[0.5], [1]], "must be positions"),
        (torch.ones(4, 9, 9, dtype=torch.bool), "must be positions"),
        (1.5, "must be positions"),
        ("special", "which keys are special tokens is not known"),
    ],
    ids=str,
)
def test_other_keys_are_refused(keys: Any, cause: str) -> None:
    model, batch = lens_models.make("bert")
    model.config.bos_token_id = model.config.eos_token_id = None

    def read() -> None:
        with torch.no_grad(), Look(model).capture("mass", keys=keys) as seen:
            model(**lens_models.without_labels(batch, model))
        seen["mass", 0]

    with pytest.raises((UsageError, Refused), match=cause):
        read()


def test_keys_counted_from_the_query_have_no_meaning_between_two_sequences() -> None:
    model, batch = lens_models.make("bart")
    look = Look(model)
    with torch.no_grad(), look.capture("mass", keys="self") as seen:
        lens_models.first_output(model, lens_models.without_labels(batch, model))
    with pytest.raises(Refused, match="where the queries stand"):
        seen["mass", ("cross", 0)]


@pytest.mark.parametrize(
    "places", [torch.tensor([0.0, float("inf")]), [[0.0, float("nan")]], torch.zeros(2, 3, 4), [True]]
)
def test_coordinates_that_are_none_are_refused(places: Any) -> None:
    with (
        pytest.raises(UsageError, match="places"),
        Look(lens_models.make("bert")[0]).capture("distance", places=places),
    ):
        pass


@pytest.mark.parametrize("name", ["bailing_hybrid", "kimi_linear", "minimax"])
def test_layers_without_weights_are_named_and_the_others_captured(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", "entropy") as seen:
        model(**inputs)
    missing = seen.missing("weights")
    assert missing
    assert seen("weights").keys() | missing.keys() >= {layer.path for layer in look.layers}
    for path in missing:
        with pytest.raises(Refused) as refused:
            seen["weights", path]
        assert (refused.value.reason, refused.value.place) == ("no_weights", path)


def test_a_model_without_any_weights_is_refused() -> None:
    model, inputs = build.tiny("autoformer")
    with torch.no_grad(), pytest.raises(Refused) as refused, Look(model).capture("weights"):
        model(**inputs)
    assert refused.value.reason == "no_weights"
