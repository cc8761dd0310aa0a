"""Safe reading of .npz archives from outside: sizes are checked before anything is unpacked, and nothing is unpickled."""

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfgradgen.core.checks import UserError, fail

MAX_BYTES = 1 << 30  # in all arrays of an archive, unpacked; more is allowed up to `MAX_RATIO`
MAX_RATIO = 50  # largest unpacked size in units of the packed size; draws hardly compress
MAX_MEMBERS = 4096
Layout = Mapping[str, tuple[Any, tuple[Any, ...]]]  # array name -> dtype and shape (see `check_arrays`)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes


def read_npz(source: Path | IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays `names` of an .npz archive; all of them by default.

    Use it within `parsing`: on damaged bytes zipfile and NumPy raise many kinds of errors.

    Raises:
      ValueError: The archive is too large, or `np.savez` did not write it.
    """
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(2, "not a regular file" if source.exists() else "no such file", str(source))
    with zipfile.ZipFile(source) as archive:
        infos = archive.infolist()
        known = {info.filename.removesuffix(".npy"): info for info in infos}
        stream = archive.fp
        assert stream is not None  # the archive is open
        packed = stream.seek(0, 2)
        if len(known) != len(infos) or len(infos) > MAX_MEMBERS:
            raise ValueError("duplicate names, or too many arrays")
        if any(info.compress_type not in _METHODS or info.flag_bits & 1 for info in infos):
            raise ValueError("an archive that NumPy did not write")
        wanted = list(known) if names is None else list(names)
        if missing := [name for name in wanted if name not in known]:
            raise KeyError(missing[0])
        if sum(known[name].file_size for name in wanted) > max(MAX_BYTES, MAX_RATIO * packed):
            raise ValueError(f"more than {MAX_BYTES:,} bytes when unpacked")
        return {name: _read_array(archive, known[name]) for name in wanted}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read_header(stream)
        count = 1
        for size in shape:
            count *= size  # Python's integers do not overflow
        # NumPy would allocate whatever the header declares.
        if dtype.hasobject or not dtype.itemsize or stream.tell() + count * dtype.itemsize != info.file_size:
            raise ValueError("an array that does not match its header")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def check_arrays(arrays: Mapping[str, np.ndarray], layout: Layout) -> dict[str, int]:
    """Check the dtypes and shapes of `arrays`.

    Args:
      arrays: Arrays by name.
      layout: Dtype and shape by name. An axis in a shape is a number, or a name that stands for one size in all shapes.

    Returns:
      The size of each named axis.

    Raises:
      ValueError: An array has another dtype or shape.
    """
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in layout.items():
        array = arrays[name]
        expected = [sizes.setdefault(n, size) if isinstance(n, str) else n for n, size in zip(shape, array.shape, strict=False)]
        if array.dtype != dtype or len(shape) != array.ndim or expected != list(array.shape):
            raise ValueError(f"{name} {array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} {list(map(str, shape))}")
    return sizes


class StateError(UserError):
    """A saved state that no run of the sampler can have written."""

    def __init__(self, what: str):
        """Create the error; `what` names the array and what is wrong with it."""
        super().__init__(str(fail("resume", "the state of an interrupted run", what, "start over")))
        self.what = what


def check_state(state: Mapping[str, np.ndarray], layout: Layout) -> dict[str, int]:
    """Check that the state of a sampler has exactly the arrays of `layout` (see `check_arrays`).

    Raises:
      StateError: It does not.
    """
    try:
        for name in sorted({*state} ^ {*layout}):
            raise ValueError(f"{'no' if name in layout else 'an unknown'} array {name}")
        return check_arrays(state, layout)
    except ValueError as error:
        raise StateError(str(error)) from error


def check_within(state: Mapping[str, np.ndarray], name: str, low: float, high: float) -> None:
    """Raise `StateError` unless all values of the array `name` are in [low, high]."""
    if not np.all((state[name] >= low) & (state[name] <= high)):
        raise StateError(f"{name} outside {low:g} to {high:g}")
