"""The page's server: a few routes of Starlette behind checks of each request, run by uvicorn in a thread.

Any page that a browser shows can send requests to this machine, so each one is checked as `serving.http_server` does: its Host
header must name this machine (DNS rebinding), and requests of pages of another origin are refused. Bodies are bounded. The only
files that can be fetched are those of the page and those that a job made, by the job's random id.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

import tfgradgen
from tfgradgen.core.checks import UserError
from tfgradgen.core.text import as_text
from tfgradgen.demo.jobs import ENDED, Job
from tfgradgen.demo.requests import KERNELS, MAX_BODY, Limits, parse_request
from tfgradgen.demo.work import FILM, NO_FILM, Film, Studio
from tfgradgen.media.medium import Medium
from tfgradgen.serving.http_server import check_sender
from tfgradgen.serving.rest import Refusal
from tfgradgen.viewing import html

HERE = Path(__file__).resolve().parent
POLL_SECONDS, ALIVE_SECONDS = 0.1, 10.0  # how often a stream looks for news, and says that it is alive
MAX_CONNECTIONS = 64
READ_SECONDS = 10.0  # in which the head of a request must arrive, and then its body
_FILES = {  # what the page loads, and where it lies
    "base.css": (html.HERE, "text/css; charset=utf-8"),
    "page.css": (HERE, "text/css; charset=utf-8"),
    "page.js": (HERE, "text/javascript; charset=utf-8"),
}
_HEADERS = {
    # Nothing is loaded from elsewhere, so the page works without a network, and no text of a run can become a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Message = MutableMapping[str, Any]
Asgi = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class PromptProtocol(H11Protocol):  # type: ignore[misc]
    """The HTTP of uvicorn, which closes connections that do not send the head of a request in time.

    uvicorn itself has a deadline between requests only: slow senders could hold all connections for ever.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(READ_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waiting = self.cycle is None or self.cycle.response_complete  # for the rest of a head
        if is_waiting and self._deadline is None:
            self._deadline = self.loop.call_later(READ_SECONDS, self.transport.close)
        elif not is_waiting:
            self._forget_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class DemoServer:
    """Answers at a socket, in a thread.

    Args:
      listener: A socket that listens.
      is_loopback: Whether only this machine can reach it.
      studio: What does the work.
      labels: Names of classes that the page suggests.
    """

    def __init__(self, listener: socket.socket, is_loopback: bool, studio: Studio, labels: Sequence[str]):
        self._studio, self._listener = studio, listener
        page = page_of(labels, studio.limits, studio.models.generator.medium)
        application = guarded(application_of(studio, page), is_loopback)
        config = uvicorn.Config(
            application,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
            ws="none",
            http=PromptProtocol,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="page", daemon=True)

    def start(self) -> None:
        """Begin to answer and to run jobs."""
        self._studio.queue.start()
        self._thread.start()

    def wait(self) -> None:
        """Wait until the server ends, or until a signal raises an exception."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self, seconds: float) -> bool:
        """End; return whether all threads ended within about `seconds`. They cannot while a chunk is computed."""
        self._server.should_exit = self._server.force_exit = True
        is_idle = self._studio.queue.close(seconds)
        self._thread.join(seconds)
        self._listener.close()
        return is_idle and not self._thread.is_alive()


def page_of(labels: Sequence[str], limits: Limits, medium: Medium) -> str:
    """Return the page, for models of `medium`."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = [as_text(label) for label in labels]
    template = environment.get_template("page.html.j2")
    return template.render(labels=names, kernels=KERNELS, limits=limits, medium=medium, version=tfgradgen.__version__)


def guarded(application: Asgi, is_loopback: bool) -> Asgi:
    """Return `application` behind the check of the sender, with the headers of `_HEADERS` in each reply."""
    added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def answer(scope: Message, receive: Any, send: Any) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == "host"]
        try:
            check_sender(hosts, [value for name, value in headers if name == "origin"], is_loopback)
        except Refusal as refusal:
            await _refused(refusal.status, refusal.text)(scope, receive, send_with)
        else:
            await application(scope, receive, send_with)

    return answer


def application_of(studio: Studio, page: str) -> Starlette:
    """Return the routes: the page, its style and script, and jobs."""

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def asset(request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        folder, kind = _FILES[name]
        return FileResponse(folder / name, media_type=kind)

    async def submit(request: Request) -> Response:
        # A page of another origin cannot send this type without asking first, which is refused.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "expected application/json")
        try:
            body = await asyncio.wait_for(_body(request), READ_SECONDS)
        except asyncio.TimeoutError:
            raise Refusal(408, f"expected the whole request within {READ_SECONDS:g} s") from None
        wanted = parse_request(body, studio.limits)
        job = await run_in_threadpool(studio.submit, wanted)
        return JSONResponse({"job": job.id})

    async def events(request: Request) -> Response:
        return StreamingResponse(news(_job(request)), media_type="text/event-stream")

    async def stop(request: Request) -> Response:
        studio.queue.stop(_job(request))
        return JSONResponse({})

    async def download(request: Request) -> Response:
        path, name = await run_in_threadpool(studio.archive, _job(request))
        return FileResponse(path, filename=name, media_type="application/zip")

    async def draw(request: Request) -> Response:
        path, kind = await run_in_threadpool(studio.file, _job(request), request.path_params["chain"])
        return FileResponse(path, media_type=kind)

    async def film(request: Request) -> Response:
        made = _job(request).result
        if not isinstance(made, Film):
            raise Refusal(404, NO_FILM)
        return FileResponse(made.path, media_type="image/webp")

    def _job(request: Request) -> Job:
        return studio.queue.find(request.path_params["job"])

    routes = [
        Route("/", index),
        *(Route(f"/{name}", asset) for name in _FILES),
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs/{job}/events", events),
        Route("/jobs/{job}/stop", stop, methods=["POST"]),
        Route("/jobs/{job}/run.zip", download),
        Route("/jobs/{job}/draws/{chain}", draw),
        Route(f"/jobs/{{job}}/film{FILM}", film),
    ]
    handlers: Mapping[Any, Any] = {Refusal: _on_refusal, UserError: _on_user_error, OSError: _on_os_error}
    return Starlette(routes=routes, exception_handlers=handlers)


async def news(job: Job) -> AsyncIterator[str]:
    """Yield what the page sees of a job, as events of a stream: now, and after changes, until it has ended.

    A slow page misses what it could not take in time, so nothing piles up.
    """
    seen, waited = -1, 0.0
    while True:
        version, view = job.view()
        if version != seen:
            seen, waited = version, 0.0
            yield f"data: {json.dumps(view)}\n\n"
            if view["state"] in ENDED:
                return
        elif waited >= ALIVE_SECONDS:
            waited = 0.0
            yield ": alive\n\n"
        await asyncio.sleep(POLL_SECONDS)
        waited += POLL_SECONDS


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refusal(413, f"expected a body of at most {MAX_BODY} bytes")
    return body


def _refused(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


async def _on_refusal(request: Request, error: Any) -> Response:
    return _refused(error.status, error.text)


async def _on_user_error(request: Request, error: Exception) -> Response:
    return _refused(400, str(error))


async def _on_os_error(request: Request, error: Exception) -> Response:
    return _refused(500, "a file could not be written or read on the machine of the demo")
