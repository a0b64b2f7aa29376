"""The page of a run that goes on: `watch` writes report.html again and again until nobody is at work in the folder.

What a training has logged so far: `step_log`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from topwork import Json, is_running
from topwork_report.page import PAGE, write_page


def watch(folder: Path, every: int, say: Callable[[str], None]) -> dict[str, Json]:
    """Write the page of a run again every few seconds while a process is at work in its folder, and once more then.

    Args:
        folder: of the run.
        every: seconds between two pages.
        say: is told where the page is, and how the watch ended.

    Returns:
        as `write_page`, of the last page.
    """
    say(f"{folder / PAGE}: written again every {every} s while the run goes on (Ctrl-C ends that)")
    try:
        while is_running(folder):
            write_page(folder, live=every)
            time.sleep(every)
    except KeyboardInterrupt:
        say("no longer watched; the run goes on")
    return write_page(folder)
