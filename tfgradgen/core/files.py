"""Atomic writes and safe opening of files: a file is complete or absent, and links are not followed to other files."""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from tfgradgen.core.checks import fail
from tfgradgen.core.text import value_text

_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FLAGS = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "w+b": os.O_RDWR | os.O_CREAT}
_CAN_DESCEND = os.open in os.supports_dir_fd


def path_of(name: str, value: Any) -> Path:
    """Return `value` as a path, with a leading ~ expanded.

    Raises:
      UserError: `value` is not a string or path, is empty, contains NUL, or starts with the home of an unknown user.
    """
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(found, str) or not found or "\0" in found:
        raise fail(name, "a path", value_text(value), f"give --{name}=PATH")
    try:
        return Path(found).expanduser()
    except RuntimeError as error:
        raise fail(name, "a path", value_text(value), "no such user has a home folder; give the full path") from error


def open_own(path: Path, mode: str) -> BinaryIO:
    """Open a file in a folder that this package writes; `mode` is 'rb', 'r+b' or 'w+b'.

    Raises:
      OSError: The file cannot be opened, is a symbolic link, a device or a pipe, or would be written and has a second hard
        link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link", str(path))
    descriptor = os.open(path, _FLAGS[mode] | _SAFE, 0o666)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
        if mode != "rb" and found.st_nlink > 1:
            raise OSError(errno.EMLINK, f"{path.name} is a link", str(path))
        if mode == "w+b":
            os.ftruncate(descriptor, 0)
        return cast(BinaryIO, os.fdopen(descriptor, mode))
    except BaseException:
        os.close(descriptor)
        raise


def own_folder(path: Path) -> Path:
    """Create the folder `path` if it does not exist.

    Raises:
      OSError: It cannot be created, or is a link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link", str(path))
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_file(path: Path, ending: str = "partial") -> Iterator[BinaryIO]:
    """Open a temporary file next to `path` that replaces it at the end of the block; after an error it is removed.

    Args:
      path: The file to write.
      ending: Ending of the temporary file's name. Processes that may write at the same time need different ones.
    """
    beside = path.with_name(f".{path.name}.{ending}")
    with open_own(beside, "w+b") as stream:
        try:
            yield stream
            stream.close()
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to `path`, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically."""
    with atomic_file(path) as stream:
        stream.write(content)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as standard JSON: numbers that are not finite become null."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Return `value` with None for every number that is not finite; tuples become lists, as in JSON."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_inside(folder: Path, name: str | PurePath) -> BinaryIO:
    """Open the regular file `name` of `folder`, which may come from outside; `folder` itself may be a link.

    A link is followed only to a regular file in the same folder or, in a snapshot of Hugging Face's cache, in its `blobs`
    folder. The file is opened relative to the descriptor of its folder, so that a link created meanwhile is not followed.

    Raises:
      OSError: The file does not exist, is not a regular file, or is a link out of the folder.
      ValueError: `name` cannot be a path.
    """
    root = Path(os.path.realpath(folder))
    target = Path(os.path.realpath(root / name, strict=True))
    blobs = [outer.parent / "blobs" for outer in root.parents if outer.name == "snapshots"][:1]
    base = next((base for base in (root, *blobs) if target.is_relative_to(base) and target != base), None)
    if base is None:
        raise OSError(errno.ELOOP, "a link out of its folder", str(folder / name))
    descriptor = _descend(base, target.relative_to(base).parts)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(folder / name))
    return os.fdopen(descriptor, "rb")


def _descend(base: Path, names: tuple[str, ...]) -> int:
    """Return a descriptor of the file `names` below `base`; no link on the way is followed."""
    if not _CAN_DESCEND:
        return os.open(base.joinpath(*names), os.O_RDONLY | _SAFE)
    at = os.open(base, os.O_RDONLY | _SAFE | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            below = os.open(name, os.O_RDONLY | _SAFE | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        # Checked before the file is opened: opening a device can have side effects.
        if not stat.S_ISREG(os.stat(names[-1], dir_fd=at, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(base.joinpath(*names)))
        return os.open(names[-1], os.O_RDONLY | _SAFE, dir_fd=at)
    finally:
        os.close(at)
