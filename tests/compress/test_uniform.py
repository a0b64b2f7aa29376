"""Uniform cuts: plain transformers loads what was saved, with equal logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lens_models import first_output, make, without_labels
from lens_recipes import TEXTS, recipe
from torch import nn

import topwork
from topwork import UsageError
from topwork_lens.blocks.plain_widths import plain_widths
from topwork_lens.look import Look

#: architectures, and the numbers of their configs that become smaller
NUMBERS = {
    "bert": {"intermediate_size"},
    "gpt2": {"n_inner"},
    "llama": {"intermediate_size"},
    "bart": {"encoder_ffn_dim", "decoder_ffn_dim"},
    "t5": {"d_ff"},
    "wav2vec2": {"intermediate_size", "classifier_proj_size"},
}


@pytest.mark.parametrize("name", list(NUMBERS))
@pytest.mark.filterwarnings("ignore:.*did not run in this block")
def test_plain_transformers_loads_a_uniform_cut(name: str, tmp_path: Path) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    before = len(next(iter(Look(model).find_blocks(batch))).kept)
    result = topwork.compress(model, [batch], macs=0.9, uniform=True)
    assert set(result.plain) == NUMBERS[name] and result.after <= 0.9 * result.before
    left = {line["path"]: line["after"] for line in result.json()["tables"]["what is left"]}
    assert set(left.values()) == set(result.plain.values()) and min(left.values()) < before
    assert not topwork.alterations(model).get("lens")
    model.save_pretrained(tmp_path)
    loaded, about = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(first_output(loaded.eval(), inputs), first_output(model, inputs))


def test_a_saved_task_model_loads_in_plain_transformers(tmp_path: Any) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    stages = [{"compress": {"macs": 0.8, "uniform": True, "compare_random": 1, "multiple": 8}}, "save"]
    run = topwork.run(recipe(tmp_path, stages), folder=tmp_path / "run", quiet=True)
    result = run.results[0]["result"]
    (width,) = result["plain_transformers"].values()
    assert width % 8 == 0 and result["why_not_plain"] == "" and result["heads_after"] == result["heads_before"]
    assert run.model_folder is not None
    loaded = AutoModelForSequenceClassification.from_pretrained(run.model_folder).eval()
    assert loaded.config.intermediate_size == width
    tokens = AutoTokenizer.from_pretrained(run.model_folder)(TEXTS[0]["text"], return_tensors="pt")
    with torch.no_grad():
        plain = loaded(**tokens).logits.softmax(-1)[0]
    ours = topwork.load(run.model_folder).predict([TEXTS[0]])[0]
    assert {entry["label"] for entry in ours} <= set(loaded.config.label2id)
    for entry in ours:
        assert entry["score"] == pytest.approx(float(plain[loaded.config.label2id[entry["label"]]]), abs=1e-5)


class Alone(nn.Module):
    """A network without a config."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return self.down(torch.relu(self.up(x)))


def test_a_width_that_the_config_does_not_know_is_no_plain_width() -> None:
    model, batch = make("swin")  # its stages have several widths of one ratio
    assert plain_widths(model, Look(model).find_blocks(batch)) == []
    with pytest.raises(UsageError, match="no width of this model"):
        topwork.compress(model, [batch], macs=0.9, uniform=True)
    torch.manual_seed(0)
    alone, x = Alone().eval(), torch.randn(2, 4, 6)
    assert plain_widths(alone, Look(alone).find_blocks(lambda: alone(x))) == []


def test_a_number_that_means_something_else_too_is_none() -> None:
    """In a BERT whose hidden size is its intermediate size, changing the number changes more than the blocks."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    model = BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(3, 50, (2, 7))}
    (width,) = plain_widths(model, Look(model).find_blocks(batch))
    assert width.attribute == "intermediate_size"
    assert all(path.endswith("output.dense") for path in width.paths) and len(width.paths) == 2
