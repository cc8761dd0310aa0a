"""Conversion of pixels between image ranges."""

from typing import Any

SYMMETRIC, UNIT, BYTES = (-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)
LEAST_USED = 0.05  # smallest share of a range that images use; values that span less belong to a narrower range
OVERSHOOT = 0.02  # share of a range by which a network without a bounded last layer may exceed it


def to_range(image: Any, bounds: tuple[float, float]) -> Any:
    """Map `image` from [-1, 1] to `bounds` = (low, high); return it unchanged if they are equal."""
    low, high = bounds
    return image if (low, high) == SYMMETRIC else (image + 1.0) * ((high - low) / 2.0) + low


def from_range(image: Any, bounds: tuple[float, float]) -> Any:
    """Map `image` from `bounds` to [-1, 1]; return it unchanged if they are equal."""
    low, high = bounds
    return image if (low, high) == SYMMETRIC else (image - low) * (2.0 / (high - low)) - 1.0
