"""`list` and `doctor`: what is installed, and what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.completion import complete_listed, names_with_prefix
from topwork.cli.description import describe, print_description
from topwork.cli.output import Session, print_json, print_table, verdict
from topwork.cli.run import AsJson
from topwork.errors import UsageError, nearest
from topwork.plugins.declaration import Registered, first_line

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

Entry = dict[str, str]


def complete_kinds(incomplete: str) -> list[str]:
    """Complete what `topwork list` lists."""
    return names_with_prefix([*KINDS, "all"], incomplete)


def list_(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            help="tasks, stages, bases, recipes, samples, formats, trackers, plugins, commands, architectures; or all.",
            autocompletion=complete_kinds,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Of a task, stage, base or format: list its options instead, with an example.",
            autocompletion=complete_listed,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what is installed.

    Example: topwork list stages train
    """
    session: Session = context.obj
    if name is not None:
        described = describe(kind or "", name, session.plugins)
        if as_json:
            print_json(described)
        else:
            print_description(described)
        return
    if kind is None:
        kinds = ["tasks", "stages", "recipes", "samples", "plugins"]
    elif kind == "all" or kind in KINDS:
        kinds = [*KINDS] if kind == "all" else [kind]
    else:
        _by_command(kind, as_json, session)
        return
    entries = {title: KINDS[title](session.plugins) for title in kinds}
    failed = [failed_entry(plugin) for plugin in session.plugins.failed]
    if as_json:
        print_json({**entries, "failed": failed})
        return
    for title, lines in entries.items():
        print_table(title, [(line["name"], line["plugin"], line["about"]) for line in lines])
    if failed:
        print_table("failed plugins", [(line["name"], line["package"], line["error"]) for line in failed])


def _by_command(kind: str, as_json: bool, session: Session) -> None:
    """List what a plugin lists by a command, such as `topwork architectures`."""
    if kind not in session.plugins.commands:
        known = [*KINDS, "all", *session.plugins.commands]
        kinds = f"kinds: {', '.join(KINDS)}; `architectures` and others come with plugins"
        raise UsageError(
            f"there is nothing to list under `{kind}`{nearest(kind, known)}",
            hint=f"{kinds}: {_failed_names(session.plugins)}",
        )
    from topwork.cli.app import make_app

    arguments = [kind, "--json"] if as_json else [kind]
    typer.main.get_command(make_app(session.plugins, session.debug))(args=arguments, prog_name="topwork", obj=session)


def _failed_names(plugins: Plugins) -> str:
    names = ", ".join(str(plugin) for plugin in plugins.failed)
    return f"these failed to load: {names}" if names else "none of those loaded has a command of that name"


# ---------------------------------------------------------------- tables of everything


def _registered(kind: str) -> Callable[[Plugins], list[Entry]]:
    def entries(plugins: Plugins) -> list[Entry]:
        table: Registered = getattr(plugins, f"{kind}s")
        return [{"name": name, "plugin": table.owner(name).name, "about": table.about(name)} for name in sorted(table)]

    return entries


def _bases(plugins: Plugins) -> list[Entry]:
    """List the plugins that answer `load_base`, in the order in which they are called."""
    functions = {hook.plugin_name: hook.function for hook in plugins.hook.load_base.get_hookimpls()}
    names = plugins.implementers("load_base")
    return [{"name": name, "plugin": name, "about": first_line(functions[name])} for name in names]


def _recipes(plugins: Plugins) -> list[Entry]:
    return [
        {"name": name, "plugin": plugins.owner("recipe", name).name, "about": recipe_about(path)}
        for name, path in sorted(plugins.recipes.items())
    ]


def recipe_about(path: Path) -> str:
    """Return the first paragraph of the comment at the top of a recipe, after the line with its command."""
    lines = takewhile(
        lambda line: line.startswith("#"), path.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    comment = [line.lstrip("# ").strip() for line in lines]
    rest = [line for line in comment if not line.startswith(("topwork run ", "expect "))]
    paragraphs = [" ".join(group) for blank, group in groupby(rest, lambda line: not line) if not blank]
    return paragraphs[0] if paragraphs else ""


def _plugins(plugins: Plugins) -> list[Entry]:
    return [
        {"name": info.name, "plugin": info.source, "about": ", ".join(brought(plugins, info))}
        for info in plugins.loaded
    ]


KINDS: dict[str, Callable[[Plugins], list[Entry]]] = {
    "tasks": _registered("task"),
    "stages": _registered("stage"),
    "bases": _bases,
    "recipes": _recipes,
    "samples": _registered("sample"),
    "formats": _registered("format"),
    "trackers": _registered("tracker"),
    "plugins": _plugins,
    "commands": _registered("command"),
}


def brought(plugins: Plugins, info: Any) -> list[str]:
    """List what a plugin registered, and the hooks that it implements."""
    tables = (plugins.tasks, plugins.stages, plugins.commands, plugins.samples, plugins.formats, plugins.trackers)
    nouns = [f"{table.kind} {name}" for table in tables for name in table if table.owner(name) == info]
    hooks = [name for name in vars(plugins.hook) if not name.startswith(("_", "register_"))]
    return nouns + [f"hook {hook}" for hook in hooks if info.name in plugins.implementers(hook)]


def failed_entry(plugin: Any) -> Entry:
    """Return what is shown of a plugin that failed to load."""
    return {key: value for key, value in dataclasses.asdict(plugin).items() if key != "trace"}


# ---------------------------------------------------------------- doctor


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the installation: versions that do not fit, what is missing, threads, folders; each with its hint."""
    from topwork.cli.doctor import diagnose

    session: Session = context.obj
    findings = []
    for finding in diagnose(session.plugins):  # the first take seconds (torch is imported): print each at once
        findings.append(finding)
        if not as_json:
            print(f"{verdict(finding.ok)}  {finding.name}: {finding.detail}", flush=True)
            if not finding.ok:
                print(f"      hint: {finding.hint}", flush=True)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
