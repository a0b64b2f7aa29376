"""Linear layers and convolutions of single pixels through oneDNN: the numbers and gradients of torch's own."""

from __future__ import annotations

import pytest
import torch
import transformers
from tolerance import about, close

import topwork
from topwork.kernels import onednn as fast
from topwork_tasks.text_classification import TextClassification

ROWS = TextClassification.example_rows()
WIDE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}


@pytest.fixture
def products(monkeypatch):
    """Counts products by oneDNN, which are switched on whatever the CPU."""
    made = []
    real = fast._product

    def counted(*arguments):
        made.append(tuple(arguments[1].shape))
        return real(*arguments)

    monkeypatch.setattr(fast, "_product", counted)
    monkeypatch.setattr(fast, "_helps", lambda: True)
    return made


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_outputs_and_gradients_are_those_of_torch(products, kind):
    """BERT calls `linear`; GPT-2's layers call `addmm` with the weight the other way round."""
    torch.manual_seed(0)
    widths = WIDE if kind == "bert" else {"n_embd": 128, "n_layer": 2, "n_head": 4}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **widths, vocab_size=50)).eval()
    frozen = next(name for name, _ in model.named_parameters() if name.endswith(("query.weight", "c_attn.weight")))
    model.get_parameter(frozen).requires_grad_(False)
    ids = torch.randint(50, (8, 16))

    def answers():
        model.zero_grad()
        out = model(ids).last_hidden_state
        out.square().mean().backward()
        return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    plain = answers()
    assert not products
    with fast.fast_products(torch.device("cpu"), "float32"):
        found = answers()
        forward = len(products)
        with torch.inference_mode():
            close(model(ids).last_hidden_state, plain[0])
    assert len(products) > forward > 16
    assert model.get_parameter(frozen).grad is None
    largest = max(float(gradient.abs().max()) for gradient in plain[1:])  # some are zero but for rounding
    for one, other in zip(found, plain, strict=True):
        close(one, other, scale=largest if one is not found[0] else None)


def test_convolutions_of_single_pixels(products, monkeypatch):
    torch.manual_seed(0)
    seen = []
    real = torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *given: (seen.append(given[1].shape), real(*given))[1])
    layers = {
        "plain": torch.nn.Conv2d(64, 48, 1),
        "strided": torch.nn.Conv2d(64, 48, 1, stride=2, padding=1, bias=False),
        "grouped": torch.nn.Conv2d(64, 48, 1, groups=2),
        "wide": torch.nn.Conv2d(64, 48, 3),
        "named padding": torch.nn.Conv2d(64, 48, 1, padding="same"),
    }
    for name, layer in layers.items():
        for values in (torch.randn(1, 64, 40, 40), torch.randn(2, 64, 40, 40).to(memory_format=torch.channels_last)):
            one, other = values.clone().requires_grad_(), values.clone().requires_grad_()
            layer(one).square().mean().backward()
            gradient, layer.weight.grad = layer.weight.grad, None
            with fast.fast_products(torch.device("cpu"), "float32"):
                found = layer(other)
            found.square().mean().backward()
            close(found, layer(one))
            close(other.grad, one.grad)
            close(layer.weight.grad, gradient)
            layer.weight.grad = None
        assert len(seen) == (2 if name in ("plain", "strided") else 0), name
        seen.clear()


def test_what_it_leaves_to_torch(products):
    weight, bias = torch.randn(128, 128), torch.randn(128)
    with fast.OneDnn():
        for values in (torch.randn(4, 128), torch.randn(128), torch.randn(9, 128)):
            expected = values @ weight.T + bias
            close(torch.nn.functional.linear(values, weight, bias), expected)
        double = torch.nn.functional.linear(torch.randn(200, 128).double(), weight.double())
        assert double.dtype is torch.float64 and not products
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            torch.nn.functional.linear(torch.randn(200, 64), weight, bias)
        torch.nn.functional.linear(torch.randn(200, 128), weight, bias)
    assert products == [(128, 128)]
    for device, precision in (("cpu", "bf16"), ("meta", "float32")):
        assert not isinstance(fast.fast_products(torch.device(device), precision), fast.OneDnn)
    for precision, frozen in (("bf16", False), ("float32", True), ("fp16", True)):
        assert not isinstance(fast.fast_products(torch.device("cpu"), precision, frozen=frozen), fast.Narrow)


@pytest.mark.parametrize("mask", [None, "causal", "padding", "nothing"])
def test_attention_written_out_is_torchs(products, mask):
    """In bf16, where a gradient flows and a mode for frozen weights stands: its output and gradients."""
    torch.manual_seed(0)
    states = [torch.randn(3, 4, 9, 16).bfloat16().requires_grad_() for _ in range(3)]
    allowed = torch.rand(3, 1, 9, 9) > 0.4
    allowed[..., 0] = True
    if mask == "nothing":
        allowed[1, 0, 2] = False  # a query that may attend to no key at all
    options = {"is_causal": True} if mask == "causal" else {"attn_mask": None if mask is None else allowed}
    wanted = torch.randn(3, 4, 9, 16)

    def attended(states):
        answer = torch.nn.functional.scaled_dot_product_attention(*states, **options, scale=0.4)
        return answer, *torch.autograd.grad((answer.float() * wanted).sum(), states)

    exact = attended([state.detach().float().requires_grad_() for state in states])
    with fast.fast_products(torch.device("cpu"), "bf16", frozen=True), torch.autocast("cpu", torch.bfloat16):
        found = attended(states)
        assert "ScaledDotProduct" not in type(found[0].grad_fn).__name__
    for one, other in zip(found, exact, strict=True):
        close(one, other, steps=4)


def test_frozen_weights_are_cast_once(products):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 8))
    layers[2].requires_grad_(False)
    values = torch.randn(4, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layers(values)
        with fast.fast_products(torch.device("cpu"), "bf16", frozen=True) as mode:
            found = [layers(values) for _ in range(3)]
            assert all(one is other for (one, _), other in zip(mode.cast.values(), layers[2].parameters()))
            assert len(mode.cast) == 2
    assert not mode.cast
    assert all(torch.equal(one, plain) for one in found)
    found[0].sum().backward()
    assert values.grad is not None and layers[0].weight.grad is not None and layers[2].weight.grad is None


def test_the_loop_and_training_use_it(products):
    work = topwork.build("text-classification", {"config": {"model_type": "bert", **WIDE}}, rows=ROWS)
    rows = [{"text": f"{row['text']} " * 8} for row in ROWS]
    found = [entry["score"] for answers in work.predict(rows) for entry in answers]
    assert products
    products.clear()
    work.predict(rows, precision="bf16")
    work.train(ROWS, steps=1, gradient_checkpointing=True, checkpoint_every="never", learning_rate=1e-12)
    assert not products
    fast._helps = lambda: False  # put back by the fixture
    assert [entry["score"] for answers in work.predict(rows) for entry in answers] == about(found)
    fast._helps = lambda: True
    work.train([{**row, **more} for row, more in zip(ROWS, rows)], steps=2, checkpoint_every="never")
    assert len(products) > 20
