"""Depth maps in OpenEXR files, written by the OpenEXR project's own package."""

from __future__ import annotations

import sys

import numpy as np
import OpenEXR
import pytest

from topwork import DataError, UsageError
from topwork_tasks.depth_estimation import depth_maps as _depth

METRES = np.array([[1.0, 2.5, 0.0], [4.0, 65.0, 7.25]], np.float32)


def written(path, channels):
    OpenEXR.File({"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}, channels).write(str(path))
    return path


@pytest.mark.parametrize(
    "channels",
    [
        {"Z": METRES},
        {"something": METRES},
        {"RGB": np.stack([METRES] * 3, -1)},
        {"RGB": np.stack([METRES, METRES * 2, METRES], -1), "view.Depth": METRES},
        {"Y": METRES.astype(np.float16), "A": np.ones_like(METRES)},
    ],
    ids=["Z", "only one", "grey", "beside colours", "half"],
)
def test_depth_is_found_among_the_channels(channels, tmp_path) -> None:
    path = written(tmp_path / "depth.exr", channels)
    for value in (str(path), path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, {"path": str(path)}):
        assert np.array_equal(_depth.open_depth(value, 0, (3, 2), 1, None), METRES)
    assert _depth.open_depth(str(path), 0, (3, 2), 2, 10.0)[1].tolist() == [2.0, 0.0, 3.625]


def test_what_is_no_depth_is_refused(tmp_path, monkeypatch) -> None:
    colours = written(tmp_path / "colours.exr", {"RGB": np.stack([METRES, METRES * 2, METRES], -1)})
    with pytest.raises(DataError, match=r"row 3, column 'depth': cannot be read .*which of them is the depth"):
        _depth.open_depth(str(colours), 3, None, 1, None)
    (tmp_path / "broken.exr").write_bytes(colours.read_bytes()[:40])
    with pytest.raises(DataError, match="column 'depth': cannot be read as a depth map"):
        _depth.open_depth(str(tmp_path / "broken.exr"), 0, None, 1, None)
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UsageError, match=r"pip install topwork\[exr\]"):
        _depth.open_depth(str(colours), 0, None, 1, None)
