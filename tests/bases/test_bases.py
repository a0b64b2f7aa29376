"""Bases from transformers: configs, folders, what is refused, weights accounted for, backbones, processors."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import transformers
from tiny_bases import PAIR, TEXT
from tolerance import close

from topwork import BaseOptions, CheckpointError, Features, UsageError
from topwork.task_heads import PooledHead, SpanHead, TokenHead, pool
from topwork_bases.transformers.base import load_base

SMALL = {"vocab_size": 60, **TEXT}
SEQ2SEQ = {"vocab_size": 60, **PAIR, "encoder_layers": 2, "decoder_layers": 2}
SPEECH = {
    **TEXT,
    "conv_dim": [16, 16],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
PLAIN = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CLASSIFY = "AutoModelForSequenceClassification"
NAMES = {0: "a", 1: "b", 2: "c"}


def scratch(kind, **config):
    torch.manual_seed(0)
    return load_base(f"config:{kind}", BaseOptions(config={"model_type": kind, **config}))


def opened(folder, **options):
    return load_base(str(folder), BaseOptions(model=str(folder), **options))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder that plain transformers wrote: a bare BERT without a task head."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("classifier")
    config = transformers.BertConfig(**SMALL, id2label=NAMES)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


TEXTS = {
    "bert": SMALL,
    "distilbert": {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "deberta-v2": SMALL,
    "bert-generation": {**SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "t5": {"vocab_size": 60, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8},
    "bart": SEQ2SEQ,
    "marian": {**SEQ2SEQ, "pad_token_id": 0, "decoder_vocab_size": 60, "decoder_start_token_id": 0},
}


@pytest.mark.parametrize("kind", TEXTS)
def test_padding_does_not_reach_a_pooled_task_head(kind):
    causal = kind in ("gpt2", "llama")
    head = PooledHead(scratch(kind, **TEXTS[kind]).backbone(), 3, "last" if causal else "mean").eval()
    ids = torch.randint(3, 60, (1, 7))
    whole = head(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    padded = torch.nn.functional.pad(ids, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    assert whole.shape == (1, 3)
    close(head(input_ids=padded, attention_mask=mask).logits, whole)


def test_mask_of_speech_shrinks_with_its_convolutions():
    backbone = scratch("wav2vec2", **SPEECH).backbone()
    clips = torch.randn(2, 800)
    mask = torch.tensor([[1] * 800, [1] * 400 + [0] * 400])
    found = backbone(input_values=clips, attention_mask=mask)
    alone = backbone(input_values=clips[1:, :400], attention_mask=mask[1:, :400])
    assert found.tokens.shape[1] == found.mask.shape[1]
    assert found.mask.sum(1).tolist() == [found.tokens.shape[1], alone.tokens.shape[1]]


@pytest.mark.parametrize(
    ("kind", "config", "maps", "strides", "widths"),
    [
        ("resnet", {"embedding_size": 8, **STAGES}, (0, 1, 2, 3), [4, 8, 16, 32], [8, 16, 24, 32]),
        ("convnext", STAGES, (-1,), [32], [32]),
        ("vit", PLAIN, (0, 1, 2, 3), [8] * 4, [32] * 4),
        ("dinov2", PLAIN, (-1,), [8], [32]),
        ("yolos", {**PLAIN, "image_size": [32, 32]}, (-1,), [8], [32]),
        (
            "segformer",
            {**STAGES, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16},
            (0, 1, 2, 3),
            [4, 8, 16, 32],
            [8, 16, 24, 32],
        ),
    ],
)
def test_feature_maps(kind, config, maps, strides, widths):
    backbone = scratch(kind, **config).backbone(maps=maps)
    found = backbone(
        pixel_values=torch.rand(1, 3, 64, 64) if kind in ("resnet", "convnext") else torch.rand(1, 3, 32, 32)
    )
    assert backbone.map_strides == strides
    assert backbone.map_widths == widths
    assert [entry.shape[1] for entry in found.maps] == widths


def test_map_of_a_plain_vit_keeps_patches_in_place():
    """The map's cell (i, j) is the token of patch (i, j): the class token is gone, nothing is transposed."""
    base = scratch("vit", **PLAIN)
    backbone = base.backbone(maps=(-1,))
    image = torch.rand(1, 3, 32, 32)
    tokens = backbone.backbone(pixel_values=image).last_hidden_state
    found = backbone(pixel_values=image).maps[-1]
    close(found[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2])


def test_pooling_picks_real_positions_on_either_side():
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    features = Features(tokens, torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]))
    assert pool(features, "mean").flatten().tolist() == [1.0, 6.0]
    assert pool(features, "first").flatten().tolist() == [0.0, 5.0]
    assert pool(features, "last").flatten().tolist() == [2.0, 7.0]
    with pytest.raises(UsageError, match="no pooled vector"):
        pool(features, "own")


def test_token_and_span_heads_give_one_vector_a_position():
    backbone = scratch("bert", **SMALL).backbone()
    ids = torch.randint(5, 60, (2, 6))
    assert TokenHead(backbone, 5)(input_ids=ids).logits.shape == (2, 6, 5)
    assert SpanHead(backbone)(input_ids=ids).end_logits.shape == (2, 6)


# ---------------------------------------------------------------- native classes and their weights


@pytest.mark.parametrize("kind", ["deit", "levit"])
def test_native_class_of_architectures_with_several(kind):
    config = PLAIN if kind == "deit" else {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    }  # fmt: skip
    made = scratch(kind, **config).native("AutoModelForImageClassification", id2label=NAMES)
    assert made.config.num_labels == 3
    assert made.accepts_loss_kwargs is False


def test_no_native_class_is_none():
    assert scratch("bert-generation", **TEXTS["bert-generation"]).native(CLASSIFY, id2label=NAMES) is None


def test_weights_come_from_the_folder_and_the_task_head_is_new(bert, caplog):
    caplog.set_level(logging.INFO, "topwork.bases")
    made = opened(bert).native(CLASSIFY, id2label=NAMES)
    plain = transformers.BertModel.from_pretrained(bert)
    for name, value in plain.state_dict().items():
        assert torch.equal(made.bert.state_dict()[name], value), name
    assert "classifier.weight" in caplog.text
    assert made.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_shape_without_weights_is_remade_from_the_config(bert):
    made = opened(bert, weights=False)
    assert made.scratch
    plain = transformers.BertModel.from_pretrained(bert)
    shaped = made.native(CLASSIFY, id2label=NAMES)
    assert shaped.bert.embeddings.word_embeddings.weight.shape == plain.embeddings.word_embeddings.weight.shape
    assert not torch.equal(shaped.bert.embeddings.word_embeddings.weight, plain.embeddings.word_embeddings.weight)


def test_trained_task_head_is_kept_when_the_labels_are_the_same(classifier):
    base = opened(classifier)
    assert base.trained_labels(CLASSIFY) == ["a", "b", "c"]
    plain = transformers.BertForSequenceClassification.from_pretrained(classifier)
    assert torch.equal(base.native(CLASSIFY, id2label=NAMES).classifier.weight, plain.classifier.weight)


@pytest.mark.parametrize("wanted", [{0: "x", 1: "y", 2: "z"}, {0: "b", 1: "a", 2: "c"}, {0: "a", 1: "b"}])
def test_other_labels_need_head_new(classifier, wanted):
    with pytest.raises(CheckpointError, match=r"labels a, b, c; .*head: new"):
        opened(classifier).native(CLASSIFY, id2label=wanted)
    made = opened(classifier, head="new").native(CLASSIFY, id2label=wanted)
    plain = transformers.BertForSequenceClassification.from_pretrained(classifier)
    assert made.config.num_labels == len(wanted)
    assert torch.equal(made.bert.pooler.dense.weight, plain.bert.pooler.dense.weight)
    assert made.classifier.weight.shape != plain.classifier.weight.shape or not torch.equal(
        made.classifier.weight, plain.classifier.weight
    )


def test_missing_backbone_weights_are_named(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    state = load_file(bert / "model.safetensors")
    del state["encoder.layer.1.attention.self.key.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.attention\.self\.key\.weight"):
        opened(tmp_path).native(CLASSIFY, id2label=NAMES)
    with pytest.raises(CheckpointError, match=r"attention\.self\.key"):
        opened(tmp_path).backbone()


def test_shapes_that_do_not_fit_are_named(bert):
    with pytest.raises(CheckpointError, match=r"another shape.*\[60, 32\] saved, \[70, 32\] asked"):
        opened(bert, changes={"vocab_size": 70}).backbone()


def test_origin_remakes_the_base_without_weights(bert):
    origin = json.loads(json.dumps(opened(bert).origin))
    made = load_base("config:bert", BaseOptions(config=origin["config"]))
    names = opened(bert).backbone().state_dict().keys()
    assert made.backbone().state_dict().keys() == names
    assert all(name.startswith("backbone.") for name in names)


# ---------------------------------------------------------------- refusals


def test_unknown_names_and_entries():
    with pytest.raises(UsageError, match="did you mean `bert`"):
        scratch("bertt")
    with pytest.raises(UsageError, match="did you mean `hidden_size`"):
        scratch("bert", hidden_sise=32)
    with pytest.raises(UsageError, match=r"config\.backbone_config\.depthz"):
        scratch("upernet", backbone_config={"model_type": "convnext", "depthz": [1]})
    with pytest.raises(UsageError, match="no such folder"):
        load_base("./nowhere/at/all", BaseOptions(model="./nowhere/at/all"))
    with pytest.raises(UsageError, match="not installed"):
        load_base("package:no_such_package/model", BaseOptions(model="package:no_such_package/model"))


def test_timm_is_left_to_its_own_plugin(tmp_path):
    assert load_base("timm/resnet10t.c3_in1k", BaseOptions(model="timm/resnet10t.c3_in1k")) is None
    (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    assert opened(tmp_path, weights=False) is None


def test_a_hub_id_that_is_not_cached_offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"not in the local cache.*hf download nobody/nothing"):
        load_base("nobody/nothing", BaseOptions(model="nobody/nothing"))


def test_pickled_weights_and_missing_files_are_refused(bert, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has no weights"):
        opened(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickles only \(pytorch_model\.bin\)"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        opened(tmp_path)


def test_an_altered_model_is_no_base_but_its_shape_is(bert, tmp_path):
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    (tmp_path / "topwork.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"topwork\.load"):
        opened(tmp_path)
    assert opened(tmp_path, weights=False).backbone().width == 32


# ---------------------------------------------------------------- processors


def test_no_processor_is_none_and_a_broken_one_is_an_error(bert, tmp_path):
    for kind in ("tokenizer", "image_processor", "feature_extractor", "processor"):
        assert opened(bert).processor(kind) is None
        assert scratch("bert", **SMALL).processor(kind) is None
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        opened(tmp_path, weights=False).processor("tokenizer")


@pytest.mark.parametrize(("changes", "name"), [({}, "ViTImageProcessor"), ({"backend": "pil"}, "ViTImageProcessorPil")])
def test_image_processor(tmp_path, changes, name):
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    scratch("vit", **PLAIN).config.save_pretrained(tmp_path)
    base = opened(tmp_path, weights=False)
    found = base.processor("image_processor", **changes)
    assert type(found).__name__ == name
    assert found.size["height"] == 16
    assert base.processor("feature_extractor") is None
    assert base.processor("tokenizer") is None


def test_processor_from_another_folder(tmp_path):
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    options = BaseOptions(config={"model_type": "wav2vec2", **SPEECH}, processor=str(tmp_path))
    base = load_base("config:wav2vec2", options)
    assert base.processor("feature_extractor").sampling_rate == 8000
    assert base.processor("image_processor") is None
