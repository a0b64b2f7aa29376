"""What is saved loads again, or is refused when it is saved; what was changed afterwards is refused on loading."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import ClassVar

import engine_plugin
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bases import BASES, BERT
from torch import nn

import conftest
import topwork
from topwork import CheckpointError, Stage, hookimpl

POINTS = engine_plugin.point_rows(12)
ROWS = [{"text": text, "label": label} for text, label in (("good film", "pos"), ("bad film", "neg")) for _ in range(4)]

# ---------------------------------------------------------------- wrappers (R4)


class Adapter(nn.Module):
    """A linear layer with a low-rank term beside it, as peft makes them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Outside(nn.Module):
    """A model inside another module, as peft, data parallel and compilers make them."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, model)
        self.name, self.config = name, getattr(model, "config", None)

    def forward(self, *arguments, **inputs):
        return getattr(self, self.name)(*arguments, **inputs)


def adapted(model: nn.Module) -> nn.Module:
    """Every linear layer gets an adapter, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(parent, Adapter):
                setattr(parent, name, Adapter(child))
    return model


def scaled(model: nn.Module) -> nn.Module:
    """A change that no tensor holds."""
    layer = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    layer.register_forward_hook(lambda module, inputs, output: output * 3 + 1)
    return model


def poisoned(model: nn.Module) -> nn.Module:
    next(model.parameters()).data.view(-1)[0] = float("nan")
    return model


def headless(model: nn.Module) -> nn.Module:
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    setattr(model.get_submodule(last.rpartition(".")[0]), last.rpartition(".")[2], nn.Identity())
    return model


def frozen_graph(model: nn.Module) -> nn.Module:
    """As `torch.compile` wraps it."""
    return torch.compile(model)


def parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(model)


def quantised(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def sparse(model: nn.Module) -> nn.Module:
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return model


def peft_like(model: nn.Module) -> nn.Module:
    inner = Outside(adapted(model), "model")
    return Outside(inner, "base_model")


#: wrapper -> (change, what the error says)
WRAPPERS = {
    "peft around the model": (peft_like, "wrapped: adapters.*merge_and_unload"),
    "adapters in place": (adapted, "wrapped: adapters.*merge_and_unload"),
    "torch.compile": (frozen_graph, r"wrapped: torch.compile.*_orig_mod"),
    "data parallel": (parallel, r"wrapped: data parallel.*run.model.module"),
    "quantised": (quantised, "no plain tensor.*before it is quantised"),
    "sparse": (sparse, "no plain tensor"),
    "another module around it": (lambda model: Outside(model, "inner"), "missing|nothing puts back|left over"),
    "a part is missing": (headless, "missing|made up"),
    "not a number": (poisoned, "hold NaN"),
    "no values": (lambda model: model.to("meta"), "has no values: it lies on the device `meta`"),
}
TASKS = {"points": (POINTS, {"config": conftest.TINY_BERT}), "text-classification": (ROWS, BERT)}


def built(task, plugins):
    rows, base = TASKS[task]
    return topwork.build(task, base, rows=rows, plugins=plugins)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_model_that_no_folder_can_hold_is_refused_by_name(name, task, engine, tmp_path):
    change, text = WRAPPERS[name]
    work = built(task, engine)
    work.model = change(work.model.eval())
    with pytest.raises(CheckpointError, match=text):
        work.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Wrap(Stage):
    """Wraps the model of the run."""

    name: ClassVar[str] = "wrap"
    changes_model: ClassVar[bool] = True

    kind: str
    stored: bool = True

    def __call__(self, run):
        change = scaled if self.kind == "scaled" else WRAPPERS[self.kind][0]
        run.model = change(run.model)
        return {}


class WrapLate(Wrap):
    """The same, and the run does not store the model."""

    name: ClassVar[str] = "wrap_late"
    changes_model: ClassVar[bool] = False


class Wrappers:
    @hookimpl
    def register_stages(self):
        return [Wrap, WrapLate]


@pytest.mark.parametrize("stage", ["wrap", "wrap_late"])
@pytest.mark.parametrize("kind", [*WRAPPERS, "scaled"])
def test_neither_save_nor_the_model_for_resume_is_written(kind, stage, tmp_path):
    plugins = topwork.load_plugins(extra=[engine_plugin, Wrappers()])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in POINTS))
    recipe = {
        "task": "points",
        "base": {"config": conftest.TINY_BERT},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "stages": [{stage: {"kind": kind}}, "save"],
    }
    with pytest.raises(CheckpointError, match=r"cannot be saved so that it loads|no plain tensor|no values") as caught:
        topwork.run(recipe, folder=tmp_path / "run", plugins=plugins, quiet=True)
    assert str(caught.value).startswith("stage 1, wrap" if stage == "wrap" else "stage 2, save")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_change_that_no_tensor_holds_is_refused_by_the_losses(engine, tmp_path):
    from topwork.saving.model_folder import save_folder

    work = built("text-classification", engine)
    save_folder(work, tmp_path / "whole", rows=ROWS[:2])
    work.model = scaled(work.model)
    with pytest.raises(CheckpointError, match=r"the losses of the same rows differ by .*alterations.*model_rebuilt"):
        save_folder(work, tmp_path / "model", rows=ROWS[:2])


def test_a_model_that_cannot_compute_its_losses_is_refused(engine, tmp_path):
    from topwork.saving.model_folder import save_folder

    work = built("points", engine)
    work.model.double()  # its rows are single
    with pytest.raises(CheckpointError, match=r"it cannot compute the losses of its rows \(RuntimeError: .*dtype"):
        save_folder(work, tmp_path / "model", rows=POINTS[:2])
    assert not (tmp_path / "model").exists()


def test_a_folder_that_was_there_stays_when_the_new_model_is_refused(engine, tmp_path):
    work = built("points", engine)
    work.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    work.model = adapted(work.model)
    with pytest.raises(CheckpointError):
        work.save(tmp_path / "model")
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}


def test_what_is_merged_or_taken_out_of_its_wrapper_saves(engine, tmp_path):
    work = built("points", engine)
    work.model = torch.compile(work.model)._orig_mod
    work.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model", plugins=engine).predict(POINTS) == work.predict(POINTS)


# ---------------------------------------------------------------- damaged weights (R6, R7)


@pytest.fixture(scope="module", params=["points", "text-classification"])
def saved(request, engine, tmp_path_factory) -> Path:
    return built(request.param, engine).save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(weights(folder))
    change(tensors)
    save_file(tensors, weights(folder), metadata={"format": "pt"})


def flipped(folder: Path) -> None:
    content = bytearray(weights(folder).read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    for index in range(start, len(content), max(1, (len(content) - start) // 200)):
        content[index] ^= 0x10
    weights(folder).write_bytes(bytes(content))


def one_bit(folder: Path) -> None:
    content = bytearray(weights(folder).read_bytes())
    content[-1] ^= 1
    weights(folder).write_bytes(bytes(content))


def zeros(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({name: tensor * 0 for name, tensor in tensors.items()}))


def one_nan(folder: Path) -> None:
    def change(tensors):
        first = next(iter(tensors))
        tensors[first].view(-1)[0] = float("nan")

    rewrite(folder, change)


@pytest.mark.parametrize("damage", [flipped, one_bit, zeros, one_nan])
def test_damaged_weights_are_refused(damage, folder, engine):
    damage(folder)
    with pytest.raises(CheckpointError, match=r"not those that were saved: the hash"):
        topwork.load(folder, plugins=engine)


def test_not_a_number_is_refused_in_folders_without_hashes_too(folder, engine):
    one_nan(folder)
    manifest = json.loads((folder / "topwork.json").read_text())
    del manifest["files"]
    (folder / "topwork.json").write_text(json.dumps(topwork.with_checksum(manifest)))
    with pytest.raises(CheckpointError, match=r"hold NaN"):
        topwork.load(folder, plugins=engine)


DTYPES = ["int8", "int64", "bool", "float64", "complex64", "uint8", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["one", "all"])
def test_tensors_of_another_dtype_are_refused_by_name(which, dtype, folder, engine):
    names = list(load_file(weights(folder)))[: 1 if which == "one" else None]

    def change(tensors):
        for name in names:
            tensors[name] = tensors[name].to(getattr(torch, dtype))

    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=f"the tensor `({'|'.join(names)})` is "):
        topwork.load(folder, plugins=engine)


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool", "complex64"])
def test_a_tensor_of_another_kind_never_goes_into_a_model(dtype, engine, tmp_path):
    from topwork.saving.weights import load_weights, save_weights

    work = built("points", engine)
    save_weights(work.model, tmp_path / "topwork.safetensors")
    name = next(iter(work.model.state_dict()))
    rewrite(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(getattr(torch, dtype))}))
    with pytest.raises(CheckpointError, match=f"{name} is {dtype}, the model wants float32"):
        load_weights(work.model, tmp_path / "topwork.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_models_of_other_floating_dtypes_come_back(dtype, engine, tmp_path):
    work = built("points", engine)
    work.model.to(getattr(torch, dtype))
    again = topwork.load(work.save(tmp_path / "model"), plugins=engine)
    for name, tensor in work.model.state_dict().items():
        assert again.model.state_dict()[name].dtype == tensor.dtype and torch.equal(
            again.model.state_dict()[name], tensor
        )


@pytest.mark.parametrize("task", BASES)
def test_every_task_saves_and_comes_back_with_the_same_losses(task, plugins, tmp_path):
    from topwork.saving.model_folder import save_folder

    rows = plugins.task(task).example_rows()
    work = topwork.build(task, BASES[task], rows=rows, plugins=plugins)
    folder = save_folder(work, tmp_path / "model", rows=rows[:2])
    files = json.loads((folder / "topwork.json").read_text())["files"]
    assert list(files) == [weights(folder).name] and len(files[weights(folder).name]["sha256"]) == 64
