"""depth-estimation against plain transformers (pipeline, GLPN's loss) and numpy."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
import vision_tasks
from dense_models import DEPTH_ANYTHING, DPT, GLPN, SEGFORMER, SWIN, VIT
from PIL import Image
from tolerance import about, close
from vision_tasks import predictions

from topwork import DataError, RowsOptions, UsageError
from topwork.testing import check_task
from topwork_bases.samples.plugin import DENSE
from topwork_tasks.depth_estimation import depth_maps as _depth
from topwork_tasks.depth_estimation.task import DepthEstimation

NATIVE = {"glpn": (GLPN, {}), "dpt": (DPT, {}), "depth_anything": (DEPTH_ANYTHING, {"image_size": 28})}


def make(source=SEGFORMER, rows=None, **options):
    return vision_tasks.make(DepthEstimation, source, rows, **options)


CONTRACTS = {
    "glpn": (GLPN, {}),
    "plain vit": (VIT, {"loss": "l1", "augment": "standard"}),
    "swin": (SWIN, {"write_as": "png16", "decoder": "linear", "max_depth": 9.0}),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_the_contract_holds(case, tmp_path, plugins) -> None:
    config, options = CONTRACTS[case]
    check_task(DepthEstimation, {"config": config}, tmp_path, plugins=plugins, options=options)


@pytest.mark.parametrize("family", NATIVE)
def test_predictions_equal_the_pipeline_and_glpns_loss_its_own(family, tmp_path) -> None:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, GLPNImageProcessor, pipeline

    config, options = NATIVE[family]
    task, model, rows = make(config, **options)
    with torch.no_grad():  # random weights give nearly one depth for all pixels, whose differences are rounding
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    model.save_pretrained(tmp_path)
    (GLPNImageProcessor() if family == "glpn" else task.processor).save_pretrained(tmp_path)
    task, model, _ = make(tmp_path)
    plain = AutoModelForDepthEstimation.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    asked = pipeline("depth-estimation", model=plain, image_processor=processor, device="cpu")
    for row, ours in zip(rows, predictions(task, model, rows), strict=True):
        theirs = asked(row["image"])
        expected = theirs["predicted_depth"].clamp(min=0).numpy()
        assert np.ptp(expected) > 1e-3 * expected.max()
        assert ours["predicted_depth"] == about(expected)
        assert ours["predicted_depth"].shape == (40, 48)
        assert np.abs(np.asarray(ours["depth"], int) - np.asarray(theirs["depth"], int)).mean() <= 1
    if family == "glpn":
        batch = task.collate(task.encode(rows, "loss", 0), "loss")
        with torch.no_grad():
            found = task.row_losses(model, batch)
            for number, loss in enumerate(found):
                inputs = {name: batch.inputs[name][number : number + 1] for name in ("pixel_values", "labels")}
                close(loss, plain(**inputs).loss)


def test_losses_follow_their_formulas() -> None:
    random = np.random.default_rng(0)
    truth, found = random.uniform(1, 9, (2, 8, 10)), random.uniform(1, 9, (2, 8, 10))
    truth[0, :3] = 0
    tensors = torch.from_numpy(found), torch.from_numpy(truth)
    for number in range(2):
        valid = truth[number] > 0
        t, p = truth[number][valid], found[number][valid]
        d = np.log(t) - np.log(p)
        silog = np.sqrt((d**2).mean() - 0.85 * d.mean() ** 2)
        assert _depth.depth_losses(*tensors, "silog", 0.85)[number].item() == about(silog)
        assert _depth.depth_losses(*tensors, "l1", 0)[number].item() == about(np.abs(t - p).mean())
    whole = tensors[1][1:], tensors[1][1:] * 3 + 2  # the same but for scale and shift
    assert _depth.depth_losses(*whole, "scale_shift_invariant", 0).item() == about(0, scale=1)
    assert _depth.depth_losses(*tensors, "scale_shift_invariant", 0)[1].item() > 0.1
    assert _depth.depth_losses(tensors[0], tensors[1] * 0, "silog", 0.5).tolist() == [0, 0]


@pytest.mark.parametrize("config", [DPT, DEPTH_ANYTHING, VIT])
def test_a_random_head_begins_at_a_depth_and_moves(config) -> None:
    options = {"image_size": 28} if config is DEPTH_ANYTHING else {}
    task, model, rows = make(config, **options)
    start = predictions(task, model, rows)[0]["predicted_depth"].mean()
    assert start == pytest.approx(task.state.values["typical_depth"], rel=0.1)
    model.train()
    task.loss(model, task.collate(task.encode(rows, "train", 0), "train")).backward()
    moved = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()]
    assert np.mean(moved) > 0.6


@pytest.mark.parametrize("align", ["none", "median", "scale_shift"])
def test_metrics_equal_numpy(align) -> None:
    random = np.random.default_rng(1)
    task, _, _ = make(max_depth=8.0, align=align)
    first, second, expected = task.metric(), task.metric(), []
    squares = []
    for number in range(6):
        truth = random.uniform(0.5, 10, (12, 9)).astype(np.float32)
        truth[0, :4] = (0, np.nan, np.inf, -1)
        guess = (truth * random.uniform(0.7, 1.4, truth.shape)).astype(np.float32)
        guess[~np.isfinite(guess)] = 1
        guess = np.maximum(guess, 0)
        (first if number % 2 else second).update(
            {"image": Image.new("RGB", (9, 12)), "depth": truth}, _depth.Depth(guess)
        )
        valid = np.isfinite(truth) & (truth > 0) & (truth <= 8)
        t, p = truth[valid].astype(np.float64), guess[valid].astype(np.float64)
        if align == "median":
            p = p * np.median(t) / np.median(p)
        elif align == "scale_shift":
            slope, shift = np.polyfit(p, t, 1)
            p = slope * p + shift
        p = p.clip(1e-3, 8)
        ratio = np.maximum(t / p, p / t)
        squares.extend((t - p) ** 2)
        expected.append(
            [
                np.mean(np.abs(t - p) / t),
                np.sqrt(np.mean((t - p) ** 2)),
                np.mean(np.abs(np.log10(t) - np.log10(p))),
                *(np.mean(ratio < 1.25**power) for power in (1, 2, 3)),
            ]
        )
    first.update({"image": None, "depth": np.zeros((12, 9))}, _depth.Depth(guess))
    first.merge(pickle.loads(pickle.dumps(second)))
    result = first.result()
    assert [result[key] for key in first.keys] == pytest.approx(np.mean(expected, 0).tolist(), rel=1e-6)
    assert result["rmse_of_pixels"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)
    assert result["rows_without_depth"] == 1
    assert len(pickle.dumps(first)) < 1024


def test_the_ways_to_write_depth_mean_the_same(tmp_path) -> None:
    metres = np.array([[1.0, 2.5, 0.0], [4.0, 65.0, 7.25]], np.float32)
    millimetres = (metres * 1000).astype(np.uint16)
    np.save(tmp_path / "depth.npy", metres)
    Image.fromarray(millimetres).save(tmp_path / "depth.png")
    Image.fromarray(metres).save(tmp_path / "depth.tiff")
    ways = [
        (metres, 1),
        (metres.tolist(), 1),
        (metres[None], 1),
        (Image.fromarray(metres), 1),
        (str(tmp_path / "depth.npy"), 1),
        (str(tmp_path / "depth.tiff"), 1),
        (millimetres, 1000),
        (str(tmp_path / "depth.png"), 1000),
        (Image.fromarray(millimetres), 1000),
        (Image.fromarray(millimetres.astype(np.int32)), 1000),
        ({"bytes": (tmp_path / "depth.png").read_bytes(), "path": None}, 1000),
    ]
    for value, scale in ways:
        assert _depth.open_depth(value, 0, (3, 2), scale, None) == pytest.approx(metres)
    assert _depth.open_depth(metres, 0, (3, 2), 1, 10.0)[1].tolist() == [4.0, 0.0, 7.25]


BAD = {
    "none": ({"depth": None}, "column 'depth': is empty"),
    "another size": ({"depth": np.ones((40, 40))}, "is 40 x 40 pixels, its image 48 x 40"),
    "all NaN": ({"depth": np.full((40, 48), np.nan)}, "has no valid pixel"),
    "too deep": ({"depth": np.full((40, 48), 99.0)}, "has no valid pixel"),
    "colour picture": ({"depth": Image.new("RGB", (48, 40))}, "cannot be read as a depth map: it has 3 dimensions"),
    "broken": ({"depth": {"bytes": b"II*\x00", "path": None}}, "cannot be read as a depth map"),
    "ragged list": ({"depth": [[1.0, 2.0], [3.0]]}, "cannot be read as a depth map"),
    "no image": ({"image": None}, "column 'image': is empty"),
    "broken image": ({"image": b"\xff\xd8\xff"}, "column 'image': cannot be read as an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_by_name(case) -> None:
    task, _, rows = make(max_depth=20.0)
    change, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        task.encode([rows[0], {**rows[1], **change}], "loss", 0)
    assert caught.value.row == 1
    with pytest.raises(DataError, match="column 'depth': is missing"):
        task.encode([{"image": rows[0]["image"]}], "loss", 0)


def test_pixels_without_depth_do_not_count_and_crops_are_refused(tmp_path) -> None:
    from transformers import ViTImageProcessor

    task, model, rows = make()
    row = {**rows[0], "depth": rows[0]["depth"].copy()}
    row["depth"][5:20] = np.nan
    with torch.no_grad():
        loss = task.row_losses(model, task.collate(task.encode([row], "loss", 0), "loss"))
    assert torch.isfinite(loss).all()
    model.backbone.backbone.save_pretrained(tmp_path)
    ViTImageProcessor(do_center_crop=True, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="do_center_crop"):
        make(tmp_path)


@pytest.mark.parametrize("kind", ["npy", "png16"])
def test_predictions_are_never_negative_and_come_back_from_their_files(kind, tmp_path) -> None:
    steep = torch.zeros(8, 8)
    steep[4:] = 9.0
    depth = _depth.Depth(_depth.to_image_size(steep, (50, 30)))
    assert depth["predicted_depth"].min() == 0
    assert depth["predicted_depth"].shape == (30, 50)
    task, _, rows = make(write_as=kind)
    written = json.loads(json.dumps(task.write(depth, tmp_path, "0001")))
    file = tmp_path / written["predicted_depth"]
    read = _depth.open_depth(str(file), 0, (50, 30), written.get("depth_scale", 1), None)
    assert read == pytest.approx(depth["predicted_depth"], abs=6e-4)
    with Image.open(tmp_path / written["depth"]) as grey:
        assert (grey.mode, grey.size) == ("L", (50, 30))
    assert repr(pickle.loads(pickle.dumps(depth))) == repr(depth)
    picture = task.draw(rows[0], _depth.Depth(np.nan_to_num(rows[0]["depth"])))
    assert picture.badness == about(0, scale=1)


def test_the_sample_has_exact_depth_and_other_scenes_for_the_test() -> None:
    train, test = (
        DENSE.load_rows("sample:depth-scenes", RowsOptions(path="sample:depth-scenes", split=split))
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (2000, 200)
    seen = {train[number]["image"].tobytes() for number in range(200)}
    assert not any(row["image"].tobytes() in seen for row in test.select(range(50)))
    depth = np.asarray(test[0]["depth"])
    assert depth.dtype == np.float32
    assert depth.shape == (64, 64)
    assert 1 < depth.min() < depth.max() < 12
