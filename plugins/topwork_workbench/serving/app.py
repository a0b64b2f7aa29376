"""The HTTP service of a model, in the shape of the Hub's inference API. Entry point: `make_app`.

POST / takes {"inputs": ..., "parameters": {...}} or the raw bytes of an image or a clip, and gives what the task's
pipeline on the Hub gives; GET /health tells whether it runs, GET / is a page to try it by hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from topwork import Json, TopworkError
from topwork_workbench.serving.batcher import Batcher, Job
from topwork_workbench.serving.inputs import Inputs
from topwork_workbench.serving.limits import Limits, RequestError
from topwork_workbench.serving.page import page
from topwork_workbench.serving.parameters import known_parameters, with_parameters

if TYPE_CHECKING:
    from topwork import TaskModel

_LOG = logging.getLogger("topwork.serve")
_JSON = "application/json"
#: tasks of which the Hub's API gives a list for each text, of a single one too; of other tasks that list alone
_LISTS_FOR_ONE = frozenset(("text-classification",))
_LIMITS = Limits()


def make_app(
    work: TaskModel,
    limits: Limits = _LIMITS,
    *,
    batch_size: int = 32,
    wait: float = 0.005,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
) -> FastAPI:
    """Return the service of a model.

    Args:
        work: the task and its model.
        limits: of a request.
        batch_size: most rows that are predicted together.
        wait: seconds that a request waits for others to be predicted with.
        hosts: names by which it may be called; "*" for any. Other pages cannot reach it under a name of their own.
    """
    batcher = Batcher(work, batch_size, wait, limits.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_middleware(_KnownHosts, hosts=hosts)
    app.state.batcher = batcher
    service = _Service(work, limits, batcher)
    app.add_api_route("/", service.predict, methods=["POST"])
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/", service.show, methods=["GET"], response_class=HTMLResponse)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class _KnownHosts:
    """Refusal of requests under another name: a page of somebody else whose name leads to this machine.

    Args:
        app: what answers.
        hosts: names that are known; "*" for any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Headers(scope=scope).get("host", "").rpartition("@")[2].partition(":")[0] if "headers" in scope else ""
        if scope["type"] == "http" and "*" not in self.hosts and name not in self.hosts:
            content = {"error": "the service has another name", "hint": f"call it {' or '.join(sorted(self.hosts))}"}
            await JSONResponse(content, 400)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class _Service:
    """Routes of one model."""

    def __init__(self, work: TaskModel, limits: Limits, batcher: Batcher) -> None:
        self.work, self.limits, self.batcher = work, limits, batcher
        self.inputs = Inputs(work.task, limits)
        self._page = page(work.task.name, self.inputs, known_parameters(work.task))

    async def health(self) -> JSONResponse:
        """Tell that the service runs, and what it serves."""
        return JSONResponse({"status": "ok", "task": self.work.task.name, "model": type(self.work.model).__name__})

    async def show(self) -> HTMLResponse:
        """Return the page to try the model by hand."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY"})

    async def predict(self, request: Request) -> JSONResponse:
        """Return the predictions of a request, or a JSON error."""
        try:
            return JSONResponse(await asyncio.wait_for(self._predicted(request), self.limits.seconds))
        except RequestError as error:
            return JSONResponse(error.content(), error.status)
        except TimeoutError:
            late = RequestError(408, f"the predictions took more than {self.limits.seconds:g} seconds")
            return JSONResponse(late.content(), late.status)
        except TopworkError as error:
            return JSONResponse(RequestError(422, error.cause, error.hint).content(), 422)
        except Exception:
            _LOG.exception("a prediction failed")
            return JSONResponse({"error": "the prediction failed; the log of the service says why"}, 500)

    async def _predicted(self, request: Request) -> Json:
        body = await self._body(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        single, parameters = True, None
        if kind == _JSON:
            content = _parsed(body)
            value, parameters = content["inputs"], content.get("parameters")
            single = not isinstance(value, list)
            rows = self.inputs.rows(value)
        elif kind.startswith(("image/", "audio/")) or kind in ("application/octet-stream", ""):
            rows = [self.inputs.file_row(body)]  # huggingface_hub's InferenceClient sends files without a type
        else:
            raise RequestError(415, f"the body is {kind[:60] or 'of no type'}", "send application/json")
        task = with_parameters(self.work.task, parameters)
        key = json.dumps([parameters or {}, sorted({name for row in rows for name in row})], sort_keys=True)
        predictions = await asyncio.wrap_future(self.batcher.submit(Job(rows, task, key)))
        return predictions[0] if single and self.work.task.name not in _LISTS_FOR_ONE else predictions

    async def _body(self, request: Request) -> bytes:
        """Return the body; a longer one than allowed is not read to its end."""
        most = self.limits.body
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise RequestError(413, f"the body has {declared} bytes, at most {most} are allowed")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise RequestError(413, f"the body has more than {most} bytes")
        return bytes(body)


#: scripts and styles of the page alone, connections to the service alone
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the object of a JSON body.

    Raises:
        RequestError: it is none, or has other keys than `inputs`, `parameters` and `options`.
    """
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(422, f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict) or "inputs" not in content:
        raise RequestError(422, "the body is no object with `inputs`", '{"inputs": ..., "parameters": {...}}')
    if unknown := sorted(set(content) - {"inputs", "parameters", "options"}):
        raise RequestError(422, f"there is no key `{unknown[0][:60]}`", "inputs, parameters")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    """Return errors of routing (no such path, another method) as JSON too."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"error": str(getattr(error, "detail", error))}, status)
