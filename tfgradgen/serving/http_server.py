"""The REST interface of TensorFlow Serving for one export, by the standard library. Does not import TensorFlow.

It is made for trying an export, not for the open internet: it has no TLS and no authentication. Requests may still be hostile,
since any page that a browser shows can send some to this machine:

- Bodies, rows, connections and the queue are bounded, and clients that read or write slowly are cut off.
- One request is computed at a time. Those beyond the queue get 503.
- On a loopback address, the Host header must name this machine. Otherwise a page could reach the server under a name of its own
  that resolves to 127.0.0.1 (DNS rebinding). Requests of pages of another origin are refused on any address.
- Errors are `{"error": ...}`, one line without a traceback.
"""

import http.client
import http.server
import ipaddress
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np

from tfgradgen.serving.rest import Refusal, Request, Specs, parse_request, reply_of

_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d{1,19}))?(?:/(metadata)|:([a-z]+))?", re.ASCII)
_LOOPBACK = re.compile(r"(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
LINGER_SECONDS = 1.0  # how long the rest of a refused request is read, so that its sender gets to see the reply
BLOCK = 1 << 16  # bytes


class Model(Protocol):
    """What is served; see `servable.Servable`."""

    name: str
    version: int

    @property
    def specs(self) -> Mapping[str, Specs]: ...
    def predict(self, request: Request) -> dict[str, np.ndarray]: ...
    def status(self) -> dict[str, Any]: ...
    def metadata(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Limits:
    """Bounds on what a server accepts.

    Attributes:
      max_body: Bytes of a body.
      max_images: Images that one request asks for.
      images_per_row: Images of a row, by signature; 1 for those that are not listed.
      max_waiting: Requests that wait while one is computed.
      max_connections: Open connections.
      read_seconds: Time in which a request must arrive, and in which its reply must be taken.
    """

    max_body: int = 1 << 20
    max_images: int = 16
    images_per_row: Mapping[str, int] | None = None
    max_waiting: int = 8
    max_connections: int = 32
    read_seconds: float = 10.0

    def max_rows(self, signature: str) -> int:
        """Return the largest number of rows of a request to `signature`."""
        return max(1, self.max_images // (self.images_per_row or {}).get(signature, 1))


class Turns:
    """A queue for one job at a time.

    Args:
      max_waiting: Number of jobs that may wait.

    Attributes:
      lock: Held while a job runs.
    """

    def __init__(self, max_waiting: int):
        self._places, self.lock = threading.BoundedSemaphore(max_waiting + 1), threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn, and keep it during the block.

        Raises:
          Refusal: The queue is full (503).
        """
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "the server is busy and its queue is full; ask again later")
        try:
            with self.lock:
                yield
        finally:
            self._places.release()

    @property
    def is_busy(self) -> bool:
        return self.lock.locked()


def check_sender(hosts: Sequence[str], origins: Sequence[str], is_loopback: bool) -> None:
    """Refuse a request that a page of another origin makes a browser send.

    Args:
      hosts: The Host headers.
      origins: The Origin headers.
      is_loopback: Whether the server listens on a loopback address.

    Raises:
      Refusal: The request is one.
    """
    if len(hosts) != 1:
        raise Refusal(400, f"expected one Host header, got {len(hosts)}")
    if is_loopback and not _LOOPBACK.fullmatch(hosts[0]):
        raise Refusal(403, "Host: expected localhost or a loopback address")
    with suppress(ValueError):
        if all(urlsplit(origin).netloc.lower() == hosts[0].lower() for origin in origins):
            return
    raise Refusal(403, "Origin: requests of other pages are refused")


class RestServer(socketserver.ThreadingTCPServer):
    """A server that listens; set `model`, and `serve_forever` answers.

    Args:
      host: An IP address.
      port: 0..65535; 0 for any free port.
      limits: Bounds on requests.

    Attributes:
      model: What is served.
      reply_fn: Function that is called after each reply with its status, its seconds, and the exception behind a 500.
      limits: Bounds on requests.
      turns: The queue.
      is_loopback: Whether only this machine can reach the server.

    Raises:
      OSError: The address cannot be bound.
    """

    model: Model
    allow_reuse_address, daemon_threads, block_on_close, request_queue_size = True, True, False, 32

    def __init__(self, host: str, port: int, limits: Limits | None = None):
        address = ipaddress.ip_address(host)
        self.address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self.is_loopback, self.limits = address.is_loopback, limits or Limits()
        self.turns = Turns(self.limits.max_waiting)
        self.reply_fn: Callable[[int, float, BaseException | None], None] = _ignored
        self._slots = threading.BoundedSemaphore(self.limits.max_connections)
        self._deadlines: dict[socket.socket, float] = {}  # of connections whose request has not arrived
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or with 503 if there are too many."""
        if not self._slots.acquire(blocking=False):
            with suppress(OSError):
                request.settimeout(0.1)
                request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        self._deadlines[request] = time.monotonic() + self.limits.read_seconds
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._released(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request, and free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._released(request)

    def _released(self, request: Any) -> None:
        self._deadlines.pop(request, None)
        self._slots.release()

    def arrived(self, request: Any) -> None:
        """Note that all of a request has arrived."""
        self._deadlines.pop(request, None)

    def service_actions(self) -> None:
        """Cut off connections whose request did not arrive in time; called about twice a second.

        The timeout of a socket does not do that: it begins again with each byte.
        """
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if now > deadline:
                self._deadlines.pop(request, None)
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke; `_Handler` answers all other errors."""

    def answer(self, method: str, target: str, body: bytes) -> dict[str, Any]:
        """Return the reply to a request for a path.

        Args:
          method: 'GET' or 'POST'.
          target: Path of the request, with its query.
          body: Body of a POST.

        Raises:
          Refusal: There is no such path or model, or the request is invalid.
        """
        path = target.partition("?")[0]
        match = _PATH.fullmatch(path)
        if match is None:
            raise Refusal(400 if path.startswith("/v1/") else 404, f"Malformed request: {method} {path[:100]}")
        name, version, metadata, verb = match.groups()
        if unquote(name) != self.model.name or (version is not None and int(version) != self.model.version):
            raise Refusal(404, f"Servable not found: this server has {self.model.name}, version {self.model.version}")
        if method != ("GET" if verb is None else "POST"):
            raise Refusal(405, f"expected GET for status and metadata, and POST for :predict, got {method}")
        if verb is None:
            return self.model.metadata() if metadata else self.model.status()
        if verb != "predict":
            raise Refusal(400, f"expected :predict, got :{verb[:20]}")
        request = parse_request(body, self.model.specs, self.limits.max_images)
        most = self.limits.max_rows(request.signature)
        if request.num_rows > most:
            raise Refusal(400, f"{request.signature}: expected at most {most} rows, got {request.num_rows}")
        with self.turns.turn():
            return reply_of(self.model.predict(request), request.is_rows)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    protocol_version, server_version, sys_version = "HTTP/1.1", "tfgradgen", ""
    server: RestServer
    _is_head = False
    _error: BaseException | None = None

    def setup(self) -> None:
        self._left, self._start = 0, time.monotonic()
        super().setup()
        self.connection.settimeout(self.server.limits.read_seconds)

    def _run(self) -> None:
        try:
            lengths = self._lengths()
            self._left = lengths[0] if lengths else 0
            self._check_sender()
            reply: dict[str, Any] = self.server.answer(self.command, self.path, self._body())
            status = 200
        except Refusal as refusal:
            reply, status = {"error": refusal.text}, refusal.status
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            self._error = error
            reply, status = {"error": "the server failed; its own output says why"}, 500
        self._send(status, reply)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _run  # names that http.server calls

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.command = "GET"
        self._is_head = True
        self._run()

    def _check_sender(self) -> None:
        """Refuse requests that a page of another origin makes a browser send."""
        check_sender(self.headers.get_all("Host", []), self.headers.get_all("Origin", []), self.server.is_loopback)

    def _lengths(self) -> list[int]:
        """Return the content lengths; [] if one is not a number."""
        lengths = self.headers.get_all("Content-Length", [])
        return list(map(int, lengths)) if all(map(_LENGTH.fullmatch, lengths)) else []

    def _body(self) -> bytes:
        """Return the body of a POST; other methods have none.

        Raises:
          Refusal: Its length is missing, invalid or too large, it is compressed, or it does not arrive.
        """
        most = self.server.limits.max_body
        if self.command != "POST":
            self.server.arrived(self.request)
            return b""
        if "Transfer-Encoding" in self.headers or "Content-Length" not in self.headers:
            raise Refusal(411, "expected a Content-Length header, and no Transfer-Encoding")
        if len(self._lengths()) != 1:
            raise Refusal(400, "Content-Length: expected one number")
        if self._left > most:
            raise Refusal(413, f"expected a body of at most {most} bytes, got {self._left}")
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refusal(415, "Content-Encoding: expected identity")
        with suppress(TimeoutError):
            body = self.rfile.read(self._left)
            if len(body) == self._left:
                self._left = 0
                self.server.arrived(self.request)
                return body
        self._left = 0
        raise Refusal(408, "the body did not arrive in time")

    def _send(self, status: int, reply: Mapping[str, Any]) -> None:
        body = (json.dumps(reply) + "\n").encode()
        self.close_connection = True
        phrase = http.client.responses.get(status, "")
        if self.request_version != "HTTP/0.9":  # which has no headers
            self.send_response_only(status, phrase)
            for name, value in (
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                *([("Retry-After", "5")] if status == 503 else []),
                *([("Allow", "GET, HEAD, POST")] if status == 405 else []),
            ):
                self.send_header(name, value)
            self.end_headers()
        if not self._is_head:
            self.wfile.write(body)
        self.server.reply_fn(status, time.monotonic() - self._start, self._error)
        self._linger()

    def _linger(self) -> None:
        """Read what is left of a refused body for a while: closing at once would reset the connection, reply included."""
        if not self._left:
            return
        end = time.monotonic() + LINGER_SECONDS
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while time.monotonic() < end and self._left > 0:
                read = len(self.connection.recv(BLOCK))
                if not read:
                    break
                self._left -= read

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that http.server cannot read: as JSON, and without repeating any of it."""
        self.request_version = getattr(self, "request_version", "HTTP/1.1") or "HTTP/1.1"
        self._send(int(code), {"error": f"Malformed request: {HTTPStatus(code).phrase}"})

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing; `_send` tells the server."""


def _ignored(status: int, seconds: float, error: BaseException | None) -> None:
    """Do nothing after a reply."""


_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nRetry-After: 5\r\n\r\n"
    b'{"error": "too many connections; ask again later"}\n'
)
