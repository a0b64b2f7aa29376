"""Threads that claim the same shard at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from topwork.shards.claims import Claims


def taken_at_once(folder: Callable[[], Any], count: int) -> list[bool]:
    """Return for each of some threads whether it got the shard that all of them claimed together.

    Args:
        folder: makes the shared folder of a thread.
        count: how many threads there are.
    """
    together, taken = threading.Barrier(count), []

    def take() -> None:
        with Claims(folder()) as claims:
            together.wait()
            with claims.holding("00000") as claim:
                taken.append(claim is not None)
                together.wait()

    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken
