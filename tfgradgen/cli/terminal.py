"""Output of the commands to a terminal or a log: how much there is of it, and that text from outside cannot control it."""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

from tfgradgen.core.checks import fail
from tfgradgen.core.parsing import reason
from tfgradgen.core.text import as_text, printable, shortened

MAX_LINE = 4000  # characters; lines of tfgradgen itself are far shorter
INDENT = 9  # characters before the text of a line: its first word and spaces
PROBLEMS = ("warning", "failed", "FAIL")  # first words of lines that -q prints, too


class Volume(IntEnum):
    """How much a command prints: with -q, usually, with -v."""

    QUIET = 0
    USUAL = 1
    MORE = 2


VOLUME_FLAGS = {"-q": Volume.QUIET, "--quiet": Volume.QUIET, "-v": Volume.MORE, "--verbose": Volume.MORE}


class _Output:
    """What a command prints now.

    Attributes:
      volume: How much.
      start: Its start on the monotonic clock, in seconds.
      last: With -q, the last line of the result so far.
    """

    volume, start, last = Volume.USUAL, 0.0, ""


def volume_of(argv: Sequence[str]) -> tuple[Volume, list[str]]:
    """Return how much the command line asks for, and its other words.

    Raises:
      UserError: It asks twice.
    """
    asked = [word for word in argv if word in VOLUME_FLAGS]
    if len(asked) > 1:
        raise fail("arguments", "-q or -v once", " and ".join(asked), "leave all but one out")
    return (VOLUME_FLAGS[asked[0]] if asked else Volume.USUAL), [word for word in argv if word not in VOLUME_FLAGS]


@contextmanager
def volume(chosen: Volume) -> Iterator[None]:
    """Print as much as was `chosen` during the block. With -q, the last line of the result is printed at its end."""
    _Output.volume, _Output.start, _Output.last = chosen, time.monotonic(), ""
    try:
        try:
            yield
        except SystemExit:  # the command ran and found something wrong
            _print_last()
            raise
        _print_last()
    finally:
        _Output.volume = Volume.USUAL


def started() -> float:
    """Return when the command started, on the monotonic clock, in seconds."""
    return _Output.start


def is_quiet() -> bool:
    """Return whether -q was given."""
    return _Output.volume == Volume.QUIET


def is_verbose() -> bool:
    """Return whether -v was given."""
    return _Output.volume == Volume.MORE


def _print_last() -> None:
    last, _Output.last = _Output.last, ""
    if last:
        give(last)


def say(text: str, subject: str = "") -> None:
    """Print lines about a result to stdout and flush it. Line breaks are kept; what is not printable is escaped.

    With -q, only problems are printed now, and the last other line at the end. The lines above a problem are then missing, so
    the problem itself names its `subject`.

    Raises:
      UserError: stdout cannot be written. An OSError would be mistaken for one from the folder that is being written.
    """
    if not is_quiet():
        give(text)
        return
    lines = [line for line in text.split("\n") if line.strip()]
    _Output.last = next((line for line in reversed(lines) if not _is_problem(line)), _Output.last)
    problems = [f"{line[:INDENT]}{subject}: {line[INDENT:]}" if subject else line for line in lines if _is_problem(line)]
    if problems:
        give("\n".join(problems))


def give(text: str, is_exact: bool = False) -> None:
    """Print text that is the result itself, such as a list, as `say` does; -q does not shorten it.

    With `is_exact` it is printed as it is, for another program: JSON in ASCII, or a script of tfgradgen's own.
    """
    try:
        print(text if is_exact else shown(text), flush=True)
    except OSError as error:
        raise fail(
            "stdout", "an output that can be written", reason(error), "free space or print elsewhere; the files are kept"
        ) from error


def note(text: str) -> None:
    """Print to stderr text that is not the result of a command, escaped as by `say`. With -q, only problems are printed."""
    if is_verbose() and text.startswith("doing "):
        text = f"{text} (after {time.monotonic() - _Output.start:.1f} s)"
    if not is_quiet() or _is_problem(text):
        complain(text)


def more(text: str) -> None:
    """Print to stderr what only -v shows."""
    if is_verbose():
        complain(text)


def complain(text: str) -> None:
    """Print an error to stderr, whatever the volume."""
    print(shown(text), file=sys.stderr, flush=True)


def note_traceback(error: BaseException) -> None:
    """Print the traceback of `error` and its causes to stderr if TFGRADGEN_DEBUG=1."""
    if os.environ.get("TFGRADGEN_DEBUG") == "1":
        complain("".join(traceback.format_exception(error)).rstrip())


def _is_problem(line: str) -> bool:
    return line.lstrip().startswith(PROBLEMS)


def shown(text: str) -> str:
    """Return `text` with each line escaped and shortened for a terminal.

    Text from outside is escaped and shortened where a line is composed, so that it cannot add lines. This catches the rest.
    """
    return "\n".join(shortened(printable(line, None), MAX_LINE) for line in text.split("\n"))


def one_line(error: BaseException) -> str:
    """Return the text of a library's error, to be used within a line."""
    return as_text(" ".join(getattr(error, "command_text", str(error)).split()), 200)
