"""Everything that has to hold before a change lands: lint, types, tests (the README's main command among them).

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
    ("tests", ["pytest", "-q", "--durations=100", "-n", "2", "--dist=worksteal"]),
)
# Tests run in two processes, each with half of the files, and the first to finish takes over from the other. Each keeps to one
# core: threads of two processes on two cores wait for one another.
ONE_CORE = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def main() -> None:
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
