"""tools/bench/bench_serving.py on a toy export: a row for each batch size, and errors in one line."""

import re
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.tooling import tool


def test_a_row_for_each_size_of_batch(served: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It runs in this process, because a process for each size takes long to start."""
    bench = tool("bench_serving")
    here = SimpleNamespace(get_context=lambda kind: SimpleNamespace(Pool=lambda count, maxtasksperchild: ThreadPool(count)))
    monkeypatch.setattr(bench, "multiprocessing", here)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    bench.show(served, "goldfish", (2, 3), 3, "cpu")
    rows = [re.findall(r"[\d.]+", line) for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d", line)]
    assert [row[0] for row in rows] == ["2", "3"]
    assert float(rows[0][5]) == 1, "the median later call of the first size is the unit"
    for _, _, first, later, first_ratio, ratio, *_ in rows:
        assert float(first) > float(later), "the first call prepares the graph"
        assert float(first_ratio) > float(ratio)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"clock": "sun"}, "expected --clock to be one of wall, cpu, got 'sun'"),
        ({"export": "x"}, "expected --export=BASE/VERSION, got 'x'"),
    ],
)
def test_errors_are_one_line(flags: dict[str, str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=text):
        tool("bench_serving").main(**flags)
