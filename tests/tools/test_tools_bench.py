"""tools/bench/bench.py without the frameworks that it compares: requests to workers, and the use of their replies."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.tooling import tool

FAKE = """
import sys
sys.path[:0] = {paths}
from tools.bench import bench_worker
def make(folder):
    if {missing}:
        import no_such_framework
    print("a framework that talks")
    def task(z, num_gradients):
        if num_gradients > 9:
            raise ValueError("too many")
        return {{"gradients": num_gradients}}
    return "fake 1.0", lambda z: (z.sum(1), 2 * z), {{"gradient": task}}
bench_worker.FRAMEWORKS["fake"] = make
bench_worker.read_shared = lambda folder: ({{"latent_dim": 3}}, None)
bench_worker.serve("fake", ".")
"""


def fake_worker(root: Path, missing: bool = False) -> Any:
    code = FAKE.format(paths=[str(root)], missing=missing)
    return tool("bench_worker").Worker([sys.executable, "-c", code])


def test_a_worker_checks_and_times_and_says_what_failed(root: Path) -> None:
    worker = fake_worker(root)
    assert (worker.title, worker.tasks, worker.latent_dim) == ("fake 1.0", ["gradient"], 3)
    reply = worker.ask(do="check", num_chains=2, latent_dim=3)
    assert len(reply["value"]) == 2
    assert reply["gradient"] == (2 * tool("bench_worker").latent_points(2, 3)).tolist()
    request = dict(do="time", task="gradient", num_chains=2, latent_dim=3)
    reply = worker.ask(**request, num_gradients=5)
    assert reply["gradients"] == 5
    assert 0 <= reply["seconds"] < 10
    assert 0 < worker.ask(do="memory")["gigabytes"] < 10
    with pytest.raises(tool("bench_worker").WorkerError, match="ValueError: too many"):
        worker.ask(**request, num_gradients=10)
    assert worker.process.returncode == 0


def test_a_framework_that_is_not_installed_is_named(root: Path) -> None:
    with pytest.raises(tool("bench_worker").WorkerError, match="no_such_framework"):
        fake_worker(root, missing=True)


def test_a_framework_that_computes_something_else_is_not_timed() -> None:
    def worker(shift: float) -> Any:
        return SimpleNamespace(ask=lambda **_: {"value": [1.0 + shift, 2.0], "gradient": [[1.0, -4.0], [0.5, shift]]})

    check_same = tool("bench").check_same
    check_same({"tensorflow": worker(0.0), "torch": worker(1e-5)}, 2, 2)
    for shift in (0.01, float("nan")):
        with pytest.raises(SystemExit, match="torch differs"):
            check_same({"tensorflow": worker(0.0), "torch": worker(shift)}, 2, 2)


def test_one_chain_at_a_kink_may_differ_more(capsys: pytest.CaptureFixture[str]) -> None:
    def worker(*shifts: float) -> Any:
        return SimpleNamespace(ask=lambda **_: {"value": [1.0], "gradient": [[4.0, shift] for shift in shifts]})

    check_same = tool("bench").check_same
    check_same({"tensorflow": worker(0.0, 0.0, 0.0), "torch": worker(0.02, 1e-5, 0.0)}, 2, 3)
    assert "within 3e-06 of its largest entry in a typical chain, 5e-03 in any" in capsys.readouterr().out
    for shifts in ((0.05, 0.0, 0.0), (0.02, 0.02, 0.0)):
        with pytest.raises(SystemExit, match="torch differs"):
            check_same({"tensorflow": worker(0.0, 0.0, 0.0), "torch": worker(*shifts)}, 2, 3)


def test_timings_that_others_disturb_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tool("bench")
    clock = {"now": 0.0, "busy": 0.0}
    rates = iter([0.0, 1.0, 0.0, 0.0])  # CPU use of other processes: waiting, a timing, waiting, a timing

    def elapse(seconds: float) -> dict[str, float]:
        clock["now"] += seconds
        clock["busy"] += seconds * next(rates)
        return {"cpu_seconds": 0.0}

    monkeypatch.setattr(bench.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(bench, "busy_seconds", lambda: clock["busy"])
    monkeypatch.setattr(bench, "time", SimpleNamespace(monotonic=lambda: clock["now"], sleep=elapse))
    assert bench.undisturbed(lambda: elapse(2.0), patience=30)["disturbed"] == 0
    assert next(rates, None) is None


def test_ratios_are_of_the_same_repeat() -> None:
    bench = tool("bench")
    timings = {"a": [{"per_gradient": 2.0}, {"per_gradient": 9.0}], "b": [{"per_gradient": 1.0}, {"per_gradient": 3.0}]}
    assert bench.ratios(timings, "a", "b") == [2.0, 3.0]
    assert bench.spread([2.0, 3.0, 1.0]) == "2.00 (1.00 to 3.00)"


def test_an_unknown_table_is_refused(root: Path) -> None:
    command = [sys.executable, "-m", "tools.bench.bench", "--only=everything"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected --only to be some of parts, commands, first, frameworks" in done.stderr
