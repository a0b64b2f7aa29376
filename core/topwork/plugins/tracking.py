"""Trackers of a run: made by their plugins when the recipe names them, and called until the run ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from topwork.errors import PluginError
from topwork.plugins.calls import is_strict, warn_of

if TYPE_CHECKING:
    from topwork import Run
    from topwork.plugins.registry import Plugins


@contextmanager
def tracking(plugins: Plugins, names: Sequence[str], run: Run) -> Iterator[None]:
    """Let the named trackers hear the news of a run for the block; one that fails warns, and the run goes on.

    A tracker that cannot be made, as where its server is down, warns too.

    Args:
        plugins: who makes them.
        names: as in the recipe's `track`.
        run: the run.

    Raises:
        PluginError: the plugin that registered a tracker does not make it; a failure, when the run is strict.
        UsageError: a package that it needs is not installed.
    """
    with ExitStack() as stack:
        for name in names:
            owner = plugins.trackers.owner(name)
            try:
                tracker = plugins.hook.make_tracker(name=name, run=run)
            except PluginError as error:
                if is_strict() or error.__cause__ is None:  # an answer that breaks the contract has no cause
                    raise
                warn_of(error, run)
                continue
            if tracker is None:
                raise PluginError(f"registers the tracker `{name}` and does not make it", place=f"plugin {owner}")
            stack.callback(plugins.observe(tracker, owner))
        yield
