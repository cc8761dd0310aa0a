"""The process around a command: standard streams that cannot make it fail, and signals that end it in an orderly way."""

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
    """A signal that asks the process to end; Ctrl-C is one. signum: which. hint: what is kept. can_resume: whether --resume
    goes on with that."""

    def __init__(self, signum: int, hint: str = "", can_resume: bool = False):
        super().__init__(hint)
        self.signum, self.hint, self.can_resume = signum, hint, can_resume


def stopped(interrupt: KeyboardInterrupt, hint: str = "", can_resume: bool = True) -> Stopped:
    """`interrupt` with what is to be said of it, unless that was said already; an empty hint says that nothing is kept."""
    if isinstance(interrupt, Stopped) and interrupt.hint:
        return interrupt
    signum = interrupt.signum if isinstance(interrupt, Stopped) else signal.SIGINT
    return Stopped(signum, hint, can_resume and bool(hint))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP raise `Stopped`; a second one ends the process at once. A signal that is ignored, as under
    nohup, stays ignored."""
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
    """A standard stream whose reader may go away: what it does not take is dropped. On stderr no other error counts either."""

    is_full = False

    def write(self, data: Any) -> int:
        try:
            if not self.is_full:
                return super().write(data)
        except BrokenPipeError:
            pass
        except OSError:
            self.is_full = True  # say so once: what is left would be written again when the process ends
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
    """Gives a user without a home one in which nothing can be: ArviZ and others fail where there is none at all."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.devnull


def prepare_streams() -> None:
    """Makes stdout and stderr take any text, and go on where nobody reads them.

    A closed descriptor is opened on the null device: otherwise the next file that is opened, such as a checkpoint, would take
    its number, and get what is meant for the terminal.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        _open_if_closed(number, mode)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream, first = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is not first or isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Sink):
            continue  # somebody's own, such as a test's, or ours already
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        is_line = number == 2 or bool(getattr(stream, "line_buffering", False))
        sink = _Sink(number, "w", closefd=False)
        lenient = io.TextIOWrapper(io.BufferedWriter(sink), encoding, "backslashreplace", line_buffering=is_line)
        setattr(sys, name, lenient)
        setattr(sys, f"__{name}__", lenient)
