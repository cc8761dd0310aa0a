"""Everything that has to hold before a change lands: lint, types, tests (the README's main command among them).

python tools/gate.py
"""

import subprocess
import sys
from pathlib import Path

STEPS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    # Two at a time: most tests keep one core busy, and those on the shipped models, which begin, two.
    ("tests", ["pytest", "-q", "--durations=10", "-n", "2", "--dist=loadfile"]),
)


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    for name, command in STEPS:
        print(f"== {name}: {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], cwd=root).returncode
        if code:
            raise SystemExit(f"gate: {name} failed; mend what it shows and run it again.")


if __name__ == "__main__":
    main()
