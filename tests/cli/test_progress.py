"""Progress of a run on a terminal."""

import io
import re
import sys
import time

import pytest

from tests.support.command import SMALL, STEPS
from tfgradgen.cli.commands import main
from tfgradgen.cli.progress import progress_bar
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
