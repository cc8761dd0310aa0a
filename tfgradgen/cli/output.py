"""The folders that a command writes, and checks that it may write them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.system import stopped
from tfgradgen.core.checks import fail
from tfgradgen.io.folders import (
    LOCK,
    RECORD,
    REPORT,
    check_partial,
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


def check_folders(options: SampleOptions, folders: list[Path]) -> None:
    """Check that every folder is free for a run, or holds a run that the flags allow to be resumed or replaced.

    Several folders share a sheet, which is checked too.

    Raises:
      UserError: A folder, or the sheet, may not be written.
    """
    for folder in folders:
        check_partial(folder, options.overwrite or options.resume)
        if not options.resume or not os.path.isdir(folder):
            check_target(folder, options.overwrite)
        elif not (folder / RECORD).exists():
            check_target(folder, overwrite=True)
            places = [folder, *([folder.parent / PLACE] if len(folders) > 1 else [])]
            if names_in(folder) and not options.overwrite and not any(map(has_checkpoint, places)):
                raise fail("resume", "a run", f"{folder}, which has no {RECORD}", "start over with --overwrite")
    if len(folders) > 1:
        check_partial(folders[0].parent / PLACE, options.overwrite or options.resume)
    sheet = folders[0].parent / SHEET_NAME
    if len(folders) > 1 and sheet.exists() and not (options.overwrite or options.resume):
        raise fail("out", "a folder without a sheet", f"{sheet}, which exists", "choose another --out or add --overwrite")


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
