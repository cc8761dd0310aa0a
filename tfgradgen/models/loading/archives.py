"""Safe unpacking of tar archives from outside: only files and folders, inside one folder, within bounds."""

import contextlib
import errno
import gzip
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Protocol

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.caches import make_private

MAX_BYTES = 16 << 30  # more than ten times the largest image model on TF-Hub
# Trained weights hardly compress (about 1.1 times); gzip reaches 1032 times on zeros.
MAX_RATIO = 50
MAX_MEMBERS = 10_000
MAX_DEPTH = 32  # a SavedModel has a depth of 2 or 3; a much deeper tree is an attack on code that walks it
_SMALL = 64 << 20  # bytes that any archive may hold; small graphs of zeros may have a large ratio
_BLOCK = 1 << 20
# Errors of the disk. Any other error while files are written is caused by names in the archive.
_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_REMEDY = "fetch it again, or unpack it by hand if you trust it"


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Metered:
    """A stream that raises `ValueError` beyond `limit` bytes; `used` is the end of its last nonzero byte."""

    def __init__(self, stream: _Stream, limit: int) -> None:
        self.stream, self.limit, self.count, self.used = stream, limit, 0, 0

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        if content := chunk.rstrip(b"\0"):
            self.used = self.count + len(content)
        self.count += len(chunk)
        if self.count > self.limit:
            raise ValueError("more bytes than it declares")
        return chunk


class _Hashed:
    """A stream that computes the SHA-256 of all bytes read."""

    def __init__(self, stream: _Stream) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        self.digest.update(chunk)
        return chunk


def unpack(
    archive: Path,
    folder: Path,
    max_bytes: int = MAX_BYTES,
    max_ratio: int = MAX_RATIO,
    max_members: int = MAX_MEMBERS,
    sha256: str | None = None,
) -> None:
    """Unpack a tar file to the new folder `folder`, atomically.

    If `folder` exists at the end, it is left unchanged: another process has unpacked the same archive.

    Args:
      archive: The tar file, with or without gzip compression.
      folder: The folder to create.
      max_bytes: Largest total size of its files.
      max_ratio: Largest total size in multiples of the size of the archive, beyond the first 64 MiB.
      max_members: Largest number of files and folders, including folders that occur only in the path of a file.
      sha256: Expected digest of the archive; None for any.

    Raises:
      UserError: The archive is truncated, damaged or exceeds a bound (`MAX_DEPTH` included); it holds a link, a device, a
        duplicate name or a name that leads out of `folder`; or `folder` cannot be written. Nothing is left on disk.
    """
    try:
        bound = min(max_bytes, _SMALL + max_ratio * archive.stat().st_size)
        with archive.open("rb") as raw, _temporary_folder(folder) as content:
            is_compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            hashed = _Hashed(raw)
            stream = gzip.GzipFile(fileobj=hashed) if is_compressed else hashed  # type: ignore[call-overload]
            _extract(_Metered(stream, 2 * _BLOCK), content, bound, max_members)
            while hashed.read(_BLOCK):
                pass
            if sha256 not in (None, hashed.digest.hexdigest()):
                raise ValueError("one that changed while it was read")
            _move(content, folder)
    except _Refusal as refusal:
        raise fail(f"archive {archive}", refusal.expected, refusal.got, _REMEDY) from refusal
    except UserError:
        raise
    except RecursionError as error:  # tarfile reads a header's header by recursion
        raise fail(f"archive {archive}", "a complete tar archive", "an endless chain of headers", _REMEDY) from error
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise _not_written(folder.parent, error) from None  # only an error of the archive has a cause
        raise fail(f"archive {archive}", "a complete tar archive", str(error)[:200], _REMEDY) from error


@contextlib.contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Create an empty temporary folder on the same disk as `folder`."""
    try:
        make_private(folder.parent)
        temporary = tempfile.TemporaryDirectory(prefix=f"{folder.name[:16]}.", dir=folder.parent)
    except OSError as error:
        raise _not_written(folder.parent, error) from None
    with temporary:
        content = Path(temporary.name) / "content"
        content.mkdir()
        yield content


def _not_written(folder: Path, error: OSError) -> UserError:
    remedy = "free space or set TFGRADGEN_CACHE_DIR to another folder"
    return fail("cache of archives", "a folder that can be written", f"{folder} ({error.strerror})", remedy)


class _Refusal(Exception):
    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"{got} instead of {expected}")
        self.expected, self.got = expected, got


def _extract(stream: _Metered, folder: Path, bound: int, max_members: int) -> None:
    seen: set[PureWindowsPath] = set()
    paths: set[PureWindowsPath] = set()  # including parent folders
    total = end = 0
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:  # type: ignore[call-overload]
        for member in tar:
            size = member.size if member.isfile() else 0
            total += size
            path = _checked(member, seen)
            paths.update([path, *path.parents[:-1]])
            if total > bound or len(paths) > max_members:
                got = f"{total} bytes" if total > bound else f"more than {max_members} members"
                raise _Refusal(f"at most {bound} bytes in {max_members} members", got)
            end = member.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # The next header is bounded too, because tarfile keeps a long header in memory.
            stream.limit = end + 2 * _BLOCK
            target = folder.joinpath(*path.parts)
            if not member.isfile():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # the member is a regular file
            with target.open("xb") as file:
                _copy(source, file)
    while stream.read(_BLOCK):  # to the end, where gzip verifies its checksum
        pass
    # tarfile stops at a damaged header as if it were the end. At the real end there is a block of zeros.
    if stream.used > end or stream.count < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("damaged or cut off after its first members")


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while chunk := source.read(_BLOCK):
        file.write(chunk)


def _checked(member: tarfile.TarInfo, seen: set[PureWindowsPath]) -> PureWindowsPath:
    """Return the path of `member`. Windows' rules, the stricter ones, apply on all systems: drives, case, both slashes."""
    path, name = PureWindowsPath(member.name), value_text(member.name)
    if path.anchor or ".." in path.parts or (member.isfile() and not path.parts):
        raise _Refusal("names inside its own folder", name)
    if len(path.parts) > MAX_DEPTH:
        raise _Refusal(f"at most {MAX_DEPTH} nested folders", f"{name}, {len(path.parts)} deep")
    if member.size < 0 or member.issparse() or not (member.isfile() or member.isdir()):
        raise _Refusal("files and folders only", f"{name}, a link, device or other special member")
    if path in seen:
        raise _Refusal("each name once", f"{name} again")
    seen.add(path)
    return path


def _move(content: Path, folder: Path) -> None:
    try:
        os.rename(content, folder)
    except OSError:
        if not folder.is_dir():
            raise
