"""Generated tables of the README and the room guides.

`python tests/helpers/documents.py` writes them, `--check` only compares. A table lies between `<!-- name -->` and
`<!-- /name -->`; `DOCUMENTS` says which tables a document has. `--curve RUN` takes the curve of compression from a run
of its recipe first.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from topwork.cli.listing import recipe_about

ROOT = Path(__file__).resolve().parents[2]
#: the curve of a run of `recipes/compress.yaml`, as its result has it
CURVE = ROOT / "tests" / "benchmarks" / "compress_curve.json"


def first_line(thing: object) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()).replace("|", "\\|")


def rooms_table(package: str, order: Sequence[str]) -> str:
    """List the modules and folders of a package in the given order, with the first line of their docstrings.

    Args:
        package: folder of the package, relative to the repository.
        order: names in the order in which data meets them.

    Raises:
        SystemExit: a module or folder of the package is not in `order`, or the reverse.
    """
    folder = ROOT / package
    rooms = {path.stem: path for path in folder.glob("*.py") if not path.name.startswith("__")}
    rooms |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    if set(rooms) != set(order):
        raise SystemExit(f"{package}: rooms without a line in documents.py, or the reverse: {set(rooms) ^ set(order)}")
    lines = ["| room | what it holds |", "|---|---|"]
    for name in order:
        text = ast.get_docstring(ast.parse(rooms[name].read_text(encoding="utf-8"))) or ""
        summary = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
        link = f"{name}/" if rooms[name].name == "__init__.py" else f"{name}.py"
        prefix = f"{Path(package).name}/" if package == "core/topwork" else ""
        lines.append(f"| [`{link}`]({prefix}{link}) | {summary} |")
    return "\n".join(lines)


def tasks_table() -> str:
    plugins = _plugins()
    lines = ["| task | what it does | columns |", "|---|---|---|"]
    for name, task in sorted(plugins.tasks.items()):
        columns = ", ".join(f"`{key}`" if column.required else f"`{key}`?" for key, column in task.columns.items())
        about = first_line(task).partition(" `bad_input.md`")[0]
        lines.append(f"| `{name}` | {about} | {columns} |")
    return "\n".join(lines)


def stages_table() -> str:
    plugins = _plugins()
    lines = ["| stage | what it does | options |", "|---|---|---|"]
    for name, stage in sorted(plugins.stages.items()):
        options = ", ".join(f"`{field}`" for field in stage.model_fields) or "none"
        lines.append(f"| `{name}` | {first_line(stage)} | {options} |")
    return "\n".join(lines)


def hooks_table() -> str:
    from topwork import hookspecs

    lines = ["| hook | what it is for |", "|---|---|"]
    for module in (hookspecs.nouns, hookspecs.models, hookspecs.views, hookspecs.news):
        for name, function in vars(module).items():
            if hasattr(function, "topwork_spec"):
                arguments = ", ".join(inspect.signature(function).parameters)
                lines.append(f"| `{name}({arguments})` | {first_line(function)} |")
    return "\n".join(lines)


def samples_table() -> str:
    lines = ["| name | rows |", "|---|---|"]
    lines += [f"| `sample:{name}` | {text} |" for name, text in sorted(_plugins().samples.items())]
    return "\n".join(lines)


def trackers_table() -> str:
    plugins = _plugins()
    lines = ["| tracker | what it keeps |", "|---|---|"]
    lines += [f"| `{name}` | {plugins.trackers.about(name)} |" for name in sorted(plugins.trackers)]
    return "\n".join(lines)


def api_table() -> str:
    """List the public names of `topwork` with their arguments and the first lines of their docstrings."""
    import topwork

    lines = ["| name | what it is |", "|---|---|"]
    for name in sorted(topwork.__all__, key=str.lower):
        thing = getattr(topwork, name)
        if not callable(thing):
            continue
        arguments = ""
        if inspect.isfunction(thing):
            shown = [
                str(one).partition(":")[0].partition("=")[0] for one in inspect.signature(thing).parameters.values()
            ]
            arguments = f"({', '.join(shown)})"
        about = first_line(thing) if getattr(thing, "__module__", "").startswith("topwork") else ""
        lines.append(f"| `{name}{arguments}` | {about} |")
    return "\n".join(lines)


def recipes_table() -> str:
    lines = ["| recipe | what it does | what it promises, held by a test |", "|---|---|---|"]
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        text = file.read_text(encoding="utf-8").splitlines()
        comments = [line.lstrip("# ").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), text)]
        promises = [line.removeprefix("expect ") for line in comments if line.startswith("expect ")]
        about = recipe_about(file).replace("|", "\\|")
        lines.append(f"| [`{file.stem}`]({file.name}) | {about} | {'; '.join(promises)} |")
    return "\n".join(lines)


def command_line() -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    shown = subprocess.run(
        [sys.executable, "-m", "topwork", "--help"], capture_output=True, text=True, env=environment, check=True
    )
    return "```text\n" + "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines()) + "\n```"


def families_table() -> str:
    """List the model families that the tests take through each task by name, and whose task head they get."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from named import table

    lines = ["| task | native task head | generic task head |", "|---|---|---|"]
    for task, forms in sorted(table.by_task().items()):
        lines.append(f"| `{task}` | {', '.join(forms['native'])} | {', '.join(forms['generic'])} |")
    return "\n".join(lines)


def coverage_table() -> str:
    """Count what the architecture matrix measured."""
    coverage = json.loads((ROOT / "plugins" / "topwork_lens" / "coverage.json").read_text(encoding="utf-8"))
    counts, versions, built = coverage["counts"], coverage["versions"], len(coverage["types"])
    built -= counts["not built"]
    neurons = [counts.get(f"neurons: {outcome}", 0) for outcome in ("hard", "soft", "refused", "none")]
    heads = [counts.get(outcome, 0) for outcome in ("hard", "soft", "refused", "no attention")]
    layers = {outcome: counts.get(f"whole layers: {outcome}", 0) for outcome in ("all", "some", "refused", "none")}
    return "\n".join(
        [
            f"Measured on {coverage['date']} with transformers {versions['transformers']} and timm {versions['timm']}; "
            f"{built} model types were built, {counts['not built']} were not:",
            "",
            "| | hard | soft | refused | has none | not measured |",
            "|---|---|---|---|---|---|",
            f"| attention heads | {' | '.join(map(str, heads))} | {built - sum(heads)} |",
            f"| feed-forward neurons | {' | '.join(map(str, neurons))} | {built - sum(neurons)} |",
            "",
            f"Whole layers can be left out of {layers['all'] + layers['some']} types (each of those that were seen of "
            f"{layers['all']}), of {layers['refused']} none; {layers['none']} have no list of layers. "
            f"Silently wrong: {counts['silently wrong']}.",
        ]
    )


def curve_table() -> str:
    """List the points of the curve of compression: a line for each budget, a column for each way to meet it."""
    points = json.loads(CURVE.read_text(encoding="utf-8"))["points"]
    whole = next(point for point in points if point["choice"] == "whole")
    ways = list(dict.fromkeys(point["choice"] for point in points if point is not whole))
    figures = {(point["choice"], f"{point['left']:.2f}"): _figures(point) for point in points}
    figures |= {(way, f"{whole['left']:.2f}"): _figures(whole) for way in ways}
    budgets = sorted({left for _, left in figures}, reverse=True)
    rows = [[left, *(figures.get((way, left), "") for way in ways)] for left in budgets]
    lines = [f"| {' | '.join(cells)} |" for cells in (["operations left", *ways], *rows)]
    return "\n".join([lines[0], "|---|" + "---|" * len(ways), *lines[1:]])


def _figures(point: dict[str, Any]) -> str:
    return f"{point['value']:.3f}, {point['milliseconds']:.0f} ms"


def take_curve(run: Path) -> None:
    """Copy the curve of a run's stage `compress` to where `curve_table` reads it.

    Raises:
        SystemExit: the run has none.
    """
    for file in sorted(run.glob("stages/*/result.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if points := record["result"].get("curve"):
            started = json.loads((run / "run.json").read_text(encoding="utf-8"))["started"]
            content = {"recipe": "recipes/compress.yaml", "started": started, "points": points}
            CURVE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            return
    raise SystemExit(f"{run}: no stage has a curve")


def source(path: str) -> str:
    """Return a file of the tests as a Python block."""
    return f"```python\n{(ROOT / path).read_text(encoding='utf-8').strip()}\n```"


CORE_ROOMS = (
    *(
        "cli",
        "recipe",
        "plugins",
        "hookspecs",
        "api",
        "runs",
        "data",
        "stages",
        "shards",
        "training",
        "saving",
        "kernels",
    ),
    *("task", "base", "stage", "metric", "items", "attention_layer", "block", "task_heads", "testing"),
    *("errors", "files", "engines", "process", "system", "console", "notebook", "lazy", "deprecation"),
)
LENS_ROOMS = (
    *("plugin", "look", "layers", "activations", "capture", "gates", "blocks", "patching", "scoring"),
    *("pruning", "schedule", "stages"),
    *(
        "command",
        "head_weights",
        "show",
        "scope",
        "tables",
        "flops",
        "model_state",
        "refusals",
        "coverage",
        "v4",
    ),
)
#: folders and modules of `topwork_analyses`, in the order in which rows meet them
ANALYSES_ROOMS = (
    *("plugin", "statistics", "attention_patterns", "head_roles", "word_relations", "head_effects"),
    *("positions", "probing", "syntax", "scalars", "relevance", "patching", "exits", "similarity"),
)
#: folders and modules of `topwork_compress`, in the order in which rows meet them
COMPRESS_ROOMS = (
    *("plugin", "stages", "command", "procedure", "compression", "plan", "whole_layers", "units", "scores"),
    *(
        "curve",
        "eight_bits",
        "surgeon",
        "search",
        "latency",
        "dynamic",
        "uniform",
        "rearrange",
        "positions",
        "tuning",
        "measure",
    ),
)
#: folders and modules of `topwork_workbench`
WORKBENCH_ROOMS = ("plugin", "trackers", "sweep", "lora", "thresholds", "export", "serving", "hub")
BASES_ROOMS = ("rows", "formats", "samples", "transformers", "timm")
REPORT_ROOMS = (
    *("plugin", "stage", "command", "run_files", "step_log", "page", "page_data", "summary", "sections"),
    *("charts", "heads", "attention_view", "json_blocks", "pages", "images", "colours", "formatting"),
)
TASK_ROOMS = (
    *(
        "detection_plugin",
        "_classification",
        "_text",
        "_vision",
        "_audio",
        "text_classification",
        "token_classification",
    ),
    *("question_answering", "fill_mask", "text_generation", "sequence_to_sequence", "summarization", "translation"),
    *("image_classification", "object_detection", "image_segmentation", "depth_estimation"),
    *("audio_classification", "automatic_speech_recognition"),
)
#: document -> the tables in it
DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"tasks": tasks_table, "coverage": coverage_table, "curve": curve_table},
    "core/README.md": {
        "rooms": partial(rooms_table, "core/topwork", CORE_ROOMS),
        "help": command_line,
        "stages": stages_table,
        "hooks": hooks_table,
        "plugin": partial(source, "tests/packages/topwork-shouting/topwork_shouting.py"),
    },
    "plugins/topwork_tasks/README.md": {
        "rooms": partial(rooms_table, "plugins/topwork_tasks", TASK_ROOMS),
        "families": families_table,
        "seam": partial(source, "tests/packages/grammar-correction/grammar_correction.py"),
    },
    "plugins/topwork_lens/README.md": {
        "rooms": partial(rooms_table, "plugins/topwork_lens", LENS_ROOMS),
        "coverage": coverage_table,
    },
    "plugins/topwork_analyses/README.md": {"rooms": partial(rooms_table, "plugins/topwork_analyses", ANALYSES_ROOMS)},
    "plugins/topwork_compress/README.md": {"rooms": partial(rooms_table, "plugins/topwork_compress", COMPRESS_ROOMS)},
    "plugins/topwork_workbench/README.md": {
        "rooms": partial(rooms_table, "plugins/topwork_workbench", WORKBENCH_ROOMS),
        "trackers": trackers_table,
    },
    "plugins/topwork_bases/README.md": {
        "rooms": partial(rooms_table, "plugins/topwork_bases", BASES_ROOMS),
        "samples": samples_table,
    },
    "plugins/topwork_report/README.md": {"rooms": partial(rooms_table, "plugins/topwork_report", REPORT_ROOMS)},
    "recipes/README.md": {"recipes": recipes_table},
    "core/API.md": {"api": api_table},
}


def _plugins() -> Any:
    from topwork import load_plugins

    plugins = load_plugins()
    if plugins.failed:
        raise SystemExit(f"plugins failed to load: {', '.join(str(plugin) for plugin in plugins.failed)}")
    return plugins


def generated(document: str, text: str) -> str:
    """Return the text of a document with fresh tables."""
    for name, make in DOCUMENTS[document].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{document} has no mark for the table `{name}`")
        table = make()
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


def main() -> int:
    if "--curve" in sys.argv:
        take_curve(Path(sys.argv[sys.argv.index("--curve") + 1]))
    stale = []
    for document in DOCUMENTS:
        file = ROOT / document
        old = file.read_text(encoding="utf-8")
        new = generated(document, old)
        if new != old:
            stale.append(document)
            if "--check" not in sys.argv:
                file.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run `python tests/helpers/documents.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
