"""Hooks by which a plugin adds names: the answers of all plugins are merged, a duplicate name is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork.hookspecs.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from topwork import Stage, Task


@hookspec
def register_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Return task classes, or declarations of them (`topwork.Declaration`), that this plugin adds.

    Example:
        @topwork.hookimpl
        def register_tasks():
            about = "Answer one of several choices."
            return [topwork.Declaration("multiple-choice", "my_package.task:MultipleChoice", about)]
    """


@hookspec
def register_stages() -> list[type[Stage]]:  # type: ignore[empty-body]
    """Return stage classes, or declarations of them, that this plugin adds.

    Example:
        @topwork.hookimpl
        def register_stages():
            return [LinearProbe]
    """


@hookspec
def register_commands() -> list[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return functions, or declarations of them, that become commands; typer reads their signatures.

    Example:
        def sizes(folder: Path) -> None:
            "Print the sizes of the tensors of a model folder."

        @topwork.hookimpl
        def register_commands():
            return [sizes]
    """


@hookspec
def register_recipes() -> list[Path]:  # type: ignore[empty-body]
    """Return folders with recipes (`*.yaml`) that this plugin ships; they can be run by their file's name.

    Example:
        @topwork.hookimpl
        def register_recipes():
            return [Path(__file__).parent / "recipes"]
    """


@hookspec
def register_samples() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of small data sets, with a line about each; `load_rows` is asked for `sample:<name>`.

    Example:
        @topwork.hookimpl
        def register_samples():
            return {"riddles": "Two hundred riddles with their answers."}
    """


@hookspec
def register_formats() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of layouts of files that `load_rows` of this plugin reads, with a line about each.

    Example:
        @topwork.hookimpl
        def register_formats():
            return {"elan": "Annotations of ELAN beside their audio files."}
    """


@hookspec
def register_trackers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of trackers that `make_tracker` of this plugin makes, with a line about each.

    Example:
        @topwork.hookimpl
        def register_trackers():
            return {"printed": "Print every number that a training logs."}
    """
