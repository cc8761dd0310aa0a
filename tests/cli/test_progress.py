"""Progress of a run on a terminal."""

import io
import re
import sys
import time
from typing import Any

import pytest
from tqdm import tqdm

from tests.support.command import SMALL, STEPS
from tfgradgen.cli.commands import main
from tfgradgen.cli.progress import plain_lines, progress_bar
from tfgradgen.core.contracts import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps in 0.5 s leave 4.5 s for 90 more. If the 900 earlier steps counted, nothing would be left."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = sys.stderr
    with progress_bar("mala") as progress_fn:
        for num_done in (900, 910):
            progress_fn(Progress(num_done, 1000, 0.4, 0.1, 0.5))
            time.sleep(0.5)
        progress_fn(Progress(920, 1000, 0.4, 0.1, 0.5))
    assert isinstance(shown, Terminal)
    left = re.findall(r"920/1000 \[.*<(\d\d):(\d\d),", shown.getvalue())
    assert left
    assert 1 <= int(left[-1][1]) <= 20
    assert "p(class)=0.50" in shown.getvalue()


def test_stored_rows_do_not_predict_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """70 of 140 draws are stored. Each further 7 take 14 s, so that 56 take 112 s."""
    now, rows = [0.0], [(70, True, 0.1), (77, False, 20.0), (84, False, 14.0), (140, False, 112.0)]
    monkeypatch.setattr("tfgradgen.cli.progress.time.monotonic", lambda: now[0])
    show = plain_lines("rejection")
    for num_done, is_stored, seconds in [(35, True, 0.1), *rows]:
        now[0] += seconds
        show(Progress(num_done, 140, 0.01, float("nan"), 0.5, is_stored=is_stored))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", about ")[2] for line in lines] == ["", "", "112 s left", ""]


def test_the_bar_begins_anew_after_stored_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, **about: Any):
            made.append(about["initial"])
            super().__init__(**about)

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tfgradgen.cli.progress.tqdm", Bar)
    with progress_bar("rejection") as progress_fn:
        for num_done, is_stored in [(35, True), (70, True), (77, False), (84, False)]:
            progress_fn(Progress(num_done, 140, 0.01, float("nan"), 0.5, is_stored=is_stored))
    assert made == [35, 77]


@pytest.mark.usefixtures("sketched_plots")
def test_a_log_file_gets_plain_lines_with_the_time_left(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.mcmc.chains.MIN_ESTIMATE", 1e9)  # on a busy machine this run may take long
    main([*SMALL, "--kernel=mala", *STEPS["mala"], *toy_flags])
    notes = capsys.readouterr().err.splitlines()
    stages = [line for line in notes if line.startswith("doing    ")]
    first, second, third, *_, last = stages  # lines about prior draws come in between if these are not in the cache
    assert ["TensorFlow" in first, "models" in second, "starts" in third, "compiling mala" in last] == [True] * 4
    lines = notes[len(stages) :]
    assert len(lines) == 6, "chunks of 20 steps, cut where the burn-in ends"
    assert lines[0].startswith("mala goldfish: 20 of 100 steps, accept 0.")
    assert "s left" in lines[1]
    assert "s left" not in lines[-1]
    assert "\r" not in "".join(lines)
