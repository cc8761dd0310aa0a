"""The weights of an export of tools/device/export_programs.py. It needs NumPy only.

Those that the shipped models hold byte for byte are not stored twice: the manifest says where they are in the repository.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def key_of(array: np.ndarray) -> str:
    """Return a hash of `array`, its shape and its dtype."""
    return hashlib.sha1(array.tobytes() + str((array.shape, array.dtype)).encode()).hexdigest()[:16]


def split_weights(weights: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the `weights` that no shipped model holds, and {key: [file, offset, dtype, shape]} of the others."""
    files = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in ROOT.glob("saved_models/*/variables/*.data-*")}
    places: dict[str, Any] = {}
    for key, array in weights.items():
        for name, data in files.items():
            offset = data.find(array.tobytes()) if array.nbytes >= 64 else -1
            if offset >= 0:
                places[key] = [name, offset, array.dtype.name, list(array.shape)]
    return {key: array for key, array in weights.items() if key not in places}, places


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return all weights of the export at `path`.

    Raises:
      ValueError: The shipped models of this repository are not those of the export.
    """
    places = json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("places", {})
    found = lambda name: ROOT / name if (ROOT / name).exists() else Path(name)  # tools/ may be a copy  # noqa: E731
    data = {name: np.fromfile(found(name), np.uint8) for name in {place[0] for place in places.values()}}
    with np.load(path / "weights.npz") as file:
        weights: dict[str, np.ndarray] = {key: file[key] for key in file.files}
    for key, (name, offset, dtype, shape) in places.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        weights[key] = data[name][offset : offset + size].view(dtype).reshape(shape)
        if key_of(weights[key]) != key:
            raise ValueError(f"{name} is not the file that {path} was written for")
    return weights
