"""A machine that breaks at a point: files, renames, steps and news of a run are counted, and one of them fails.

Entry points: `Machine`, on which a process runs inside `on`, and `Fault`, which says where it breaks. The simulator
that plays seeds is in `fault_simulator`.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork import hookimpl

#: kinds of points -> the faults that may happen there
FAULTS = {
    "write": ("kill", "full", "full for good", "short", "short kill", "power", "signal"),
    "torch": ("kill", "full", "full for good", "short", "short kill", "power", "signal"),
    "fsync": ("kill", "failed", "full for good", "power", "signal"),
    "rename": ("kill", "kill after", "failed", "power", "signal"),
    "mkdir": ("kill", "full", "signal"),
    "remove": ("kill", "kill after", "failed", "power", "signal"),
    "read": ("kill", "failed"),
    "step": ("kill", "signal", "power"),
    "news": ("kill", "error", "exit", "signal"),
    "worker": ("kill",),
}
KILLED = 137


@dataclass(frozen=True)
class Fault:
    """A fault at the point of a number.

    Args:
        point: how many points come before it.
        kind: of the faults that its kind of point has; drawn there, by `chance`.
        chance: draws the kind.
    """

    point: int
    chance: int


class Observer:
    """Plugin that hears all news of a run: each is a point."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @hookimpl
    def run_started(self, run: Any) -> None:
        self.machine.news("run_started")

    @hookimpl
    def stage_started(self, run: Any) -> None:
        self.machine.news("stage_started")

    @hookimpl
    def step_logged(self, step: int) -> None:
        self.machine.news("step_logged")

    @hookimpl
    def stage_done(self, run: Any) -> None:
        self.machine.news("stage_done")

    @hookimpl
    def run_failed(self, run: Any) -> None:
        self.machine.news("run_failed")

    @hookimpl
    def run_done(self, run: Any) -> None:
        self.machine.news("run_done")


class Machine:
    """The machine under a run: counts its points, and does its fault at one of them.

    Args:
        root: files elsewhere are left alone.
        fault: what happens, or None.
    """

    def __init__(self, root: Path, fault: Fault | None = None) -> None:
        self.root, self.fault = str(root), fault
        self.points: list[str] = []
        self.full = False
        self.done: str | None = None  # what was done
        self._flushed: set[int] = set()
        self._began = time.time_ns()
        self._process = os.getpid()

    # -------------------------------------------------------------- points

    def at(self, kind: str, name: str) -> str | None:
        """Count a point; return the fault that happens there, or None."""
        self.points.append(f"{kind} {name}")
        if self.fault is None or len(self.points) - 1 != self.fault.point:
            return None
        faults = FAULTS[kind]
        chosen = faults[self.fault.chance % len(faults)]
        self.done = f"{chosen} at {kind} {name}"
        if chosen in ("kill", "power"):
            self.kill(power=chosen == "power")
        if chosen == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
            return None
        if chosen == "full for good":
            self.full = True
        return chosen

    def kill(self, power: bool = False) -> None:
        """End the process at once; with `power`, what was written and not flushed is lost by half."""
        if power:
            for folder, _, names in os.walk(self.root):
                for name in names:
                    file = os.path.join(folder, name)
                    known = os.stat(file)
                    if known.st_mtime_ns >= self._began and known.st_ino not in self._flushed:
                        os.truncate(file, known.st_size // 2)
        self.note()
        os._exit(KILLED)

    def note(self) -> None:
        """Write what was done for whoever started this process."""
        with REAL["open"](f"{self.root}.fault", "w") as file:
            file.write(self.done or "")

    def news(self, name: str) -> None:
        chosen = self.at("news", name)
        if chosen == "error":
            raise RuntimeError("the tracker is down")
        if chosen == "exit":
            raise SystemExit(0)

    def inside(self, path: Any) -> str | None:
        """Return a path relative to the run folder, without chance in its name; None for what lies elsewhere."""
        if isinstance(path, int):
            return None
        text = os.path.abspath(os.fspath(path))
        if not isinstance(text, str) or not text.startswith(self.root + os.sep):
            return None
        return re.sub(r"(?<=\.)[a-z0-9_]{8}(?=\.partial)", "RANDOM", text[len(self.root) + 1 :])

    # -------------------------------------------------------------- what the run calls

    def open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        name = self.inside(file)
        if name is None or os.getpid() != self._process:
            return REAL["open"](file, mode, *arguments, **options)
        writes = any(letter in mode for letter in "wax+")
        if writes and self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        chosen = self.at("write" if writes else "read", name)
        if chosen in ("full", "full for good"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        if chosen == "failed":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        opened = REAL["open"](file, mode, *arguments, **options)
        return _Short(opened, self, chosen == "short kill") if chosen in ("short", "short kill") else opened

    def write_tensors(self, real: Callable[..., Any], error: Callable[[], Exception]) -> Callable[..., Any]:
        """Return a function that writes a file by code of another language, with the points of a write."""

        def write(content: Any, file: Any, *arguments: Any, **options: Any) -> Any:
            name = self.inside(file)
            if name is None:
                return real(content, file, *arguments, **options)
            chosen = "full" if self.full else self.at("torch", name)
            if chosen in ("full", "full for good"):
                self.full = True  # whoever asks the system afterwards must hear it too
                raise error()
            result = real(content, file, *arguments, **options)
            if chosen in ("short", "short kill"):
                os.truncate(file, os.stat(file).st_size // 2)
                if chosen == "short kill":
                    self.kill()
                self.full = True
                raise error()
            return result

        return write

    def fsync(self, descriptor: int) -> None:
        name = self.inside(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name is not None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            chosen = self.at("fsync", name)
            if chosen in ("failed", "full for good"):
                number = errno.EIO if chosen == "failed" else errno.ENOSPC
                raise OSError(number, os.strerror(number))
            self._flushed.add(os.fstat(descriptor).st_ino)
        # what the system does with it costs time and shows nothing here

    def path_call(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that renames, removes or makes a path, with its points."""

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            descriptor = options.get("dir_fd")
            whole = path
            if descriptor is not None and not isinstance(path, int):
                whole = os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), os.fspath(path))
            name = self.inside(whole)
            if name is None or os.getpid() != self._process:
                return real(path, *arguments, **options)
            chosen = self.at(kind, name)
            if chosen in ("full", "full for good", "failed"):
                number = errno.EIO if chosen == "failed" else errno.ENOSPC
                raise OSError(number, os.strerror(number), str(whole))
            result = real(path, *arguments, **options)
            if chosen == "kill after":
                self.kill()
            return result

        return call


class _Short:
    """A file whose first write writes half, and then fails or ends the process."""

    def __init__(self, file: Any, machine: Machine, kills: bool) -> None:
        self._file, self._machine, self._kills = file, machine, kills

    def write(self, content: Any) -> int:
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        if self._kills:
            self._machine.kill()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> _Short:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


#: calls as they are outside of a machine
REAL: dict[str, Any] = {"open": io.open}


@contextmanager
def on(machine: Machine) -> Iterator[None]:
    """Let this process run on a machine."""
    import safetensors
    import safetensors.torch
    import torch
    import transformers.modeling_utils

    from topwork.training import dataset, trainer

    def refuse() -> Exception:
        return RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 960 vs 854")

    def refuse_rust() -> Exception:
        return safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
        def compute_loss(self: Any, *arguments: Any, **options: Any) -> Any:
            machine.at("step", str(self.state.global_step))
            return real(self, *arguments, **options)

        return compute_loss

    def reading(real: Callable[..., Any]) -> Callable[..., Any]:
        def getitem(self: Any, key: Any) -> Any:
            if os.getpid() != machine._process and machine.fault is not None:
                machine.at("worker", str(key))
            return real(self, key)

        return getitem

    replaced = [
        (builtins, "open", machine.open), (io, "open", machine.open), (os, "fsync", machine.fsync),
        (os, "replace", machine.path_call("rename", os.replace)),
        (os, "rename", machine.path_call("rename", os.rename)),
        (os, "mkdir", machine.path_call("mkdir", os.mkdir)), (os, "unlink", machine.path_call("remove", os.unlink)),
        (os, "rmdir", machine.path_call("remove", os.rmdir)),
        (torch, "save", machine.write_tensors(torch.save, refuse)),
        (safetensors.torch, "save_file", machine.write_tensors(safetensors.torch.save_file, refuse_rust)),
        (transformers.modeling_utils, "safe_save_file",
         machine.write_tensors(transformers.modeling_utils.safe_save_file, refuse_rust)),
        (trainer.TaskTrainer, "compute_loss", stepping(trainer.TaskTrainer.compute_loss)),
        (dataset.TrainingDataset, "__getitem__", reading(dataset.TrainingDataset.__getitem__)),
    ]  # fmt: skip
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in replaced]
    for holder, name, value in replaced:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
