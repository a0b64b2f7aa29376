"""Measurement of CPU kernels: made once for a CPU model and torch version, then kept in the user's cache.

Entry point: `measured`. The cache is one small JSON file for each key; the first process that writes it decides, so
all runs on a machine make the same choice. A damaged file is measured again; without a writable folder the measurement
lasts as long as the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

#: rows, inputs and outputs of the measured product: a layer of a small transformer with 8 texts of 32 tokens
ROWS, INPUTS, OUTPUTS = 256, 384, 1536
REPEATS = 7
KEYS = ("onednn", "bf16", "frozen_bf16_attention")


@cache
def measured() -> Mapping[str, float]:
    """Return the speed of kernels relative to torch's default float32 ones; above 1 is faster.

    Returns:
        "onednn": float32 products by oneDNN relative to the default;
        "bf16": products under autocast, weights cast once, relative to float32;
        "frozen_bf16_attention": forward and backward of attention computed unfused in bf16, relative to torch's fused
        kernel in bf16.
    """
    file = cache_file()
    speeds = _read(file)
    if speeds is None:
        speeds = _first_writer(file, _measure())
    return speeds


def cpu_model() -> str:
    """Return the model name of the CPU, or its architecture where the system does not tell it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_file() -> Path:
    """Return the file of this CPU, torch version and set of instructions (which environment variables can limit)."""
    limits = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    key = f"{cpu_model()} | torch {torch.__version__} | {torch.backends.cpu.get_cpu_capability()} {limits}".strip()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "topwork" / "kernels"
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> dict[str, float] | None:
    """Return the speeds in a cache file; None when it is absent or damaged."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        speeds = {name: float(content[name]) for name in KEYS}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return speeds if all(speed > 0 for speed in speeds.values()) else None


def _first_writer(file: Path, speeds: dict[str, float]) -> dict[str, float]:
    """Write the speeds unless another process was faster; return those that stand in the file."""
    content = json.dumps({"cpu": cpu_model(), "torch": torch.__version__, **speeds}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(content)
        try:
            if _read(file) is None and file.exists():
                os.replace(temporary, file)  # damaged
            else:
                os.link(temporary, file)  # fails when another process has written it meanwhile
                os.unlink(temporary)
        except FileExistsError:
            os.unlink(temporary)
    except OSError:  # a read-only home, a full disk, a file system without links
        return _read(file) or speeds
    return _read(file) or speeds


# ---------------------------------------------------------------- the measurement


def _measure() -> dict[str, float]:
    from topwork.kernels.bf16 import unfused_attention
    from topwork.kernels.onednn import is_available, product

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, INPUTS, generator=generator)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator)
    half = weight.bfloat16()
    states = [torch.randn(4, 12, 64, 64, generator=generator).bfloat16() for _ in range(3)]
    with torch.no_grad():
        forward = {"plain": lambda: linear(values, weight), "bf16": lambda: linear(values.bfloat16(), half).float()}
        if is_available():
            forward["onednn"] = lambda: product(values, weight)
        seconds = _fastest(forward)
    attention = _fastest(
        {
            "fused": lambda: _forward_and_backward(scaled_dot_product_attention, states),
            "unfused": lambda: _forward_and_backward(unfused_attention, states),
        }
    )
    return {
        "onednn": round(seconds["plain"] / seconds["onednn"], 3) if "onednn" in seconds else 0.001,
        "bf16": round(seconds["plain"] / seconds["bf16"], 3),
        "frozen_bf16_attention": round(attention["fused"] / attention["unfused"], 3),
    }


def _forward_and_backward(attention: Callable[..., torch.Tensor], states: list[torch.Tensor]) -> None:
    with torch.enable_grad():
        leaves = [state.detach().requires_grad_() for state in states]
        attention(*leaves).sum().backward()


def _fastest(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least seconds of each function; they are called in turn, so that a busy machine slows all alike."""
    for function in functions.values():
        function()
    seconds = dict.fromkeys(functions, float("inf"))
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds
