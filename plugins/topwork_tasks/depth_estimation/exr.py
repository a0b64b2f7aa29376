"""Depth maps in OpenEXR files, read by the OpenEXR project's own package, an extra (`topwork[exr]`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import UsageError

if TYPE_CHECKING:
    import numpy

_MAGIC = b"\x76\x2f\x31\x01"
_DEPTH = ("z", "depth", "y")  # Y: an image of one channel


def is_exr(value: Any) -> bool:
    """Return whether a value is an OpenEXR file: a path with its suffix, or bytes that begin like one."""
    if isinstance(value, Mapping):
        return is_exr(value.get("bytes") or value.get("path"))
    if isinstance(value, bytes):
        return value.startswith(_MAGIC)
    return isinstance(value, str | Path) and str(value).lower().endswith(".exr")


def read_exr(value: Any) -> numpy.ndarray:
    """Read float32 [height, width]: the only channel, the one called Z, depth or Y, or any where all are equal.

    Raises:
        UsageError: the package is not installed.
        ValueError: no file that it can read, or several channels of which none is the depth.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise UsageError(
            f"EXR files need the package OpenEXR: {error}",
            hint="pip install topwork[exr], or store depth as .npy or 16-bit PNG",
        ) from error
    if isinstance(value, Mapping):
        value = value.get("bytes") or value["path"]
    if isinstance(value, bytes):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "depth.exr"
            file.write_bytes(value)
            return read_exr(file)
    try:
        with OpenEXR.File(str(value), separate_channels=True) as exr:
            channels = {name: channel.pixels for name, channel in exr.channels().items()}
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return _chosen(channels)


def _chosen(channels: Mapping[str, numpy.ndarray]) -> numpy.ndarray:
    import numpy

    visible = {
        name: pixels for name, pixels in channels.items() if name.rpartition(".")[2].lower() not in ("a", "alpha")
    }
    named = [pixels for name, pixels in visible.items() if name.rpartition(".")[2].lower() in _DEPTH]
    candidates = list(visible.values())
    if len(named) == 1:
        candidates = named
    if not candidates or any(not numpy.array_equal(candidates[0], pixels, equal_nan=True) for pixels in candidates[1:]):
        raise ValueError(f"its channels are {', '.join(channels)}: which of them is the depth is not clear")
    return candidates[0].astype(numpy.float32)
