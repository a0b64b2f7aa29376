"""A seeded simulator of faults: a small run is broken at a point, resumed, and compared with an unbroken one.

`python tests/helpers/fault_simulator.py --seeds 500` runs many seeds and lists those that fail; `--only SEED` repeats
one and tells what it does. Entry point for tests: `Simulator`.

Points are what the run does to the machine (files that are opened, written, flushed, renamed and removed, folders that
are made), the steps of its training, and the news that observers hear. Faults are kills, a full disk, short writes,
flushes that fail, a cut of the power that loses what was not flushed, signals, observers that fail, and the death of a
worker. After each the run either ends as the unbroken one to the last bit, or is refused with the file.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import gc
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import topwork
from topwork import TopworkError, hookimpl
from topwork.system.errors import translate_system_error
from topwork.system.signals import Stopped, listening

CONFIG = {
    "model_type": "bert", "vocab_size": 60, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
WORDS = {"good": ("fine", "lovely"), "bad": ("awful", "poor")}
#: keys of results that are times
TIMED = ("items_per_second", "rows_per_second", "seconds", "output_seconds", "megabytes")
#: what transformers adds to the configuration of a tokenizer that was loaded from a folder
LOADED = ("is_local", "local_files_only", "max_length", "stride", "truncation_side", "truncation_strategy")
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
        with _REAL["open"](f"{self.root}.fault", "w") as file:
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
            return _REAL["open"](file, mode, *arguments, **options)
        writes = any(letter in mode for letter in "wax+")
        if writes and self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        chosen = self.at("write" if writes else "read", name)
        if chosen in ("full", "full for good"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        if chosen == "failed":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        opened = _REAL["open"](file, mode, *arguments, **options)
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


_REAL: dict[str, Any] = {"open": io.open}


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


# ------------------------------------------------------------------ runs in processes of their own


@dataclass
class Outcome:
    """How a process ended.

    Args:
        ended: "done", "killed", "stopped", "refused" (an error of topwork or of the system) or "broken".
        text: the error.
        points: of the machine, when the process ended by itself.
        fault: what was done.
    """

    ended: str
    text: str = ""
    points: tuple[str, ...] = ()
    fault: str | None = None


class Simulator:
    """Runs of one recipe, broken by seeds.

    Args:
        folder: for all runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"text": f"{word} thing {n}", "label": label} for label, words in WORDS.items() for word in words * 3
                for n in range(2)]  # fmt: skip
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.plugins = topwork.load_plugins()
        # what is imported and made once costs every later process nothing
        topwork.run(self.recipe(0), folder=folder / "first", plugins=self.plugins, quiet=True)
        topwork.resume(folder / "first", plugins=self.plugins, quiet=True)
        gc.collect()
        gc.freeze()  # accelerate collects garbage after each training, and would look through all that was imported
        self.whole: dict[int, tuple[Path, Outcome]] = {}
        for workers in (0, 1):
            root = folder / f"whole-{workers}" / "run"
            outcome = self.process(root, Machine(root), workers, resume=False)
            if outcome.ended != "done":
                raise RuntimeError(f"the unbroken run fails: {outcome.text}")
            self.whole[workers] = (root, outcome)

    def recipe(self, workers: int) -> dict[str, Any]:
        options = {"steps": 6, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 2, "workers": workers}
        return {
            "task": "text-classification",
            "base": {"config": CONFIG},
            "data": {"train": str(self.folder / "rows.jsonl"), "evaluate": {"cut": 6}},
            "stages": [{"train": options}, "evaluate", {"predict": {"role": "evaluate"}}, "save"],
        }

    def process(self, root: Path, machine: Machine, workers: int, *, resume: bool) -> Outcome:
        """Run or resume in a process of its own, on a machine."""
        root.parent.mkdir(parents=True, exist_ok=True)
        note, report = Path(f"{root}.fault"), Path(f"{root}.outcome")
        for file in (note, report):
            file.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                outcome = self._in_child(root, machine, workers, resume)
                with _REAL["open"](report, "wb") as file:
                    pickle.dump(outcome, file)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if report.exists():
            return pickle.loads(report.read_bytes())
        code = os.waitstatus_to_exitcode(status)
        if code == KILLED:
            return Outcome("killed", fault=note.read_text())
        return Outcome("broken", f"the process ended with {code}")

    def _in_child(self, root: Path, machine: Machine, workers: int, resume: bool) -> Outcome:
        machine._process = os.getpid()
        machine._began = time.time_ns()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        plugins = topwork.load_plugins(extra=[Observer(machine)])
        ended, text = "done", ""
        try:
            with on(machine), listening():
                if resume:
                    topwork.resume(root, plugins=plugins, quiet=True)
                else:
                    topwork.run(self.recipe(workers), folder=root, plugins=plugins, quiet=True)
        except Stopped as error:
            ended, text = "stopped", str(error)
        except TopworkError as error:
            ended, text = "refused", f"{type(error).__name__}: {error}"
        except BaseException as error:
            translated = translate_system_error(error)  # as the command line does
            ended = "broken" if translated is None else "refused"
            text = "".join(traceback.format_exception(error)[-6:]) if translated is None else str(translated)
        return Outcome(ended, text, tuple(machine.points), machine.done)

    # -------------------------------------------------------------- seeds

    def play(self, seed: int) -> tuple[str | None, list[str]]:
        """Break and resume a run.

        Returns:
            what is wrong, or None; and what happened.
        """
        chance = random.Random(seed)
        workers = int(chance.random() < 0.06)
        root = self.folder / f"seed-{seed}" / "run"
        story: list[str] = []
        try:
            return self._play(chance, root, workers, story), story
        finally:
            shutil.rmtree(root.parent, ignore_errors=True)

    def _play(self, chance: random.Random, root: Path, workers: int, story: list[str]) -> str | None:
        count = len(self.whole[workers][1].points)
        lossy = False
        for _ in range(chance.choice((1, 1, 2))):
            resume = (root / "run.json").exists()
            fault = Fault(chance.randrange(count), chance.randrange(1000))
            outcome = self.process(root, Machine(root, fault), workers, resume=resume)
            story.append(
                f"{'resume' if resume else 'run'}: {outcome.fault or 'no fault'} -> {outcome.ended} {outcome.text}"
            )
            lossy |= "power" in (outcome.fault or "")
            if fault_of_end := self._wrong_end(outcome):
                return fault_of_end
        if not (root / "run.json").exists() and (root / "stages").exists():
            return "a run without records has stages"
        resume = (root / "run.json").exists()
        outcome = self.process(root, Machine(root), workers, resume=resume)
        story.append(f"{'resume' if resume else 'run'}: -> {outcome.ended} {outcome.text}")
        if outcome.ended == "refused" and lossy and str(root) in outcome.text:
            return None
        if outcome.ended != "done":
            return f"the last attempt ended: {outcome.ended} {outcome.text}"
        return differences(self.whole[workers][0], root)

    @staticmethod
    def _wrong_end(outcome: Outcome) -> str | None:
        """Return why a process may not end like this after its fault, or None."""
        fault = outcome.fault or ""
        if outcome.ended == "broken":
            return f"a bare error: {outcome.text}"
        if "exit at news" in fault and outcome.ended not in ("refused", "stopped"):
            return "sys.exit in an observer ended the run well"
        if fault.startswith("error at news") and outcome.ended != "done" and "run_failed" not in fault:
            return f"a failing observer ended the run: {outcome.text}"
        if not fault and outcome.ended != "done":
            return f"refused without a fault: {outcome.text}"
        return None


def differences(whole: Path, root: Path) -> str | None:
    """Return the first difference between two finished runs, or None."""
    ours, theirs = ({file.relative_to(top).as_posix() for file in top.rglob("*")} for top in (root, whole))
    if ours != theirs:
        return f"files: left over {sorted(ours - theirs)[:5]}, missing {sorted(theirs - ours)[:5]}"
    for name in sorted(ours):
        if name in ("run.json", "log.txt") or (root / name).is_dir():
            continue
        first, second = (_content(top, top / name) for top in (whole, root))
        if first != second:
            return f"{name} differs: {first!r:.300} {second!r:.300}"
    return None


def _content(root: Path, file: Path) -> Any:
    """Return what is compared of a file: all of it but times, and what a tokenizer notes of how it was loaded."""
    if file.name == "tokenizer_config.json":
        known = json.loads(file.read_text())
        return {key: value for key, value in known.items() if key not in LOADED}
    if file.name == "topwork.json":
        known = json.loads(file.read_text())
        known["contents"].pop("tokenizer_config.json")
        return known
    if file.name != "result.json":
        return file.read_bytes()
    record: Mapping[str, Any] = json.loads(file.read_text())
    result = {key: value for key, value in record["result"].items() if key not in TIMED}
    return {**record, "result": result, "seconds": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    asked = parser.parse_args()
    chosen = range(asked.first, asked.first + asked.seeds) if asked.only is None else [asked.only]
    kinds: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    start = time.time()
    with tempfile.TemporaryDirectory() as name:
        simulator = Simulator(Path(name))
        print(f"{len(simulator.whole[0][1].points)} points, {time.time() - start:.1f} s", flush=True)
        for seed in chosen:
            fault, story = simulator.play(seed)
            if seed % 50 == 49:
                print(f"{seed + 1}, {time.time() - start:.0f} s", flush=True)
            faults.update(line.split(": ")[1].split(" at ")[0] for line in story)
            if fault is not None:
                kinds[re.sub(r"[\d.]+", "N", fault)[:200]] += 1
            if fault is not None or asked.only is not None:
                print(f"seed {seed}: {fault}", *story, sep="\n    ", flush=True)
    used = os.times()
    seconds = used.children_user + used.children_system + used.user
    print(f"{len(chosen)} seeds, {sum(kinds.values())} failures of {len(kinds)} kinds, {seconds:.0f} s of CPU")
    print(dict(faults))
    return bool(kinds)


if __name__ == "__main__":
    sys.exit(main())
