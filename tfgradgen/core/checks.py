"""One wording for every error that a user can cause: what was expected, what came, what to do."""

import difflib
import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from tfgradgen.core.text import CUT, MESSAGE_LENGTH, NAME_LENGTH, REMEDY_LENGTH, as_python, printable, shortened, value_text

MAX_REAL = 1.7976931348623157e308  # of a float; an integer beyond it raises where it becomes one
MOST_LISTED = 12  # choices that an error names


class UserError(ValueError):
    """Input that cannot be used; its text is one line that a person can act on.

    Attributes:
      command_text: the same line as the command line says it, with flags for the parameters that it names.
      can_resume: whether --resume goes on with what was done.
    """

    can_resume = False

    def __init__(self, text: str, command_text: str | None = None):
        super().__init__(text)
        self.command_text = text if command_text is None else command_text


def fail(name: str, expected: str, got: Any, remedy: str) -> UserError:
    """Returns the error `name: expected ..., got ...; remedy.` for the caller to raise: one printable line of bounded length.

    `name`, `expected` and `remedy` name a parameter as the command line does, `--num_chains=1`; the error's own text has
    Python's form, `num_chains=1` (see `as_python`), its `command_text` this one.

    Args:
      name: of the parameter, the file or the model.
      expected: what would have been right.
      got: what came: text, or any value, which is shown by `value_text`.
      remedy: what the user can do.
    """
    end = "" if remedy.endswith("?") else "."
    shown = str(got) if isinstance(got, str | BaseException | os.PathLike) else value_text(got)
    *parts, remedy = [printable(" ".join(part.split()), None) for part in (name, expected, shown, remedy)]
    # The remedy goes first: it holds the folder or the command that a user copies.
    remedy = shortened(remedy, REMEDY_LENGTH)
    frame = len(": expected , got ; .")
    name, expected, shown = _fitted(parts, max(MESSAGE_LENGTH - frame - len(remedy), MESSAGE_LENGTH // 2))
    line, in_python = (
        f"{form(name)}: expected {form(expected)}, got {shown}; {form(remedy)}{end}" for form in (str, as_python)
    )
    return UserError(in_python, line)


def _fitted(parts: list[str], length: int) -> list[str]:
    """`parts` of together at most `length` characters: the longest are cut, all to the same length."""
    room, left = length, sorted(parts, key=len)
    for k, part in enumerate(left):
        share = room // (len(left) - k)
        if len(part) > share:
            return [shortened(text, share) for text in parts]
        room -= len(part)
    return parts


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns `value` as an int if it is an integer (NumPy's too) within [low, high]; bools and floats are refused."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and value >= low and (high is None or value <= high):
        return int(value)
    expected = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    remedy = "give a value in that range" if is_whole else f"give a whole number, for example --{name}={max(low, 1)}"
    raise fail(name, expected, value_text(value), remedy)


def check_num_chains(kernel: str, num_chains: int, least: int) -> None:
    """Raises `UserError` where `kernel` needs more chains."""
    if num_chains < least:
        raise fail("num_chains", f"at least {least} for --kernel={kernel}, which tunes by their spread", num_chains, "raise it")


def _as_number(value: Any) -> int | float:
    """`value` as Python's own number, NumPy's too; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return int(value) if isinstance(value, Integral) else float(value)


def check_real(name: str, value: Any, low: float, high: float = math.inf, is_low_in: bool = False) -> float:
    """Returns `value` as a float if it is a finite number within (low, high), or [low, high) with `is_low_in`."""
    number = _as_number(value)
    if -MAX_REAL <= number <= MAX_REAL and (low < number < high or (is_low_in and number == low)):
        return float(number)
    start = f"a number of at least {low:g}" if is_low_in else f"a number above {low:g}"
    expected = start if high == math.inf else f"{start} and below {high:g}"
    raise fail(name, expected, value_text(value), "give a finite number in that range")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Returns `value` if it is one of `choices`; the error names them and, for text, the nearest."""
    known = list(choices)
    if any(value == choice and type(value) is type(choice) for choice in known):
        return value
    more = [CUT] if len(known) > MOST_LISTED else []
    listed = "one of " + ", ".join([*map(str, known[:MOST_LISTED]), *more])
    raise fail(name, listed, value_text(value), did_you_mean(value, known) or "give one of those")


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """Returns `did you mean a, b?` for the names nearest to `value`, or an empty string."""
    near = difflib.get_close_matches(value_text(value).strip("'").lower(), [str(k) for k in known], n=3, cutoff=0.5)
    return f"did you mean {', '.join(shortened(name, NAME_LENGTH // 2) for name in near)}?" if near else ""
