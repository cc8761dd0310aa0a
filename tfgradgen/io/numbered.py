"""Arrays of one shape under numbers, kept in a cache folder: what can be computed again, and whose loss costs only time.

A file holds a digest and the bytes of one array. The digest covers the bytes, the number and what they belong to, so that a
file that is damaged, cut short, renamed or copied from elsewhere is not used. Nothing is raised, whatever goes wrong with the
disk: the array is then not there, or not kept.
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
SHARE_LEFT = 0.9  # of MAX_BYTES that stays when room is made, so that it is not made for every file
DIGEST = hashlib.sha256().digest_size


class NumberedArrays:
    """float32 arrays of one shape, by number >= 0.

    Args:
      folder: of these arrays, made when the first is kept. Its parent is the root, where the folders of others are too, and
        where all files together have at most `MAX_BYTES`. None keeps nothing.
      owner: what they belong to; arrays of another owner are not read.
      shape: of each.
    """

    def __init__(self, folder: Path | None, owner: str, shape: tuple[int, ...]):
        self.folder, self.owner, self._shape = folder, owner, shape
        self._room = 0  # bytes that may be written, as far as is known
        self._is_full = False

    @property
    def num_bytes(self) -> int:
        """Of one file."""
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
            os.utime(path)  # what was not used for the longest time makes room first
        return np.frombuffer(data, "<f4", offset=DIGEST).reshape(self._shape)

    def has(self, number: int) -> bool:
        """Whether there is a file of that number, right or wrong."""
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
    """Bytes that may still be written below the root of `folder`; 0 where fewer than `num_bytes`.

    Files of other folders make room, those that were not used for the longest time first; the files of `folder` never do, so
    that a reader who needs them one after another finds them.
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
                path.parent.rmdir()  # where it was the last
    left = MAX_BYTES - total
    return left if left >= num_bytes else 0


def _files(root: Path) -> list[tuple[float, int, Path]]:
    """Time of the last use, size and path of each file in the folders of `root`."""
    found = []
    for folder in root.iterdir():
        with suppress(OSError):  # another process may be making room too
            for path in () if folder.is_symlink() else folder.iterdir():
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
    return found
