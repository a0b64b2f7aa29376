"""Limits of a service, and the errors that it answers with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of the connections.

    Args:
        body: bytes.
        rows: rows.
        pixels: width times height of an image.
        audio_seconds: length of a clip.
        seconds: until the predictions must be there.
        waiting: rows of all requests that may wait.
        connections: that are open at the same time, idle ones included.
        header_seconds: until the head of a request must be there.
    """

    body: int = 10 * 2**20
    rows: int = 64
    pixels: int = 25_000_000
    audio_seconds: float = 600.0
    seconds: float = 30.0
    waiting: int = 1024
    connections: int = 256
    header_seconds: float = 10.0


class RequestError(Exception):
    """A request that is not answered with predictions.

    Args:
        status: of HTTP.
        error: what is wrong.
        hint: what to do about it.
    """

    def __init__(self, status: int, error: str, hint: str | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint

    def content(self) -> dict[str, str]:
        """Return the body of the response."""
        return {"error": self.error, **({"hint": self.hint} if self.hint else {})}
