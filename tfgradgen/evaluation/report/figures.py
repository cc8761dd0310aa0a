"""A figure of a comparison's report: read, compared, and written with the digits that its error allows."""

import math
from collections.abc import Sequence
from typing import Any

from tfgradgen.evaluation.report.catalogue import Value

REGULARIZED = "+reg"  # how the name of a row with class-specific regularization ends
MAX_NAMED = 6  # labels in a heading
LEAST_PLAIN = 1e-4  # smaller figures are written with a power of ten


def is_regularized(name: str) -> bool:
    return name.endswith(REGULARIZED)


def read(cell: dict[str, Any] | None) -> Value | None:
    """{'value': ..., 'error': ... or None} -> Value; None where there is no finite value."""
    if cell is None or cell.get("value") is None or not math.isfinite(cell["value"]):
        return None
    error = cell.get("error")
    return Value(float(cell["value"]), float(error) if error is not None and math.isfinite(error) else None)


def curve(row: dict[str, Any], measure: str) -> list[Value | None]:
    """The values of `measure`, one a checkpoint; [] where the row has no curve of it."""
    return [read(cell) for cell in row.get("curve", {}).get(measure) or []]


def final(row: dict[str, Any], measure: str) -> Value | None:
    """The value of `measure` at the end of the run."""
    found = read(row.get("values", {}).get(measure))
    return found or (curve(row, measure) or [None])[-1]


def combined_error(a: Value, b: Value) -> float | None:
    """Standard error of a - b as if independent; None where one is unknown."""
    return None if a.error is None or b.error is None else math.hypot(a.error, b.error)


def shown(value: Value | None) -> str:
    """'-6.00 ± 0.31': two significant digits of the error decide, three of the value where there is no error."""
    if value is None:
        return "-"
    if not value.error:
        return _number(value.value, 3, value.value) + (" ± 0" if value.error == 0 else "")
    return f"{_number(value.value, 2, value.error)} ± {_number(value.error, 2, value.error)}"


def _number(value: float, digits: int, scale: float) -> str:
    """`value` to the place of the last of `digits` significant digits of `scale`."""
    if scale == 0:
        return f"{value:.{digits - 1}f}"
    last = int(f"{scale:.{digits - 1}e}".split("e")[1]) - digits + 1  # after rounding: 0.0996 has its first digit at 0.1
    if abs(scale) < LEAST_PLAIN:
        first = int(f"{value:e}".split("e")[1])
        return f"{value:.{max(0, first - last)}e}"
    return f"{round(value, -last):.{max(0, -last)}f}"


def summary(labels: Sequence[str]) -> str:
    """The labels of a comparison in a few words, for a heading."""
    return ", ".join(labels) if len(labels) <= MAX_NAMED else f"{len(labels)} classes"
