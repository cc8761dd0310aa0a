"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

from tfgradgen.cli.terminal import note
from tfgradgen.core.contracts import Progress, ProgressFn
from tfgradgen.core.text import printable

LINES = 10  # in a log file, about


@contextmanager
def progress_bar(title: str, unit: str = "step") -> Iterator[ProgressFn]:
    """Shows on stderr how far a run is and how long the rest will take."""
    title = printable(title)
    if not sys.stderr.isatty():
        yield plain_lines(title, unit)
        return
    bars: list[tqdm] = []

    def show(progress: Progress) -> None:
        if not bars:
            # What was done before a resume, and the first chunk, whose time is that of compiling, say nothing of the rest.
            done = {"initial": progress.num_done, "total": progress.num_total}
            bars.append(tqdm(desc=title, file=sys.stderr, unit=unit, dynamic_ncols=True, **done))
        bars[0].set_postfix(progress.shown, refresh=False)
        bars[0].update(progress.num_done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def plain_lines(title: str, unit: str = "step") -> ProgressFn:
    """Prints a line whenever another tenth of the run is done."""
    start, first, tenths = 0.0, -1, -1

    def show(progress: Progress) -> None:
        nonlocal start, first, tenths
        done, total = progress.num_done, progress.num_total
        if first < 0:
            start, first = time.monotonic(), done  # the first chunk's time is that of compiling
        if done * LINES // total == tenths:
            return
        tenths = done * LINES // total
        left = (time.monotonic() - start) * (total - done) / max(done - first, 1)
        facts = "".join(f", {name} {value}" for name, value in progress.shown.items())
        rest = f", about {left:.0f} s left" if first < done < total else ""
        note(f"{title}: {done} of {total} {unit}s{facts}{rest}")

    return show


class _Notes(logging.Handler):
    """Shows what the library logs: a line, and where a record comes with a `Progress`, as of prior draws, a bar for it."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = ExitStack()
        self._show: ProgressFn | None = None

    def emit(self, record: logging.LogRecord) -> None:
        progress: Progress | None = getattr(record, "progress", None)
        if progress is None:
            if record.levelno >= logging.INFO:
                note(f"doing    {record.getMessage()}")
            return
        if self._show is None:
            self._show = self._bar.enter_context(progress_bar(f"doing    {record.getMessage()}", "draw"))
        self._show(progress)
        if progress.num_done >= progress.num_total:
            self.end()

    def end(self) -> None:
        """Ends the bar, where there is one."""
        self._show = None
        self._bar.close()


@contextmanager
def stages_shown() -> Iterator[None]:
    """Shows on stderr what takes long before there is any progress: the library logs it."""
    logger, handler = logging.getLogger("tfgradgen"), _Notes()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # libraries give the root logger handlers of their own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.end()
        logger.setLevel(level)
        logger.propagate = propagate
