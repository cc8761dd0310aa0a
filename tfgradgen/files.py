"""Files that are whole or not there."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes `text`, UTF-8, beside `path` and renames it into place."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that any parser reads: a number that is not finite becomes null."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """`value` with None for each number in it that is not finite; tuples become lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
