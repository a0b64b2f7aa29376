"""Hooks for the objects and pages behind public functions: the first answer that is not None counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork.hookspecs.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn

    from topwork import Run
    from topwork.data.profile import Profile


@hookspec(firstresult=True)
def look(model: nn.Module, plugins: Any) -> Any | None:
    """Return the object behind `topwork.look`, which finds, captures, masks and prunes attention heads.

    Example:
        @topwork.hookimpl
        def look(model, plugins):
            return MyLens(model, plugins)
    """


@hookspec(firstresult=True)
def compress(model: nn.Module, batches: Iterable[Any], options: Mapping[str, Any], plugins: Any) -> Any | None:
    """Make a model smaller than a budget and return what came of it: what is behind `topwork.compress`.

    Example:
        @topwork.hookimpl
        def compress(model, batches, options, plugins):
            return shrink(model, batches, share=options.get("parameters", 0.5))
    """


@hookspec(firstresult=True)
def make_tracker(name: str, run: Run) -> Any | None:
    """Return an object that hears the news of this run, or None: "not mine".

    The object has methods with the names and arguments of the hooks of news that it wants, such as `step_logged`, each
    marked by `@topwork.hookimpl`. It is made when a run begins whose recipe says `track: [name]`, on the main process.

    Example:
        @topwork.hookimpl
        def make_tracker(name, run):
            return Printer(run) if name == "printed" else None
    """


@hookspec(firstresult=True)
def profile_page(profile: Profile, file: Path) -> bool | None:
    """Write the profile of a recipe's rows (`topwork data --page FILE`) as one offline page; True when written.

    Example:
        @topwork.hookimpl
        def profile_page(profile, file):
            topwork.write_text(file, f"<h1>{profile.task}</h1>")
            return True
    """


@hookspec(firstresult=True)
def repetitions_page(folder: Path) -> str | None:
    """Write the page of repetitions (`topwork run --seeds`) into their folder, from `summary.json`; return its name.

    Example:
        @topwork.hookimpl
        def repetitions_page(folder):
            return topwork.write_text(folder / "page.html", (folder / "summary.json").read_text()) or "page.html"
    """


@hookspec(firstresult=True)
def sweep_page(folder: Path) -> str | None:
    """Write the page of a sweep (`topwork sweep`) into its folder, from `trials.json`; return its name.

    Example:
        @topwork.hookimpl
        def sweep_page(folder):
            return topwork.write_text(folder / "page.html", (folder / "trials.json").read_text()) or "page.html"
    """


@hookspec(firstresult=True)
def notebook_view(subject: str, content: Any) -> str | None:
    """Return a page (HTML) for a notebook that shows a "run" (its folder) or "attention"; None: "not mine".

    Example:
        @topwork.hookimpl
        def notebook_view(subject, content):
            return f"<h1>{content}</h1>" if subject == "run" else None
    """
