"""Checkpoints that transformers 4 pruned as a side of an encoder-decoder: each in its own folder, or both in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tolerance import close
from v4_checkpoints import HEADS, RANGE, SIZES, batch_of, edit, losses, rows_of, written_by_version_4

import topwork
from topwork import CheckpointError
from topwork_lens.pruning import transformers4 as v4


def mended(heads: Any) -> dict[str, list[int]]:
    """`HEADS` for the self-attention of one side of a pair."""
    return {heads.format(layer): gone for layer, gone in HEADS.items()}


def alike(one: topwork.TaskModel, other: topwork.TaskModel) -> None:
    """The cross-attention of a warm-started pair is random: let it be the same in both."""
    tensors = one.model.state_dict()
    crossing = {name: tensor for name, tensor in tensors.items() if "crossattention" in name}
    assert crossing
    other.model.load_state_dict(crossing, strict=False)


def test_as_the_decoder_of_a_pair(tmp_path: Path) -> None:
    """A decoder's weights are put into a model with cross-attention, which is cut as well."""
    whole = written_by_version_4("roberta", tmp_path / "old")
    whole.save(tmp_path / "whole")
    (tmp_path / "whole" / "topwork.json").unlink()
    rows = rows_of("summarization")
    pairs = [
        topwork.build("summarization", bases={"encoder": str(tmp_path / "whole"), "decoder": str(folder)}, rows=rows)
        for folder in (tmp_path / "whole", tmp_path / "old")
    ]
    alike(*pairs)
    batch = batch_of(pairs[0])
    heads = mended("decoder.roberta.encoder.layer.{}.attention")
    with pairs[0].look().mask_heads(heads):
        masked = losses(pairs[0], batch)
    close(losses(pairs[1], batch), masked)
    assert (losses(pairs[0], batch) - masked).abs().max() > 1e-4
    gone = {layer.path: list(layer.removed) for layer in pairs[1].look().layers if layer.removed}
    assert gone == heads
    pairs[1].save(tmp_path / "pair")
    assert torch.equal(losses(topwork.load(tmp_path / "pair"), batch), losses(pairs[1], batch))


def test_taken_into_another_class_it_is_an_error(tmp_path: Path) -> None:
    written_by_version_4("bert", tmp_path)
    with pytest.raises(CheckpointError, match="takes the model apart"):
        topwork.build(
            "summarization",
            bases={"encoder": str(tmp_path), "decoder": str(tmp_path)},
            rows=rows_of("summarization"),
            bert_generation=True,
        )


def written_in_parts(folder: Path) -> topwork.TaskModel:
    """A pair as transformers 4 wrote it after pruning both of its sides, and the whole pair."""
    base = {"config": {"model_type": "roberta", **SIZES, **RANGE}}
    pair = topwork.build("summarization", bases={"encoder": base, "decoder": base}, rows=rows_of("summarization"))
    pair.save(folder)
    for name in ("topwork.json", "README.md"):
        (folder / name).unlink()
    tensors = load_file(next(folder.glob("*.safetensors")))
    for layer, gone in HEADS.items():
        kept = torch.tensor([8 * head + i for head in range(4) if head not in gone for i in range(8)])
        for side in ("encoder", "decoder.roberta"):
            place = f"{side}.encoder.layer.{layer}.attention."
            for name in (f"self.{row}.{part}" for row in ("query", "key", "value") for part in ("weight", "bias")):
                tensors[place + name] = tensors[place + name][kept].contiguous()
            tensors[f"{place}output.dense.weight"] = tensors[f"{place}output.dense.weight"][:, kept].contiguous()
    tensors |= {"encoder.pooler.dense.weight": torch.eye(32), "encoder.pooler.dense.bias": torch.zeros(32)}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    note = {"pruned_heads": {str(layer): gone for layer, gone in HEADS.items()}}
    edit(folder, **{side: {**config[side], **note} for side in ("encoder", "decoder")})
    return pair


def test_a_model_of_two_parts(tmp_path: Path) -> None:
    """Each part has its own note in its own config."""
    from transformers import EncoderDecoderModel

    whole = written_in_parts(tmp_path / "old")
    work = topwork.build("summarization", str(tmp_path / "old"), rows=rows_of("summarization"))
    batch = batch_of(work)
    heads = mended("encoder.encoder.layer.{}.attention") | mended("decoder.roberta.encoder.layer.{}.attention")
    with whole.look().mask_heads(heads):
        masked = losses(whole, batch)
    close(losses(work, batch), masked)
    assert {layer.path: list(layer.removed) for layer in work.look().layers if layer.removed} == heads
    work.save(tmp_path / "new")
    assert "pruned_heads" not in (tmp_path / "new" / "config.json").read_text()
    assert torch.equal(losses(topwork.load(tmp_path / "new"), batch), losses(work, batch))
    model: Any = v4.load(tmp_path / "old", EncoderDecoderModel)
    with torch.no_grad():
        close(work.task.row_losses(model, batch), masked)
    assert not model.config.encoder.pruned_heads
    edit(tmp_path / "old", pruned_heads={"0": [1]})
    with pytest.raises(CheckpointError, match="several sides"):
        topwork.build("summarization", str(tmp_path / "old"), rows=rows_of("summarization"))


def test_a_note_in_an_encoder_decoder_is_an_error(tmp_path: Path) -> None:
    """transformers 4 pruned none: whichever side it could mean would be a guess."""
    from tiny_bases import BART

    topwork.build("summarization", BART, rows=rows_of("summarization")).save(tmp_path / "bart")
    (tmp_path / "bart" / "topwork.json").unlink()
    edit(tmp_path / "bart", pruned_heads={"0": [1]})
    with pytest.raises(CheckpointError, match="several sides"):
        topwork.build("summarization", str(tmp_path / "bart"), rows=rows_of("summarization"))
