"""`list`, `plugins` and `doctor`: what is installed, and what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import groupby, takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork.cli.output import Session, first_line, print_json, print_table
from topwork.cli.run import AsJson
from topwork.errors import UsageError, nearest
from topwork.plugins.registry import Plugins
from topwork.plugins.reserved import CORE_COMMANDS

Entry = dict[str, str]


def list_(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(help="tasks, stages, bases, recipes, samples, plugins, commands, architectures; or all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what is installed."""
    session: Session = context.obj
    if kind is None:
        kinds = ["tasks", "stages", "recipes", "samples", "plugins"]
    elif kind in KINDS:
        kinds = [kind]
    else:
        _by_command(kind, as_json, session)
        return
    found = {name: KINDS[name](session.plugins) for name in kinds}
    failed = [_failed(plugin) for plugin in session.plugins.failed]
    if as_json:
        print_json({**found, "failed": failed})
        return
    for name, entries in found.items():
        print_table(name, [(entry["name"], entry["plugin"], entry["about"]) for entry in entries])
    if failed:
        print_table("failed plugins", [(entry["name"], entry["package"], entry["error"]) for entry in failed])


def _by_command(kind: str, as_json: bool, session: Session) -> None:
    """What a plugin lists by a command of its own, such as `topwork architectures`."""
    if kind not in session.plugins.commands:
        known = [*KINDS, *session.plugins.commands]
        hint = nearest(kind, known)
        hint = (
            f"kinds: {', '.join(KINDS)}; `architectures` and others come with plugins: {_failed_names(session.plugins)}"
        )
        raise UsageError(f"there is nothing to list under `{kind}`{hint}", hint=hint)
    from topwork.cli.app import make_app

    arguments = [kind, "--json"] if as_json else [kind]
    typer.main.get_command(make_app(session.plugins, session.debug))(args=arguments, prog_name="topwork", obj=session)


def _failed_names(plugins: Plugins) -> str:
    names = ", ".join(str(plugin) for plugin in plugins.failed)
    return f"these failed to load: {names}" if names else "none of those loaded has a command of that name"


def _registered(kind: str, table: str) -> Callable[[Plugins], list[Entry]]:
    def entries(plugins: Plugins) -> list[Entry]:
        things = getattr(plugins, table)
        return [
            {"name": name, "plugin": plugins.owner(kind, name).name, "about": first_line(thing)}
            for name, thing in sorted(things.items())
        ]

    return entries


def _bases(plugins: Plugins) -> list[Entry]:
    """Where bases come from: the plugins that answer `load_base`, in the order in which they are asked."""
    answers = {entry.plugin_name: entry.function for entry in plugins.hook.load_base.get_hookimpls()}
    return [
        {"name": name, "plugin": name, "about": first_line(answers[name])} for name in plugins.implementers("load_base")
    ]


def _recipes(plugins: Plugins) -> list[Entry]:
    return [
        {"name": name, "plugin": plugins.owner("recipe", name).name, "about": recipe_about(path)}
        for name, path in sorted(plugins.recipes.items())
    ]


def recipe_about(path: Path) -> str:
    """What a recipe does: the first paragraph of the comment at its top, after the line with its command."""
    lines = takewhile(
        lambda line: line.startswith("#"), path.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    told = [line.lstrip("# ").strip() for line in lines]
    rest = [line for line in told if not line.startswith(("topwork run ", "expect "))]
    paragraphs = [" ".join(group) for blank, group in groupby(rest, lambda line: not line) if not blank]
    return paragraphs[0] if paragraphs else ""


def _samples(plugins: Plugins) -> list[Entry]:
    return [
        {"name": name, "plugin": plugins.owner("sample", name).name, "about": about}
        for name, about in sorted(plugins.samples.items())
    ]


def _plugins(plugins: Plugins) -> list[Entry]:
    return [
        {
            "name": info.name,
            "plugin": f"{info.package} {info.version}".strip(),
            "about": ", ".join(brought(plugins, info)),
        }
        for info in plugins.loaded
    ]


def _commands(plugins: Plugins) -> list[Entry]:
    from topwork.cli.app import COMMANDS

    own = [{"name": name, "plugin": "topwork", "about": first_line(COMMANDS[name])} for name in CORE_COMMANDS]
    return own + _registered("command", "commands")(plugins)


KINDS: dict[str, Callable[[Plugins], list[Entry]]] = {
    "tasks": _registered("task", "tasks"),
    "stages": _registered("stage", "stages"),
    "bases": _bases,
    "recipes": _recipes,
    "samples": _samples,
    "plugins": _plugins,
    "commands": _commands,
}


def brought(plugins: Plugins, info: Any) -> list[str]:
    """What a plugin brought, and the questions that it answers."""
    kinds: dict[str, dict[str, Any]] = {
        "task": plugins.tasks,
        "stage": plugins.stages,
        "command": plugins.commands,
        "sample": plugins.samples,
    }
    nouns = [f"{kind} {name}" for kind, table in kinds.items() for name in table if plugins.owner(kind, name) == info]
    hooks = [name for name in vars(plugins.hook) if not name.startswith(("_", "register_"))]
    return nouns + [f"hook {hook}" for hook in hooks if info.name in plugins.implementers(hook)]


def _failed(plugin: Any) -> Entry:
    return {key: value for key, value in dataclasses.asdict(plugin).items() if key != "trace"}


def plugins(
    context: typer.Context,
    traces: Annotated[bool, typer.Option("--traces", help="Show the tracebacks of failed plugins.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the plugins: what each brought, which failed and why."""
    session: Session = context.obj
    loaded = session.plugins
    failed = [_failed(plugin) for plugin in loaded.failed]
    if as_json:
        shown = [{**dataclasses.asdict(info), "brings": brought(loaded, info)} for info in loaded.loaded]
        print_json({"loaded": shown, "failed": failed})
        return
    print_table("loaded", [(info.name, info.source, ", ".join(brought(loaded, info))) for info in loaded.loaded])
    for plugin in loaded.failed:
        print(f"failed: {plugin.name} ({plugin.source})\n  {plugin.error}\n  disable it: {plugin.disable}")
        if traces:
            print(plugin.trace)


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the installation: versions that do not fit, what is missing, threads, folders; each with its hint."""
    from topwork.cli.doctor import diagnose

    session: Session = context.obj
    findings = diagnose(session.plugins)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
            if not finding.ok:
                print(f"      hint: {finding.hint}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
