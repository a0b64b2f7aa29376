"""Importance of attention heads: the acceptance checks of the literature (M1 to M6), on one model of every kind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lens_models
import pytest
import torch
from tolerance import about, close

from topwork import Batch, Item, Refused, UsageError
from topwork_lens.gates import gated
from topwork_lens.look import Look
from topwork_lens.scoring import memory as dividing
from topwork_lens.scoring.selection import Choice, Importance, LayerScores, choose, choose_random

make = lens_models.make
NAMES = [*lens_models.TRANSFORMERS, *lens_models.FOLDED]


#: a model for each: text, vision, audio, sequence to sequence
KINDS = ["bert", "vit", "wav2vec2", "bart"]


def classification_losses(model: Any, batch: Batch) -> torch.Tensor:
    """[rows]: of a label a row, or the mean over each row's own tokens."""
    labels = batch.inputs["labels"]
    if labels.dim() == 1:
        inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
        return torch.nn.functional.cross_entropy(model(**inputs).logits, labels, reduction="none")
    found = torch.nn.functional.cross_entropy(model(**batch.inputs).logits.transpose(1, 2), labels, reduction="none")
    return found.sum(1) / (labels != -100).sum(1)


def precise_loss(model: Any, batch: Batch) -> torch.Tensor:
    """A loss that stays in float64: the library's own often goes through float32, which a difference would see."""
    inputs = dict(batch.inputs)
    logits, labels = model(**inputs).logits, inputs["labels"]
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()).reshape(1)


def together(batch: dict[str, torch.Tensor], chosen: list[int] | None = None) -> Batch:
    chosen = list(range(4)) if chosen is None else chosen
    return Batch({key: value[chosen] for key, value in batch.items()}, [Item(n, {}) for n in range(len(chosen))])


def unpadded(batch: dict[str, torch.Tensor]) -> list[Batch]:
    """Each row alone, without its padding."""
    found = []
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        found.append({key: value[:, :length] if value.dim() > 1 else value for key, value in one.items()})
    return [Batch(inputs, [Item(0, {})]) for inputs in found]


def values(importance: Importance) -> torch.Tensor:
    return torch.tensor(
        [score for layer in importance.layers for score in layer.scores if score is not None], dtype=torch.float64
    )


def layers_of(model: Any) -> list[str]:
    return [layer.path for layer in Look(model).layers]


def raw(look: Look, batches: Any, **options: Any) -> torch.Tensor:
    return values(look.importance(batches, normalise="none", **options))


@pytest.mark.parametrize("name", NAMES)
def test_m1_the_gradient_is_the_finite_difference(name: str) -> None:
    """M1: |dL/dgate| of one row against a central difference in float64; gates move on all uses of a layer."""
    model, batch = make(name, torch.float64)
    one = {key: value[1:2] for key, value in batch.items()}
    look = Look(model)
    row = Batch(one, [Item(0, {})])
    scores = look.importance([row], row_losses=precise_loss, normalise="none")
    # A norm or a rotation in float32 inside the model leaves too little to a step of 1e-5.
    step, tolerance = (1e-3, 1e-2) if name in ("llama", "t5", "modernbert", "deberta") else (1e-5, 1e-4)
    least = max(1e-8, tolerance**2 * 20 * float(values(scores).max())) if step > 1e-4 else 1e-8
    for layer, found in zip(look.layers, scores.layers, strict=True):
        for number in range(layer.heads):
            losses = []
            for sign in (1, -1):
                factors = torch.ones(layer.heads, dtype=torch.float64)
                factors[number] += sign * step
                with torch.no_grad(), gated(model, {layer.path: (layer, factors)}):
                    losses.append(float(precise_loss(model, row)))
            assert found.scores[number] is not None
            expected = abs(losses[0] - losses[1]) / (2 * step)
            assert found.scores[number] == pytest.approx(expected, abs=least, rel=tolerance)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "albert"])
def test_m2_the_gradient_is_context_times_its_gradient(name: str) -> None:
    model, batch = make(name, torch.float64)
    one = {key: value[1:2] for key, value in batch.items()}
    look = Look(model)
    scores = look.importance([one], normalise="none")
    with look.capture("context", "context_gradient") as seen:
        model(**one).loss.backward()
    for found in scores.layers:
        product = seen["context", found.path] * seen["context_gradient", found.path]
        heads = product.shape[-2]
        expected = product.movedim(-2, 0).reshape(heads, -1).sum(-1).abs()
        close(torch.tensor(found.scores, dtype=torch.float64), expected)


@pytest.mark.parametrize("name", [*KINDS, "distilbert", "albert", "swin", "modernbert", "t5", "wavlm"])
def test_m3_batch_size_and_order_change_nothing(name: str) -> None:
    model, batch = make(name)
    look = Look(model)
    options = {"row_losses": classification_losses}
    singles = raw(look, [together(batch, [n]) for n in range(4)], **options)
    assert (singles > 0).any()
    for split in ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[2, 0, 3], [1]]):
        found = raw(look, [together(batch, rows) for rows in split], **options)
        close(found, singles, dtype=torch.float32)


@pytest.mark.parametrize("name", ["bert", "wav2vec2", "bart"])
@pytest.mark.parametrize("method", ["michel", "taylor", "leave_one_out", "entropy", "shapley"])
def test_m3_padding_changes_nothing(name: str, method: str) -> None:
    """Where it changes nothing in the model's own losses, it changes no score; by any method."""
    model, batch = make(name, torch.float64)
    alone = unpadded(batch)
    with torch.no_grad():
        losses = torch.cat([classification_losses(model, one) for one in alone])
        close(classification_losses(model, together(batch)), losses)
    look = Look(model)
    options: dict[str, Any] = {"method": method, "row_losses": classification_losses, "orders": 1}
    padded = raw(look, [together(batch)], **options)
    assert (padded != 0).any()
    # What goes through softmax in float32 (attention of the library) keeps its rounding.
    close(raw(look, alone, **options), padded, dtype=torch.float32)


@pytest.mark.parametrize("name", KINDS)
def test_several_processes_add_up(name: str) -> None:
    model, batch = make(name)
    look = Look(model)
    whole = raw(look, [together(batch)], row_losses=classification_losses)
    kept: list[Any] = []
    look.importance(
        [together(batch, [0])], row_losses=classification_losses, gather=lambda value: [kept.append(value) or value]
    )
    merged = raw(
        look, [together(batch, [1, 2, 3])], row_losses=classification_losses, gather=lambda value: [*kept, value]
    )
    close(merged, whole, dtype=torch.float32)


@pytest.mark.parametrize("method", ["michel", "taylor", "leave_one_out", "entropy"])
def test_items_of_one_row_are_one_row(method: str) -> None:
    """They are summed before anything becomes absolute or square, and a row with many counts no more than another."""
    model, batch = make("bert", torch.float64)
    look = Look(model)
    items = [Item(0, {}), Item(0, {}), Item(1, {}), Item(2, {})]

    def row_losses(model: Any, one: Batch) -> torch.Tensor:
        return one.mean_by_row(classification_losses(model, one))

    options: dict[str, Any] = {"method": method, "row_losses": row_losses}
    found = raw(look, [Batch(batch, items)], **options)
    pair = Batch({key: value[:2] for key, value in batch.items()}, items[:2])
    alone = [raw(look, [pair], **options)]
    alone += [raw(look, [together(batch, [n])], **options) for n in (2, 3)]
    close(found, torch.stack(alone).mean(0), dtype=torch.float32 if method == "entropy" else None)


@pytest.mark.parametrize("name", [*KINDS, "albert"])
def test_m4_token_is_at_least_example_is_at_least_batch(name: str) -> None:
    model, batch = make(name, torch.float64)
    look = Look(model)
    options: dict[str, Any] = {"row_losses": classification_losses}
    token, example, whole = (
        raw(look, [together(batch)], reduction=reduction, **options) for reduction in ("token", "example", "batch")
    )
    assert (token >= example - 1e-12).all()
    assert (example >= whole - 1e-12).all()
    assert (token > example * 1.01).any()
    assert (example > whole * 1.01).any()


@pytest.mark.parametrize("name", KINDS)
def test_m5_normalisation(name: str) -> None:
    model, batch = make(name)
    look = Look(model)
    plain = look.importance([batch], normalise="none")
    layered = look.importance([batch])
    for layer, before in zip(layered.layers, plain.layers, strict=True):
        assert sum(score**2 for score in layer.scores if score is not None) == about(1)
        norm = sum((score or 0) ** 2 for score in before.scores) ** 0.5
        assert layer.scores == about([(score or 0) / norm for score in before.scores])
    numbers = values(look.importance([batch], normalise="global"))
    assert (float(numbers.min()), float(numbers.max())) == (0.0, 1.0)
    torch.testing.assert_close(numbers.argsort(), values(plain).argsort())
    dead = look.layers[1]
    with torch.no_grad():
        model.get_submodule(f"{dead.path}.{dead.output}").weight.zero_()
    assert look.importance([batch]).layers[1].scores == [0.0] * 4


@pytest.mark.parametrize("method", ["michel", "taylor", "leave_one_out", "entropy", "shapley", "random"])
@pytest.mark.parametrize("name", KINDS)
def test_m6_nothing_is_left_behind(name: str, method: str) -> None:
    model, batch = make(name)
    batch = {key: value[:2] for key, value in batch.items()}
    frozen, *_, graded = model.parameters()
    frozen.requires_grad_(False)
    graded.grad = torch.ones_like(graded)
    with torch.no_grad():
        model(**batch)  # transformers puts hooks of its own on some models when they first run
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    state = torch.get_rng_state()
    one, other = (Look(model).importance([batch], method, orders=1) for _ in range(2))
    assert one == other
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter is not frozen)
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not graded)
    assert torch.equal(graded.grad, torch.ones_like(graded))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert hooks == sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_scores_are_the_same_under_sdpa_and_eager() -> None:
    model, batch = make("bert")
    one = raw(Look(model), [batch])
    model.set_attn_implementation("eager")
    close(one, raw(Look(model), [batch]), dtype=torch.float32)


def test_leave_one_out_is_the_rise_of_the_loss() -> None:
    model, batch = make("bert", torch.float64)
    look = Look(model)
    found = look.importance([together(batch)], "leave_one_out", row_losses=classification_losses, normalise="none")
    with torch.no_grad():
        plain = model(**batch).loss
        for number in range(4):
            with look.mask_heads({1: [number]}):
                rise = float(model(**batch).loss - plain)
            assert found.layers[1].scores[number] == about(rise)


def test_taylor_is_the_mean_square() -> None:
    model, batch = make("bert", torch.float64)
    look = Look(model)
    rows = [raw(look, [together(batch, [n])], row_losses=classification_losses) for n in range(4)]
    found = raw(look, [together(batch)], method="taylor", row_losses=classification_losses)
    close(found, torch.stack(rows).square().mean(0))


def test_entropy_ignores_padding_and_is_zero_for_uniform_attention() -> None:
    model, batch = make("bert", torch.float64)
    look = Look(model)
    padded = raw(look, [together(batch)], method="entropy", row_losses=classification_losses)
    cut = []
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        one = {
            key: value[row : row + 1, :length] if value.dim() > 1 else value[row : row + 1]
            for key, value in batch.items()
        }
        cut.append(Batch(one, [Item(0, {})]))
    alone = raw(look, cut, method="entropy", row_losses=classification_losses)
    close(padded, alone, dtype=torch.float32)
    assert (padded > 0).all()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    uniform = raw(look, [together(batch)], method="entropy", row_losses=classification_losses)
    close(uniform, torch.zeros_like(uniform), dtype=torch.float32, scale=float(padded.max()))


@pytest.mark.parametrize("name", [*KINDS, "swin", "wavlm"])
@pytest.mark.parametrize("reduction", ["example", "token", "batch"])
def test_a_batch_that_keeps_too_much_is_divided(name: str, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole rows stay together, what is not by item stays whole, and no score changes; with "batch" nothing is cut."""
    model, batch = make(name, torch.float64)
    kept: list[int] = []

    def row_losses(model: Any, one: Batch) -> torch.Tensor:
        found = one.mean_by_row(classification_losses(model, one))
        kept.append(len(one))
        return found

    look = Look(model)
    items = [Item(7, {}), Item(7, {}), Item(3, {}), Item(5, {})]
    batches = [Batch(batch, items), together(batch)]
    options: dict[str, Any] = {"row_losses": row_losses, "reduction": reduction}
    whole = raw(look, batches, **options)
    assert kept == [4, 4]
    kept.clear()
    monkeypatch.setattr(dividing, "ON_A_CPU", 1)
    divided = raw(look, batches, **options)
    assert kept == ([4, 4] if reduction == "batch" else [2, 1, 1, 1, 1, 1, 1])
    close(divided, whole)


def test_what_is_not_by_item_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make("bert")
    kept: list[Any] = []

    def row_losses(model: Any, one: Batch) -> torch.Tensor:
        inputs = dict(one.inputs)
        beside = inputs.pop("beside")
        found = classification_losses(model, Batch(inputs, one.items))
        kept.append(beside)
        return found

    monkeypatch.setattr(dividing, "ON_A_CPU", 1)
    rows = together(batch)
    expected: list[tuple[Any, list[Any]]] = [({"a": 1}, [{"a": 1}]), ([1, 2, 3], [[1, 2, 3]]), (0.5, [0.5] * 4)]
    for beside, seen in [*expected, ([1, 2, 3, 4], [[1], [2], [3], [4]]), ((None,) * 4, [(None,)] * 4)]:
        kept.clear()
        Look(model).importance([Batch({**rows.inputs, "beside": beside}, rows.items)], row_losses=row_losses)
        assert kept == seen


def test_rows_that_influence_each_other_are_refused() -> None:
    model, batch = make("bert")

    def coupled(model: Any, one: Batch) -> torch.Tensor:
        logits = model(**{key: value for key, value in one.inputs.items() if key != "labels"}).logits
        logits = logits - logits.mean(0)
        return torch.nn.functional.cross_entropy(logits, one.inputs["labels"], reduction="none")

    with pytest.raises(Refused) as refused:
        Look(model).importance([together(batch)], row_losses=coupled)
    assert refused.value.reason == "batch_coupled"
    Look(model).importance([together(batch, [n]) for n in range(4)], row_losses=coupled)


@pytest.mark.parametrize("method", ["michel", "entropy"])
def test_rows_that_are_run_in_pieces_are_refused_together(method: str) -> None:
    """Their gates would belong to other rows. One at a time, that does no harm."""
    model, batch = make("bert")

    def in_pieces(model: Any, one: Batch) -> torch.Tensor:
        parts = [{key: value[[n]] for key, value in one.inputs.items()} for n in reversed(range(len(one)))]
        return torch.cat([classification_losses(model, Batch(part, [Item(0, {})])) for part in parts]).flip(0)

    def again_for_each(model: Any, one: Batch) -> torch.Tensor:
        """Every run has all the items, of which it counts one: the gates fit, but in how many runs?"""
        each = [classification_losses(model, one)[n] for n in range(len(one))]
        return torch.stack(each)

    look = Look(model)
    with pytest.raises(Refused, match="4 times"):
        look.importance([together(batch)], method, row_losses=again_for_each)
    with pytest.raises(Refused, match="one row at a time") as refused:
        look.importance([together(batch)], method, row_losses=in_pieces)
    assert refused.value.reason == "batch_coupled"
    alone = raw(look, [together(batch, [n]) for n in range(4)], method=method, row_losses=in_pieces)
    found = raw(look, [together(batch, [n]) for n in range(4)], method=method, row_losses=classification_losses)
    close(alone, found)


def test_a_loss_that_depends_on_no_attention_head_is_refused() -> None:
    model, batch = make("bert")

    def constant(model: Any, one: Batch) -> torch.Tensor:
        return classification_losses(model, one).detach()

    with pytest.raises(Refused) as refused:
        Look(model).importance([together(batch)], row_losses=constant)
    assert refused.value.reason == "no_gradient"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("michel", {"method": "michell"}),
        ("example", {"reduction": "exampel"}),
        ("layer", {"normalise": "layers"}),
    ]
    for meant, options in asked:
        with pytest.raises(UsageError, match=f"did you mean `{meant}`"):
            Look(model).importance([batch], **options)
    with pytest.raises(UsageError, match="no rows"):
        Look(model).importance([])


@pytest.mark.parametrize("method", ["michel", "taylor", "leave_one_out", "shapley"])
def test_a_row_whose_loss_is_no_number_is_named(method: str) -> None:
    """It would turn every score into no number, by which nothing can be chosen."""
    model, batch = make("bert")

    def row_losses(model: Any, one: Batch) -> torch.Tensor:
        bad = torch.tensor([number == 12 for number in one.row_numbers])
        return classification_losses(model, one).masked_fill(bad, float("inf"))

    rows = Batch(batch, [Item(number, {}) for number in (10, 11, 12, 13)])
    with pytest.raises(UsageError, match="the loss of row 12 is inf"):
        Look(model).importance([rows], method, row_losses=row_losses, orders=1)

    def steep(model: Any, one: Batch) -> torch.Tensor:
        return (classification_losses(model, one) * 0).sqrt()

    if method in ("michel", "taylor"):
        with pytest.raises(UsageError, match="no finite number") as raised:
            Look(model).importance([rows], method, row_losses=steep)
        assert raised.value.place in layers_of(model)


def test_pruned_and_masked_attention_heads_keep_their_numbers(tmp_path: Path) -> None:
    model, batch = make("bert")
    look = Look(model)
    look.prune_heads({0: [1]}, check={key: value for key, value in batch.items() if key != "labels"})
    importance = look.importance([batch])
    assert importance.layers[0].scores[1] is None
    assert importance.layers[0].kept == [0, 2, 3]
    importance.save(tmp_path)
    assert Importance.load(tmp_path / "importance.safetensors") == importance
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "importance.safetensors")["bert.encoder.layer.0.attention"]
    assert stored[1].isnan()
    assert float(stored[2]) == importance.layers[0].scores[2]
    lines = list(csv.DictReader((tmp_path / "importance.csv").open(encoding="utf-8")))
    told = [None if line["score"] == "" else float(line["score"]) for line in lines]
    assert told == [score for layer in importance.layers for score in layer.scores]
    assert [(line["path"], line["head"]) for line in lines[:2]] == [
        (layers_of(model)[0], "0"),
        (layers_of(model)[0], "1"),
    ]
    ranked = sorted((line for line in lines if line["rank"]), key=lambda line: int(line["rank"]))
    assert [float(line["score"]) for line in ranked] == sorted(filter(None, told), reverse=True)
    assert lines[1]["rank"] == ""
    picture = ElementTree.parse(tmp_path / "importance.svg").getroot()
    tips = [tip.text for tip in picture.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert len(tips) == 12
    assert tips[1] == f"{layers_of(model)[0]}, attention head 1: no score"
    assert tips[4] == f"{layers_of(model)[1]}, attention head 0: {told[4]:.4g}"
    chosen = choose(look.layers, Choice(count=3), importance)
    assert 1 not in chosen.get("bert.encoder.layer.0.attention", [])


def test_choosing() -> None:
    model, _ = make("bert")
    layers = Look(model).layers
    table = [[0.1, 0.2, 0.3, 0.4], [0.01, 0.02, 0.03, 0.04], [5.0, 6.0, 7.0, 8.0]]
    entries = [
        LayerScores(layer.path, layer.side, layer.kind, n, 4, [0, 1, 2, 3], list(scores))
        for n, (layer, scores) in enumerate(zip(layers, table, strict=True))
    ]
    scores = Importance("michel", 1, "none", entries)
    paths = [layer.path for layer in layers]
    assert choose(layers, Choice(count=4), scores) == {paths[1]: [0, 1, 2], paths[0]: [0]}
    assert choose(layers, Choice(count=4, at_least=0), scores) == {paths[1]: [0, 1, 2, 3]}
    assert choose(layers, Choice(share=0.25), scores) == {paths[1]: [0, 1, 2]}
    # Six are below 0.25; one layer keeps its last attention head, so the next one goes instead.
    assert choose(layers, Choice(threshold=0.25, at_least=0), scores) == {paths[1]: [0, 1, 2, 3], paths[0]: [0, 1]}
    assert choose(layers, Choice(threshold=0.025, at_least=0), scores) == {paths[1]: [0, 1]}
    assert sum(map(len, choose(layers, Choice(share=1.0), scores).values())) == 9
    with pytest.raises(UsageError, match="unknown group"):
        choose(layers, Choice(count=1, groups=("cross",)), scores)
    first, second = (choose_random(layers, Choice(count=5), seed) for seed in (1, 2))
    assert sum(map(len, first.values())) == 5
    assert first == choose_random(layers, Choice(count=5), 1)
    assert first != second
