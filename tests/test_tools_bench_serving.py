"""tools/bench_serving.py on a toy export: a row for each size of batch, and errors in one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tooling import tool


def test_a_row_for_each_size_of_batch(served: Path, root: Path) -> None:
    script = str(root / "tools" / "bench_serving.py")
    command = [sys.executable, script, f"--export={served}", "--batch_sizes=2", "--repeats=3"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ((size, _, first, later, first_ratio, ratio, *_),) = [
        re.findall(r"[\d.]+", line) for line in out.splitlines() if re.match(r"\| \d", line)
    ]
    assert size == "2"
    assert float(ratio) == 1, "the median later call of the first size is the unit"
    assert float(first) > float(later), "the first call prepares the graph"
    assert float(first_ratio) > 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"clock": "sun"}, "expected --clock of wall, cpu, got 'sun'"),
        ({"export": "x"}, "expected --export of a version's folder"),
    ],
)
def test_errors_are_one_line(flags: dict[str, str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=text):
        tool("bench_serving").main(**flags)
