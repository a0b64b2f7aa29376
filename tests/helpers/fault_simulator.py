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
import gc
import json
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulty_machine import KILLED, REAL, Fault, Machine, Observer, on

import topwork
from topwork import TopworkError
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
                with REAL["open"](report, "wb") as file:
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
        return {key: value for key, value in known.items() if key != "checksum"}  # it holds that file's hash
    if file.name != "result.json":
        return file.read_bytes()
    record: Mapping[str, Any] = json.loads(file.read_text())
    result = {key: value for key, value in record["result"].items() if key not in TIMED}
    return {**record, "result": result, "seconds": None, "checksum": None}


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
