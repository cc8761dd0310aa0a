"""The list of slow tests, which `-m "not slow"` leaves out."""

import sys
from pathlib import Path

import pytest

from tools import gate

OUTPUT = """
....
============ slowest durations ============
12.34s call     tests/b/test_b.py::test_two[a b]
3.21s setup    tests/b/test_b.py::test_two[a b]
0.49s call     tests/b/test_b.py::test_fast
1.00s call     tests/a.py::test_one
"""


def test_calls_of_half_a_second_and_more_are_recorded_in_order(tmp_path: Path) -> None:
    file = tmp_path / "slow.txt"
    file.write_text(gate.slow_of(OUTPUT))
    assert gate.read_slow(file) == {"tests/a.py::test_one": 1.0, "tests/b/test_b.py::test_two[a b]": 12.3}
    assert file.read_text().startswith("1.0 tests/a.py")


def test_every_slow_test_exists(root: Path) -> None:
    slow = gate.read_slow(gate.SLOW_FILE)
    assert slow
    for name in slow:
        path, *classes, function = name.split("[")[0].split("::")
        text = (root / path).read_text()
        exists = f"def {function}(" in text or any(f"class {one}(" in text for one in classes)
        assert exists, f"{name}: python tools/gate.py --record"


def test_a_slow_test_is_marked(request: pytest.FixtureRequest) -> None:
    slow = gate.read_slow(gate.SLOW_FILE)
    for item in request.session.items:
        assert item.nodeid not in slow or item.get_closest_marker("slow")


def test_the_first_failure_ends_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "SLOW_FILE", tmp_path / "slow.txt")
    monkeypatch.setattr(gate, "STEPS", (("one", ["json.tool", "none"]), ("two", ["json.tool", "none"])))
    monkeypatch.setattr(sys, "argv", ["gate.py", "--record"])
    with pytest.raises(SystemExit, match="gate: one failed"):
        gate.main()
    assert "two" not in capfd.readouterr().out
    assert not gate.SLOW_FILE.exists()


def test_tests_run_in_as_many_processes_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str]) -> tuple[int, str]:
        ran.append(command[0] + command[-1])
        return 0, ""

    monkeypatch.setattr(gate, "run", run)
    for flags, processes in (([], gate.PROCESSES), (["--processes=7"], 7)):
        monkeypatch.setattr(sys, "argv", ["gate.py", *flags])
        gate.main()
        assert ran.pop() == f"pytest-n{processes}"
