"""Claims: who of several processes, on any number of machines, is at work on which shard of a shared folder.

Entry point: `Claims`. A claim is a file that is created exclusively, so exactly one process has it, and that its holder
touches again and again. Claims of a shard are numbered: who takes over from a process that died creates the next
number, again exclusively, so no two processes take over together. Clocks of machines are never compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork.shards.stores import Store

#: seconds without a sign of life after which a claim is abandoned; NFS may show a touched file a minute late
STALE_AFTER = 120.0
#: signs of life within that time
_BEATS = 6


class Claims:
    """The claims of this process and of its peers; a context manager, which ends the signs of life.

    Args:
        folder: where the claims lie.
        stale_after: seconds without a sign of life after which another process's claim is abandoned. A process that
            died on this machine is noticed at once.
        clock: by which this process measures how long another one is silent.
    """

    def __init__(
        self, folder: Path | Store, stale_after: float = STALE_AFTER, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stale_after, self.clock = stale_after, clock
        signature = json.dumps(_signature())
        self.files = _LocalClaims(folder, signature) if isinstance(folder, Path) else _StoredClaims(folder, signature)
        self._held: set[str] = set()
        self._watched: dict[str, tuple[Any, float]] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat of claims", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()

    @contextmanager
    def holding(self, name: str) -> Iterator[Claim | None]:
        """Hold `name` during the block; yield None when a process that lives has it.

        Whoever gets it looks whether the work was done meanwhile, for a claim ends after its work is published.

        Args:
            name: of the shard; it becomes part of a file name.
        """
        claim = self._take(name)
        if claim is None:
            yield None
            return
        self._held.add(claim.name)
        try:
            yield claim
        finally:
            self._held.discard(claim.name)
            self.files.remove(claim.name)
            if claim.done:  # earlier claims stay as long as work is to be done: their numbers are taken
                for earlier in self._of(name):
                    self.files.remove(earlier)

    def sweep(self) -> None:
        """Remove what processes left that died, once all work is done: claims that this process does not hold."""
        for name in self.files.names():
            if name not in self._held:
                self.files.remove(name)

    def _take(self, name: str) -> Claim | None:
        newest = max(self._of(name), default=None)
        if newest is not None and not self._is_abandoned(newest):
            return None
        number = 0 if newest is None else int(newest.rpartition(".")[2]) + 1
        claimed = f"{name}.{number:06d}"
        return Claim(claimed) if self.files.create(claimed) else None

    def _of(self, name: str) -> list[str]:
        parts = [(each.rpartition("."), each) for each in self.files.names()]
        return [each for (shard, _, number), each in parts if shard == name and number.isdigit()]

    def _is_abandoned(self, name: str) -> bool:
        """Return whether the holder of a claim has died, or has given no sign of life for too long."""
        seen = self.files.look(name)
        if seen is None:  # released just now
            return False
        beat, signature = seen
        if has_died(signature):
            return True
        known = self._watched.get(name)
        if known is None or known[0] != beat:
            self._watched[name] = (beat, self.clock())
            return False
        return self.clock() - known[1] >= self.stale_after

    def _beat(self) -> None:
        while not self._ended.wait(self.stale_after / _BEATS):
            for name in list(self._held):
                if not self.files.touch(name):  # taken over by who waited too short a time; the first result counts
                    self._held.discard(name)


class Claim:
    """A claim that this process holds.

    Attributes:
        name: of its file.
        done: set it when the work is published.
    """

    def __init__(self, name: str) -> None:
        self.name, self.done = name, False


class _LocalClaims:
    """Files of claims in a folder that the system sees; the time of a file's last change is a sign of life."""

    def __init__(self, folder: Path, signature: str) -> None:
        self.folder, self.signature = folder, signature
        folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        return os.listdir(self.folder)

    def create(self, name: str) -> bool:
        """Create a claim with its content, or return False when it is there already."""
        whole, path = self.folder / f".{uuid.uuid4().hex}", self.folder / name
        whole.write_text(self.signature, encoding="utf-8")
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(self.signature)
            except FileExistsError:
                return False
        finally:
            whole.unlink(missing_ok=True)
        return True

    def look(self, name: str) -> tuple[Any, str] | None:
        """Return the last sign of life of a claim's holder, and who that is; None when it was released."""
        path = self.folder / name
        try:
            return path.stat().st_mtime_ns, path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> bool:
        """Give a sign of life; return False when the claim is gone."""
        try:
            os.utime(self.folder / name)
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class _StoredClaims:
    """Files of claims in a store; a sign of life is written into them, for stores tell no times alike."""

    def __init__(self, folder: Store, signature: str) -> None:
        self.folder, self.signature, self._beats = folder, signature, 0

    def names(self) -> list[str]:
        return self.folder.names()

    def create(self, name: str) -> bool:
        """Create a claim with its content, or return False when it is there already."""
        return self.folder.create(name, self.signature.encode())

    def look(self, name: str) -> tuple[Any, str] | None:
        """Return the last sign of life of a claim's holder, and who that is; None when it was released."""
        content = self.folder.read(name)
        if content is None:
            return None
        signature, _, beat = content.decode(errors="replace").partition("\n")
        return beat, signature

    def touch(self, name: str) -> bool:
        """Give a sign of life; return False when the claim is gone."""
        try:
            if self.folder.read(name) is None:
                return False
            self._beats += 1
            self.folder.write(name, f"{self.signature}\n{self._beats}".encode())
        except UsageError:
            return True  # the store does not answer now: the next sign of life may reach it
        return True

    def remove(self, name: str) -> None:
        self.folder.remove(name)


def _signature() -> dict[str, Any]:
    """Return what identifies this process among those of its machine; without `machine` where that is not known."""
    known: dict[str, Any] = {"host": socket.gethostname(), "process": os.getpid()}
    machine, started = _machine(), _start_of(os.getpid())
    return {**known, "machine": machine, "started": started} if machine and started else known


def has_died(signature: str) -> bool:
    """Return True when a claim's content names a process of this machine that lives no more; False when unsure."""
    try:
        holder = json.loads(signature)
        machine, process, started = holder["machine"], int(holder["process"]), holder["started"]
    except (ValueError, TypeError, KeyError):
        return False
    return machine == _machine() and _start_of(process) != started


def _machine() -> str | None:
    """Return the id of this boot of the machine, and of the name space in which process ids are counted."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_of(process: int) -> str | None:
    """Return when a process was started, in ticks since the boot; None when it lives no more."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]  # fields 3 (state) and 22 (starttime) of proc(5)
