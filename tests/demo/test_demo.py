"""The demo: its queue, its requests, its server, and its page in Chromium, on the toy pair."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsers import chromium
from tfgradgen.cli.demo import bind
from tfgradgen.cli.demo_options import parse_demo
from tfgradgen.core.checks import UserError
from tfgradgen.demo.jobs import MAX_OTHERS, EndedEarly, Job, Queue
from tfgradgen.demo.requests import Limits, parse_request
from tfgradgen.serving.rest import Refusal

pytest.importorskip("starlette", reason="NO TEST OF THE DEMO: starlette is not installed: pip install 'tfgradgen[test]'")
pytest.importorskip("uvicorn", reason="NO TEST OF THE DEMO: uvicorn is not installed: pip install 'tfgradgen[test]'")

from tests.support.demos import demo, quiet_page

SAMPLE = {
    "kind": "sample",
    "label": "goldfish",
    "kernel": "mala",
    "temperature": 1,
    "num_chains": 3,
    "num_results": 4,
    "seed": 1,
}


@pytest.fixture(scope="module")
def url(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with demo(tmp_path_factory.mktemp("demo"), *toy_pair, max_draws=1_000_000) as address:
        yield address


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_one_job_runs_at_a_time_others_wait_in_order_and_can_be_stopped() -> None:
    queue, free, begun = Queue(2, 2), threading.Event(), threading.Event()

    def work(job: Job) -> None:
        begun.set()
        free.wait(10)
        if job.is_stopped:
            raise EndedEarly

    first = queue.add(Job(work))
    queue.start()
    assert begun.wait(10)
    second, third = queue.add(Job(work)), queue.add(Job(work))
    assert [job.view()[1]["state"] for job in (first, second, third)] == ["running", "waiting", "waiting"]
    assert third.view()[1]["place"] == 2
    with pytest.raises(Refusal, match="full"):
        queue.add(Job(work))
    queue.stop(second)
    assert (second.view()[1]["state"], third.view()[1]["place"]) == ("stopped", 1)
    free.set()
    assert queue.close(10)


def test_jobs_without_results_push_out_no_results_and_do_not_pile_up() -> None:
    """Not even while one runs: a client may add and stop jobs meanwhile."""
    forgotten: list[Job] = []
    queue, free, begun = Queue(4, 2, forgotten.append), threading.Event(), threading.Event()

    def draw(job: Job) -> None:
        job.result = "draws"

    def fail(job: Job) -> None:
        raise ValueError

    def wait(job: Job) -> None:
        begun.set()
        free.wait(10)

    first, second = queue.add(Job(draw)), queue.add(Job(draw))
    failed, running = queue.add(Job(fail)), queue.add(Job(wait))
    queue.start()
    assert begun.wait(10)
    stopped: list[Job] = []
    for _ in range(3 * MAX_OTHERS):
        stopped.append(queue.add(Job(wait)))
        queue.stop(stopped[-1])
    assert forgotten == [failed, *stopped[:-MAX_OTHERS]]
    for job in (first, second, running, stopped[-1]):
        assert queue.find(job.id) is job
    free.set()
    third = queue.add(Job(draw))
    queue.add(Job(draw))
    for _ in range(1000):
        if second in forgotten:
            break
        time.sleep(0.01)
    assert queue.close(10)
    assert [job for job in forgotten if job.result] == [first, second]
    assert queue.find(third.id) is third


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_chains": 65}, "num_chains: expected an integer in 1..64"),
        ({"num_results": 501}, "num_results: expected an integer in 1..500"),
        ({"temperature": 0}, "temperature: expected a number above 0"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"kernel": "../mala"}, "kernel: expected one of"),
        ({"label": "x" * 201}, "label: expected a class or a condition"),
        ({"init": "/etc/passwd"}, "request: expected"),
        ({"kind": "exec"}, "kind: expected one of"),
    ],
)
def test_requests_have_limits(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        parse_request(json.dumps({**SAMPLE, **change}).encode(), Limits())


@pytest.mark.parametrize("host", ["203.0.113.1", "fe80::1"])
def test_a_host_that_is_not_of_this_machine_is_named(host: str) -> None:
    with pytest.raises(UserError, match=f"host: expected an address of this machine, got {host}: "):
        bind(parse_demo({"host": host}))


def test_pages_of_others_and_other_files_are_refused(url: str) -> None:
    assert ask(url)[0] == 200
    assert ask(url, Host="evil.example")[0] == 403
    assert ask(f"{url}jobs", SAMPLE, Origin="http://evil.example")[0] == 403
    assert ask(f"{url}jobs", SAMPLE, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(f"{url}jobs", {**SAMPLE, "label": "x" * 10_000})[0] == 413
    for path in ("server.py", "..%2f..%2fsetup.cfg", "jobs/0/run.zip", "jobs/0/events"):
        assert ask(url + path)[0] == 404
    status, said = ask(f"{url}jobs", {**SAMPLE, "label": "whale"})
    assert (status, b"label" in said, b"Traceback" in said) == (400, True, False)


def test_images_come_before_the_end_and_a_stop_keeps_the_draws(url: str) -> None:
    job = json.loads(ask(f"{url}jobs", {**SAMPLE, "num_results": 900_000})[1])["job"]
    views, is_stopped = [], False
    with urllib.request.urlopen(f"{url}jobs/{job}/events", timeout=120) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                views.append(json.loads(line[6:]))
                if not is_stopped and views[-1].get("done", 0) > 300:
                    is_stopped = ask(f"{url}jobs/{job}/stop", {})[0] == 200
    assert any(len(view.get("images", ())) == 3 for view in views if view["state"] == "running")
    last = views[-1]
    assert (last["state"], last["run"]) == ("stopped", job)
    assert ask(url + last["download"])[1].startswith(b"PK")


def test_files_that_a_run_lacks_are_told_from_runs_that_are_not_kept(url: str) -> None:
    job = json.loads(ask(f"{url}jobs", {**SAMPLE, "num_results": 900_000})[1])["job"]
    for path, text in (("run.zip", "no result, or none yet"), ("draws/0", "no draws, or none yet")):
        assert ask(f"{url}jobs/{job}/{path}") == (
            404,
            json.dumps({"error": f"this run has {text}"}, separators=(",", ":")).encode(),
        )
    ask(f"{url}jobs/{job}/stop", {})
    job = json.loads(ask(f"{url}jobs", {**SAMPLE, "num_results": 1})[1])["job"]
    with urllib.request.urlopen(f"{url}jobs/{job}/events", timeout=120) as stream:
        stream.read()
    for chain in ("3", "-1", "x"):
        status, said = ask(f"{url}jobs/{job}/draws/{chain}")
        assert (status, json.loads(said)["error"]) == (404, f"draws: expected a number in 0..2, got '{chain}'")
    assert ask(f"{url}jobs/{job}/draws/2")[0] == 200
    assert b"no film" in ask(f"{url}jobs/{job}/film.webp")[1]
    assert b"not kept any longer" in ask(f"{url}jobs/0/draws/0")[1]


def test_a_request_that_does_not_arrive_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfgradgen.demo.server.READ_SECONDS", 0.2)
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    body = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    for sent, expected in ((b"GET / HTTP/1.1\r\nHo", b""), (b"", b""), (body, b" 408 ")):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent)
            assert expected in connection.recv(1000)
    assert ask(url)[0] == 200


def test_the_page_draws_stops_varies_and_interpolates(url: str) -> None:
    with chromium("THE DEMO") as browser, quiet_page(browser, url) as page:
        page.fill("#num_chains", "3")
        page.fill("#num_results", "900000")
        page.click("#go")
        page.locator("#tiles img").nth(2).wait_for()
        page.locator("#status", has_text=re.compile(r"running: \d{3,} of")).wait_for()
        page.click("#stop")
        page.locator("#status", has_text="stopped").wait_for()
        page.locator("#tiles button").nth(1).click()
        page.click("#more")
        page.locator("#status", has_text="done").wait_for()
        assert "near chain 1" in page.inner_text("#title")
        for chain in (0, 2):
            page.locator("#tiles button").nth(chain).click()
        page.click("#between")
        page.locator("#film-image").wait_for()
        page.locator("#film-image").evaluate("image => image.decode()")

    with chromium("THE DEMO") as browser:  # a refused request is an error in the console
        page = browser.new_page()
        page.goto(url)
        page.fill("#label", "whale")
        page.click("#go")
        page.locator("#error", has_text="label").wait_for()
