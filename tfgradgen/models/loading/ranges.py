"""Pixels from one range to another."""

from typing import Any

SYMMETRIC, UNIT, BYTES = (-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)
LEAST_USED = 0.05  # of a range's width: values that span less of 0 to 255 are of no such range
OVERSHOOT = 0.02  # of a range's width: by so much a network without a squashing last layer goes beyond its range


def to_range(image: Any, bounds: tuple[float, float]) -> Any:
    """`image` in [-1, 1] brought to `bounds` = (low, high); the same tensor where they are equal."""
    low, high = bounds
    return image if (low, high) == SYMMETRIC else (image + 1.0) * ((high - low) / 2.0) + low


def from_range(image: Any, bounds: tuple[float, float]) -> Any:
    """`image` in `bounds` brought to [-1, 1]; the same tensor where they are equal."""
    low, high = bounds
    return image if (low, high) == SYMMETRIC else (image - low) * (2.0 / (high - low)) - 1.0
