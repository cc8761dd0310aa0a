"""The process of a command: standard streams that cannot make it fail, and signals that end it cleanly."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end, such as that of Ctrl-C.

    Attributes:
      signum: Number of the signal.
      hint: What is kept; '' for nothing.
      can_resume: Whether --resume continues from it.
    """

    def __init__(self, signum: int, hint: str = "", can_resume: bool = False):
        super().__init__(hint)
        self.signum, self.hint, self.can_resume = signum, hint, can_resume


def stopped(interrupt: KeyboardInterrupt, hint: str = "", can_resume: bool = True) -> Stopped:
    """Return `interrupt` as a `Stopped` with this hint, unless it has one already. An empty hint means that nothing is kept."""
    if isinstance(interrupt, Stopped) and interrupt.hint:
        return interrupt
    signum = interrupt.signum if isinstance(interrupt, Stopped) else signal.SIGINT
    return Stopped(signum, hint, can_resume and bool(hint))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Stopped` during the block; a second one ends the process at once.

    An ignored signal, as under nohup, stays ignored.
    """
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    ours = [signum for signum in signals if is_main and signal.getsignal(signum) is signal.SIG_DFL]

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise Stopped(signum)

    for signum in ours:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum in ours:
            signal.signal(signum, signal.SIG_DFL)


class _Sink(io.FileIO):
    """A standard stream that drops data once its reader is gone. On stderr, all other errors are ignored too."""

    is_full = False

    def write(self, data: Any) -> int:
        try:
            if not self.is_full:
                return super().write(data)
        except BrokenPipeError:
            pass
        except OSError:
            self.is_full = True  # raise only once: the buffered rest is written again when the process ends
            if self.fileno() != 2:
                raise
        return memoryview(data).nbytes


def _open_if_closed(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def prepare_home() -> None:
    """Set HOME to the null device for a user without a home folder. ArviZ and others fail if there is none at all."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.devnull


def prepare_streams() -> None:
    """Make stdout and stderr accept any text, and continue if nobody reads them.

    A closed descriptor is opened on the null device. Otherwise the next opened file, such as a checkpoint, would get its
    number, and with it the text meant for the terminal.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        _open_if_closed(number, mode)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is not first or isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Sink):
            continue  # replaced by someone else, such as a test, or by this function
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        is_line = number == 2 or bool(getattr(stream, "line_buffering", False))
        sink = _Sink(number, "w", closefd=False)
        lenient = io.TextIOWrapper(io.BufferedWriter(sink), encoding, "backslashreplace", line_buffering=is_line)
        setattr(sys, name, lenient)
        setattr(sys, f"__{name}__", lenient)
