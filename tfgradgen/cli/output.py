"""The folders that a command writes, and checks that it may write them."""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import note, say
from tfgradgen.core.checks import fail
from tfgradgen.core.text import as_text
from tfgradgen.io.folders import (
    LOCK,
    RECORD,
    REPORT,
    check_partial,
    check_resumable,
    check_target,
    exclusive_lock,
    has_checkpoint,
    names_in,
    not_written,
    safe_filename,
    shortened,
)
from tfgradgen.models.shipped import PHOTOGRAPHS

SHEET_NAME = "sheet.png"
PLACE = "labels.batch"  # `partial_path` this holds an unfinished batch of several labels; no label's folder has this name
COMPARISON = ("cells", {"cells", "pictures", LOCK, REPORT, "report.md", "table.csv", "report.json", "curves.png", "grids.png"})
SEARCH = ("study.db", {"study.db", "study.db-journal", LOCK, REPORT, "report.md", "best.yaml", "tuning.csv", "tuning.png"})


@contextmanager
def workspace(folder: Path, interrupted: str, kept: str = "") -> Iterator[None]:
    """Create `folder` and lock it for this process while the block writes into it.

    Args:
      folder: The folder; it and its parents are created if they are missing.
      interrupted: What is kept after a signal, as the end of the message.
      kept: What is kept after a disk error, likewise. If it is '', --resume cannot continue, not even after a signal.

    Raises:
      UserError: Another process has locked `folder`, or it cannot be written.
      Stopped: A signal ended the block.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder):
            try:
                yield
            finally:
                (folder / LOCK).unlink(missing_ok=True)
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, interrupted, can_resume=bool(kept)) from None
    except OSError as error:
        raise not_written(folder, error, kept) from error


def is_resumed(out: Path, resume: bool, what: str, marker: str, ours: Collection[str]) -> bool:
    """Return whether a command goes on with what is in `out`, and say if --resume finds nothing there.

    Raises:
      UserError: As of `check_resumable`, which has the same arguments.
    """
    found = check_resumable(out, resume, what, marker, ours)
    if resume and not found:
        note_nothing(out)
    return found


def note_nothing(out: Path) -> None:
    """Say that --resume found nothing to go on with in `out`."""
    note(f"note     --resume found nothing to go on with in {as_text(out)}: everything is new")


def say_time(start: float, is_begun: bool) -> None:
    """Say the seconds since `start`, on the monotonic clock, and whether some of the work was done before."""
    say(f"took     {time.monotonic() - start:.0f} s{' (without what was finished before)' if is_begun else ''}")


def check_folders(options: SampleOptions, folders: list[Path]) -> bool:
    """Check that every folder is free for a run, or holds a run that the flags allow to be resumed or replaced.

    Several folders share a sheet, which is checked too.

    Returns:
      Whether there is a run, finished or not.

    Raises:
      UserError: A folder, or the sheet, may not be written.
    """
    batch = [folders[0].parent / PLACE] if len(folders) > 1 else []
    for folder in folders:
        check_partial(folder, options.overwrite or options.resume)
        if not options.resume or not os.path.isdir(folder):
            check_target(folder, options.overwrite)
        elif not (folder / RECORD).exists():
            check_target(folder, overwrite=True)
            if names_in(folder) and not options.overwrite and not any(map(has_checkpoint, [folder, *batch])):
                raise fail("resume", "a run", f"{folder}, which has no {RECORD}", "start over with --overwrite")
    for place in batch:
        check_partial(place, options.overwrite or options.resume)
    sheet = folders[0].parent / SHEET_NAME
    if len(folders) > 1 and sheet.exists() and not (options.overwrite or options.resume):
        raise fail("out", "a folder without a sheet", f"{sheet}, which exists", "choose another --out or add --overwrite")
    return any(has_checkpoint(place) or os.path.exists(place / RECORD) for place in [*folders, *batch])


def choose_folders(options: SampleOptions, names: list[str], is_all: bool) -> list[Path]:
    """Return one folder per label: --out itself for one label, a folder in it for each of several labels.

    Args:
      options: Options of the command.
      names: Names of the labels.
      is_all: Whether they are all labels.
    """
    names = [safe_filename(name) for name in names]
    if len({*names, ""}) <= len(names):
        names = [f"{name}_{k}" for k, name in enumerate(names)]
    joined = "+".join(names[:3]) + ("+more" if len(names) > 3 else "")
    together = "all" if is_all else shortened(joined, joined)
    models = options.models.models
    of_set = [] if models == PHOTOGRAPHS else [models]
    chosen = "-".join([*of_set, names[0] if len(names) == 1 else together, options.kernel, str(options.run.seed)])
    base = options.out or Path("out") / chosen
    return [base] if len(names) == 1 else [base / name for name in names]


def next_version(base: Path) -> int:
    """Return the highest version in `base` plus one, or 1 if there is none. A server of these models would load it next."""
    versions = [int(path.name) for path in base.iterdir() if path.name.isdecimal()] if base.is_dir() else []
    return max(versions, default=0) + 1
