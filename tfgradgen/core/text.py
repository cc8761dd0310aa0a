"""Text from outside: model cards, labels, paths, flags, YAML, run records, checkpoints, requests.

All such text passes one of these functions before it is shown or written. They escape it, so that it cannot control a terminal
or break a line; bound its length; and quote it for the format at hand.
"""

import html
import os
import re
import reprlib
import shlex
import unicodedata
from collections.abc import Mapping
from typing import Any

NAME_LENGTH = 100  # characters of a name or a value
MESSAGE_LENGTH = 340  # characters of a whole message
REMEDY_LENGTH = 340  # characters of a remedy, which may contain a path that the user copies
CUT = "..."

# Characters that change the order or the appearance of the text around them; `str.isprintable` accepts some of them.
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:e[+-]?\d+)?|[+-]?(?:nan|inf)", re.ASCII)
FLAG = re.compile(r"(?<![^\s(])--([a-z][a-z0-9_]*)(?:=([a-z][a-z_]*)\b)?")  # a value in capitals is a placeholder
_MOST_MARKS = 4  # combining marks in a row; more would overlap the neighbouring lines


def printable(text: str, length: int | None = NAME_LENGTH) -> str:
    r"""Escape characters that could control a terminal or break a line, such as `\x1b`; letters of all languages stay.

    Args:
      text: Any text.
      length: Longest result in characters, `CUT` included; None for no bound.
    """
    shown, marks = [], 0
    for c in text if length is None else text[: length + 1]:
        marks = marks + 1 if unicodedata.combining(c) else 0
        is_plain = c == " " or (c.isprintable() and unicodedata.category(c) not in _HIDDEN_CATEGORIES)
        shown.append(c if is_plain and marks <= _MOST_MARKS else c.encode("unicode_escape").decode())
    return "".join(shown) if length is None else shortened("".join(shown), length)


def shortened(text: str, length: int) -> str:
    """Shorten `text` to at most `length` characters by a cut in the middle: both ends of a path matter."""
    if len(text) <= length:
        return text
    kept = max(length - len(CUT), 0)
    head = (kept + 1) // 2
    return (text[:head] + CUT + text[len(text) - (kept - head) :])[:length]


def value_text(value: Any, length: int = NAME_LENGTH) -> str:
    """Return a printable `repr` of any value, bounded in depth, time and length.

    Python's `repr` does not end on nested YAML aliases, and raises on integers of more than 4300 digits.
    """
    return printable(_BOUNDED.repr(value), length)


def as_text(name: Any, length: int = MESSAGE_LENGTH) -> str:
    """Return a name, a path or another value from outside as part of a line; it cannot end the line or fill it."""
    if isinstance(name, os.PathLike):
        return printable(str(name), None)  # not shortened: the user copies it
    return printable(name, length) if isinstance(name, str) else value_text(name, length)


def as_python(text: str) -> str:
    """Rewrite the flags in one of the package's own messages as Python arguments.

    Messages are written for the command line, with `--step_size=0.3` or `--kernel=rejection`. In Python these are
    `step_size=0.3` and `kernel='rejection'`; a switch that a message says to add, `--exact`, is `exact=True`.
    """
    return FLAG.sub(lambda match: parameter(match[1]) + _argument(match), text)


def _argument(match: re.Match[str]) -> str:
    value, before, after = match[2], match.string[: match.start()], match.string[match.end() :]
    if value is None:
        is_switch = before.endswith(("add ", "pass ")) and not after.startswith("=")
        return "=True" if is_switch else ""
    return f"={value.capitalize()}" if value in ("true", "false") else f"={value!r}"


def parameter(flag: str) -> str:
    """Return the Python argument for a flag of the command line, such as `image_range` for `classifier_range`."""
    role, _, rest = flag.partition("_")
    if role not in ("generator", "classifier") or not rest or flag == "generator_class":
        return flag
    return {"range": "image_range", "size": "image_size"}.get(rest, rest)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 chain` or `2 chains`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class _Bounded(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset, self.maxfrozenset = 2, 4, 4, 4, 4, 4
        self.maxstring = self.maxother = NAME_LENGTH

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"an integer of {x.bit_length()} bits"


_BOUNDED = _Bounded()


def shell_word(text: str) -> str:
    """Quote `text` as one word of a POSIX shell command."""
    return shlex.quote(printable(text, None))


def command_text(command: str, flags: Mapping[str, Any]) -> str:
    """Return the POSIX shell command that runs `command` with `flags`. Lists and tuples are joined by commas."""
    parts = {name: value if isinstance(value, list | tuple) else (value,) for name, value in flags.items()}
    words = (f"--{name}={shell_word(','.join(map(str, values)))}" for name, values in parts.items())
    return " ".join([f"python -m tfgradgen {command}", *words])


def markdown_text(text: str) -> str:
    """Escape `text` for a table cell or paragraph of Markdown: no HTML, link, code, new cell, heading or list.

    Underscores within words stay, because they have no meaning there and names contain them.
    """
    escaped = html.escape(printable(text, None), quote=False)
    escaped = re.sub(r"[\\`*\[\]|~@]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]|:(?=//)|(?<=\bwww)\.", r"\\\g<0>", escaped)
    return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", escaped)


def csv_text(value: Any) -> Any:
    """Return text for a CSV cell that no spreadsheet treats as a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    shown = printable(value, None)
    return f"'{shown}" if shown.lstrip()[:1] in tuple("=+-@|%") and not _NUMBER.fullmatch(shown) else shown
