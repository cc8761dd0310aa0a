"""Which chains of a run are meant. Does not import TensorFlow."""

from typing import Any

from tfgradgen.core.checks import check_int, check_type, fail
from tfgradgen.results.result import SampleResult


def check_chain(name: str, chain: Any, result: SampleResult) -> int:
    """Return `chain` if the run has a chain of that number; raise `UserError` otherwise."""
    check_type("result", result, SampleResult)
    return check_int(name, chain, 0, result.z.shape[1] - 1)


def check_two(first: Any, last: Any, result: SampleResult) -> tuple[int, int]:
    """Return the numbers of two chains of the run; raise `UserError` if one does not exist, or both are the same."""
    pair = check_chain("first", first, result), check_chain("last", last, result)
    if pair[0] == pair[1]:
        raise fail("last", "another chain than the first", last, "give two different numbers")
    return pair
