"""Text from outside: cards, labels, paths, flags, YAML, run records, checkpoints, requests.

Whatever a stranger may have written passes one of these functions before a person or a program reads it: escaped, so that it
cannot steer a terminal or break a line; bounded, so that it cannot fill one; and quoted for the place where it stands.
"""

import html
import os
import re
import reprlib
import shlex
import unicodedata
from typing import Any

NAME_LENGTH = 100  # characters shown of a name or a value
MESSAGE_LENGTH = 340  # characters shown of a whole message
REMEDY_LENGTH = 340  # characters of what to do, which may name a folder that a user has to copy whole
CUT = "..."

# Letters that change the order or the look of the text around them, though `str.isprintable` lets some of them pass.
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:e[+-]?\d+)?|[+-]?(?:nan|inf)", re.ASCII)
_FLAG = re.compile(r"(?<![^\s(])--([a-z][a-z0-9_]*)(?:=([a-z][a-z_]*)\b)?")  # a value in capitals stands for any
_MOST_MARKS = 4  # combining marks in a row; more of them draw over the neighbouring lines


def printable(text: str, length: int | None = NAME_LENGTH) -> str:
    """Escapes what could steer a terminal or break a line, such as `\\x1b`; letters of any language stay.

    Args:
      text: anything.
      length: characters to keep, `CUT` included where something is cut off; None keeps all.
    """
    shown, marks = [], 0
    for c in text if length is None else text[: length + 1]:
        marks = marks + 1 if unicodedata.combining(c) else 0
        is_plain = c == " " or (c.isprintable() and unicodedata.category(c) not in _HIDDEN_CATEGORIES)
        shown.append(c if is_plain and marks <= _MOST_MARKS else c.encode("unicode_escape").decode())
    return "".join(shown) if length is None else shortened("".join(shown), length)


def shortened(text: str, length: int) -> str:
    """Cuts `text` in its middle to at most `length` characters; of a path both ends matter."""
    if len(text) <= length:
        return text
    kept = max(length - len(CUT), 0)
    head = (kept + 1) // 2
    return (text[:head] + CUT + text[len(text) - (kept - head) :])[:length]


def value_text(value: Any, length: int = NAME_LENGTH) -> str:
    """`repr` of any value, bounded in depth, in time and in length, and printable.

    `repr` itself takes forever on nested aliases of YAML, and raises for integers of more than 4300 digits.
    """
    return printable(_BOUNDED.repr(value), length)


def as_text(name: Any, length: int = MESSAGE_LENGTH) -> str:
    """A name, a path or another value from outside as part of a line: it can neither end the line nor fill it."""
    if isinstance(name, os.PathLike):
        return printable(str(name), None)  # whole, as a user copies it
    return printable(name, length) if isinstance(name, str) else value_text(name, length)


def as_python(text: str) -> str:
    """A line of ours as the library says it.

    The lines name parameters as the command line has them, `--step_size=0.3` or `--kernel=rejection`; in Python these are
    arguments, `step_size=0.3` and `kernel='rejection'`.
    """
    return _FLAG.sub(lambda match: parameter(match[1]) + _argument(match[2]), text)


def _argument(value: str | None) -> str:
    if value is None:
        return ""
    return f"={value.capitalize()}" if value in ("true", "false") else f"={value!r}"


def parameter(flag: str) -> str:
    """The argument in Python for a flag of the command line, such as `image_range` for `classifier_range`."""
    role, _, rest = flag.partition("_")
    if role not in ("generator", "classifier") or not rest or flag == "generator_class":
        return flag
    return {"range": "image_range", "size": "image_size"}.get(rest, rest)


class _Bounded(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset, self.maxfrozenset = 2, 4, 4, 4, 4, 4
        self.maxstring = self.maxother = NAME_LENGTH

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"an integer of {x.bit_length()} bits"


_BOUNDED = _Bounded()


def shell_word(text: str) -> str:
    """`text` as one word of a POSIX shell's command line."""
    return shlex.quote(printable(text, None))


def markdown_text(text: str) -> str:
    """`text` for a table cell or a paragraph of Markdown: no HTML, no links, no code, no new cell, no heading or list.

    An underscore within a word stays as it is: it means nothing there, and names have them.
    """
    escaped = html.escape(printable(text, None), quote=False)
    escaped = re.sub(r"[\\`*\[\]|~@]|(?<![^\W_])_|_(?![^\W_])|^[#+=-]|:(?=//)|(?<=\bwww)\.", r"\\\g<0>", escaped)
    return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", escaped)


def csv_text(value: Any) -> Any:
    """Text for a cell of CSV that no spreadsheet takes for a formula; what is a number stays one."""
    if not isinstance(value, str):
        return value
    shown = printable(value, None)
    return f"'{shown}" if shown.lstrip()[:1] in tuple("=+-@|%") and not _NUMBER.fullmatch(shown) else shown
