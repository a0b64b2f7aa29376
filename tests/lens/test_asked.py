"""What a capture is asked for: nonsense is refused before or instead of an answer, and numbers without a meaning are
not handed out."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused, TopworkError, UsageError
from topwork_lens.look import Look

make, without_labels = lens_models.make, lens_models.without_labels


@pytest.mark.parametrize(
    ("what", "options", "says"),
    [
        ((), {}, "nothing is to be captured"),
        (("entropi",), {}, "did you mean `entropy`"),
        (("entropy",), {"layers": []}, "no attention layer is chosen"),
        (("entropy",), {"heads": []}, "no attention head is chosen"),
        (("entropy",), {"heads": {0: [1], 1: []}}, r"layer\.1.*no attention head is chosen"),
        (("entropy",), {"block": 0}, "at least 1, not 0"),
        (("entropy",), {"block": -3}, "at least 1, not -3"),
        (("entropy",), {"device": "abacus"}, "no device 'abacus'"),
        (("entropy",), {"folder": "/proc/none/here"}, "cannot write"),
        (("mass",), {}, "needs the positions"),
        (("mass",), {"keys": []}, "must be positions"),
        (("mass",), {"keys": [0.5]}, "must be positions"),
        (("mass",), {"keys": [99]}, "keys.*99.*there are 9"),
        (("distance",), {"places": torch.zeros(3, 2)}, "3 positions, and there are 9 keys"),
        (("distance",), {"places": "here"}, "no coordinates"),
    ],
)
def test_nonsense_is_refused(what: tuple[str, ...], options: dict[str, Any], says: str) -> None:
    model, batch = make("bert")

    def ask() -> None:
        with torch.no_grad(), Look(model).capture(*what, **options) as seen:
            model(**without_labels(batch, model))
        seen[what[0], 0]

    with pytest.raises(TopworkError, match=says):
        ask()


def test_what_did_not_run_is_no_empty_answer() -> None:
    model, _ = make("bert")
    with Look(model).capture("entropy") as seen:
        pass
    with pytest.raises(Refused, match="run the model inside the block"):
        seen("entropy")
    with pytest.raises(UsageError, match="unknown capture"):
        seen("weights")


def test_a_distance_needs_positions_of_one_sequence() -> None:
    model, batch = make("bart")
    look = Look(model)
    with torch.no_grad(), look.capture("distance", "entropy") as seen:
        model(**without_labels(batch, model))
    assert set(seen("distance")) == {layer.path for layer in look.layers if layer.kind == "self"}
    assert set(seen("entropy")) == {layer.path for layer in look.layers}
    with pytest.raises(Refused, match="two sequences"):
        seen["distance", ("cross", 0)]


def test_a_cache_of_a_fixed_size_does_not_move_the_queries() -> None:
    """The keys of such a cache are as many from the first step on; most of them are still empty."""
    model, batch = make("llama")
    ids = batch["input_ids"][:1]
    found = []
    for cache in ({}, {"cache_implementation": "static"}):
        with Look(model).capture("distance") as seen:
            model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0, **cache)
        found.append(seen.calls("distance", 1))
    assert len(found[0]) == len(found[1]) == 3
    for one, other in zip(*found, strict=True):
        assert one.max() > 0.5
        close(one, other)


def test_half_precision_is_reduced_in_full() -> None:
    """In bfloat16 itself, 299 positions would be 300, and a sum over them off by whole positions."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True).bfloat16().eval()
    with torch.no_grad(), Look(model).capture("weights", "distance", "entropy", "mean") as seen:
        model(torch.randn(1, 300, 16).bfloat16())
    weights, places = seen["weights", 0].double(), torch.arange(300.0)
    distance = (weights * (places[:, None] - places).abs()).sum(-1) / weights.sum(-1)
    assert seen["weights", 0].dtype == torch.bfloat16
    close(seen["distance", 0], distance, dtype=torch.float32)
    close(seen["entropy", 0], -torch.xlogy(weights, weights).sum(-1), dtype=torch.float32)
    close(seen["mean", 0], weights.mean(2), dtype=torch.float32)


def test_gradients_of_weights_are_refused_where_dropout_would_be_lost() -> None:
    model, batch = make("bert")
    model.train()
    with pytest.raises(Refused, match="dropout"), Look(model).capture("weights_gradient"):
        model(**batch)
    with Look(model).capture("weights", "context_gradient") as seen:
        model(**batch).loss.backward()
    assert seen["weights", 0].shape[:2] == seen["context_gradient", 0].shape[:3:2]
    assert not seen.explained


def test_all_reductions_beside_gradients_of_weights() -> None:
    model, batch = make("bert")
    look = Look(model)
    what = ("entropy", "mean", "max")
    with look.capture(*what, "weights_gradient") as both:
        model(**batch)
    with torch.no_grad(), look.capture(*what) as alone:
        model(**batch)
    for name in what:
        close(both[name, 1], alone[name, 1])


def test_hidden_states_of_the_block_around_an_attention_layer() -> None:
    model, batch = make("bert")
    with torch.no_grad(), Look(model).capture("hidden", layers=[1]) as seen:
        expected = model(**without_labels(batch, model), output_hidden_states=True).hidden_states[2]
    assert torch.equal(seen["hidden", 1], expected)
    assert torch.equal(seen["hidden", "bert.encoder.layer.1"], expected)


def test_a_compiled_model_is_seen_and_not_compiled_again() -> None:
    made = []

    def backend(graph: Any, _: Any) -> Any:
        made.append(graph)
        return graph.forward

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.end = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(self.attention(x, x, x)[0])

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 5, 8)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(x)
        count = len(made)
        with Look(compiled).capture("weights") as seen:
            compiled(x)
        compiled(x)
        weights = model.attention(x, x, x, average_attn_weights=False)[1]
    assert count > 0
    assert len(made) == count
    close(seen["weights", 0], weights)


@pytest.mark.parametrize("heads", [[(0, 1), (2, 3)], {0: [1], 2: [3]}, {("encoder", 0): 1, -1: [3]}], ids=str)
def test_attention_heads_of_a_capture_are_chosen_as_those_of_a_mask(heads: Any) -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", heads=heads) as seen:
        model(**inputs)
    with torch.no_grad(), look.capture("weights") as whole:
        model(**inputs)
    paths = [layer.path for layer in look.layers]
    assert list(seen("weights")) == [paths[0], paths[2]]
    assert torch.equal(seen["weights", 0], whole["weights", 0][:, [1]])
    assert torch.equal(seen["weights", 2], whole["weights", 2][:, [3]])


def test_a_group_and_an_index_mean_one_layer_of_a_capture() -> None:
    model, batch = lens_models.make("t5")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    for layers in (("cross", 1), [("cross", -1)], "cross.1"):
        with torch.no_grad(), look.capture("entropy", layers=layers) as seen:
            model(**inputs)
        assert list(seen("entropy")) == [look["cross", 1].path]
