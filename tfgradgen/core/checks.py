"""One form for all errors that a user can cause: what was expected, what was given, what to do."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

from tfgradgen.core.text import CUT, MESSAGE_LENGTH, NAME_LENGTH, REMEDY_LENGTH, as_python, printable, shortened, value_text

MAX_REAL = 1.7976931348623157e308  # the largest float; converting a larger integer raises
MOST_LISTED = 20  # choices listed in an error


class UserError(ValueError):
    """Invalid input from the user. The message is one line that says what to do.

    Attributes:
      command_text: The same line for the command line, with flags instead of Python arguments.
      can_resume: Whether --resume can continue the run.
    """

    can_resume = False

    def __init__(self, text: str, command_text: str | None = None):
        super().__init__(text)
        self.command_text = text if command_text is None else command_text


@contextmanager
def renamed(old: str, new: str) -> Iterator[None]:
    """Give errors of the parameter `old`, raised inside, the name `new` of the flag that it came from."""
    try:
        yield
    except UserError as error:
        if not str(error).startswith(f"{old}:"):
            raise
        raise UserError(*(new + text.removeprefix(old) for text in (str(error), error.command_text))) from None


def fail(name: str, expected: str, got: Any, remedy: str) -> UserError:
    """Return the error `name: expected ..., got ...; remedy.` for the caller to raise: one printable line of bounded length.

    Write parameters in `name`, `expected` and `remedy` as flags, `--num_chains=1`. They appear like this in `command_text`, and
    as Python arguments, `num_chains=1`, in the message of the exception (see `as_python`).

    Args:
      name: The parameter, file or model.
      expected: What would be valid.
      got: What was given: text, or any value, which `value_text` formats.
      remedy: What the user can do.
    """
    end = "" if remedy.endswith("?") else "."
    shown = str(got) if isinstance(got, str | BaseException | os.PathLike) else value_text(got)
    *parts, remedy = [printable(" ".join(part.split()), None) for part in (name, expected, shown, remedy)]
    # The remedy gets its space first: it contains the path or command that the user copies.
    remedy = shortened(remedy, REMEDY_LENGTH)
    frame = len(": expected , got ; .")
    name, expected, shown = _fitted(parts, max(MESSAGE_LENGTH - frame - len(remedy), MESSAGE_LENGTH // 2))
    line, in_python = (
        f"{form(name)}: expected {form(expected)}, got {shown}; {form(remedy)}{end}" for form in (str, as_python)
    )
    return UserError(in_python, line)


def _fitted(parts: list[str], length: int) -> list[str]:
    """Shorten `parts` to at most `length` characters in total: the longest ones are cut, all to the same length."""
    room, left = length, sorted(parts, key=len)
    for k, part in enumerate(left):
        share = room // (len(left) - k)
        if len(part) > share:
            return [shortened(text, share) for text in parts]
        room -= len(part)
    return parts


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is an integer (or NumPy integer) in [low, high]; raise `UserError` otherwise."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and value >= low and (high is None or value <= high):
        return int(value)
    expected = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    remedy = "give a value in that range" if is_whole else f"give a whole number, for example --{name}={max(low, 1)}"
    raise fail(name, expected, value_text(value), remedy)


def check_num_chains(kernel: str, num_chains: int, least: int) -> None:
    """Raise `UserError` if `kernel` needs more chains."""
    if num_chains < least:
        expected = f"at least {least} for --kernel={kernel}, which tunes by the spread of the chains"
        raise fail("num_chains", expected, num_chains, "raise it")


def _as_number(value: Any) -> int | float:
    """Return `value` as a Python number; NaN if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return int(value) if isinstance(value, Integral) else float(value)


def check_real(
    name: str, value: Any, low: float, high: float = math.inf, inclusive_low: bool = False, inclusive_high: bool = False
) -> float:
    """Return `value` as a float if it is a finite number in (low, high).

    The range includes `low` with `inclusive_low`, and `high` with `inclusive_high`.

    Raises:
      UserError: It is not.
    """
    number = _as_number(value)
    is_inside = low < number < high or (inclusive_low and number == low) or (inclusive_high and number == high)
    if -MAX_REAL <= number <= MAX_REAL and is_inside:
        return float(number)
    start = f"a number of at least {low:g}" if inclusive_low else f"a number above {low:g}"
    expected = start if high == math.inf else f"{start} and {'at most' if inclusive_high else 'below'} {high:g}"
    raise fail(name, expected, value_text(value), "give a finite number in that range")


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise `UserError` unless `value` is a `kind`, a public class of this package."""
    if not isinstance(value, kind):
        raise fail(name, f"a tfgradgen.{kind.__name__}", type(value).__name__, "give one")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return `value` if it is one of `choices`; otherwise raise `UserError`, which lists them and the nearest."""
    known = list(choices)
    if any(value == choice and type(value) is type(choice) for choice in known):
        return value
    more = [CUT] if len(known) > MOST_LISTED else []
    listed = "one of " + ", ".join([*map(str, known[:MOST_LISTED]), *more])
    raise fail(name, listed, value_text(value), did_you_mean(value, known) or "give one of these")


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """Return `did you mean a, b?` for the names nearest to `value`, or an empty string."""
    near = difflib.get_close_matches(value_text(value).strip("'").lower(), [str(k) for k in known], n=3, cutoff=0.5)
    return f"did you mean {', '.join(shortened(name, NAME_LENGTH // 2) for name in near)}?" if near else ""
