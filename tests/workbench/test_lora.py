"""LoRA: what is trained, merged models, adapter folders, resumption, pruned models, refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGES, unnamed
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_bases import BASES
from torch import nn

import topwork
from topwork import CheckpointError, TopworkError, UsageError, load_plugins
from topwork.stages.train import Train

pytest.importorskip("peft")

TASKS = {name: task for name, task in load_plugins().tasks.items() if name in BASES}
TEXTS = "text-classification"
ROWS = TASKS[TEXTS].example_rows()
TRAINING = {"steps": 3, "batch_size": 2, "learning_rate": 0.02, "checkpoint_every": "never"}


def build(task: str = TEXTS, base: Any = None, **options: Any) -> Any:
    return topwork.build(task, base or BASES[task], rows=TASKS[task].example_rows(), **options)


def losses(work: Any, rows: Any = None) -> torch.Tensor:
    rows = rows if rows is not None else work.task.example_rows()
    batch = work.task.collate(work.task.encode(rows, "loss", 0), "loss")
    torch.manual_seed(0)
    with torch.no_grad():
        return work.task.row_losses(work.model.eval(), batch).double()


def weights(work: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in work.model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert list(before) == list(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def with_products(weight: dict[str, torch.Tensor], folder: Path, transposed: bool) -> dict[str, torch.Tensor]:
    """Return weights with the products and the task head of an adapter folder, by the formula W + alpha / r B A."""
    stored = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    made = dict(weight)
    for name, tensor in stored.items():
        path = name.removeprefix("base_model.model.")
        if path.endswith("lora_A.weight"):
            target = path.removesuffix(".lora_A.weight")
            outer = stored[name.replace("lora_A", "lora_B")]
            if tensor.dim() > 2:  # a convolution with a kernel, then one over its channels
                product = torch.einsum("or,ri...->oi...", outer.flatten(1), tensor)
            else:
                product = outer @ tensor
            product = product * config["lora_alpha"] / config["r"]
            made[f"{target}.weight"] = made[f"{target}.weight"] + (product.T if transposed else product)
        elif "lora_" not in path:
            made[path] = tensor
    return made


@pytest.mark.learn
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_trained_by_lora_merged_saved_and_loaded(task, tmp_path) -> None:
    work, twin = build(task), build(task)
    before = weights(work)
    options = {**TRAINING, "run_folder": tmp_path, "lora": {"r": 4, "alpha": 8, "targets": "all", "save": "adapter"}}
    result = work.train(work.task.example_rows(), **options)
    after, modules = weights(work), set(result["lora"]["modules"])
    assert {name.rpartition(".")[0] for name in changed(before, after) - set(result["lora"]["head"])} == modules
    assert result["trained_parameters"] < sum(tensor.numel() for tensor in before.values())
    folder = tmp_path / result["adapter_folder"]
    expected = with_products(before, folder, transposed=task == "text-generation")
    for name, tensor in expected.items():
        torch.testing.assert_close(
            after[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    twin.apply("load_adapter", {}, folder=str(folder))
    assert torch.equal(losses(twin), losses(work))
    loaded = topwork.load(work.save(tmp_path / "model"))
    assert torch.equal(losses(loaded), losses(work))


@pytest.mark.parametrize(
    ("targets", "count"), [("attention", 8), ("neurons", 5), ("all", 13), (["*.query", "value"], 4)]
)
def test_targets_are_those_of_the_lens_or_names(targets, count) -> None:
    work = build()
    before = weights(work)
    result = work.train(ROWS, **TRAINING, lora={"r": 2, "targets": targets})
    modules, head = result["lora"]["modules"], set(result["lora"]["head"])
    assert len(modules) == count, modules
    assert head == {"classifier.weight", "classifier.bias"}
    assert changed(before, weights(work)) == {f"{path}.weight" for path in modules} | head
    assert result["trained_parameters"] == sum(
        2 * sum(work.model.get_submodule(path).weight.shape) for path in modules
    ) + sum(work.model.state_dict()[name].numel() for name in head)
    assert all(parameter.requires_grad for parameter in work.model.parameters())
    assert not any("lora" in name for name, _ in work.model.named_modules())


def test_peft_itself_opens_the_adapter(tmp_path) -> None:
    import peft

    work, twin = build(), build()
    result = work.train(ROWS, **TRAINING, lora={"save": "adapter"}, run_folder=tmp_path)
    folder = tmp_path / result["adapter_folder"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "topwork_adapter.json",
    ]
    opened = peft.PeftModel.from_pretrained(twin.model, str(folder)).eval()
    batch = work.task.collate(work.task.encode(ROWS, "loss", 0), "loss")
    with torch.no_grad():
        expected = opened(**batch.inputs).logits
        torch.testing.assert_close(work.model.eval()(**batch.inputs).logits, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- as any training


def test_gradient_checkpointing_and_accumulation_train_the_same_products() -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
    base = {"config": {**BASES[TEXTS]["config"], **quiet}}
    trained = []
    for options in ({}, {"gradient_checkpointing": True}, {"batch_size": 2, "accumulate": 4}):
        work = build(base=base, dropout=0.0)
        settings = {**TRAINING, "steps": 1, "batch_size": 8, "optimizer": "sgd", "clip": 0.0, "learning_rate": 1.0}
        work.train((ROWS * 8)[:8], **settings | options, lora={"targets": "all"})
        trained.append(weights(work))
    assert len(changed(weights(build(base=base, dropout=0.0)), trained[0])) == 15
    for other in trained[1:]:
        for name, tensor in trained[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


class Stopped(BaseException):
    """Ends a training as a kill does."""


def test_a_resumed_run_gives_the_same_numbers_and_its_checkpoints_hold_what_is_trained(tmp_path, monkeypatch) -> None:
    from topwork.training import trainer

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = {**TRAINING, "steps": 6, "checkpoint_every": 2, "lora": {"dropout": 0.2, "save": "adapter"}}
    made = {"task": TEXTS, "base": BASES[TEXTS], "data": {"train": str(rows)}, "stages": [{"train": options}, "save"]}
    whole = topwork.run(made, folder=tmp_path / "whole", quiet=True)
    real = trainer.TaskTrainer.compute_loss

    def compute_loss(self, *arguments, **keywords):
        if self.state.global_step == 5:
            raise Stopped
        return real(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.TaskTrainer, "compute_loss", compute_loss)
        with pytest.raises(Stopped):
            topwork.run(made, folder=tmp_path / "run", quiet=True)
    checkpoint = tmp_path / "run/stages/01-train/checkpoints/checkpoint-4"
    names = set(load_file(checkpoint / "topwork.safetensors"))
    assert {name for name in names if "lora_" not in name} == {"classifier.weight", "classifier.bias"}
    resumed = topwork.resume(tmp_path / "run", quiet=True)
    assert not changed(weights(whole.work), weights(resumed.work))
    assert not changed(weights(whole.work), weights(topwork.load(resumed.model_folder)))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        files = [tmp_path / run / "stages/01-train/adapter" / name for run in ("whole", "run")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_best_checkpoint_is_put_back() -> None:
    work = build()
    options = {**TRAINING, "steps": 4, "checkpoint_every": 2, "evaluate_every": 2, "keep": "best"}
    result = work.train(ROWS, calibrate=ROWS, **options, lora={})
    assert result["best"] is not None
    assert work.evaluate(ROWS)["accuracy"] == pytest.approx(result["best"])


def test_an_interrupted_training_leaves_a_plain_model(monkeypatch) -> None:
    from topwork.training import trainer

    work = build()
    before = weights(work)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.TaskTrainer, "train", lambda *_, **__: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            work.train(ROWS, **TRAINING, lora={})
    assert not changed(before, weights(work))
    assert all(parameter.requires_grad for parameter in work.model.parameters())


# ---------------------------------------------------------------- pruned models


def test_pruned_and_masked_models_are_trained_and_pruned_on() -> None:
    work = build()
    look = topwork.look(work.model)
    look.prune(heads={0: [1]}, neurons={1: [0, 5]})
    work.apply("mask_heads", {}, heads={1: [0]})
    result = work.train(ROWS, **TRAINING, lora={"targets": "all", "r": 2})
    assert result["check"]["difference"] <= 1e-5
    look = topwork.look(work.model)
    assert [layer.kept for layer in look.layers] == [(0, 2, 3), (0, 1, 2, 3)]
    assert look.table()[1]["gates"] == [0.0, 1.0, 1.0, 1.0]
    look.prune_heads({1: [2]})
    assert [len(layer.kept) for layer in topwork.look(work.model).layers] == [3, 3]


def test_masked_heads_stay_masked_for_the_products() -> None:
    work = build()
    work.apply("mask_heads", {}, heads={0: [0, 1, 2, 3]})
    twin = copy.deepcopy(work.model)
    work.train(ROWS, **TRAINING, lora={"targets": ["*.attention.output.dense"]})
    path = "bert.encoder.layer.0.attention.output.dense"
    # no input reaches a product behind gates of 0, so that nothing is learned there
    assert torch.equal(work.model.get_submodule(path).weight, twin.get_submodule(path).weight)
    path = path.replace("layer.0", "layer.1")
    assert not torch.equal(work.model.get_submodule(path).weight, twin.get_submodule(path).weight)


def test_layers_that_share_their_modules_are_trained_together() -> None:
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    work = build(base={"config": {"model_type": "albert", **sizes}})
    result = work.train(ROWS, **TRAINING, lora={"targets": "all"})
    assert len(result["lora"]["modules"]) >= 6
    assert result["check"]["difference"] <= 1e-5


def test_modules_that_stand_twice_are_trained_once_and_put_back_everywhere() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"second": self.first, "third": nn.Linear(4, 4)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner["third"](self.inner["second"](self.first(x)))

    import peft

    from topwork_workbench.lora.layers import exactly, put_on

    model = Twice()
    original, x = model.first, torch.randn(3, 4)
    layers = put_on(model, peft.LoraConfig(r=2, target_modules=exactly(["first"], model)), ["first"], trained=set())
    assert model.first is model.inner["second"]
    assert model.first is not original
    layers.load({name: torch.randn_like(tensor) for name, tensor in layers.tensors().items()})
    expected = model(x)
    layers.remove(merge=True)
    assert model.first is model.inner["second"] is original
    torch.testing.assert_close(model(x), expected)


# ---------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    return folder / build().train(ROWS, **TRAINING, lora={"save": "adapter"}, run_folder=folder)["adapter_folder"]


def test_an_adapter_is_refused_on_other_weights_by_the_names_of_both(adapter) -> None:
    with pytest.raises(CheckpointError, match=r"was trained on config:bert with other weights .*\(config:bert\)"):
        build(seed=1).apply("load_adapter", {}, folder=str(adapter))


def test_an_adapter_is_refused_on_a_model_that_was_pruned_otherwise(adapter) -> None:
    work = build()
    topwork.prune_heads(work.model, {0: [1]})
    with pytest.raises(CheckpointError, match=r"pruned or gated otherwise: `.*layer.0.attention.*was not altered"):
        work.apply("load_adapter", {}, folder=str(adapter))


def test_an_adapter_is_refused_for_another_task_and_for_other_labels(adapter) -> None:
    rows = [{**row, "label": f"not {row['label']}"} for row in ROWS]
    with pytest.raises(CheckpointError, match="other labels"):
        topwork.build(TEXTS, BASES[TEXTS], rows=rows).apply("load_adapter", {}, folder=str(adapter))
    with pytest.raises(CheckpointError, match="trained for the task text-classification, and this is fill-mask"):
        build("fill-mask").apply("load_adapter", {}, folder=str(adapter))


def test_an_adapter_is_refused_on_a_model_with_another_vocabulary_of_the_same_size(adapter) -> None:
    swapped = str.maketrans("abdeo", "bdeoa")
    rows = [{**row, "text": row["text"].translate(swapped)} for row in ROWS]
    work = topwork.build(TEXTS, BASES[TEXTS], rows=rows)
    assert weights(work)["bert.embeddings.word_embeddings.weight"].equal(
        weights(build())["bert.embeddings.word_embeddings.weight"]
    )
    assert work.task.state.values == build().task.state.values
    with pytest.raises(CheckpointError, match="other labels, tokens or statistics"):
        work.apply("load_adapter", {}, folder=str(adapter))


def test_damaged_adapter_folders_are_refused(adapter, tmp_path) -> None:
    import shutil

    with pytest.raises(CheckpointError, match="no adapter of topwork"):
        build().apply("load_adapter", {}, folder=str(tmp_path))
    copied = Path(shutil.copytree(adapter, tmp_path / "copied"))
    file = copied / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="missing or was changed"):
        build().apply("load_adapter", {}, folder=str(copied))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_of_an_adapter_folder_is_named(damage, adapter, tmp_path) -> None:
    work = build()
    faults = unnamed(adapter, damage, tmp_path / "copy", lambda copy: work.apply("load_adapter", {}, folder=str(copy)))
    assert list(faults) == []


@pytest.mark.parametrize(
    ("lora", "cause"),
    [
        ({"targets": ["nothing_like_it"]}, "no module is called `nothing_like_it`"),
        ({"targets": ["classifier"]}, "`classifier`: it belongs to the task head"),
        ({"targets": ["word_embeddings"]}, "peft has no LoRA for a torch.nn.modules.sparse.Embedding"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_name(lora, cause) -> None:
    work = build()
    before = weights(work)
    with pytest.raises(UsageError, match=cause):
        work.train(ROWS, **TRAINING, lora=lora)
    assert not changed(before, weights(work))


def test_a_model_without_attention_is_refused() -> None:
    config = {
        "model_type": "resnet",
        "hidden_sizes": [8, 8],
        "depths": [1, 1],
        "embedding_size": 8,
        "layer_type": "basic",
    }
    work = build("image-classification", {"config": config})
    with pytest.raises(UsageError, match="no attention layer was found"):
        work.train(work.task.example_rows(), **TRAINING, lora={})


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"lora": {"r": 0}}, "greater than 0"),
        ({"lora": {"dropout": 1}}, "less than 1"),
        ({"lora": {"rank": 4}}, "Extra inputs"),
        ({"lora": {"targets": []}}, "at least one"),
        ({"lora": {}, "freeze": ["backbone"]}, "do not go with it"),
    ],
)
def test_wrong_options_are_refused(options, cause) -> None:
    with pytest.raises(ValidationError, match=cause):
        Train(**options)


def test_a_missing_package_is_named_before_the_run(monkeypatch) -> None:
    monkeypatch.setattr("topwork.stages.train.find_spec", lambda name: None)
    assert "topwork[lora]" in str(Train(lora={}).precheck(()))


def test_a_model_whose_merge_changes_it_is_refused(monkeypatch) -> None:
    from topwork_workbench.lora.layers import Layers

    real = Layers.remove
    monkeypatch.setattr(Layers, "remove", lambda self, merge: real(self, merge=False))
    with pytest.raises(TopworkError, match=r"`bert.*` computes something else after the merge"):
        build().train(ROWS, **TRAINING, lora={"targets": "all"})


# ---------------------------------------------------------------- architectures out of the ordinary

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIDES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
RESNET = {"model_type": "resnet", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8}
SWIN = {"model_type": "swin", "image_size": 32, "patch_size": 4, "window_size": 4}
MASKS = {
    "model_type": "mask2former",
    "backbone_config": {
        **SWIN,
        "embed_dim": 8,
        "depths": [1] * 4,
        "num_heads": [2] * 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "train_num_points": 64,
    "num_queries": 8,
    "num_attention_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
}
MASKS |= dict.fromkeys(
    ("hidden_dim", "feature_size", "mask_feature_size", "encoder_feedforward_dim", "dim_feedforward"), 32
)
#: what is out of the ordinary -> task, base, numbers of modules and of tensors of the task head
OTHERS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "classifier inside the backbone": (
        "image-classification",
        {"model": "timm/test_vit", "weights": False},
        24,
        2,
    ),
    "generic head, MultiheadAttention": (
        "image-classification",
        {"config": {"model_type": "siglip_vision_model", **SIZES, "image_size": 32, "patch_size": 8}},
        *(15, 2),
    ),
    "output layer that is the embedding": (
        "summarization",
        {"config": {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}},
        *(32, 0),
    ),
    "several stages": (
        "image-classification",
        {"config": {**SWIN, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4]}},
        *(12, 2),
    ),
    "queries of a detector": (
        "object-detection",
        {"config": {"model_type": "detr", **SIDES, "num_queries": 8, "backbone_config": RESNET}},
        *(26, 8),
    ),
    "losses at points that jump": ("image-segmentation", {"config": MASKS}, 41, 3),
    "experts": (
        "text-generation",
        {"config": {"model_type": "mixtral", **SIZES, "num_key_value_heads": 2, "num_local_experts": 4}},
        *(8, 1),
    ),
    "sizes of modules are read": (
        "automatic-speech-recognition",
        {"config": {"model_type": "whisper", **SIDES, "max_target_positions": 128}},
        *(6, 2),
    ),
}


@pytest.mark.learn
@pytest.mark.parametrize("kind", OTHERS)
def test_architectures_out_of_the_ordinary_are_trained(kind) -> None:
    task, base, modules, head = OTHERS[kind]
    work = build(task, base)
    before = weights(work)
    result = work.train(work.task.example_rows(), **TRAINING, lora={"targets": "all"})
    assert (len(result["lora"]["modules"]), len(result["lora"]["head"])) == (modules, head)
    assert result["lora"]["left_out"] == {}
    for name in changed(before, weights(work)) - set(result["lora"]["head"]):
        assert name.startswith(tuple(f"{path}." for path in result["lora"]["modules"])), name


def test_modules_whose_weights_are_read_without_a_call_are_left_out_or_refused() -> None:
    work = build("audio-classification", {"config": {**BASES["audio-classification"]["config"], "model_type": "wavlm"}})
    rows = work.task.example_rows()
    with pytest.raises(UsageError, match=r"`wavlm.*_proj` \(and 7 more\): its weight is read without calling it"):
        work.train(rows, **TRAINING, lora={})
    result = work.train(rows, **TRAINING, lora={"targets": "all"})
    assert len(result["lora"]["modules"]) == 4
    assert len(result["lora"]["left_out"]) == 8
