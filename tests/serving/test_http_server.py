"""The server with hostile clients: bounds, deadlines, pages of other origins, and errors of the model, which is a stand-in."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from tfgradgen.serving.http_server import Limits, RestServer
from tfgradgen.serving.rest import Refusal, Request, Spec

FAST = Limits(max_body=2000, max_images=16, images_per_row={"grid": 16}, max_waiting=1, max_connections=4, read_seconds=3.0)
ROW = {"label": "a", "seed": 1}


class StandIn:
    """A model that returns the seeds; it waits while `held`."""

    name, version = "birds", 3
    specs: ClassVar = {name: {"label": Spec("string", ()), "seed": Spec("int64", ())} for name in ("serving_default", "grid")}

    def __init__(self) -> None:
        self.held, self.num_running, self.most_running, self.replies = threading.Event(), 0, 0, list[Any]()
        self.held.set()

    def predict(self, request: Request) -> dict[str, np.ndarray]:
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        self.held.wait(10)
        self.num_running -= 1
        if request.inputs["label"][0] == b"unknown":
            raise Refusal(400, "label: expected a known one")
        if request.inputs["label"][0] == b"broken":
            raise RuntimeError("a secret")
        return {"seed": request.inputs["seed"], "z": np.zeros([request.num_rows, 2], np.float32)}

    def status(self) -> dict[str, Any]:
        return {"state": "AVAILABLE"}

    def metadata(self) -> dict[str, Any]:
        return {"metadata": {}}


@pytest.fixture
def server() -> Iterator[RestServer]:
    with RestServer("127.0.0.1", 0, FAST) as server:
        server.model = model = StandIn()
        server.reply_fn = lambda *reply: model.replies.append(reply)
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
        thread.start()
        yield server
        model.held.set()
        server.shutdown()
        thread.join(10)


def raw(server: RestServer, *parts: bytes, wait: float = 0.0) -> bytes:
    """Return what the server sends before it closes the connection."""
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        received = []
        try:
            while data := connection.recv(1 << 16):
                received.append(data)
        except ConnectionResetError:
            pass
    return b"".join(received)


def ask(server: RestServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Return the status and the reply. The headers are Host and Content-Length by default; underscores stand for hyphens."""
    given = {"Host": "localhost", **({} if body is None else {"Content_Length": str(len(body))}), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items()), "", ""]
    head, _, reply = raw(server, "\r\n".join(lines).encode() + (body or b"")).partition(b"\r\n\r\n")
    assert b"Content-Type: application/json\r\n" in head
    assert b"Connection: close" in head
    assert b"Python" not in head
    return int(head.split()[1]), json.loads(reply) if reply else None


def predict(server: RestServer, *rows: dict[str, Any], signature: str = "", **headers: str) -> tuple[int, Any]:
    body = json.dumps({"signature_name": signature, "instances": rows}).encode()
    return ask(server, "POST", "/v1/models/birds:predict", body, **headers)


def test_paths_are_those_of_tensorflow_serving(server: RestServer) -> None:
    for path in ("/v1/models/birds", "/v1/models/birds/versions/3", "/v1/models/bir%64s?x=1"):
        assert ask(server, "GET", path) == (200, {"state": "AVAILABLE"})
        assert ask(server, "GET", path.replace("?x=1", "") + "/metadata") == (200, {"metadata": {}})
    assert predict(server, ROW) == (200, {"predictions": [{"seed": 1, "z": [0.0, 0.0]}]})
    body = json.dumps({"inputs": {"label": ["a"], "seed": [5]}}).encode()
    expected = (200, {"outputs": {"seed": [5], "z": [[0.0, 0.0]]}})
    assert ask(server, "POST", "/v1/models/birds/versions/3:predict", body) == expected
    assert ask(server, "HEAD", "/v1/models/birds") == (200, None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(
            ("GET", "/", 404),
            ("GET", "/v1/models", 400),
            ("GET", "/v1/models/birds/x", 400),
            ("GET", "/v1/models/birds/../x", 400),
        ),
        *(
            ("GET", "/v1/models/fish", 404),
            ("GET", "/v1/models/birds/versions/2", 404),
            ("GET", "/v1/models/birds:predict", 405),
        ),
        *(("POST", "/v1/models/birds", 405), ("PUT", "/v1/models/birds", 405), ("OPTIONS", "/v1/models/birds:predict", 405)),
        *(
            ("POST", "/v1/models/birds:classify", 400),
            ("POST", "/v1/models/fish:predict", 404),
            ("BREW", "/v1/models/birds", 501),
        ),
        *(("GET", "/v1/models/%2e%2e%2f", 404), ("GET", "/v1/models/" + "x" * 5000, 404), ("GET", "/" + "x" * 70_000, 414)),
    ],
)
def test_other_paths_and_methods_are_errors(method: str, path: str, status: int, server: RestServer) -> None:
    found, reply = ask(server, method, path, b"{}" if method in ("POST", "PUT") else None)
    assert found == status
    assert list(reply) == ["error"]
    assert len(reply["error"]) < 300


def test_hosts_and_pages_from_elsewhere_are_refused(server: RestServer) -> None:
    port = server.server_address[1]
    for host in ("localhost", f"127.0.0.1:{port}", "127.1.2.3", "[::1]:80", "LOCALHOST:1"):
        assert predict(server, ROW, Host=host)[0] == 200
    for host in ("evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "evil.com:8501", "", "localhost@evil.com", "10.0.0.1"):
        assert predict(server, ROW, Host=host)[0] == 403
        assert ask(server, "GET", "/v1/models/birds", Host=host)[0] == 403
    assert predict(server, ROW, Origin="http://localhost")[0] == 200
    for origin in ("http://evil.com", "null", "http://localhost:9", "http://[", "file://"):
        assert predict(server, ROW, Origin=origin) == (403, {"error": "Origin: requests of other pages are refused"})
    get = b"GET /v1/models/birds HTTP/1.1\r\n"
    two = b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.com\r\n\r\n"
    assert b" 403 " in raw(server, get + two).split(b"\r\n")[0]
    for hosts in (b"", b"Host: localhost\r\nHost: evil.com\r\n"):
        assert b" 400 " in raw(server, get + hosts + b"\r\n").split(b"\r\n")[0]


def test_a_server_for_the_network_takes_any_name() -> None:
    with RestServer("0.0.0.0", 0) as server:
        assert not server.is_loopback
    with RestServer("127.0.0.2", 0) as server:
        assert server.is_loopback
        assert server.url.startswith("http://127.0.0.2:")


def test_bodies_are_bounded_and_have_a_length(server: RestServer) -> None:
    path = "/v1/models/birds:predict"
    big = json.dumps({"instances": [ROW], "x": "y" * 10**6}).encode()
    assert ask(server, "POST", path, big) == (413, {"error": f"expected a body of at most 2000 bytes, got {len(big)}"})
    for length, status in (
        ("-1", 400),
        ("1e3", 400),
        ("9" * 30, 400),
        ("9" * 17, 413),
        ("+5", 400),
        ("1_0", 400),
        ("\u0663", 400),
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        assert f" {status} ".encode() in raw(server, head).split(b"\r\n")[0], length
    for more in (b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"):
        assert b" 411 " in raw(server, f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + more + b"\r\n{}")
    assert ask(server, "POST", path, b"{}", Content_Encoding="gzip")[0] == 415
    assert ask(server, "POST", path, b"{}")[0] == 400
    assert ask(server, "POST", path, b"[" * 1900) == (400, {"error": "JSON is expected to nest at most 8 deep"})


def test_images_are_bounded(server: RestServer) -> None:
    assert predict(server, *[ROW] * 16)[0] == 200
    assert predict(server, *[ROW] * 17)[0] == 400
    assert predict(server, ROW, signature="grid")[0] == 200
    assert predict(server, ROW, ROW, signature="grid") == (400, {"error": "grid: expected at most 1 rows, got 2"})


def test_bytes_that_are_no_http_are_errors_or_nothing(server: RestServer) -> None:
    for sent in (
        b"garbage\r\n\r\n",
        b"\r\n",
        b"\x16\x03\x01\x02" * 50,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x1b[2J HTTP/1.1\r\n\r\n",
    ):
        reply = raw(server, sent, b"\r\n")
        assert b"Traceback" not in reply
        assert b"\x1b" not in reply
        assert b"<html" not in reply.lower()
    many = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500 + b"\r\n"
    assert b" 431 " in raw(server, many).split(b"\r\n")[0]
    assert predict(server, ROW)[0] == 200


def test_slow_clients_are_cut_off(server: RestServer) -> None:
    """Sending single bytes does not extend the time."""
    start = time.monotonic()
    head = b"POST /v1/models/birds:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    assert b" 408 " in raw(server, head, *[b" "] * 4, wait=0.3)
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(b"GET /")
        assert connection.recv(10) == b""
    assert 1.5 < time.monotonic() - start < 8


def test_one_request_is_computed_at_a_time_and_few_wait(server: RestServer) -> None:
    model, found = server.model, list[tuple[int, Any]]()
    assert isinstance(model, StandIn)
    model.held.clear()
    threads = [threading.Thread(target=lambda: found.append(predict(server, ROW))) for _ in range(3)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 5
    while not found and time.monotonic() < end:
        time.sleep(0.01)
    assert found == [(503, {"error": "the server is busy and its queue is full; ask again later"})]
    assert server.turns.is_busy
    assert ask(server, "GET", "/v1/models/birds")[0] == 200, "the status is known all the same"
    model.held.set()
    for thread in threads:
        thread.join(10)
    assert sorted(status for status, _ in found) == [200, 200, 503]
    assert model.most_running == 1


def test_connections_are_bounded(server: RestServer) -> None:
    idle = [socket.create_connection(server.server_address[:2], timeout=10) for _ in range(4)]
    end = time.monotonic() + 5
    while len(server._deadlines) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    reply = raw(server)
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"] == "too many connections; ask again later"
    for connection in idle:
        connection.close()
    end = time.monotonic() + 5
    while (status := predict(server, ROW)[0] if not server._deadlines else 0) != 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert status == 200


def test_errors_of_the_model_are_short_and_those_of_the_server_secret(server: RestServer) -> None:
    model = server.model
    assert isinstance(model, StandIn)
    assert predict(server, ROW | {"label": "unknown"}) == (400, {"error": "label: expected a known one"})
    assert predict(server, ROW | {"label": "broken"}) == (500, {"error": "the server failed; its own output says why"})
    (_, _, none), (status, seconds, error) = model.replies
    assert (none, status, str(error)) == (None, 500, "a secret")
    assert 0 <= seconds < 10
    assert predict(server, ROW)[0] == 200
