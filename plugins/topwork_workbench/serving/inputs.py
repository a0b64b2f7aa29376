"""Inputs of a request in the shape of the Hub's inference API -> rows of the task. Entry point: `Inputs`.

`inputs` is a text, a dict of the task's input columns, or a list of these; images and clips are base64 or the raw body.
Files come with the request: a path or an address in it is never opened.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import Json, Row, single_input
from topwork_workbench.serving.limits import Limits, RequestError

if TYPE_CHECKING:
    from topwork import Task


class Inputs:
    """Reads the inputs of requests to one task.

    Args:
        task: whose rows they become.
        limits: of a request.
    """

    def __init__(self, task: Task, limits: Limits) -> None:
        self.limits = limits
        self.columns = {name: column for name, column in task.columns.items() if not column.target}
        self.required = [name for name, column in self.columns.items() if column.required]
        self.files = [name for name, column in self.columns.items() if column.lazy]
        #: the column of a single value; None where a request must name its columns
        self.main = single_input(task)

    def rows(self, value: Json) -> list[Row]:
        """Return the rows of `inputs`.

        Raises:
            RequestError: it is none of the shapes, or larger than the limits.
        """
        values = value if isinstance(value, list) else [value]
        if not values:
            raise RequestError(422, "`inputs` is empty")
        if not _is_unicode(value):
            raise RequestError(422, "a text holds half of a surrogate pair, which is no character")
        if len(values) > self.limits.rows:
            raise RequestError(422, f"{len(values)} rows in one request, at most {self.limits.rows} are allowed")
        return [self._row(element) for element in values]

    def file_row(self, body: bytes) -> Row:
        """Return the row of a raw body: an image or a clip.

        Raises:
            RequestError: the task reads no files, or the file is larger than the limits.
        """
        if self.main not in self.files or self.main is None:
            raise RequestError(415, "the task reads no raw bytes", 'send JSON: {"inputs": ...}')
        return {self.main: self._file(self.main, body)}

    def _row(self, value: Json) -> Row:
        if isinstance(value, Mapping):
            return self._named_row(value)
        if not isinstance(value, str):
            raise RequestError(422, f"`inputs` holds {type(value).__name__}, not a text or an object", self._shape())
        if self.main is None:
            raise RequestError(422, "a text could be any of the inputs", self._shape())
        return {self.main: self._decoded(self.main, value) if self.main in self.files else value}

    def _named_row(self, value: Mapping[str, Json]) -> Row:
        if unknown := sorted(set(value) - set(self.columns)):
            raise RequestError(422, f"the task has no input `{unknown[0][:60]}`", self._shape())
        if missing := [name for name in self.required if value.get(name) is None]:
            raise RequestError(422, f"the input `{missing[0]}` is missing", self._shape())
        if not any(entry is not None for entry in value.values()):
            raise RequestError(422, "all inputs are empty", self._shape())
        return {
            name: self._decoded(name, entry) if name in self.files else self._checked(name, entry)
            for name, entry in value.items()
            if entry is not None
        }

    def _checked(self, name: str, value: Json) -> Json:
        if self.columns[name].kind == "text" and not isinstance(value, str):
            raise RequestError(422, f"the input `{name}` is {type(value).__name__}, not a text")
        return value

    def _decoded(self, name: str, value: Json) -> dict[str, Any]:
        if not isinstance(value, str):
            raise RequestError(422, f"the input `{name}` is {type(value).__name__}, not base64")
        text = value.partition(",")[2] if value.startswith("data:") else value
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            content = b""
        if not content:
            hint = "send the file itself: base64 in JSON, or the raw body; paths and addresses are not opened"
            raise RequestError(422, f"the input `{name}` is no base64", hint)
        return self._file(name, content)

    def _file(self, name: str, content: bytes) -> dict[str, Any]:
        if not content:
            raise RequestError(422, "the body is empty")
        if self.columns[name].kind == "audio":
            self._check_clip(content)
        else:
            self._check_image(content)
        return {"bytes": content, "path": None}

    def _check_image(self, content: bytes) -> None:
        """Refuse an image whose header names too many pixels; whatever has no header is refused by the task."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except Image.DecompressionBombError as error:
            raise RequestError(413, f"the image is too large: {error}") from error
        except (OSError, ValueError, SyntaxError):
            return
        if width * height > self.limits.pixels:
            raise RequestError(
                413, f"the image has {width} x {height} pixels, at most {self.limits.pixels} are allowed"
            )

    def _check_clip(self, content: bytes) -> None:
        """Refuse a clip whose header names too many seconds; whatever has no header is refused by the task."""
        import soundfile

        try:
            seconds = soundfile.info(io.BytesIO(content)).duration
        except (RuntimeError, TypeError, ValueError):
            return
        if seconds > self.limits.audio_seconds:
            allowed = f"at most {self.limits.audio_seconds:g} are allowed"
            raise RequestError(413, f"the clip has {seconds:.0f} seconds, {allowed}")

    def _shape(self) -> str:
        named = ", ".join(f'"{name}": ...' for name in self.required or list(self.columns)[:1])
        return f'{{"inputs": {{{named}}}}}' + (f', or {{"inputs": "..."}} for `{self.main}`' if self.main else "")


def _is_unicode(value: Json) -> bool:
    """Return whether all texts of a JSON value can be written as UTF-8; JSON can spell surrogates that are alone."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
