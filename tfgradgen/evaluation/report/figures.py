"""Values in a comparison's report: reading, comparing, and formatting with as many digits as the error allows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfgradgen.evaluation.report.catalogue import MEASURES, Value

REGULARIZED = "+reg"  # suffix of the name of a row with class-specific regularization
MAX_NAMED = 6  # labels in a heading
LEAST_PLAIN = 1e-4  # smaller values are written in scientific notation


def is_regularized(name: str) -> bool:
    """Return whether the row `name` has class-specific regularization."""
    return name.endswith(REGULARIZED)


def read(cell: dict[str, Any] | None) -> Value | None:
    """Convert {'value': ..., 'error': ... or None} to a Value; None if the value is not finite."""
    if cell is None or cell.get("value") is None or not math.isfinite(cell["value"]):
        return None
    error = cell.get("error")
    return Value(float(cell["value"]), float(error) if error is not None and math.isfinite(error) else None)


def curve(row: dict[str, Any], measure: str) -> list[Value | None]:
    """Return the values of `measure`, one per checkpoint; [] if the row has no curve of it."""
    return [read(cell) for cell in row.get("curve", {}).get(measure) or []]


def with_curves(rows: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the measures of which some row has a curve with a value."""
    return [name for name in MEASURES if any(value is not None for row in rows.values() for value in curve(row, name))]


def final(row: dict[str, Any], measure: str) -> Value | None:
    """Return the value of `measure` at the end of the run."""
    found = read(row.get("values", {}).get(measure))
    return found or (curve(row, measure) or [None])[-1]


def combined_error(a: Value, b: Value) -> float | None:
    """Return the standard error of a - b, assuming independence; None if one error is unknown."""
    return None if a.error is None or b.error is None else math.hypot(a.error, b.error)


def shown(value: Value | None) -> str:
    """Format a value as '-6.00 ± 0.31', with two significant digits of the error, or three of the value without error."""
    if value is None:
        return "-"
    if not value.error:
        return _number(value.value, 3, value.value) + (" ± 0" if value.error == 0 else "")
    return f"{_number(value.value, 2, value.error)} ± {_number(value.error, 2, value.error)}"


def _number(value: float, digits: int, scale: float) -> str:
    """Format `value` to the decimal place of the last of `digits` significant digits of `scale`."""
    if scale == 0:
        return f"{value:.{digits - 1}f}"
    last = int(f"{scale:.{digits - 1}e}".split("e")[1]) - digits + 1  # after rounding: 0.0996 becomes 0.10
    if abs(scale) < LEAST_PLAIN:
        first = int(f"{value:e}".split("e")[1])
        return f"{value:.{max(0, first - last)}e}"
    return f"{round(value, -last):.{max(0, -last)}f}"


def summary(labels: Sequence[str]) -> str:
    """Summarize the labels of a comparison for a heading."""
    return ", ".join(labels) if len(labels) <= MAX_NAMED else f"{len(labels)} classes"
