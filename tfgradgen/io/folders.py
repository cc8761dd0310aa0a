"""Folders that appear whole or not at all."""

import errno
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import open_own
from tfgradgen.core.parsing import reason
from tfgradgen.io.store import CHECKPOINT, FILES

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

RECORD = "run.json"  # a folder without it holds no run
OURS = {"grid.png", "plots.png", "film.png", "samples.npz", "chains.nc", CHECKPOINT, RECORD}
LOCK = "lock"
INSIDE = ".unfinished"  # of a folder beside which nothing can be written: the unfinished run in it
LOST_AND_FOUND = "lost+found"  # of a file system's own, in the folder where it is mounted
LONGEST = 255  # bytes in the name of a file on all usual file systems
LONGEST_PATH = 4000  # bytes in a path, with room for what is written below it
LONGEST_LABEL = 100  # of those of a name, so that there is room for what stands beside a label
# How a system says that a folder cannot be renamed, though files can be written into it: a mount point, another's folder.
FIXED_ERRORS = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)


def as_file(name: str) -> str:
    """A label's name as that of a file: a foreign model's may hold commas and slashes, a condition operators."""
    file = re.sub(r"[^\w-]+", "_", name.replace("!", "not_").replace("|", " or "))
    try:
        os.fsencode(file)
    except UnicodeEncodeError:  # the locale's encoding lacks a letter
        file = re.sub(r"[^\w-]+", "_", file.encode("ascii", "backslashreplace").decode())
    return shortened(file, name)


def shortened(file: str, name: str) -> str:
    """`file` in at most `LONGEST_LABEL` bytes; one that is cut ends in a digest of `name`, all of what it stands for."""
    content = file.encode()
    if len(content) <= LONGEST_LABEL:
        return file
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{content[: LONGEST_LABEL - 9].decode(errors='ignore')}_{digest}"


def real(folder: Path) -> Path:
    """`folder`, or where it leads to if it is a link."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def is_fixed(folder: Path) -> bool:
    """Whether `folder` is there and cannot be replaced: something is mounted on it, or the folder above it is read-only."""
    return folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.absolute().parent, os.W_OK | os.X_OK))


def partial_of(folder: Path) -> Path:
    """Where the run that will be `folder` keeps what it has until it is whole: beside it, or in it where `is_fixed`."""
    folder = real(folder)
    inside = folder / INSIDE
    return inside if os.path.lexists(inside) or is_fixed(folder) else folder.with_name(f"{folder.name}.partial")


def names_in(folder: Path) -> set[str]:
    """What lies in `folder` but for the remains of a run that is unfinished."""
    own = {INSIDE, *([LOST_AND_FOUND] if os.path.ismount(folder) else [])}
    return {path.name for path in folder.iterdir() if path.name not in own and not path.name.startswith(f"{INSIDE}-")}


def has_checkpoint(folder: Path) -> bool:
    """Whether there is an unfinished run of `folder` to go on with; unlike pathlib's own, never an error."""
    return os.path.exists(partial_of(folder) / CHECKPOINT)


def check_partial(folder: Path, welcome: bool, name: str = "out") -> None:
    """Raises `UserError` where an unfinished run of `folder` is, unless that is `welcome`, or no folder can have its name.

    name: of the parameter that gives the folder, in this function and those below.
    """
    if folder.name in ("", ".."):
        raise fail(name, "a folder with a name of its own", str(folder), f"give --{name}=NAME")
    room = LONGEST - len("..partial-12345678.old")  # what `new_folder` makes of the name
    if any(len(os.fsencode(part)) > room for part in folder.parts):
        raise fail(name, f"names of at most {room} bytes", folder, f"give a shorter --{name}=NAME")
    if len(os.fsencode(folder.absolute())) > LONGEST_PATH:
        raise fail(name, f"a path of at most {LONGEST_PATH} bytes", folder, f"give a shorter --{name}=NAME")
    partial = partial_of(folder)
    if os.path.lexists(partial) and not welcome:
        raise fail(
            name,
            "a new folder",
            f"{partial}, a run that was interrupted or is under way",
            f"go on with it with --resume, start anew with --overwrite, or choose another --{name}",
        )
    if os.path.lexists(partial) and (partial.is_symlink() or not partial.is_dir()):
        raise fail(name, "a folder", f"{partial}, which is none", f"choose another --{name}")
    foreign = sorted({path.name for path in partial.iterdir()} - {LOCK, *FILES}) if partial.is_dir() else []
    if foreign:
        raise fail(
            name,
            "an unfinished run",
            f"{partial}, which also holds {foreign[0]}",
            f"choose another --{name}; it is left as it is",
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
    """Clears what a process that was killed while it renamed left beside or in `folder`; an earlier run is put back.

    Only for the process that holds the folder's unfinished run.
    """
    folder = real(folder).absolute()
    remains = [*folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"), *folder.glob(f"{INSIDE}-*")]
    for path in remains:
        if path.name.endswith(".old") and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def check_target(folder: Path, overwrite: bool, name: str = "out") -> None:
    """Raises `UserError` unless `folder` can be made, is empty, or can be replaced where `overwrite` allows it. Leaves nothing
    behind."""
    if os.path.lexists(folder):
        if not os.path.isdir(folder):
            what = "a link that leads to none" if folder.is_symlink() else "which is none"
            raise fail(name, "a folder", f"{folder}, {what}", f"choose another --{name}")
        names = names_in(folder)
        if names and not overwrite:
            raise fail(name, "a new folder", f"{folder}, which exists", f"choose another --{name} or add --overwrite")
        foreign = sorted(names - OURS)
        if foreign:
            raise fail(
                name,
                "an earlier run's folder to overwrite",
                f"{folder}, which also holds {foreign[0]}",
                f"choose another --{name}; it is left as it is",
            )
    check_writable(folder, name)


def check_writable(folder: Path, name: str = "out") -> None:
    """Raises `UserError` unless `folder`, or what is to be renamed to it, can be written. Leaves nothing behind."""
    place = real(folder).absolute()
    place = place if is_fixed(place) else place.parent
    while not os.path.exists(place):
        place = place.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f"{INSIDE}-", dir=place))
    except OSError as error:
        raise fail(name, "a folder that can be written", f"{folder} ({reason(error)})", f"choose another --{name}") from error


def check_resumable(out: Path, resume: bool, what: str, marker: str, ours: Collection[str]) -> None:
    """Raises `UserError` unless `out` can be made, or holds `what` and nothing else where `resume` allows it.

    marker: the one of its entries, `ours`, by which it is known. An entry that is a link is none of ours.
    """
    if not os.path.lexists(out):
        check_writable(out)
        return
    if not out.is_dir():
        raise fail("out", "a folder", f"{out}, which is none", "choose another --out")
    # What was killed before it had anything leaves its lock.
    names = {path.name for path in out.iterdir()} - {LOCK, LOST_AND_FOUND}
    if names and not resume:
        raise fail("out", "a new folder", f"{out}, which exists", "go on with it with --resume, or choose another --out")
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
            except BlockingIOError as error:
                raise fail("out", "a run of one process", f"another at work in {folder}", "wait, or stop it") from error
            except OSError:
                pass  # a file system without locks
        yield


@contextmanager
def new_folder(folder: Path, overwrite: bool = False, hint: str = "", name: str = "out") -> Iterator[Path]:
    """Gives a folder to write into, and renames it into place at the end; an earlier one is replaced.

    Where `folder` cannot be replaced, for something is mounted on it, its files are, run.json as the last. After an error the
    earlier one stands as it was and nothing new is left; `hint` ends the message.
    """
    folder = real(folder).absolute()
    fixed = is_fixed(folder)
    try:
        (folder if fixed else folder.parent).mkdir(parents=True, exist_ok=True)
        place, prefix = (folder, f"{INSIDE}-") if fixed else (folder.parent, f".{folder.name}.partial-")
        beside = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        raise not_written(folder, error, hint, name) from error
    try:
        beside.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield beside
        check_target(folder, overwrite, name)  # again: another run may have taken the place meanwhile
        if fixed:
            _fill(folder, beside)
        else:
            _replace(folder, beside)
    except OSError as error:
        raise not_written(folder, error, hint, name) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(folder: Path, beside: Path) -> None:
    """Renames `beside` into the place of `folder`; fills that where the system does not let it go."""
    aside = beside.with_name(beside.name + ".old")
    if not folder.exists():
        beside.rename(folder)
        return
    try:
        folder.rename(aside)
    except OSError as error:
        if error.errno not in FIXED_ERRORS:
            raise
        _fill(folder, beside)
        return
    try:
        beside.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _fill(folder: Path, beside: Path) -> None:
    """Puts the files of `beside` in the place of those in `folder`. Meanwhile there is no run.json, so that what is half of it
    passes for none."""
    (folder / RECORD).unlink(missing_ok=True)
    names = {path.name for path in beside.iterdir()}
    for name in (*sorted(names - {RECORD}), *(names & {RECORD})):
        _move(beside / name, folder / name)
    for name in OURS - names:
        (folder / name).unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, copy)
        os.replace(copy, target)


def not_written(folder: Path, error: OSError, hint: str = "", name: str = "out") -> UserError:
    """The error of a folder that cannot be written. hint: what is kept, that `--resume` goes on with."""
    remedy = f"free space or choose another --{name}" + (f"; {hint}" if hint else "")
    found = fail(name, "a folder that can be written", f"{folder} ({reason(error)})", remedy)
    found.can_resume = bool(hint)
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
