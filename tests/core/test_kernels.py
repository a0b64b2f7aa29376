"""CPU kernels: the numbers and gradients of torch's own; the choice by measurement, environment and record of a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings

import pytest
import torch
import transformers
from tolerance import about, close

import topwork
from topwork import UsageError
from topwork.kernels import bf16, measurement, onednn, selection
from topwork_tasks.text_classification import TextClassification

ROWS = TextClassification.example_rows()
WIDE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}


@pytest.fixture
def products(monkeypatch):
    """Counts products by oneDNN, which are switched on whatever the CPU."""
    made = []
    real = onednn.product

    def counted(*arguments):
        made.append(tuple(arguments[1].shape))
        return real(*arguments)

    monkeypatch.setattr(onednn, "product", counted)
    monkeypatch.setenv("TOPWORK_KERNELS", "onednn,bf16")
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
    with topwork.accelerated(torch.device("cpu"), "float32"):
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
            with topwork.accelerated(torch.device("cpu"), "float32"):
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
    with onednn.OneDnnMode():
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
        assert not isinstance(topwork.accelerated(torch.device(device), precision), onednn.OneDnnMode)
    for precision, frozen in (("bf16", False), ("float32", True), ("fp16", True)):
        assert not isinstance(topwork.accelerated(torch.device("cpu"), precision, frozen=frozen), bf16.FrozenBf16Mode)


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
    with topwork.accelerated(torch.device("cpu"), "bf16", frozen=True), torch.autocast("cpu", torch.bfloat16):
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
        with topwork.accelerated(torch.device("cpu"), "bf16", frozen=True) as mode:
            found = [layers(values) for _ in range(3)]
            assert all(one is other for (one, _), other in zip(mode.casts.values(), layers[2].parameters()))
            assert len(mode.casts) == 2
    assert not mode.casts
    assert all(torch.equal(one, plain) for one in found)
    found[0].sum().backward()
    assert values.grad is not None and layers[0].weight.grad is not None and layers[2].weight.grad is None


def test_the_loop_and_training_use_it(products, monkeypatch):
    work = topwork.build("text-classification", {"config": {"model_type": "bert", **WIDE}}, rows=ROWS)
    rows = [{"text": f"{row['text']} " * 8} for row in ROWS]
    found = [entry["score"] for answers in work.predict(rows) for entry in answers]
    assert products
    products.clear()
    work.predict(rows, precision="bf16")
    work.train(ROWS, steps=1, gradient_checkpointing=True, checkpoint_every="never", learning_rate=1e-12)
    assert not products
    monkeypatch.setenv("TOPWORK_KERNELS", "off")
    assert [entry["score"] for answers in work.predict(rows) for entry in answers] == about(found)
    monkeypatch.setenv("TOPWORK_KERNELS", "onednn")
    work.train([{**row, **more} for row, more in zip(ROWS, rows)], steps=2, checkpoint_every="never")
    assert len(products) > 20


# ---------------------------------------------------------------- the choice


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder; the number of measurements that were made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TOPWORK_KERNELS", raising=False)
    made = []
    real = measurement._measure
    monkeypatch.setattr(measurement, "_measure", lambda: (made.append(1), real())[1])
    monkeypatch.setattr(selection, "_warned", set())
    measurement.measured.cache_clear()
    yield made
    measurement.measured.cache_clear()


def again():
    """As a new process sees it."""
    measurement.measured.cache_clear()
    return selection.choice()


def test_a_machine_is_measured_once(cache):
    first = again()
    assert (again(), len(cache), first.source) == (first, 1, "measured")
    content = json.loads(measurement.cache_file().read_text())
    assert content["torch"] == torch.__version__ and content["cpu"] == measurement.cpu_model()
    assert content["bf16"] == first.bf16_speed > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"onednn": "fast"}', '{"onednn": -1, "bf16": 1}', b"\xff\x00"])
def test_a_damaged_cache_is_measured_again_and_mended(cache, content):
    file = measurement.cache_file()
    file.parent.mkdir(parents=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    first = again()
    assert (again(), len(cache)) == (first, 1)
    assert list(file.parent.iterdir()) == [file]


def test_a_cache_that_cannot_be_written_is_done_without(cache, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert again().source == "measured"
    assert len(cache) == 1


def _write(seed, folder):
    os.environ["XDG_CACHE_HOME"] = folder
    speeds = dict.fromkeys(measurement.KEYS, 1.0 + seed)
    return measurement._first_writer(measurement.cache_file(), speeds)["bf16"]


def test_of_several_writers_the_first_decides_for_all(cache, tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        speeds = pool.starmap(_write, [(seed, str(tmp_path / "cache")) for seed in range(16)])
    assert len(set(speeds)) == 1
    assert len(list(measurement.cache_file().parent.iterdir())) == 1


def test_another_set_of_instructions_is_measured_by_itself(cache, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    file = measurement.cache_file()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert measurement.cache_file() != file


@pytest.mark.parametrize(
    ("words", "expected"),
    [("off", (False, False)), ("onednn", (True, False)), ("bf16", (False, True)), ("bf16, onednn", (True, True))],
)
def test_the_environment_decides_without_a_measurement(cache, monkeypatch, words, expected):
    monkeypatch.setenv("TOPWORK_KERNELS", words)
    kernels = selection.choice()
    assert (kernels.onednn, kernels.bf16, kernels.source, cache) == (*expected, "environment", [])
    mode = topwork.accelerated(torch.device("cpu"))
    assert isinstance(mode, onednn.OneDnnMode) == expected[0]
    mode = topwork.accelerated(torch.device("cpu"), "bf16", frozen=True)
    assert isinstance(mode, bf16.FrozenBf16Mode) == expected[1]


@pytest.mark.parametrize(("words", "text"), [("onedn", "did you mean `onednn`"), ("off,bf16", "exclude each other")])
def test_a_wrong_word_in_the_environment(monkeypatch, words, text):
    monkeypatch.setenv("TOPWORK_KERNELS", words)
    with pytest.raises(UsageError, match=text):
        topwork.accelerated(torch.device("cpu"))


def test_bf16_that_is_slower_is_said_once_with_the_figure(cache, monkeypatch):
    monkeypatch.setattr(measurement, "_measure", lambda: {"onednn": 1.0, "bf16": 0.5, "frozen_bf16_attention": 1.0})
    with pytest.warns(RuntimeWarning, match=r"take 2\.0 times as long"):
        topwork.accelerated(torch.device("cpu"), "bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        topwork.accelerated(torch.device("cpu"), "bf16")
        topwork.accelerated(torch.device("cpu"), "float32")


def test_a_run_records_its_kernels_and_goes_on_with_them(cache, tmp_path, monkeypatch, products):
    """Whatever this machine has found since."""
    recipe = {
        "task": "text-classification",
        "base": {"config": {"model_type": "bert", **WIDE}},
        "data": {"train": str(tmp_path / "rows.jsonl"), "evaluate": str(tmp_path / "rows.jsonl")},
        "stages": [{"train": {"steps": 1, "batch_size": 9}}, "evaluate"],
    }
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert json.loads((run.root / "run.json").read_text())["kernels"]["onednn"] is True
    assert products
    for stage in ("02-evaluate", "01-train"):
        (run.root / "stages" / stage / "result.json").unlink()
    monkeypatch.delenv("TOPWORK_KERNELS")
    monkeypatch.setattr(measurement, "_measure", lambda: {"onednn": 0.5, "bf16": 1.0, "frozen_bf16_attention": 1.0})
    assert again().onednn is False
    products.clear()
    topwork.resume(run.root, quiet=True)
    assert products
    assert again().onednn is False


def test_the_old_name_warns():
    with pytest.warns(DeprecationWarning, match="topwork.accelerated"):
        assert topwork.fast_products is topwork.accelerated
