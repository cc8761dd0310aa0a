"""Everything that has to hold before a change lands: lint, types, tests (the README's main command among them).

python tools/gate.py
"""

import os
import subprocess
import sys
from pathlib import Path

STEPS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest", "-q", "--durations=10", "-n", "2", "--dist=loadfile"]),
)
# Tests run two at a time, so each keeps to one core: threads of two processes on two cores wait for one another.
ONE_CORE = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    for name, command in STEPS:
        print(f"== {name}: {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=root, env={**os.environ, **ONE_CORE}).returncode
        if code:
            raise SystemExit(f"gate: {name} failed; mend what it shows and run it again.")


if __name__ == "__main__":
    main()
