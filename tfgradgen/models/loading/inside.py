"""Safe reading of the files in a model's folder: each file is read once, within bounds, and none from outside of the folder.

Files are opened by `files.open_inside`, which documents the links that are followed.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import open_inside

MAX_BYTES = 16 << 30  # more than ten times the largest image model on TF-Hub
MAX_PROGRAM = (2 << 30) - 1  # bytes in saved_model.pb, the limit of protobuf
MAX_FILES = 10_000
MAX_DEPTH = 32  # a SavedModel has a depth of 2 or 3
_BLOCK = 1 << 20


class Part(NamedTuple):
    """A file of a SavedModel: its name in the folder, its size in bytes, and its content, which must be read to the end."""

    name: PurePath
    size: int
    blocks: Iterator[bytes]

    def header(self) -> bytes:
        """Return the header that precedes the content in the digest of the model."""
        return f"{self.name.as_posix()}\0{self.size}\0".encode()


def is_inside(folder: Path, name: str | PurePath) -> bool:
    """Return whether `folder` has an entry `name` of any kind."""
    return os.path.lexists(folder / name)


def parts(folder: Path) -> Iterator[Part]:
    """Yield the files of the SavedModel in `folder`, in order: saved_model.pb, then those of variables/ and assets/.

    Raises:
      UserError: A file cannot be read, is not a regular file or links out of the folder, or a bound is exceeded.
    """
    names = [PurePath("saved_model.pb")]
    try:
        for top in ("variables", "assets"):
            if is_inside(folder, top):
                names += sorted(_names(folder, PurePath(top)))
        left = MAX_BYTES
        for name in names:
            with open_inside(folder, name) as stream:
                size = os.fstat(stream.fileno()).st_size
                bound = min(left, MAX_PROGRAM) if name == names[0] else left
                if size > bound:
                    expected = f"a model of at most {MAX_BYTES >> 30} GiB, its saved_model.pb below 2 GiB"
                    raise fail(f"model {folder}", expected, f"{name.as_posix()} of {size:,} bytes", "export it again")
                left -= size
                yield Part(name, size, _blocks(stream, size))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        named = getattr(error, "filename", None)
        where = f"{named if isinstance(named, str) else folder}"
        reason = getattr(error, "strerror", None) or str(error)
        raise fail(where, "a readable file of the model", reason, "copy the model's own files into its folder") from error


class Copy:
    """A private temporary copy of a SavedModel's files, which is removed with the object.

    Attributes:
      folder: The folder of the copy.
      sha256: Digest of the files (see `metadata.fingerprint`).
    """

    def __init__(self, folder: Path) -> None:
        """Copy the files of `folder`; raise `UserError` if they cannot be read or written."""
        digest = hashlib.sha256()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="tfgradgen-model-"))
            self._finalizer = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            for part in parts(folder):
                digest.update(part.header())
                target = self.folder / part.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    for block in part.blocks:
                        digest.update(block)
                        if block.count(0) == len(block):
                            file.seek(len(block), os.SEEK_CUR)  # a hole: the original may be sparse too
                        else:
                            file.write(block)
                    file.truncate()
        except OSError as error:
            remedy = "free space, or set TMPDIR to another folder"
            raise fail("copy of the model", "a temporary folder that can be written", error, remedy) from error
        self.sha256 = digest.hexdigest()

    def remove(self) -> None:
        """Remove the files now."""
        self._finalizer()


def _blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left:
        block = stream.read(min(_BLOCK, left))
        if not block:
            raise ValueError("a file that was truncated while it was read")
        left -= len(block)
        yield block


def _names(folder: Path, top: PurePath) -> list[PurePath]:
    """Return the files below `top`; raise `OSError` for links to folders, `ValueError` if a bound is exceeded."""
    found: list[PurePath] = []
    pending = [top]
    count = 0
    while pending:
        inner = pending.pop()
        if os.path.islink(folder / inner):
            raise OSError(errno.ELOOP, "a link to a folder", str(folder / inner))
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                count += 1
                name = inner / entry.name
                if count > MAX_FILES or len(name.parts) > MAX_DEPTH:
                    raise ValueError(f"more than {MAX_FILES} files, or more than {MAX_DEPTH} folders deep")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_symlink() and entry.is_dir():
                    raise OSError(errno.ELOOP, "a link to a folder", str(folder / name))
                else:
                    found.append(name)
    return found
