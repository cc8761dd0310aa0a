"""All checks for a change: lint, types and tests, including the main command of the README.

    python tools/gate.py [--processes=N] [--record]

Tests run in N processes, by default one for each core, but at least two and at most four. `--record` writes the tests that
took half a second or more into tests/slow.txt; `pytest -m "not slow"` leaves them out.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLOW_FILE, SLOW = ROOT / "tests" / "slow.txt", 0.5  # seconds
PROCESSES = max(2, min(4, os.cpu_count() or 2))
STEPS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest", "-q", "-rs", "--durations=0", f"--durations-min={SLOW}", "--dist=worksteal"]),
)
# For tests in several processes: each uses one core. Idle threads of TensorFlow spin, which took a third of the time.
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
DURATION = re.compile(r"([0-9.]+)s call +(tests/.+)")


def read_slow(file: Path) -> dict[str, float]:
    """Return the seconds that each slow test took when they were last recorded, by its id."""
    rows = [line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return {name: float(seconds) for seconds, name in rows}


def slow_of(output: str) -> str:
    """Return the content of slow.txt from the `output` of pytest: seconds and id of each test, sorted by id."""
    found = sorted((match[2].strip(), float(match[1])) for match in map(DURATION.match, output.splitlines()) if match)
    return "".join(f"{seconds:.1f} {name}\n" for name, seconds in found if seconds >= SLOW)


def run(command: list[str]) -> tuple[int, str]:
    """Run a module of Python and show what it prints; return its exit status and output."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def main() -> None:
    """Run all checks; exit at the first that fails."""
    parser = argparse.ArgumentParser(description="Run all checks for a change.")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="how many run the tests")
    parser.add_argument("--record", action="store_true", help="write the slow tests into tests/slow.txt")
    given = parser.parse_args()
    for name, command in STEPS:
        command = [*command, f"-n{given.processes}"] if name == "tests" else command
        print(f"== {name}: {' '.join(command)}", flush=True)
        start = time.monotonic()
        code, output = run(command)
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
        if code:
            raise SystemExit(f"gate: {name} failed; fix what it shows and run it again.")
    if given.record:
        SLOW_FILE.write_text(slow_of(output), encoding="utf-8")


if __name__ == "__main__":
    main()
