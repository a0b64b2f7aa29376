"""Trackers of a run: made by their plugins when the recipe names them, and called until the run ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from topwork.errors import PluginError

if TYPE_CHECKING:
    from topwork import Run
    from topwork.plugins.registry import Plugins


@contextmanager
def tracking(plugins: Plugins, names: Sequence[str], run: Run) -> Iterator[None]:
    """Let the named trackers hear the news of a run for the block; one that fails warns, and the run goes on.

    Args:
        plugins: who makes them.
        names: as in the recipe's `track`.
        run: the run.

    Raises:
        PluginError: the plugin that registered a tracker does not make it.
        UsageError: a package that it needs is not installed.
    """
    with ExitStack() as stack:
        for name in names:
            owner = plugins.trackers.owner(name)
            tracker = plugins.hook.make_tracker(name=name, run=run)
            if tracker is None:
                raise PluginError(f"registers the tracker `{name}` and does not make it", place=f"plugin {owner}")
            stack.callback(plugins.observe(tracker, owner))
        yield
