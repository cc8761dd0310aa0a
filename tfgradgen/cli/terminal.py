"""The one way from the commands to a terminal or a log."""

import sys
from collections.abc import Mapping
from typing import Any

from tfgradgen.core.checks import fail
from tfgradgen.core.parsing import reason
from tfgradgen.core.text import as_text, printable, shell_word, shortened

MAX_LINE = 4000  # characters; a line of our own is far shorter


def say(text: str) -> None:
    """Prints `text` to stdout at once. It keeps its line breaks; whatever else is not printable is escaped.

    Raises:
      UserError: stdout does not take it. An OSError would be taken for one of the folder that is being written.
    """
    try:
        print(shown(text), flush=True)
    except OSError as error:
        raise fail(
            "stdout", "a place that can be written", reason(error), "free space or print elsewhere; the files are kept"
        ) from error


def note(text: str) -> None:
    """`say`, to stderr: what is not the result of a command."""
    print(shown(text), file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """`text` as it may go to a terminal, line by line. The parts of a line that come from outside are escaped and bounded
    where the line is made, so that they cannot add lines; this holds whatever was missed there."""
    return "\n".join(shortened(printable(line, None), MAX_LINE) for line in text.split("\n"))


def one_line(error: BaseException) -> str:
    """The text of an error that a library made, as part of a line."""
    return as_text(" ".join(getattr(error, "command_text", str(error)).split()), 200)


def command_text(command: str, flags: Mapping[str, Any]) -> str:
    """The line for a POSIX shell that runs `command` with `flags` again; a value of several parts is joined by commas."""
    parts = {name: value if isinstance(value, list | tuple) else (value,) for name, value in flags.items()}
    words = (f"--{name}={shell_word(','.join(map(str, values)))}" for name, values in parts.items())
    return " ".join([f"python -m tfgradgen {command}", *words])
