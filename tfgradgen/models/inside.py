"""Files of a model's folder, which a stranger may have made: read once, within bounds, and none from outside of it.

A link is followed only to a regular file in the same folder, or, in a snapshot of Hugging Face's cache, in the `blobs` beside
the snapshots. Each file is opened from its folder's descriptor down, so that a link put in place meanwhile is not followed.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from tfgradgen.checks import UserError, fail

MAX_BYTES = 16 << 30  # more than ten times the largest image model on TF-Hub
MAX_PROGRAM = (2 << 30) - 1  # of saved_model.pb: no protobuf is larger
MAX_FILES = 10_000
MAX_DEPTH = 32  # a SavedModel has a depth of 2 or 3
MAX_TEXT = 16 << 20  # of a card or a file of labels
_BLOCK = 1 << 20
_OF_WINDOWS = getattr(os, "O_BINARY", 0)
_FLAGS = os.O_RDONLY | _OF_WINDOWS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_CAN_DESCEND = os.open in os.supports_dir_fd


class Part(NamedTuple):
    """A file of a SavedModel: its name in the folder, its size, and its bytes, which must be read to the end."""

    name: PurePath
    size: int
    blocks: Iterator[bytes]

    def header(self) -> bytes:
        """What goes before its bytes in the model's fingerprint."""
        return f"{self.name.as_posix()}\0{self.size}\0".encode()


def open_inside(folder: Path, name: str | PurePath) -> BinaryIO:
    """Opens the regular file `name` of `folder`; `folder` itself may be a link.

    Raises:
      OSError: there is none, it is no regular file, or it is a link out of the folder. ValueError: `name` cannot be a path.
    """
    root = Path(os.path.realpath(folder))
    target = Path(os.path.realpath(root / name, strict=True))
    base = next((base for base in (root, *_blobs(root)) if target.is_relative_to(base) and target != base), None)
    if base is None:
        raise OSError(errno.ELOOP, "a link out of the model's folder", str(folder / name))
    descriptor = _descend(base, target.relative_to(base).parts)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(folder / name))
    return os.fdopen(descriptor, "rb")


def read_inside(folder: Path, name: str | PurePath, most: int = MAX_TEXT) -> bytes:
    """The bytes of the regular file `name` of `folder`, at most `most`.

    Raises:
      OSError: as `open_inside`. ValueError: it is larger.
    """
    with open_inside(folder, name) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    return data


def is_inside(folder: Path, name: str | PurePath) -> bool:
    """Whether `folder` has an entry `name`, be it a file, a link or anything else."""
    return os.path.lexists(folder / name)


def parts(folder: Path) -> Iterator[Part]:
    """The files of the SavedModel in `folder`, in order: saved_model.pb, then those of variables/ and of assets/.

    Raises:
      UserError: one that is no regular file or links out of the folder, more than the bounds allow, or one that cannot be read.
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
        raise fail(where, "a readable file of the model", reason, "copy the model's own files into its folder") from None


class Copy:
    """A SavedModel's files in a folder that nobody else can reach; it goes when the object does.

    sha256: the fingerprint of what was copied.
    """

    def __init__(self, folder: Path) -> None:
        """Copies the files of `folder`; raises `UserError` where that cannot be read, or the copy not be written."""
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
                            file.seek(len(block), os.SEEK_CUR)  # a hole, as it may have been
                        else:
                            file.write(block)
                    file.truncate()
        except OSError as error:
            remedy = "free space, or set TMPDIR to another folder"
            raise fail("copy of the model", "a temporary folder that can be written", error, remedy) from None
        self.sha256 = digest.hexdigest()

    def remove(self) -> None:
        """Removes the files now."""
        self._finalizer()


def _blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left:
        block = stream.read(min(_BLOCK, left))
        if not block:
            raise ValueError("a file that is cut off while it is read")
        left -= len(block)
        yield block


def _blobs(root: Path) -> list[Path]:
    """Where the files of a snapshot in Hugging Face's cache are: MODEL/snapshots/REVISION/... links to MODEL/blobs/."""
    return [outer.parent / "blobs" for outer in root.parents if outer.name == "snapshots"][:1]


def _descend(base: Path, names: tuple[str, ...]) -> int:
    """A descriptor of the file `names` below `base`, without following a link on the way."""
    if not _CAN_DESCEND:
        return os.open(base.joinpath(*names), _FLAGS)
    at = os.open(base, _FLAGS | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            below = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        # Opening a device may already do something.
        if not stat.S_ISREG(os.stat(names[-1], dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(base.joinpath(*names)))
        return os.open(names[-1], _FLAGS, dir_fd=at)
    finally:
        os.close(at)


def _names(folder: Path, top: PurePath) -> list[PurePath]:
    """The files below `top`; raises `OSError` for what is neither a file nor a folder nor a link to a file of the model."""
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
