"""What a comparison has sampled, on disk: one file a cell, written beside and renamed, so that a finished one is never lost
nor made twice."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tfgradgen.checks import fail
from tfgradgen.store import difference

HEADER = "header"
T = TypeVar("T", bound=NamedTuple)


class Shelf:
    """Named tuples of arrays in `folder`, each under a label and a name.

    Args:
      identity: what decides the bits of every cell, JSON-able; what decides those of one only is given with it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity

    def path(self, label: str, name: str) -> Path:
        return self.folder / label / f"{name}.npz"

    def get(self, label: str, name: str, kind: type[T], settings: dict[str, Any]) -> T | None:
        """The finished cell, None where there is none that can be read.

        Raises:
          UserError: what lies there was made by another comparison.
        """
        path = self.path(label, name)
        try:
            with np.load(path, allow_pickle=False) as loaded:
                header = json.loads(loaded[HEADER].tobytes())
                cell = kind(*(loaded[field] for field in kind._fields))
        except (PermissionError, MemoryError):
            raise
        except Exception:  # whatever a missing or damaged file makes of its readers: it is made again
            return None
        found = difference(json.loads(json.dumps(self.identity | settings)), header)
        if found:
            what, ours, theirs = found
            raise fail("resume", f"{what} {theirs} as in {path}", ours, "give the same again, or choose another --out")
        return cell

    def put(self, label: str, name: str, cell: NamedTuple, settings: dict[str, Any]) -> None:
        path = self.path(label, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = np.frombuffer(json.dumps(self.identity | settings).encode(), np.uint8)
        beside = path.with_suffix(".npz.partial")
        arrays: dict[str, Any] = {HEADER: header, **cell._asdict()}
        with beside.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        os.replace(beside, path)
