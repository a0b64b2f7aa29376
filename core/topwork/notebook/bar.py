"""Progress bars of notebooks: `NotebookBar` shows one in a cell's output and takes it away when the work is done.

Where a process runs in a notebook is asked of IPython, if the process has loaded it; nothing here imports it otherwise.
"""

from __future__ import annotations

import html
import sys
import time
from typing import Any

_SECONDS = 0.2  # between two pictures of a bar


def in_notebook() -> bool:
    """Return whether the output of this process is shown by a notebook: whether its IPython shell has a kernel."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return shell is not None and getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Progress bar in the output of a notebook's cell; it needs no widgets, so that every frontend shows it.

    Args:
        total: how much there is to do; None when that is not known.
        label: what is done.
    """

    def __init__(self, total: int | None, label: str) -> None:
        from IPython.display import display

        self.total, self.label = total, label
        self._started = self._last = time.monotonic()
        self._handle: Any = display(self._picture(0, ""), raw=True, display_id=True)

    def at(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done, with a few words; at most five times a second, and at the end."""
        now = time.monotonic()
        if now - self._last < _SECONDS and done != self.total:
            return
        self._last = now
        self._handle.update(self._picture(done, note), raw=True)

    def close(self) -> None:
        """Take the bar away."""
        self._handle.update({"text/plain": "", "text/html": ""}, raw=True)

    def _picture(self, done: int, note: str) -> dict[str, str]:
        """Return the bar as HTML, and as text for frontends that show none."""
        count = f"{done}/{'?' if self.total is None else self.total}"
        words = [self.label, count, *([note] if note else []), *self._left(done)]
        value = "" if self.total is None else f' max="{max(1, self.total)}" value="{done}"'
        bar = f'<progress{value} style="width: 16em; vertical-align: middle"></progress>'
        text = html.escape(", ".join(words[1:]))
        return {"text/plain": " ".join(words), "text/html": f"<div>{html.escape(self.label)} {bar} {text}</div>"}

    def _left(self, done: int) -> list[str]:
        """Return the seconds that are left if it goes on as before; nothing when that cannot be said."""
        if not done or self.total is None or done >= self.total:
            return []
        seconds = (time.monotonic() - self._started) * (self.total - done) / done
        return [f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"]
