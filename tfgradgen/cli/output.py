"""Folders that appear whole or not at all."""

import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfgradgen.checks import UserError, fail
from tfgradgen.files import open_own
from tfgradgen.parsing import reason
from tfgradgen.store import CHECKPOINT, FILES

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

OURS = {"grid.png", "plots.png", "film.png", "samples.npz", "chains.nc", "run.json"}
LOCK = "lock"
LONGEST = 255  # bytes in the name of a file on all usual file systems
LONGEST_LABEL = 100  # of those, so that there is room for what stands beside a label


def as_file(name: str) -> str:
    """A label's name as that of a file: a foreign model's may hold commas and slashes, a condition operators."""
    return shortened(re.sub(r"[^\w-]+", "_", name.replace("!", "not_").replace("|", " or ")), name)


def shortened(file: str, name: str) -> str:
    """`file` in at most `LONGEST_LABEL` bytes; one that is cut ends in a digest of `name`, all of what it stands for."""
    content = file.encode()
    if len(content) <= LONGEST_LABEL:
        return file
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{content[: LONGEST_LABEL - 9].decode(errors='ignore')}_{digest}"


def partial_of(folder: Path) -> Path:
    """Where the run that will be `folder` keeps what it has, until it is whole."""
    return folder.with_name(f"{folder.name}.partial")


def check_partial(folder: Path, welcome: bool) -> None:
    """Raises `UserError` where an unfinished run of `folder` is, unless that is `welcome`, or no folder can have its name."""
    if folder.name in ("", ".."):
        raise fail("out", "a folder with a name of its own", str(folder), "give --out=NAME")
    room = LONGEST - len("..partial-12345678.old")  # what `new_folder` makes of the name
    if any(len(os.fsencode(part)) > room for part in folder.parts):
        raise fail("out", f"names of at most {room} bytes", folder, "give a shorter --out=NAME")
    partial = partial_of(folder)
    if os.path.lexists(partial) and not welcome:
        raise fail(
            "out",
            "a new folder",
            f"{partial}, a run that was interrupted or is under way",
            "go on with it with --resume, start anew with --overwrite, or choose another --out",
        )
    if os.path.lexists(partial) and (partial.is_symlink() or not partial.is_dir()):
        raise fail("out", "a folder", f"{partial}, which is none", "choose another --out")
    foreign = sorted({path.name for path in partial.iterdir()} - {LOCK, *FILES}) if partial.is_dir() else []
    if foreign:
        raise fail(
            "out",
            "an unfinished run",
            f"{partial}, which also holds {foreign[0]}",
            "choose another --out; it is left as it is",
        )


def clear(partial: Path) -> None:
    """Empties an unfinished run, the checkpoint first, so that half of it never passes for a damaged one."""
    for name in (CHECKPOINT, *sorted(FILES - {CHECKPOINT})):
        with suppress(OSError):
            (partial / name).unlink(missing_ok=True)


def discard(partial: Path) -> None:
    """Removes an unfinished run."""
    clear(partial)
    with suppress(OSError):
        (partial / LOCK).unlink(missing_ok=True)
        partial.rmdir()


def sweep(folder: Path) -> None:
    """Clears what a process that was killed while it renamed left beside `folder`; an earlier run is put back.

    Only for the process that holds the folder's unfinished run.
    """
    for path in folder.absolute().parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        if path.name.endswith(".old") and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


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
        raise fail("out", "a folder that can be written", f"{folder} ({reason(error)})", "choose another --out") from None


def check_resumable(out: Path, resume: bool, what: str, marker: str, ours: Collection[str]) -> None:
    """Raises `UserError` unless `out` can be made, or holds `what` and nothing else where `resume` allows it.

    marker: the one of its entries, `ours`, by which it is known. An entry that is a link is none of ours.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir() or (any(out.iterdir()) and not resume):
        raise fail("out", "a new folder", f"{out}, which exists", "go on with it with --resume, or choose another --out")
    names = {path.name for path in out.iterdir()}
    foreign = sorted(name for name in names if not name.startswith(".") and (name not in ours or (out / name).is_symlink()))
    if names and (foreign or marker not in names):
        got = f"which also holds {foreign[0]}" if foreign else f"which has no {marker}"
        raise fail("out", f"the folder of {what} to resume", f"{out}, {got}", "choose another --out; it is left as it is")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps `folder` for this process for as long as it lives; another that wants it is refused."""
    with open_own(folder / LOCK, "w+b") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise fail("out", "a run of one process", f"another at work in {folder}", "wait, or stop it") from None
            except OSError:
                pass  # a file system without locks
        yield


@contextmanager
def new_folder(folder: Path, overwrite: bool = False, hint: str = "") -> Iterator[Path]:
    """Gives a folder beside `folder` to write into, and renames it into place at the end; an earlier one is replaced.

    After an error the earlier one stands as it was and nothing new is left; `hint` ends the message.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise not_written(folder, error, hint) from None
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
        raise not_written(folder, error, hint) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def not_written(folder: Path, error: OSError, hint: str = "") -> UserError:
    """The error of a folder that cannot be written; `hint` says what else to know."""
    remedy = "free space or choose another --out" + (f"; {hint}" if hint else "")
    return fail("out", "a folder that can be written", f"{folder} ({reason(error)})", remedy)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
