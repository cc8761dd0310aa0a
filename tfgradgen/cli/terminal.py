"""Output of the commands to a terminal or a log."""

import sys

from tfgradgen.core.checks import fail
from tfgradgen.core.parsing import reason
from tfgradgen.core.text import as_text, printable, shortened

MAX_LINE = 4000  # characters; lines of tfgradgen itself are far shorter


def say(text: str) -> None:
    """Print `text` to stdout and flush it. Line breaks are kept; other characters that are not printable are escaped.

    Raises:
      UserError: stdout cannot be written. An OSError would be mistaken for one from the folder that is being written.
    """
    try:
        print(shown(text), flush=True)
    except OSError as error:
        raise fail(
            "stdout", "an output that can be written", reason(error), "free space or print elsewhere; the files are kept"
        ) from error


def note(text: str) -> None:
    """Print `text` to stderr, as `say` does to stdout. Use this for text that is not the result of a command."""
    print(shown(text), file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """Return `text` with each line escaped and shortened for a terminal.

    Text from outside is escaped and shortened where a line is composed, so that it cannot add lines. This catches the rest.
    """
    return "\n".join(shortened(printable(line, None), MAX_LINE) for line in text.split("\n"))


def one_line(error: BaseException) -> str:
    """Return the text of a library's error, to be used within a line."""
    return as_text(" ".join(getattr(error, "command_text", str(error)).split()), 200)
