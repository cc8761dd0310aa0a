"""A single image or film as a file, with the record that reproduces it beside it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfgradgen.core.checks import fail
from tfgradgen.core.files import atomic_file, json_text, write_text
from tfgradgen.core.text import as_text
from tfgradgen.io.folders import LONGEST, not_written


def record_path(path: Path) -> Path:
    """Return where the record of the file `path` is: beside it, with `.json` after its whole name."""
    return path.with_name(f"{path.name}.json")


def check_file(path: Path, overwrite: bool, name: str = "out") -> None:
    """Check that `path` and its record can be written. Changes nothing.

    Args:
      path: The file.
      overwrite: Whether earlier files of these names may be replaced.
      name: The parameter that gives the path, for errors.

    Raises:
      UserError: One of them exists, is not a file, or has a name that is too long; or its folder cannot be written.
    """
    if len(os.fsencode(path.name)) > LONGEST - len("..json.partial"):
        raise fail(name, "a shorter name", as_text(path), f"give --{name}=FILE")
    for each in (path, record_path(path)):
        if each.is_symlink() or (os.path.lexists(each) and not each.is_file()):
            raise fail(name, "a file", f"{as_text(each)}, which is something else", f"choose another --{name}")
        if os.path.lexists(each) and not overwrite:
            raise fail(name, "a new file", f"{as_text(each)}, which exists", f"choose another --{name} or add --overwrite")
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise fail(name, "a file in a folder that can be written", as_text(path), f"choose another --{name}")


def write_with_record(path: Path, data: bytes, record: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write `data` to `path` and `record` beside it, each atomically; return `path`. After an error neither is new.

    Both are complete on the disk before either takes its name. The record takes it first: no file is without the record that
    says what it is.

    Raises:
      UserError: As in `check_file`, or the disk is full.
    """
    check_file(path, overwrite)
    earlier, written = None, False
    beside = record_path(path)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as stream:
            stream.write(data)
            stream.flush()
            earlier = beside.read_bytes() if beside.exists() else None
            write_text(beside, json_text(record, 2) + "\n")
            written = True
    except BaseException as error:
        if written:
            _restore(beside, earlier)
        if isinstance(error, OSError):
            raise not_written(path, error) from error
        raise
    return path


def _restore(path: Path, earlier: bytes | None) -> None:
    """Give `path` its earlier content again; remove it if it had none, or if that fails."""
    if earlier is not None:
        with suppress(OSError), atomic_file(path) as stream:
            stream.write(earlier)
            return
    with suppress(OSError):
        path.unlink(missing_ok=True)
