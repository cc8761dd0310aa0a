"""Values that many blocks share."""

from typing import Any


class Inline:
    """A value that is sent with each block."""

    def __init__(self, value: Any):
        self._value = value

    def get(self) -> Any:
        """Return the value."""
        return self._value
