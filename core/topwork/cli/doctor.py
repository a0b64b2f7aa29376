"""Checks of `topwork doctor`: everything about an installation that has been seen to go wrong, each with its hint.

Entry point: `diagnose`.

A check never raises: a question that it cannot answer is a finding too.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

LEAST_PYTHON = (3, 11)
AUDIO = ("soundfile", "soxr")
LEAST_FREE = 5  # GB: a base model, its checkpoints and a prepared data set


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        name: subject of the check.
        ok: nothing to do.
        detail: the value or the fault.
        hint: what to do about it; empty when ok.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""


def diagnose(plugins: Plugins) -> Iterator[Finding]:
    """Run all checks, in the order in which they are worth fixing. Imports torch and torchvision."""
    yield check_python(sys.version_info[:3])
    yield from check_versions()
    yield check_pair()
    yield check_audio()
    yield check_threads(dict(os.environ), usable_cores())
    yield check_kernels()
    yield check_gpu()
    yield from check_plugins(plugins)
    yield check_offline(dict(os.environ))
    yield check_cache(hub_cache(dict(os.environ)))
    yield check_disk(Path.cwd())


def check_python(version: tuple[int, ...]) -> Finding:
    """Check that Python is 3.11 or newer."""
    text = ".".join(map(str, version))
    if version >= LEAST_PYTHON:
        return Finding("python", True, text)
    return Finding("python", False, text, f"install Python {'.'.join(map(str, LEAST_PYTHON))} or newer")


def check_versions(package: str = "topwork") -> Iterator[Finding]:
    """Check that every required package is installed in the range that was tested; extras have checks of their own."""
    try:
        wanted = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        yield Finding(
            package, False, "is not installed as a package", "pip install topwork, or pip install -e . in a checkout"
        )
        return
    for line in wanted:
        finding = check_requirement(line)
        if finding is not None:
            yield finding


def check_requirement(line: str) -> Finding | None:
    """Check a requirement such as `transformers<6,>=5.17`; return None for that of an extra."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        return Finding(line, False, f"cannot be read: {error}", "install topwork again")
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    name, hint = requirement.name, f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, "is not installed", hint)
    if requirement.specifier.contains(installed, prereleases=True):
        return Finding(name, True, installed)
    return Finding(name, False, f"{installed}, and topwork is tested with {requirement.specifier}", hint)


def check_pair() -> Finding:
    """Check that torch and torchvision are built for each other: operators are looked up when they are used."""
    hint = "install both from the same package index: pip install --force-reinstall torch torchvision"
    try:
        import torch
        import torchvision
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:  # whatever a broken pair raises: it is what we look for
        text = " ".join(str(error).split())[:200]
        return Finding("torch with torchvision", False, f"do not work together: {type(error).__name__}: {text}", hint)
    return Finding("torch with torchvision", True, f"{torch.__version__} with {torchvision.__version__}")


def check_audio() -> Finding:
    """Check the two optional packages that reading audio needs."""
    missing = [name for name in AUDIO if not _importable(name)]
    if missing:
        detail = f"{', '.join(missing)} not installed: recordings cannot be read"
        return Finding("audio decoder", False, detail, "pip install 'topwork[audio]' (needed for audio tasks only)")
    return Finding("audio decoder", True, ", ".join(AUDIO))


def _importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_threads(environment: dict[str, str], cores: int) -> Finding:
    """Check that there are no more threads than cores: a small model gets up to 60 times slower, for threads spin."""
    processes = max(_number(environment, "LOCAL_WORLD_SIZE"), 1)
    if "LOCAL_WORLD_SIZE" not in environment:
        processes = max(_number(environment, "WORLD_SIZE"), 1)
    threads = _number(environment, "OMP_NUM_THREADS") or cores
    detail = f"{processes} processes x {threads} threads on {cores} cores"
    if processes * threads <= cores:
        return Finding("threads", True, detail)
    return Finding("threads", False, detail, f"export OMP_NUM_THREADS={max(cores // processes, 1)}")


def check_kernels() -> Finding:
    """Name the kernels that models run with on this CPU; the first call measures them."""
    from topwork.errors import TopworkError
    from topwork.kernels.selection import choice

    try:
        return Finding("CPU kernels", True, str(choice()))
    except TopworkError as error:
        return Finding("CPU kernels", False, error.cause, error.hint or "unset TOPWORK_KERNELS")


def usable_cores() -> int:
    """Return the number of cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_gpu() -> Finding:
    """Name the GPU that runs would use; a driver that torch cannot use is a fault, and no GPU is none."""
    import torch

    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        count = torch.cuda.device_count()
        bf16 = "with" if torch.cuda.is_bf16_supported(including_emulation=False) else "without"
        detail = f"{count} x {torch.cuda.get_device_name(index)}, {free:.0f} of {total:.0f} GB free, {bf16} bf16"
        return Finding("GPU", True, detail)
    if Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        hint = "install the torch of the driver's CUDA version, or update the driver: nvidia-smi names it"
        return Finding("GPU", False, f"there is a driver, but torch, built for {built}, cannot use it", hint)
    return Finding("GPU", True, "none: runs use the CPU")


def _number(environment: dict[str, str], name: str) -> int:
    match = re.match(r"\d+", environment.get(name, ""))
    return int(match.group()) if match else 0


def check_plugins(plugins: Plugins) -> Iterator[Finding]:
    """Report the plugins that were left out."""
    if not plugins.failed:
        yield Finding("plugins", True, f"{len(plugins.loaded)} loaded")
    for plugin in plugins.failed:
        hint = f"mend or update {plugin.package}, or disable it: {plugin.disable}"
        yield Finding(f"plugin {plugin.name}", False, plugin.error, hint)


def check_offline(environment: dict[str, str]) -> Finding:
    """Report offline mode: no fault, but the reason why a model is not found."""
    switched = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(environment.get(name, ""))]
    switched += ["HF_DATASETS_OFFLINE"] if _is_on(environment.get("HF_DATASETS_OFFLINE", "")) else []
    text = f"offline ({', '.join(switched)}): only what is in the cache is found" if switched else "online"
    return Finding("Hub", True, text)


def _is_on(value: str) -> bool:
    return value.upper() in ("1", "ON", "YES", "TRUE")


def hub_cache(environment: dict[str, str]) -> Path:
    """Return the folder of the Hub's files, as huggingface_hub chooses it."""
    if environment.get("HF_HUB_CACHE"):
        return Path(environment["HF_HUB_CACHE"]).expanduser()
    caches = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(environment["HF_HOME"]).expanduser() if environment.get("HF_HOME") else caches / "huggingface"
    return home / "hub"


def check_cache(folder: Path) -> Finding:
    """Check that the cache is writable: else nothing can be downloaded."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        detail = f"{folder} cannot be written: {error.strerror}"
        return Finding("Hub cache", False, detail, "export HF_HOME=<a folder of yours>")
    return Finding("Hub cache", True, str(folder))


def check_disk(folder: Path) -> Finding:
    """Check the free space where runs store their checkpoints."""
    free = shutil.disk_usage(folder).free / 1e9
    if free >= LEAST_FREE:
        return Finding("free disk", True, f"{free:.0f} GB")
    hint = "free some, or put run folders elsewhere with --folder"
    return Finding("free disk", False, f"{free:.1f} GB at {folder}", hint)
