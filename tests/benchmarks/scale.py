"""Figures of topwork under load: rows a CPU second, memory, kills, many runs in one process, start-up, large pages.

`python tests/benchmarks/scale.py [SECTION ...] [--rows N ...] [--kills N] [--runs N]`; the sections are `rows`,
`images`, `kills`, `runs`, `startup` and `page`, by default all. A million rows and fifty kills:
`scale.py kills --rows 1000000 --kills 50`. Every figure is a line of JSON; times are CPU seconds, so that other work on
the machine counts little.

Memory is given in MB, three ways (proc(5)): `own_mb`, anonymous pages (RssAnon), which only the process can give back,
so that a machine must have them; `files_mb`, pages of files mapped into it (RssFile), which the system takes back when
it needs memory; `peak_mb`, both together. Own memory and both together must be flat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from predict_rows import TINY, WORDS

SECTIONS = ("rows", "images", "kills", "runs", "startup", "page")
#: CPU seconds that commands may take before they do anything
STARTUP = {("--help",): 0.3, ("list",): 0.3, ("validate", "quickstart"): 1.0}
#: shares by which memory may grow with the rows, and with the runs of one process, and CPU time by shards
FLAT, FLAT_RUNS, OVERHEAD = 0.05, 0.02, 0.03
ALTERNATIONS = 3
#: seconds between two looks at the memory of a process
LOOKS = 0.02


def show(section: str, **figures: Any) -> None:
    print(json.dumps({"section": section, **figures}), flush=True)


def topwork_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "topwork", *map(str, arguments)]


def measured(command: list[str], output: Path | None = None) -> dict[str, float]:
    """Wall and CPU seconds and the largest memory of a command, which must end well."""
    start = time.perf_counter()
    memory: dict[str, float] = {}
    with (output or Path(os.devnull)).open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        ended = 0
        while not ended:
            time.sleep(LOOKS)
            memory = largest(memory, memory_of(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    figures = {"wall_s": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime}
    return {**{key: round(value, 2) for key, value in figures.items()}, **memory}


def memory_of(process: int) -> dict[str, float]:
    """Memory of a process in MB, by kind; empty where the system does not say."""
    kinds = {"VmHWM": "peak_mb", "RssAnon": "own_mb", "RssFile": "files_mb"}
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    fields = [line.replace(":", "").split() for line in lines]
    return {kinds[field[0]]: round(int(field[1]) / 1024, 1) for field in fields if field and field[0] in kinds}


def largest(known: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Largest memory of each kind."""
    return {kind: max(known.get(kind, 0), now.get(kind, 0)) for kind in {**known, **now}}


# ---------------------------------------------------------------- rows


def make_texts(folder: Path, counts: list[int]) -> None:
    """Write a model, and csv files of labelled texts of 3 to 20 words."""
    import topwork

    rows = [{"text": " ".join(WORDS[: index + 3]), "label": "ab"[index % 2]} for index in range(8)]
    topwork.build("text-classification", TINY, rows=rows).save(folder / "model")
    for count in counts:
        draw = random.Random(0)
        with (folder / f"{count}.csv").open("w", encoding="utf-8") as sink:
            sink.write("text,label\n")
            for _ in range(count):
                sink.write(f"{' '.join(draw.choices(WORDS, k=draw.randint(3, 20)))},{draw.choice('ab')}\n")


def rows_section(folder: Path, counts: list[int]) -> None:
    """Predict and evaluate files of growing length, with and without shards: memory must stay flat."""
    make_texts(folder, [10, *counts])
    model = folder / "model"
    start = measured(topwork_line("predict", model, folder / "10.csv", "--output", folder / "start.jsonl"))["cpu_s"]
    show("rows", what="start-up of predict", cpu_s=start)
    for count in counts:
        file = folder / f"{count}.csv"
        for what, command in {
            "predict": ("predict", model, file, "--output", folder / "plain.jsonl"),
            "predict in shards": ("predict", model, file, "--output", folder / f"shards-{count}", "--shards", 0),
            "evaluate": ("evaluate", model, file),
            "evaluate in shards": ("evaluate", model, file, "--output", folder / f"states-{count}", "--shards", 0),
        }.items():
            figures = measured(topwork_line(*command))
            work = max(figures["cpu_s"] - start, 0.01)
            show("rows", what=what, rows=count, **figures, rows_per_cpu_s=round(count / work))


def images_section(folder: Path, counts: list[int]) -> None:
    """Predict and evaluate folders of images of 64 by 64 pixels."""
    import numpy
    from PIL import Image

    import topwork

    base = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base |= {"intermediate_size": 16, "image_size": 32, "patch_size": 8}
    draw = numpy.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 255, (64, 64, 3), numpy.uint8)) for _ in range(8)]
    rows = [{"image": image, "label": "ab"[index % 2]} for index, image in enumerate(images)]
    topwork.build("image-classification", {"config": base}, rows=rows).save(folder / "images-model")
    for count in counts:
        for label in "ab":
            (folder / f"images-{count}" / label).mkdir(parents=True)
        for index in range(count):
            images[index % 8].save(folder / f"images-{count}" / "ab"[index % 2] / f"{index:06d}.png")
        for what in ("predict", "evaluate"):
            command = topwork_line(what, folder / "images-model", folder / f"images-{count}")
            command += ["--output", str(folder / f"images-{what}-{count}"), "--shards", "0"]
            figures = measured(command)
            show("images", what=f"{what} in shards", rows=count, **figures, rows_per_s=round(count / figures["cpu_s"]))


# ---------------------------------------------------------------- kills


def kills_section(folder: Path, count: int, kills: int, shards: int) -> None:
    """Two processes predict while a third kills them at seeded moments; the bytes are those of one undisturbed."""
    tenth = count // 10
    make_texts(folder, [tenth, count])
    command = topwork_line("--quiet", "predict", folder / "model", folder / f"{count}.csv", "--shards", shards)
    options = ("--shards", shards // 10, "--output", folder / "tenth")
    small = measured(topwork_line("--quiet", "predict", folder / "model", folder / f"{tenth}.csv", *options))
    show("kills", what="undisturbed, a tenth", rows=tenth, shards=shards // 10, **small)
    undisturbed = measured([*command, "--output", str(folder / "undisturbed")])
    show("kills", what="undisturbed", rows=count, shards=shards, **undisturbed, **growth(small, undisturbed))
    figures = killed([*command, "--output", str(folder / "out")], folder / "out" / "parts", kills, shards)
    names = ("predictions.jsonl", "result.json")
    same = all((folder / "out" / name).read_bytes() == (folder / "undisturbed" / name).read_bytes() for name in names)
    show("kills", what="killed", rows=count, shards=shards, same_bytes=same, **figures, **growth(small, figures))
    if not same:
        raise SystemExit("the bytes differ")
    overhead_of_shards(folder, tenth, shards // 10)


def killed(command: list[str], parts: Path, kills: int, shards: int) -> dict[str, Any]:
    """Run a command twice at once, kill one of them again and again as shards are finished, and start it anew."""
    draw, before = random.Random(0), resource.getrusage(resource.RUSAGE_CHILDREN)
    processes = [subprocess.Popen(command) for _ in range(2)]
    done, start = 0, time.perf_counter()
    memory: dict[str, float] = {}
    while any(process.poll() is None for process in processes):
        for process in processes:
            memory = largest(memory, memory_of(process.pid))
        finished = len(list(parts.glob("[0-9]*"))) if parts.is_dir() else 0
        if done < kills and finished * (kills + 2) >= done * shards:
            time.sleep(draw.random() * 0.2)
            index = draw.randrange(2)
            processes[index].send_signal(signal.SIGKILL)
            processes[index].wait()
            processes[index] = subprocess.Popen(command)
            done += 1
        time.sleep(LOOKS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall, codes = round(time.perf_counter() - start, 1), [process.returncode for process in processes]
    return {"kills": done, "exit_codes": codes, "wall_s": wall, "cpu_s": round(cpu, 1), **memory}


def overhead_of_shards(folder: Path, count: int, shards: int) -> None:
    """CPU seconds of a prediction in shards against one without: each the least of alternating runs."""
    model, file = folder / "model", folder / f"{count}.csv"
    least = {"plain": float("inf"), "in shards": float("inf")}
    for turn in range(ALTERNATIONS):
        plain = measured(topwork_line("--quiet", "predict", model, file, "--output", folder / "plain.jsonl"))
        divided = ["--shards", shards, "--output", folder / f"turn-{turn}"]
        in_shards = measured(topwork_line("--quiet", "predict", model, file, *divided))
        least = {"plain": min(least["plain"], plain["cpu_s"]), "in shards": min(least["in shards"], in_shards["cpu_s"])}
    overhead = round(least["in shards"] / least["plain"] - 1, 4)
    show(
        "kills", what="overhead", rows=count, shards=shards, cpu_s=least, overhead=overhead, within=overhead <= OVERHEAD
    )


def growth(small: dict[str, float], large: dict[str, float], most: float = FLAT) -> dict[str, Any]:
    """Share by which memory grew, own memory and all of it, and whether it is flat."""
    grown = {kind: round(large[f"{kind}_mb"] / small[f"{kind}_mb"] - 1, 4) for kind in ("own", "peak")}
    return {**{f"growth_of_{kind}": share for kind, share in grown.items()}, "flat": max(grown.values()) <= most}


# ---------------------------------------------------------------- runs, start-up, pages


def runs_section(folder: Path, runs: int) -> None:
    """Train, evaluate and predict again and again in one process: memory of the last run against the twentieth."""
    import gc

    import topwork

    rows = [{"text": " ".join(WORDS[: index % 8 + 3]), "label": "ab"[index % 2]} for index in range(64)]
    memory: list[dict[str, float]] = []
    for number in range(runs):
        stages = [{"train": {"steps": 2, "batch_size": 8}}, "evaluate", "head_importance", "save"]
        data = {"train": str(folder / "rows.jsonl"), "calibrate": str(folder / "rows.jsonl")}
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {"task": "text-classification", "base": TINY, "data": {**data, "evaluate": data["train"]}}
        topwork.run({**recipe, "stages": stages}, folder=folder / f"run-{number}", quiet=True)
        gc.collect()
        memory.append(memory_of(os.getpid()))
    base, last = memory[min(19, runs // 2)], memory[-1]
    show("runs", what="run 20", **base)
    show("runs", what=f"run {runs}", **last, **growth(base, last, FLAT_RUNS))


def startup_section() -> None:
    """CPU seconds of the commands that must answer at once; the least of three calls."""
    for arguments, budget in STARTUP.items():
        seconds = min(measured(topwork_line(*arguments))["cpu_s"] for _ in range(3))
        show("startup", command=" ".join(arguments), cpu_s=seconds, budget=budget, within=seconds <= budget)


def page_section(folder: Path, count: int, labels: int) -> None:
    """Size and time of the report of a run over many rows and labels."""
    names = [f"label-{index:04d}" for index in range(labels)]
    draw = random.Random(0)
    with (folder / "many.jsonl").open("w", encoding="utf-8") as sink:
        for index in range(count):
            text = " ".join(draw.choices(WORDS, k=draw.randint(3, 20)))
            sink.write(json.dumps({"text": text, "label": names[index % labels]}) + "\n")
    data = {role: str(folder / "many.jsonl") for role in ("train", "evaluate", "calibrate")}
    recipe = {"task": "text-classification", "base": TINY, "data": data}
    recipe["stages"] = [
        {"train": {"steps": 5, "batch_size": 8}},
        {"evaluate": {"pictures": 12}},
        "head_importance",
        "save",
    ]
    (folder / "many.json").write_text(json.dumps(recipe))
    figures = measured(topwork_line("--quiet", "run", folder / "many.json", "--folder", folder / "many"))
    show("page", what="run", rows=count, labels=labels, **figures)
    figures = measured(topwork_line("report", folder / "many"))
    pages = sorted((folder / "many").glob("*.html"), key=lambda page: -page.stat().st_size)
    show("page", what="report", mb=round(pages[0].stat().st_size / 2**20, 2), **figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    for section in options.sections or SECTIONS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if section == "rows":
                rows_section(folder, options.rows)
            elif section == "images":
                images_section(folder, options.images)
            elif section == "kills":
                kills_section(folder, options.rows[-1], options.kills, max(100, options.rows[-1] // 4000))
            elif section == "runs":
                runs_section(folder, options.runs)
            elif section == "startup":
                startup_section()
            else:
                page_section(folder, 10_000, 1_000)


if __name__ == "__main__":
    main()
