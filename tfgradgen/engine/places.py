"""The check that a worker is what the record of a run says."""

from collections.abc import Mapping
from typing import Any

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Jit
from tfgradgen.io.store import difference
from tfgradgen.results.origin import environment
from tfgradgen.results.record import surroundings


def check_surroundings(expected: Mapping[str, Any], jit: Jit) -> None:
    """Raise `UserError` unless this process has the versions, device and backend of `expected`; {} expects nothing.

    Other versions or devices would give other bits.
    """
    found = difference(dict(expected), surroundings(environment(jit))) if expected else None
    if found:
        name, theirs, ours = found
        remedy = "give every node the same versions and kind of device"
        error = fail("engine", f"workers with {name} {theirs}, as the first one", f"one with {ours}", remedy)
        error.can_resume = True
        raise error
