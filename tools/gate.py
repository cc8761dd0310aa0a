"""All checks for a change: lint, types and tests, including the main command of the README.

python tools/gate.py
"""

import os
import subprocess
import sys
import time
from pathlib import Path

STEPS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest", "-q", "-rs", "--durations=100", "-n", "2", "--dist=worksteal"]),
)
# Tests run in two processes, which share the files between them. Each process uses one core: with more threads than cores,
# threads would wait for one another.
ONE_CORE = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def main() -> None:
    """Run all checks; exit at the first that fails."""
    root = Path(__file__).resolve().parents[1]
    for name, command in STEPS:
        print(f"== {name}: {' '.join(command)}", flush=True)
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *command], cwd=root, env={**os.environ, **ONE_CORE}).returncode
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
        if code:
            raise SystemExit(f"gate: {name} failed; fix what it shows and run it again.")


if __name__ == "__main__":
    main()
