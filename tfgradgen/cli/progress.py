"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

from tfgradgen.cli.terminal import is_quiet, note
from tfgradgen.core.contracts import Progress, ProgressFn
from tfgradgen.core.text import printable

LINES = 10  # approximate number of lines in a log file


@contextmanager
def progress_bar(title: str, unit: str = "step") -> Iterator[ProgressFn]:
    """Show on stderr the progress of a run and the remaining time; with -q, nothing.

    Args:
      title: Title of the bar or lines.
      unit: What is counted, in the singular.

    Yields:
      The function to call with each `Progress`.
    """
    title = printable(title)
    if is_quiet():
        yield lambda progress: None
        return
    if not sys.stderr.isatty():
        yield plain_lines(title, unit)
        return
    bars: list[tqdm] = []
    was_stored = False

    def show(progress: Progress) -> None:
        nonlocal was_stored
        if was_stored and not progress.is_stored:  # the pace of stored rows does not predict the remaining time
            bars[0].leave = False
            bars.pop().close()
        was_stored = progress.is_stored
        if not bars:
            # Steps before a resume, and the first chunk, which includes compilation, do not predict the remaining time.
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
    """Return a function that prints a line to stderr whenever another tenth of the run is done."""
    start, first, tenths, is_new = 0.0, 0, -1, True

    def show(progress: Progress) -> None:
        nonlocal start, first, tenths, is_new
        done, total = progress.num_done, progress.num_total
        if is_new or progress.is_stored:
            start, first = time.monotonic(), done  # the first chunk that is computed includes compilation
        is_new = progress.is_stored
        if done * LINES // total == tenths:
            return
        tenths = done * LINES // total
        left = (time.monotonic() - start) * (total - done) / max(done - first, 1)
        shown = "".join(f", {name} {value}" for name, value in progress.shown.items())
        rest = f", about {left:.0f} s left" if first < done < total else ""
        note(f"{title}: {done} of {total} {unit}s{shown}{rest}")

    return show


class _Notes(logging.Handler):
    """Handler that prints log records of the library. Records with a `Progress`, such as of prior draws, become a bar."""

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
            self._show = self._bar.enter_context(
                progress_bar(f"doing    {record.getMessage()}", getattr(record, "unit", "draw"))
            )
        self._show(progress)
        if progress.num_done >= progress.num_total:
            self.end()

    def end(self) -> None:
        """End the bar, if there is one."""
        self._show = None
        self._bar.close()


@contextmanager
def stages_shown() -> Iterator[None]:
    """Print to stderr, during the block, the slow stages that the library logs before a run makes progress."""
    logger, handler = logging.getLogger("tfgradgen"), _Notes()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # other libraries add handlers to the root logger
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.end()
        logger.setLevel(level)
        logger.propagate = propagate
