"""Generate the tables of README.md: `python tests/helpers/readme.py` writes them, `--check` only compares.

A table stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from topwork.cli.listing import recipe_about

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def first_line(thing: object) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def tasks_table() -> str:
    plugins = _plugins()
    lines = ["| task | what it does | columns |", "|---|---|---|"]
    for name, task in sorted(plugins.tasks.items()):
        columns = ", ".join(f"`{key}`" if one.required else f"`{key}`?" for key, one in task.columns.items())
        lines.append(f"| `{name}` | {first_line(task)} | {columns} |")
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
    for name, function in vars(hookspecs).items():
        if hasattr(function, "topwork_spec"):
            arguments = ", ".join(inspect.signature(function).parameters)
            lines.append(f"| `{name}({arguments})` | {first_line(function)} |")
    return "\n".join(lines)


def samples_table() -> str:
    lines = ["| name | rows |", "|---|---|"]
    lines += [f"| `sample:{name}` | {text} |" for name, text in sorted(_plugins().samples.items())]
    return "\n".join(lines)


def recipes_table() -> str:
    lines = ["| recipe | what it does | what it promises, and a test holds |", "|---|---|---|"]
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        comment = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
        told = [line.lstrip("# ").strip() for line in comment]
        promises = [line.removeprefix("expect ") for line in told if line.startswith("expect ")]
        about = recipe_about(file).replace("|", "\\|")
        lines.append(f"| `{file.stem}` | {about} | {'; '.join(promises)} |")
    return "\n".join(lines)


def command_line() -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    shown = subprocess.run(
        [sys.executable, "-m", "topwork", "--help"], capture_output=True, text=True, env=environment, check=True
    )
    return "```text\n" + "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines()) + "\n```"


def families_table() -> str:
    """Which families the tests take through a task by name, and whose task head they get."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from named import table

    lines = ["| task | native task head | generic task head |", "|---|---|---|"]
    for task, forms in sorted(table.by_task().items()):
        lines.append(f"| `{task}` | {', '.join(forms['native'])} | {', '.join(forms['generic'])} |")
    return "\n".join(lines)


def coverage_table() -> str:
    """What the architecture matrix found, in numbers."""
    found = json.loads((ROOT / "plugins" / "topwork_lens" / "coverage.json").read_text(encoding="utf-8"))
    counts, versions = found["counts"], found["versions"]
    shown = ("hard", "soft", "refused", "no attention", "not built", "silently wrong")
    lines = [
        f"Measured on {found['date']} with transformers {versions['transformers']} and timm {versions['timm']}:",
        "",
    ]
    lines += [f"| {' | '.join(shown)} |", f"|{'---|' * len(shown)}"]
    lines += [f"| {' | '.join(str(counts.get(name, 0)) for name in shown)} |"]
    return "\n".join(lines)


def plugin_example() -> str:
    source = ROOT / "tests" / "packages" / "topwork-shouting" / "topwork_shouting.py"
    return f"```python\n{source.read_text(encoding='utf-8').strip()}\n```"


def seam_example() -> str:
    file = ROOT / "tests" / "packages" / "grammar-correction" / "grammar_correction.py"
    return f"```python\n{file.read_text(encoding='utf-8').strip()}\n```"


TABLES = {
    "plugin": plugin_example,
    "seam": seam_example,
    "tasks": tasks_table,
    "stages": stages_table,
    "samples": samples_table,
    "recipes": recipes_table,
    "hooks": hooks_table,
    "families": families_table,
    "coverage": coverage_table,
    "help": command_line,
}


def _plugins():
    from topwork import load_plugins

    plugins = load_plugins()
    if plugins.failed:
        raise SystemExit(f"plugins failed to load: {', '.join(str(plugin) for plugin in plugins.failed)}")
    return plugins


def generated(text: str) -> str:
    """The README with fresh tables."""
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no place for the table `{name}`")
        table = make()
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    return text


def main() -> int:
    old = README.read_text(encoding="utf-8")
    new = generated(old)
    if "--check" in sys.argv:
        if new != old:
            print("README.md is stale: run `python tests/helpers/readme.py`")
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
