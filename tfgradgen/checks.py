"""One wording for every error that a user can cause: what was expected, what came, what to do."""

import difflib
import math
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Input that cannot be used; its text is one line that a person can act on."""


def fail(name: str, expected: str, got: Any, remedy: str) -> UserError:
    """Returns the error `name: expected ..., got ...; remedy.` for the caller to raise."""
    end = "" if remedy.endswith("?") else "."
    return UserError(" ".join(f"{name}: expected {expected}, got {got}; {remedy}{end}".split()))


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns `value` if it is an int within [low, high]; bools and floats such as 1e3 are refused."""
    in_range = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if in_range and (high is None or value <= high):
        return value
    expected = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    raise fail(name, expected, repr(value), f"give a whole number, for example --{name}={max(low, 1)}")


def check_num_chains(kernel: str, num_chains: int, least: int) -> None:
    """Raises `UserError` where `kernel` needs more chains."""
    if num_chains < least:
        raise fail("num_chains", f"at least {least} for --kernel={kernel}, which tunes by their spread", num_chains, "raise it")


def check_real(name: str, value: Any, low: float, high: float = math.inf, is_low_in: bool = False) -> float:
    """Returns `value` as a float if it is a finite number within (low, high), or [low, high) with `is_low_in`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and (low < value < high or (is_low_in and value == low)):
        return float(value)
    start = f"a number of at least {low:g}" if is_low_in else f"a number above {low:g}"
    expected = start if high == math.inf else f"{start} and below {high:g}"
    raise fail(name, expected, repr(value), "give a finite number in that range")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Returns `value` if it is one of `choices`; the error names them and, for text, the nearest."""
    known = list(choices)
    if any(value == choice and type(value) is type(choice) for choice in known):
        return value
    listed = "one of " + ", ".join(map(str, known))
    raise fail(name, listed, repr(value), did_you_mean(value, known) or "give one of those")


def did_you_mean(value: Any, known: Iterable[Any]) -> str:
    """Returns `did you mean a, b?` for the names nearest to `value`, or an empty string."""
    near = difflib.get_close_matches(str(value).lower(), [str(k) for k in known], n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else ""
