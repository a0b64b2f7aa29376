"""A headless Chromium for tests of pages: opens a file, runs expressions, presses keys, by the DevTools protocol.

It needs the program alone (Debian's package `chromium`): the protocol's WebSocket is spoken with the standard library.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0  # seconds for anything: a slow machine is no fault of the page


def program() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Chromium:
    """A page in a headless Chromium; use it in a `with` block.

    `messages` holds what the page wrote to its console, errors that nothing caught, and refusals of its security
    policy.
    """

    def __init__(self, page: Path, width: int = 1000, height: int = 800) -> None:
        self.page, self.size = page, (width, height)
        self.messages: list[str] = []
        self._count = 0

    def __enter__(self) -> Self:
        path = program()
        assert path is not None
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--remote-debugging-port=0", "--mute-audio", "--disable-extensions", "--disable-background-networking"),
            *(f"--user-data-dir={self._profile}", "--window-size={},{}".format(*self.size), "about:blank"),
        ]
        self._process = subprocess.Popen([path, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._connect()
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self.open(self.page)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.kill()
        self._process.wait(PATIENCE)
        shutil.rmtree(self._profile, ignore_errors=True)

    # ------------------------------------------------------------------ what tests do

    def open(self, page: Path) -> None:
        """Go to another page, and wait until it is there."""
        address = page.resolve().as_uri()
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or raise with the page's error."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := self.run(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; messages: {self.messages}")

    def press(self, key: str) -> None:
        """Press and release a key, such as "Tab", "Enter" or "ArrowRight"."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
                 "ArrowDown": 40, "End": 35, "+": 187, "-": 189, "0": 48}  # fmt: skip
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            **common,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def colours(self, scheme: str) -> None:
        """Let the page believe that the reader prefers "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        """Give the page another size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    # ------------------------------------------------------------------ the protocol

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and note what the page says meanwhile."""
        self._count += 1
        self._send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._receive())
            if message.get("id") == self._count:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, parameters = message.get("method"), message.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(part.get("value", part)) for part in parameters["args"]))
        elif kind == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description") or details["text"])
        elif kind == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])

    def _connect(self) -> None:
        deadline = time.monotonic() + PATIENCE
        file = Path(self._profile) / "DevToolsActivePort"
        while not (file.exists() and len(file.read_text().splitlines()) == 2):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("chromium did not begin")
            time.sleep(0.05)
        port = int(file.read_text().splitlines()[0])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            target = next(entry for entry in json.load(answer) if entry["type"] == "page")
        path = target["webSocketDebuggerUrl"].split(str(port), 1)[1]
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]  # fmt: skip
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._more()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        assert b" 101 " in head.splitlines()[0], head

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 16)
        assert data, "chromium has gone"
        return data

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _send(self, text: str) -> None:
        """Send a text frame, masked as RFC 6455 wants it of a client."""
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        head = bytes([0x81])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", size)
        self._socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)))

    def _receive(self) -> str:
        """Return the next text message, of one or several frames."""
        parts = []
        while True:
            first, second = self._exactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self._exactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._exactly(8))
            data = self._exactly(size)
            if first & 0x0F in (0, 1):
                parts.append(data)
                if first & 0x80:
                    return b"".join(parts).decode()
