"""Configs that are checked by the text of their classes alone agree with those that are made."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import topwork
from topwork import BaseOptions, TopworkError, UsageError
from topwork_bases.transformers import base, sources, written

KINDS = ("bert", "vit", "resnet", "bart", "gpt2", "whisper", "rt_detr", "llama", "wav2vec2", "t5", "segformer", "swin")
VALUES = (7, 16, 64, 0.5, True, "gelu", [1, 2], None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_surely_fits_can_be_made(kind) -> None:
    """Fields of the class with random values of right and wrong types; none that fits is refused when it is made."""
    text = written.config_text(kind)
    assert text is not None and "return_dict" in text.fields
    draw = random.Random(kind)
    fitting = 0
    for _ in range(40):
        names = draw.sample(sorted(text.fields), draw.randint(0, 3))
        values = {"model_type": kind, **{name: draw.choice(VALUES) for name in names}}
        if written.surely_fits(values, {}, strict=True):
            fitting += 1
            sources.make_config(values)
    assert fitting >= 4


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert", "hidden_siz": 4},
        {"model_type": "bert", "hidden_size": 4.0},
        {"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3},
        {"model_type": "llama", "hidden_size": 10, "num_attention_heads": 3},
        {"model_type": "llama", "layer_types": ["nosuch"]},
        {"model_type": "resnet", "layer_type": "wide"},
        {"model_type": "resnet", "depths": [1, 1], "out_features": ["stage3"]},
        {"model_type": "resnet", "depths": [1, 1], "out_features": ["stage2", "stage1"]},
        {"model_type": "rt_detr", "backbone_config": {"model_type": "rt_detr_resnet", "depth": [1]}},
        {"model_type": "rt_detr", "backbone_config": {"depths": [1]}},
        {"model_type": "nosuch"},
        {"model_type": "../bert"},
        {"model_type": ["bert"]},
        {},
    ],
)
def test_what_is_wrong_or_unknown_does_not_surely_fit(values) -> None:
    assert not written.surely_fits(values, {}, strict=True)


def test_widths_that_heads_do_not_share_are_refused_only_where_modules_refuse_them(tmp_path: Path) -> None:
    plugins = topwork.load_plugins(only=["bases"])
    small = {"num_hidden_layers": 1, "hidden_size": 10, "num_attention_heads": 3, "intermediate_size": 8}
    with pytest.raises(UsageError, match="let `num_attention_heads` divide `hidden_size`"):
        plugins.load_base(BaseOptions(config={"model_type": "bert", **small}))
    with_widths = {"model_type": "gemma", **small, "head_dim": 4, "num_key_value_heads": 3}
    assert plugins.load_base(BaseOptions(config=with_widths)).config.hidden_size == 10


def test_a_base_that_opens_by_its_files_also_opens(tmp_path: Path) -> None:
    """Of damaged folders neither says that it opens."""
    plugins = topwork.load_plugins(only=["bases"])
    config = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    sources.make_config(config).save_pretrained(tmp_path)
    options = BaseOptions(model=str(tmp_path))
    assert base.base_opens(options.name, options) is None
    with pytest.raises(TopworkError, match="has no weights"):
        plugins.check_base(options)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert base.base_opens(options.name, options) is True
    plugins.check_base(options)
    assert plugins.load_base(options).config.hidden_size == 8
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TopworkError, match="cannot be read as JSON"):
        plugins.check_base(options)


@pytest.mark.parametrize("name", ["mine/small", "mine small", "../mine", "folder", ""])
def test_a_name_that_another_plugin_knows_is_its_own_also_when_a_recipe_is_checked(
    tmp_path: Path, monkeypatch, name
) -> None:
    class Mine:
        @topwork.hookimpl
        def load_base(self, name, options):
            return base.load_base("config:bert", BaseOptions(config={"model_type": "bert"}))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "bert"}')
    topwork.load_plugins(only=["bases"], extra=[Mine()]).check_base(BaseOptions(model=name))
