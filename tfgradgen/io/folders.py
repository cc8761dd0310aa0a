"""Output folders: atomic creation, unfinished runs, locks, and checks of a folder before it is written."""

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
from tfgradgen.media.registry import is_file_name

try:
    import fcntl
except ImportError:  # Windows: a second process in the same folder is not detected
    fcntl = None  # type: ignore[assignment]

RECORD = "run.json"  # a folder without it is not a run
REPORT = "report.html"
OURS = {REPORT, "grid.png", "plots.png", "film.png", "samples.npz", "chains.nc", CHECKPOINT, RECORD}
LOCK = "lock"
BLOCK = re.compile(r"block-\d{4}", re.ASCII)  # folder in an unfinished run, with the draws of some of its chains
PARTIAL = ".partial"  # ends the name of an unfinished run
INSIDE = ".unfinished"  # the unfinished run in a folder whose parent cannot be written
LOST_AND_FOUND = "lost+found"  # created by some file systems where they are mounted
LONGEST = 255  # bytes in the name of a file on all usual file systems
LONGEST_PATH = 4000  # bytes in the path of a folder; leaves room for the files in it
LONGEST_LABEL = 100  # bytes of a label in a file name; leaves room for the rest of the name
# Errors of renaming a folder into which files can be written: it is a mount point, or its parent is not writable.
FIXED_ERRORS = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)


def safe_filename(name: str) -> str:
    """Return a label as a file name. Labels may contain commas and slashes, conditions contain operators."""
    file = re.sub(r"[^\w-]+", "_", name.replace("!", "not_").replace("|", " or "))
    try:
        os.fsencode(file)
    except UnicodeEncodeError:  # the locale's encoding lacks a letter
        file = re.sub(r"[^\w-]+", "_", file.encode("ascii", "backslashreplace").decode())
    return shortened(file, name)


def shortened(file: str, name: str) -> str:
    """Shorten `file` to at most `LONGEST_LABEL` bytes; if it is cut, it ends in a digest of `name`, the full label."""
    content = file.encode()
    if len(content) <= LONGEST_LABEL:
        return file
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{content[: LONGEST_LABEL - 9].decode(errors='ignore')}_{digest}"


def is_ours(name: str) -> bool:
    """Return whether a run's folder may hold a file of this name."""
    return name in OURS or is_file_name(name)


def real(folder: Path) -> Path:
    """Return `folder`, or its target if it is a link."""
    return Path(os.path.realpath(folder)) if folder.is_symlink() else folder


def is_fixed(folder: Path) -> bool:
    """Return whether `folder` exists and cannot be replaced: it is a mount point, or its parent is read-only."""
    return folder.is_dir() and (os.path.ismount(folder) or not os.access(folder.absolute().parent, os.W_OK | os.X_OK))


def partial_path(folder: Path) -> Path:
    """Return where the unfinished run of `folder` is stored: next to it, or inside it if `is_fixed`."""
    folder = real(folder)
    inside = folder / INSIDE
    return inside if os.path.lexists(inside) or is_fixed(folder) else folder.with_name(f"{folder.name}{PARTIAL}")


def names_in(folder: Path) -> set[str]:
    """Return the names of all files in `folder` except those of an unfinished run."""
    own = {INSIDE, *([LOST_AND_FOUND] if os.path.ismount(folder) else [])}
    return {path.name for path in folder.iterdir() if path.name not in own and not path.name.startswith(f"{INSIDE}-")}


def has_checkpoint(folder: Path) -> bool:
    """Return whether `folder` has an unfinished run to resume. Unlike `Path.exists`, this never raises."""
    return os.path.exists(partial_path(folder) / CHECKPOINT)


def check_partial(folder: Path, welcome: bool, name: str = "out") -> None:
    """Raise `UserError` if `folder` has an unfinished run that is not `welcome`, or cannot be a folder's name.

    Args:
      folder: The folder.
      welcome: Whether an unfinished run is allowed.
      name: The parameter that gives the folder, for errors; likewise in the functions below.
    """
    if folder.name in ("", ".."):
        raise fail(name, "a folder with a name of its own", str(folder), f"give --{name}=NAME")
    room = LONGEST - len("..partial-12345678.old")  # `atomic_dir` adds this to the name
    if any(len(os.fsencode(part)) > room for part in folder.parts):
        raise fail(name, f"names of at most {room} bytes", folder, f"give a shorter --{name}=NAME")
    if len(os.fsencode(folder.absolute())) > LONGEST_PATH:
        raise fail(name, f"a path of at most {LONGEST_PATH} bytes", folder, f"give a shorter --{name}=NAME")
    partial = partial_path(folder)
    if os.path.lexists(partial) and not welcome:
        raise fail(
            name,
            "a new folder",
            f"{partial}, an interrupted or active run",
            f"continue it with --resume, start over with --overwrite, or choose another --{name}",
        )
    if os.path.lexists(partial) and (partial.is_symlink() or not partial.is_dir()):
        raise fail(name, "a folder", f"{partial}, which is not one", f"choose another --{name}")
    names = {path.name for path in partial.iterdir()} if partial.is_dir() else set[str]()
    foreign = sorted(name for name in names - {LOCK, *FILES} if not BLOCK.fullmatch(name))
    if foreign:
        raise fail(
            name,
            "an unfinished run",
            f"{partial}, which also holds {foreign[0]}",
            f"choose another --{name} (nothing was changed)",
        )


def clear(partial: Path) -> None:
    """Empty an unfinished run. The checkpoint is removed first, so that the rest does not look like a damaged run."""
    for name in (CHECKPOINT, *sorted(FILES - {CHECKPOINT})):
        with suppress(OSError):
            (partial / name).unlink(missing_ok=True)
    for folder in sorted(partial.glob("block-*")):
        if BLOCK.fullmatch(folder.name) and not folder.is_symlink():
            for name in FILES:
                with suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def block_folder(partial: Path, number: int) -> Path:
    """Return the folder of block `number` of an unfinished run."""
    return partial / f"block-{number:04d}"


def discard(partial: Path) -> None:
    """Remove an unfinished run."""
    clear(partial)
    with suppress(OSError):
        (partial / LOCK).unlink(missing_ok=True)
        partial.rmdir()


def remove_stale(folder: Path) -> None:
    """Remove what a process killed during a rename left next to or in `folder`, and restore an earlier run.

    Only the process that holds the lock of the unfinished run may call this.
    """
    folder = real(folder).absolute()
    remains = [*folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"), *folder.glob(f"{INSIDE}-*")]
    for path in remains:
        if path.name.endswith(".old") and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def check_target(folder: Path, overwrite: bool, name: str = "out") -> None:
    """Raise `UserError` unless `folder` can be created, is empty, or may be replaced (`overwrite`). Changes nothing."""
    if os.path.lexists(folder):
        if not os.path.isdir(folder):
            what = "a link to something else" if folder.is_symlink() else "which is not one"
            raise fail(name, "a folder", f"{folder}, {what}", f"choose another --{name}")
        names = names_in(folder)
        if names and not overwrite:
            raise fail(name, "a new folder", f"{folder}, which exists", f"choose another --{name} or add --overwrite")
        foreign = sorted(name for name in names if not is_ours(name))
        if foreign:
            raise fail(
                name,
                "the folder of an earlier run to overwrite",
                f"{folder}, which also holds {foreign[0]}",
                f"choose another --{name} (nothing was changed)",
            )
    check_writable(folder, name)


def check_writable(folder: Path, name: str = "out") -> None:
    """Raise `UserError` unless `folder`, or the temporary folder that is renamed to it, can be written. Changes nothing."""
    parent = real(folder).absolute()
    parent = parent if is_fixed(parent) else parent.parent
    while not os.path.exists(parent):
        parent = parent.parent
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f"{INSIDE}-", dir=parent))
    except OSError as error:
        raise fail(name, "a folder that can be written", f"{folder} ({reason(error)})", f"choose another --{name}") from error


def check_resumable(out: Path, resume: bool, what: str, marker: str, ours: Collection[str]) -> bool:
    """Return whether `out` holds something to resume. Raise `UserError` unless it can be created, or may be resumed.

    Args:
      out: The folder.
      resume: Whether an existing folder is allowed.
      what: What the folder holds, such as 'a comparison', for errors.
      marker: The file in `ours` that such a folder always has.
      ours: The names that such a folder may contain. A link never counts as one of them.
    """
    if not os.path.lexists(out):
        check_writable(out)
        return False
    if not out.is_dir():
        raise fail("out", "a folder", f"{out}, which is not one", "choose another --out")
    # A process that was killed early leaves only its lock.
    names = {path.name for path in out.iterdir()} - {LOCK, LOST_AND_FOUND}
    if names and not resume:
        raise fail("out", "a new folder", f"{out}, which exists", "continue it with --resume, or choose another --out")
    foreign = sorted(name for name in names if not name.startswith(".") and (name not in ours or (out / name).is_symlink()))
    if names and (foreign or marker not in names):
        got = f"which also holds {foreign[0]}" if foreign else f"which has no {marker}"
        raise fail("out", f"the folder of {what} to resume", f"{out}, {got}", "choose another --out (nothing was changed)")
    return bool(names)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process during the block; another process that wants it gets a `UserError`."""
    with open_own(folder / LOCK, "w+b") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise fail("out", "one process per folder", f"another one running in {folder}", "wait, or stop it") from error
            except OSError:
                pass  # a file system without locks
        yield


@contextmanager
def atomic_dir(folder: Path, overwrite: bool = False, hint: str = "", name: str = "out") -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end of the block.

    If `folder` cannot be replaced, because it is a mount point, its files are replaced one by one, run.json last. After an
    error the earlier folder is unchanged and nothing new is left.

    Args:
      folder: The folder to create or replace.
      overwrite: Whether an earlier run may be replaced.
      hint: What is kept for `--resume`; appended to errors.
      name: The parameter that gives the folder, for errors.

    Raises:
      UserError: `folder` cannot be written or may not be replaced.
    """
    folder = real(folder).absolute()
    fixed = is_fixed(folder)
    try:
        (folder if fixed else folder.parent).mkdir(parents=True, exist_ok=True)
        parent, prefix = (folder, f"{INSIDE}-") if fixed else (folder.parent, f".{folder.name}.partial-")
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise not_written(folder, error, hint, name) from error
    try:
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        yield temporary
        check_target(folder, overwrite, name)  # again: another run may have created it meanwhile
        if fixed:
            _fill(folder, temporary)
        else:
            _replace(folder, temporary)
    except OSError as error:
        raise not_written(folder, error, hint, name) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, temporary: Path) -> None:
    """Rename `temporary` to `folder`; move only the files if the system does not allow `folder` to be renamed."""
    old = temporary.with_name(temporary.name + ".old")
    if not folder.exists():
        temporary.rename(folder)
        return
    try:
        folder.rename(old)
    except OSError as error:
        if error.errno not in FIXED_ERRORS:
            raise
        _fill(folder, temporary)
        return
    try:
        temporary.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, temporary: Path) -> None:
    """Replace the files of `folder` by those of `temporary`; run.json comes last, so an incomplete folder is not a run."""
    (folder / RECORD).unlink(missing_ok=True)
    names = {path.name for path in temporary.iterdir()}
    for name in (*sorted(names - {RECORD}), *(names & {RECORD})):
        _move(temporary / name, folder / name)
    for name in {name for name in names_in(folder) if is_ours(name)} - names:
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
    """Return the error of a folder that cannot be written; `hint` says what is kept for `--resume`."""
    remedy = f"free space or choose another --{name}" + (f"; {hint}" if hint else "")
    found = fail(name, "a folder that can be written", f"{folder} ({reason(error)})", remedy)
    found.can_resume = bool(hint)
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
