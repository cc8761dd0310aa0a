"""What a terminal shows of a run."""

import io
import re
import sys
import time

import pytest

from tfgradgen.cli.progress import progress_bar
from tfgradgen.core.contracts import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_time_left_of_a_resumed_run_is_that_of_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps in 0.5 s leave 4.5 s for 90; with the 900 of before in the count it would be none."""
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
