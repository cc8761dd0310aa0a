"""Numbered arrays of one shape in a cache folder. They can be computed again, so losing them costs only time.

A file holds a digest and the bytes of one array. The digest covers the bytes, the number and the owner, so a file that is
damaged, truncated, renamed or copied from elsewhere is not used. Errors of the disk are not raised: the array is then missing,
or is not kept.
"""

import hashlib
import hmac
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from tfgradgen.core.files import atomic_file, own_folder
from tfgradgen.core.parsing import read_bytes

MAX_BYTES = 1 << 30  # of all files below a root
SHARE_LEFT = 0.9  # share of MAX_BYTES that stays when room is made, so that this is not needed for every file
DIGEST = hashlib.sha256().digest_size


class NumberedArrays:
    """float32 arrays of one shape, by number >= 0.

    Args:
      folder: The folder of these arrays, which is created with the first one. Its parent is the root, which also holds the
        folders of other owners; all files below the root have at most `MAX_BYTES` together. If it is None, nothing is kept.
      owner: What the arrays belong to; arrays of another owner are not read.
      shape: Shape of each array.
    """

    def __init__(self, folder: Path | None, owner: str, shape: tuple[int, ...]):
        self.folder, self.owner, self._shape = folder, owner, shape
        self._room = 0  # bytes that may be written, as far as is known
        self._is_full = False

    @property
    def num_bytes(self) -> int:
        """Number of bytes in one file."""
        return DIGEST + 4 * int(np.prod(self._shape))

    def get(self, number: int) -> np.ndarray | None:
        """Return the array, read-only, or None if it is missing or was changed."""
        if self.folder is None:
            return None
        path = self._path(self.folder, number)
        try:
            data = read_bytes(path, self.num_bytes, self.folder)
        except (OSError, ValueError):
            return None
        if len(data) != self.num_bytes or not hmac.compare_digest(data[:DIGEST], self._digest(number, data[DIGEST:])):
            return None
        with suppress(OSError):
            os.utime(path)  # the files that were unused for longest are removed first
        return np.frombuffer(data, "<f4", offset=DIGEST).reshape(self._shape)

    def has(self, number: int) -> bool:
        """Return whether there is a file of that number, valid or not."""
        return self.folder is not None and os.path.exists(self._path(self.folder, number))

    def put(self, number: int, array: np.ndarray) -> bool:
        """Write `array` [*shape] atomically if there is room; return whether it was written."""
        if self.folder is None or self._is_full:
            return False
        data = np.ascontiguousarray(array, "<f4").tobytes()
        try:
            own_folder(self.folder)
            if self._room < self.num_bytes:
                self._room = make_room(self.folder, self.num_bytes)
                self._is_full = not self._room
            if self._is_full:
                return False
            with atomic_file(self._path(self.folder, number), f"{os.getpid()}.partial") as stream:
                stream.write(self._digest(number, data) + data)
        except OSError:
            return False
        self._room -= self.num_bytes
        return True

    def _path(self, folder: Path, number: int) -> Path:
        return folder / f"{number:08d}.f32"

    def _digest(self, number: int, data: bytes) -> bytes:
        return hashlib.sha256(f"{self.owner} {number} {self._shape} ".encode() + data).digest()


def make_room(folder: Path, num_bytes: int) -> int:
    """Return how many bytes may be written below the root of `folder`; 0 if there is no room for `num_bytes`.

    Files of other folders are removed to make room, those that were unused for longest first. Files of `folder` itself are
    never removed, so that a reader who needs them one after another finds all of them.
    """
    files = sorted(_files(folder.parent))
    total = sum(size for _, size, _ in files)
    if total + num_bytes > MAX_BYTES:
        for _, size, path in files:
            if total + num_bytes <= SHARE_LEFT * MAX_BYTES:
                break
            if path.parent == folder:
                continue
            with suppress(OSError):
                path.unlink()
                total -= size
            with suppress(OSError):
                path.parent.rmdir()  # only succeeds if the file was the last one in it
    left = MAX_BYTES - total
    return left if left >= num_bytes else 0


def _files(root: Path) -> list[tuple[float, int, Path]]:
    """Return the time of the last use, size and path of each file in the folders of `root`."""
    found = []
    for folder in root.iterdir():
        with suppress(OSError):  # another process may be making room too
            for path in () if folder.is_symlink() else folder.iterdir():
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
    return found
