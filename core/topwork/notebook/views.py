"""Notebook views of a run or of attention: a page in a frame. Entry point: `show`.

The pages are made by plugins, through the hook `notebook_view`: those that `topwork report` writes, or parts of them.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from topwork.errors import UsageError
from topwork.files import expanded, write_text


class Shown:
    """A page that a notebook shows where the object is the value of a cell.

    Args:
        page: HTML of the page; it needs nothing from elsewhere.
        height: of its frame in the notebook, in pixels.
    """

    def __init__(self, page: str, height: int = 640) -> None:
        self.page, self.height = page, height

    def __repr__(self) -> str:
        return f"Shown ({len(self.page) / 1000:.0f} kB of HTML; `.save(file)` writes it)"

    def _repr_html_(self) -> str:
        # Without `allow-same-origin`: what the page does stays inside its frame.
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.page)}"></iframe>'

    def save(self, file: str | Path) -> Path:
        """Write the page into a file, and return its path."""
        target = expanded(file)
        write_text(target, self.page)
        return target


def show(subject: str, content: Any, plugins: Any = None, height: int = 640) -> Shown:
    """Return a page of something for a notebook.

    Args:
        subject: "run" or "attention".
        content: of a run its folder; of attention {"rows", "layer", "head"}: rows as in the `attention.json` of the
            lens's stage, their `image` a PIL image; the layer, as (group, number), and the original index of the
            attention head that are shown first, None for the first layer and the mean.
        plugins: one of them makes the page; None for all that are installed.
        height: of the frame in pixels.

    Raises:
        UsageError: no plugin makes such a page.
    """
    if plugins is None:
        from topwork import load_plugins

        plugins = load_plugins()
    page = plugins.hook.notebook_view(subject=subject, content=content)
    if page is None:
        raise UsageError(
            f"no plugin shows a {subject}", hint="enable the plugin `report`, or write the hook `notebook_view`"
        )
    return Shown(page, height)
