"""`plugins`: what is installed; a new package for a plugin (`new`); the conformance tests of one (`check`)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.completion import complete_plugins
from topwork.cli.listing import brought, failed_entry
from topwork.cli.output import Session, print_json, print_table, say, stdout_for_json, verdict
from topwork.cli.run import AsJson
from topwork.errors import UsageError, unknown

if TYPE_CHECKING:
    from topwork.plugins.loading import FailedPlugin, PluginInfo
    from topwork.plugins.registry import Plugins


def plugins(
    context: typer.Context,
    action: Annotated[
        str | None, typer.Argument(help="new: write a package for a plugin; check: try out what one brings.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Of the package; for check also a plugin, a .py file or a package's folder.",
            autocompletion=complete_plugins,
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help="Of a new plugin: task, stage, observer or base.")] = "task",
    folder: Annotated[Path, typer.Option(help="Where `new` makes the folder of the package.")] = Path("."),
    base: Annotated[
        str | None, typer.Option(help="For check: the base of the plugin's tasks, as in a recipe (YAML).")
    ] = None,
    traces: Annotated[bool, typer.Option("--traces", help="Show the tracebacks of failed plugins.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the plugins: what each brought, which failed and why.

    Examples: topwork plugins new topwork-vowels --kind task; topwork plugins check topwork-vowels
    """
    session: Session = context.obj
    if action is None:
        _show(session.plugins, traces, as_json)
    elif action not in ("new", "check"):
        raise unknown("action", action, ("new", "check"))
    elif name is None:
        raise UsageError(f"`topwork plugins {action}` needs a name", place="topwork plugins")
    elif action == "new":
        from topwork.cli.new_package.package import write_package

        written = write_package(name, kind, folder, session.plugins)
        say(f"wrote {written}; its tests: cd {written} && python -m pytest")
        if as_json:
            print_json({"folder": written})
    else:
        _check(name, base, session.plugins, as_json)


def _show(loaded: Plugins, traces: bool, as_json: bool) -> None:
    failed = [failed_entry(plugin) for plugin in loaded.failed]
    if as_json:
        shown = [{**dataclasses.asdict(info), "brings": brought(loaded, info)} for info in loaded.loaded]
        print_json({"loaded": shown, "failed": failed})
        return
    print_table("loaded", [(info.name, info.source, ", ".join(brought(loaded, info))) for info in loaded.loaded])
    for plugin in loaded.failed:
        print(f"failed: {plugin.name} ({plugin.source})\n  {plugin.error}\n  disable it: {plugin.disable}")
        if traces:
            print(plugin.trace)


# ---------------------------------------------------------------- conformance


def _check(name: str, base: str | None, loaded: Plugins, as_json: bool) -> None:
    """Print the findings of all plugins that the name means; exit with 1 when a contract is broken."""
    findings: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="topwork-check-") as scratch, stdout_for_json(as_json):
        for finding in _findings(name, base, loaded, Path(scratch)):
            findings.append(finding)
            if not as_json:
                print(f"{verdict(finding.ok)}  {finding.subject}", flush=True)
                if not finding.ok:
                    print(f"      {finding.detail}", flush=True)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _findings(name: str, base: str | None, loaded: Plugins, scratch: Path) -> Iterator[Any]:
    from topwork.runs.execute import silence_libraries
    from topwork.testing.plugins import Conformance, check_plugin

    silence_libraries()
    infos, failed = _meant(name, loaded)
    chosen = _base(base)
    for plugin in failed:
        yield Conformance(f"plugin {plugin.name} loads", False, plugin.error)
    for info in infos:
        yield Conformance(f"plugin {info.name} loads", True)
        bases = {} if chosen is None else dict.fromkeys(loaded.tasks, chosen)
        yield from check_plugin(info, loaded, scratch, bases)


def _base(text: str | None) -> Any:
    """Return the base of `--base`: a name, or YAML such as {config: {model_type: vit}}."""
    if text is None:
        return None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {text}", place="--base") from error


def _meant(name: str, loaded: Plugins) -> tuple[list[PluginInfo], list[FailedPlugin]]:
    """Return the plugins, loaded and failed, of a package, of a plugin's name, or of a file or folder.

    Raises:
        UsageError: there is none.
    """
    path = Path(name)
    before = len(loaded.loaded), len(loaded.failed)
    if path.suffix == ".py" or (path / "pyproject.toml").is_file():
        _load_local(path, loaded)
        return loaded.loaded[before[0] :], loaded.failed[before[1] :]
    infos = [info for info in loaded.loaded if name in (info.name, info.package)]
    failed = [plugin for plugin in loaded.failed if name in (plugin.name, plugin.package)]
    if not infos and not failed:
        raise loaded.unknown("plugin", name, {info.name for info in loaded.loaded} | {i.package for i in loaded.loaded})
    return infos, failed


def _load_local(path: Path, loaded: Plugins) -> None:
    """Load a Python file, or the plugins of a package's folder that is not installed; failures go to `failed`."""
    from topwork.plugins.loading import describe_failure, from_file, from_folder

    for candidate in from_folder(path) if path.is_dir() else [from_file(path)]:
        try:
            loaded.add(candidate)
        except (Exception, SystemExit) as error:
            loaded.failed.append(describe_failure(candidate.info, error, ()))
