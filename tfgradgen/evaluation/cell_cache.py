"""A cache of a comparison's samples on disk, one file per cell. Files are written atomically, so that runs can be resumed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tfgradgen.core.arrays import read_npz
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import atomic_file, json_text, own_folder
from tfgradgen.core.parsing import parsing
from tfgradgen.io.store import difference

HEADER = "header"
T = TypeVar("T", bound=NamedTuple)


class CellCache:
    """Named tuples of arrays in `folder`, by label and name.

    Args:
      folder: The folder.
      identity: Everything that determines the bits of all cells, JSON-serializable. Settings of one cell are given with it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity

    def path(self, label: str, name: str) -> Path:
        return self.folder / label / f"{name}.npz"

    def get(self, label: str, name: str, kind: type[T], settings: dict[str, Any], fits_fn: Callable[[T], bool]) -> T | None:
        """Return a finished cell; None if it does not exist, cannot be read, or `fits_fn` refuses its arrays.

        Raises:
          UserError: The cell belongs to another comparison.
        """
        path = self.path(label, name)
        if not path.exists():
            return None
        try:
            with parsing(f"cell {path}", "a finished cell", "remove it"):
                arrays = read_npz(path, [HEADER, *kind._fields])
                header = json.loads(arrays.pop(HEADER).tobytes())
                if not isinstance(header, dict):
                    raise TypeError("no header")
        except UserError as error:
            if isinstance(error.__cause__, PermissionError | MemoryError):
                raise
            return None  # a damaged cell is computed again
        cell: T = kind(*(arrays[field] for field in kind._fields))  # type: ignore[call-overload]
        if not fits_fn(cell):
            return None
        found = difference(json.loads(json_text(self.identity | settings)), header)
        if found:
            what, ours, theirs = found
            raise fail("resume", f"{what} {theirs} as in {path}", ours, "give the same value, or choose another --out")
        return cell

    def put(self, label: str, name: str, cell: NamedTuple, settings: dict[str, Any]) -> None:
        path = self.path(label, name)
        for folder in (self.folder, path.parent):
            own_folder(folder)
        header = np.frombuffer(json_text(self.identity | settings).encode(), np.uint8)
        arrays: dict[str, Any] = {HEADER: header, **cell._asdict()}
        with atomic_file(path) as stream:
            np.savez_compressed(stream, **arrays)
