"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfgradgen.checks import UserError, fail

OURS = {"grid.png", "samples.npz", "run.json"}


def check_target(folder: Path, overwrite: bool) -> None:
    """Raises `UserError` unless `folder` can be made, or replaced where `overwrite` allows it. Leaves nothing behind."""
    if os.path.lexists(folder):
        if not overwrite:
            raise fail("out", "a new folder", f"{folder}, which exists", "choose another --out or add --overwrite")
        if folder.is_symlink() or not folder.is_dir():
            raise fail("out", "a folder", f"{folder}, which is none", "choose another --out")
        foreign = sorted({path.name for path in folder.iterdir()} - OURS)
        if foreign:
            raise fail(
                "out",
                "an earlier run's folder to overwrite",
                f"{folder}, which also holds {foreign[0]}",
                "choose another --out; it is left as it is",
            )
    ancestor = folder.absolute().parent
    while not ancestor.exists():
        ancestor = ancestor.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".tfgradgen-", dir=ancestor))
    except OSError as error:
        raise fail("out", "a folder that can be written", f"{folder} ({error.strerror})", "choose another --out") from None


@contextmanager
def new_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder beside `folder` to write into, and renames it into place at the end; an earlier one is replaced.

    After an error the earlier one stands as it was and nothing new is left.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise _not_written(folder, error) from None
    try:
        beside.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield beside
        check_target(folder, overwrite)  # again: another run may have taken the place meanwhile
        if folder.exists():
            aside = beside.with_name(beside.name + ".old")
            folder.rename(aside)
            try:
                beside.rename(folder)
            except OSError:
                aside.rename(folder)
                raise
            shutil.rmtree(aside)
        else:
            beside.rename(folder)
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _not_written(folder: Path, error: OSError) -> UserError:
    return fail("out", "a folder that can be written", f"{folder} ({error.strerror})", "free space or choose another --out")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
