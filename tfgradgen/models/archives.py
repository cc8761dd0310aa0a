"""Unpacks a tar archive that a stranger may have made: files and folders only, inside one folder, within bounds."""

import gzip
import os
import tarfile
import tempfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import IO, Protocol

from tfgradgen.checks import fail

MAX_BYTES = 16 << 30  # more than ten times the largest image model on TF-Hub
# Trained weights hardly compress (about 1.1 times); gzip reaches 1032 times on zeros.
MAX_RATIO = 50
MAX_MEMBERS = 10_000
_SMALL = 64 << 20  # any archive may hold this much: the ratio says little of a tiny graph of zeros
_BLOCK = 1 << 20
_REMEDY = "fetch it again, or unpack it by hand if you trust it"


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Metered:
    """A stream of bytes that ends in a `ValueError` beyond `limit`; `used` is where its last byte other than 0 ended."""

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


def unpack(
    archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_ratio: int = MAX_RATIO, max_members: int = MAX_MEMBERS
) -> None:
    """Unpacks the tar file `archive`, gzip-compressed or not, as the new folder `folder`, which appears whole or not at all.

    A `folder` that is there when the work is done is left as it is: another process has unpacked the same archive.

    Args:
      max_bytes: what its files may hold in all.
      max_ratio: the same as a multiple of the archive's size, beyond the first 64 MiB.
      max_members: how many files and folders it may hold.

    Raises:
      UserError: it is truncated, damaged or beyond a bound; or it holds a link, a device, a name twice or a name that leads
        out of `folder`. Nothing stays on disk then.
    """
    try:
        bound = min(max_bytes, _SMALL + max_ratio * archive.stat().st_size)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name[:16]}.", dir=folder.parent) as beside, archive.open("rb") as raw:
            content = Path(beside) / "content"
            content.mkdir()
            is_compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if is_compressed else raw
            _extract(_Metered(stream, 2 * _BLOCK), content, bound, max_members)
            _move(content, folder)
    except _Refusal as refusal:
        raise fail(f"archive {archive}", refusal.expected, refusal.got, _REMEDY) from None
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise fail(f"archive {archive}", "a whole tar archive", str(error)[:200], _REMEDY) from None


class _Refusal(Exception):
    def __init__(self, expected: str, got: str) -> None:
        self.expected, self.got = expected, got


def _extract(stream: _Metered, folder: Path, bound: int, max_members: int) -> None:
    seen: set[PureWindowsPath] = set()
    total = end = 0
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:  # type: ignore[call-overload]
        for member in tar:
            size = member.size if member.isfile() else 0
            total += size
            path = _checked(member, seen)
            if total > bound or len(seen) > max_members:
                got = f"{total} bytes" if total > bound else f"more than {max_members} members"
                raise _Refusal(f"at most {bound} bytes in {max_members} members", got)
            end = member.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # What is read ahead, the next header included, is bounded too: tarfile holds a long header in memory.
            stream.limit = end + 2 * _BLOCK
            target = folder.joinpath(*path.parts)
            if not member.isfile():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # as for every file that is no link
            with target.open("xb") as file:
                _copy(source, file)
    while stream.read(_BLOCK):  # to the end, where gzip checks its sum
        pass
    # tarfile takes a damaged header for the end; the true end is a block of zeros.
    if stream.used > end or stream.count < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("damaged or cut off after its first members")


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    while chunk := source.read(_BLOCK):
        file.write(chunk)


def _checked(member: tarfile.TarInfo, seen: set[PureWindowsPath]) -> PureWindowsPath:
    """Where `member` goes; Windows' rules hold on every system, as they are the stricter ones: drives, case, both slashes."""
    path, name = PureWindowsPath(member.name), repr(member.name)[:80]
    if path.anchor or ".." in path.parts or (member.isfile() and not path.parts):
        raise _Refusal("names inside its own folder", name)
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
