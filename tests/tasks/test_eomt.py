"""EoMT as a base of image-segmentation: equal to its image processor and the pipeline where those are right, targets of
its padded squares, and what cannot be right is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tolerance import about

from topwork import BaseOptions, UsageError
from topwork.testing import check_task
from topwork_bases.transformers import base as transformers_bases
from topwork_tasks.image_segmentation import outputs as outputs_of
from topwork_tasks.image_segmentation.metrics import decoded
from topwork_tasks.image_segmentation.task import ImageSegmentation

EOMT = {
    "model_type": "eomt",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_blocks": 1,
    "num_queries": 6,
    "num_register_tokens": 1,
    "num_upscale_blocks": 1,
    "train_num_points": 64,
}
DINO = {**EOMT, "model_type": "eomt_dinov3", "intermediate_size": 32}


def make(config=EOMT, rows=None, **options):
    torch.manual_seed(0)
    source = {"config": config} if isinstance(config, dict) else {"model": str(config)}
    base = transformers_bases.load_base(source.get("model", "config:eomt"), BaseOptions.model_validate(source))
    chosen = ImageSegmentation.Options(**options)
    rows = ImageSegmentation.example_rows() if rows is None else rows
    task = ImageSegmentation({"base": base}, chosen, ImageSegmentation.learn(rows, {"base": base}, chosen))
    return task, task.build().eval(), rows


@pytest.mark.parametrize(("config", "kind"), [(EOMT, "instance"), (EOMT, "semantic"), (DINO, "panoptic")])
def test_the_contract_holds(config, kind, tmp_path, plugins) -> None:
    options = {"kind": kind, "threshold": 0.05, "augment": "light"}
    work = check_task(ImageSegmentation, {"config": config}, tmp_path, plugins=plugins, options=options)
    assert work.form == "native"


def test_predictions_and_losses_are_those_of_transformers(tmp_path) -> None:
    from transformers import AutoModelForUniversalSegmentation, EomtImageProcessor, pipeline

    task, model, rows = make(kind="panoptic")
    with torch.no_grad():  # random classes are too unsure of themselves for any segment to survive
        model.class_predictor.weight.mul_(60)
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    task, model, rows = make(tmp_path, kind="panoptic", threshold=0.3)
    plain = AutoModelForUniversalSegmentation.from_pretrained(tmp_path).eval()
    processor = EomtImageProcessor.from_pretrained(tmp_path)
    asked = pipeline("image-segmentation", model=plain, image_processor=processor, device="cpu")
    batch = task.collate(task.encode(rows, "predict", 0), "predict")
    with torch.inference_mode():
        parts = task.predict(model, batch)
    segments = 0
    for row, part in zip(rows, parts, strict=True):
        ours, theirs = task.merge(row, [part]), asked(row["image"], subtask="panoptic", threshold=0.3)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
        assert all(np.mean(np.asarray(a["mask"]) != b["mask"]) < 0.01 for a, b in zip(ours, theirs, strict=True))
        segments += len(ours)
        output = plain(**processor(row["image"], return_tensors="pt"))
        size = row["image"].size
        labels, scores, rles = outputs_of.universal_instances(processor, next(outputs_of.split_outputs(output)), size)
        found = processor.post_process_instance_segmentation(output, target_sizes=[size[::-1]], threshold=0.0)[0]
        assert labels == [entry["label_id"] for entry in found["segments_info"]]
        assert scores == about([entry["score"] for entry in found["segments_info"]])
        assert len(rles) == len(labels)
        over = (found["segmentation"] == len(labels) - 1).numpy()  # the last one lies over the others
        assert np.array_equal(decoded(rles[-1]), over)
    assert segments > 0
    items = task.encode(rows[:1], "loss", 0)
    inputs = {name: [items[0].inputs[name]] for name in ("mask_labels", "class_labels")}
    inputs["mask_labels"] = [mask.float() for mask in inputs["mask_labels"]]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(items[0].extra["seed"] % 2**63)
        expected = plain(pixel_values=items[0].inputs["pixel_values"][None], **inputs).loss
        assert task.row_losses(model, task.collate(items, "loss"))[0] == about(expected.item())


def test_semantic_maps_of_squares_are_transformers_and_of_others_not_stretched() -> None:
    task, model, _ = make(kind="semantic")
    random = np.random.default_rng(0)
    square = Image.fromarray(random.integers(0, 256, (48, 48, 3), np.uint8))
    inputs = task.processor(square, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=inputs["pixel_values"])
    ours = outputs_of.universal_semantic(task.processor, output, (48, 48))
    theirs = task.processor.post_process_semantic_segmentation(output, target_sizes=[(48, 48)])[0]
    assert np.array_equal(ours, theirs.numpy())
    # one query, whose mask is the upper half of the padded square: of a picture that is half as high as wide, all of it
    output.class_queries_logits = torch.full((1, 2, len(task.label_names) + 1), -9.0)
    output.class_queries_logits[0, 0, 1], output.class_queries_logits[0, 1, 0] = 9.0, 9.0
    output.masks_queries_logits = torch.full((1, 2, 32, 32), -9.0)
    output.masks_queries_logits[0, 0, :16], output.masks_queries_logits[0, 1, 16:] = 9.0, 9.0
    wide = outputs_of.universal_semantic(task.processor, output, (64, 32))
    assert wide.shape == (32, 64)
    assert (wide == 1).mean() > 0.95


def test_targets_are_the_segments_of_the_padded_picture() -> None:
    mask, ids = np.zeros((16, 32), np.uint8), np.zeros((16, 32), np.uint8)
    mask[2:6, 4:12], ids[2:6, 4:12] = 1, 1
    mask[8:12, 20:28], ids[8:12, 20:28] = 0, 2
    image = Image.new("RGB", (32, 16), "red")
    rows = [{"image": image, "mask": mask, "instances": ids}, {"image": image, "mask": mask, "instances": ids * 0}]
    task, model, _ = make(rows=rows, kind="instance", label_names=["cat", "dog"])
    first, empty = (item.inputs for item in task.encode(rows, "loss", 0))
    assert first["pixel_values"].shape == (3, 32, 32)
    assert first["class_labels"].tolist() == [1, 0]
    for number, found in enumerate(first["mask_labels"], 1):
        assert found[:16].equal(torch.from_numpy(ids == number))
    assert not first["mask_labels"][:, 16:].any()
    assert empty["mask_labels"].shape == (0, 32, 32)
    with torch.no_grad():
        losses = task.row_losses(model, task.collate(task.encode(rows, "loss", 0), "loss"))
    assert torch.isfinite(losses).all()


def test_what_cannot_be_right_is_refused(tmp_path) -> None:
    task, model, _ = make(kind="semantic")
    model.save_pretrained(tmp_path)
    task.processor.do_split_image = True
    task.processor.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"divides images(.|\n)*`do_split_image: false`"):
        make(tmp_path, kind="semantic")
    with pytest.raises(UsageError, match="the network takes squares of 32 pixels"):
        make(kind="semantic", image_size=64)
