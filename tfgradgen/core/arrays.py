"""Reads .npz archives that a stranger may have made: bounded in size before anything is unpacked, and never unpickled."""

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfgradgen.core.checks import UserError, fail

MAX_BYTES = 1 << 30  # of the arrays of an archive; more only where the archive itself is large
MAX_RATIO = 50  # of the unpacked to the packed size, beyond that: draws hardly compress
MAX_MEMBERS = 4096
Layout = Mapping[str, tuple[Any, tuple[Any, ...]]]  # of arrays, by name: dtype and shape (see `check_arrays`)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes


def read_npz(source: Path | IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive, `names` of them or all.

    Raises:
      whatever damaged bytes make of zipfile and NumPy, and ValueError where the archive holds what `np.savez` would not write
      or too much of it; `parsing` turns each into one line.
    """
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(2, "no regular file" if source.exists() else "no such file", str(source))
    with zipfile.ZipFile(source) as archive:
        infos = archive.infolist()
        known = {info.filename.removesuffix(".npy"): info for info in infos}
        stream = archive.fp
        assert stream is not None  # it is open
        packed = stream.seek(0, 2)
        if len(known) != len(infos) or len(infos) > MAX_MEMBERS:
            raise ValueError("names that occur twice, or too many of them")
        if any(info.compress_type not in _METHODS or info.flag_bits & 1 for info in infos):
            raise ValueError("an archive that NumPy did not write")
        wanted = list(known) if names is None else list(names)
        if missing := [name for name in wanted if name not in known]:
            raise KeyError(missing[0])
        if sum(known[name].file_size for name in wanted) > max(MAX_BYTES, MAX_RATIO * packed):
            raise ValueError(f"more than {MAX_BYTES:,} bytes when it is unpacked")
        return {name: _read_array(archive, known[name]) for name in wanted}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read_header(stream)
        count = 1
        for size in shape:
            count *= size  # of Python's integers, which do not overflow
        # NumPy would make room for whatever a header declares.
        if dtype.hasobject or not dtype.itemsize or stream.tell() + count * dtype.itemsize != info.file_size:
            raise ValueError("an array that is not as its header says")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def check_arrays(arrays: Mapping[str, np.ndarray], layout: Layout) -> dict[str, int]:
    """Checks dtypes and shapes of `arrays`.

    Args:
      layout: by name the dtype and the shape; a number in a shape is that size, a name any size, the same wherever it stands.

    Returns:
      The size of each name in `layout`.

    Raises:
      ValueError: an array is not so.
    """
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in layout.items():
        array = arrays[name]
        expected = [sizes.setdefault(n, size) if isinstance(n, str) else n for n, size in zip(shape, array.shape, strict=False)]
        if array.dtype != dtype or len(shape) != array.ndim or expected != list(array.shape):
            raise ValueError(f"{name} {array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} {list(map(str, shape))}")
    return sizes


class StateError(UserError):
    """A state to go on from that no run of the method can have left. what: the array that is wrong, and how."""

    def __init__(self, what: str):
        super().__init__(str(fail("resume", "the state of an interrupted run", what, "start anew")))
        self.what = what


def check_state(state: Mapping[str, np.ndarray], layout: Layout) -> dict[str, int]:
    """`check_arrays` of the state of a method, which holds the arrays of `layout` and no others.

    Raises:
      StateError: it does not.
    """
    try:
        for name in sorted({*state} ^ {*layout}):
            raise ValueError(f"{'no ' if name in layout else 'a further '}array {name}")
        return check_arrays(state, layout)
    except ValueError as error:
        raise StateError(str(error)) from error


def check_within(state: Mapping[str, np.ndarray], name: str, low: float, high: float) -> None:
    """Raises `StateError` unless every number of an array of a state is within [low, high]."""
    if not np.all((state[name] >= low) & (state[name] <= high)):
        raise StateError(f"{name} outside {low:g} to {high:g}")
