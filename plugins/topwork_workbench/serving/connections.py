"""Connections of a service: how many are open, and how long a client may take for the head of a request.

uvicorn limits neither: clients that open connections and send nothing, or a byte now and then, would keep all others
out. Entry point: `settings`.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from topwork_workbench.serving.limits import Limits, RequestError


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 on one connection that is refused when too many are open, and closed when no head of a request comes."""

    limits = Limits()
    _refused = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        self._refused = len(self.connections) > self.limits.connections
        self._wait_for_head(1.0 if self._refused else self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; the head of a request has one limit of time, however its bytes are dealt out."""
        if self.transport.is_closing():
            return
        if self._refused:  # only now: a response to a client that has sent nothing is lost when it sends
            self._refuse(RequestError(503, "too many connections are open", "try again later"))
            return
        super().data_received(data)
        self._wait_for_head(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer of a connection that is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def _wait_for_head(self, seconds: float) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self._refused:
            self._refuse(RequestError(503, "too many connections are open", "try again later"))
        elif self.conn.their_state is h11.IDLE:
            self._refuse(RequestError(408, f"no head of a request came in {self.limits.header_seconds:g} seconds"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: RequestError) -> None:
        """Write an error as the whole response, and close the connection."""
        if self.transport.is_closing():
            return
        body = json.dumps(error.content()).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def settings(limits: Limits) -> dict[str, Any]:
    """Return the settings of uvicorn that keep these limits; web sockets are not spoken."""
    protocol = type("LimitedProtocol", (LimitedProtocol,), {"limits": limits})
    return {"http": protocol, "ws": "none", "log_level": "warning", "server_header": False}
