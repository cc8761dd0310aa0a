"""Which folders a command writes, and whether it may."""

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
    as_file,
    check_partial,
    check_target,
    has_checkpoint,
    held,
    names_in,
    not_written,
    shortened,
)

SHEET_NAME = "sheet.png"
PLACE = "labels.batch"  # of several labels: `partial_of` it is where a batch is kept; a label's folder has no such name
COMPARISON = ("cells", {"cells", "pictures", LOCK, "report.md", "table.csv", "report.json", "curves.png", "grids.png"})
SEARCH = ("study.db", {"study.db", "study.db-journal", LOCK, "report.md", "best.yaml", "tuning.csv", "tuning.png"})


@contextmanager
def workspace(folder: Path, interrupted: str, kept: str = "") -> Iterator[None]:
    """Makes `folder` and keeps it for this process while the block writes into it.

    Args:
      folder: created with its parents where it is missing.
      interrupted: what is kept after a signal; ends its message.
      kept: likewise after an error of the disk; '' where --resume cannot go on, after a signal neither.

    Raises:
      UserError: another process holds `folder`, or it cannot be written.
      Stopped: a signal ended the block.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            try:
                yield
            finally:
                (folder / LOCK).unlink(missing_ok=True)
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, interrupted, can_resume=bool(kept)) from None
    except OSError as error:
        raise not_written(folder, error, kept) from error


def check_folders(options: SampleOptions, folders: list[Path]) -> None:
    """Raises `UserError` unless every one of `folders` is free for a run, or holds one that the flags allow to go on with or to
    replace; several of them share a sheet."""
    for folder in folders:
        check_partial(folder, options.overwrite or options.resume)
        if not options.resume or not os.path.isdir(folder):
            check_target(folder, options.overwrite)
        elif not (folder / RECORD).exists():
            check_target(folder, overwrite=True)
            places = [folder, *([folder.parent / PLACE] if len(folders) > 1 else [])]
            if names_in(folder) and not options.overwrite and not any(map(has_checkpoint, places)):
                raise fail("resume", "a run", f"{folder}, which has no {RECORD}", "start anew with --overwrite")
    if len(folders) > 1:
        check_partial(folders[0].parent / PLACE, options.overwrite or options.resume)
    sheet = folders[0].parent / SHEET_NAME
    if len(folders) > 1 and sheet.exists() and not (options.overwrite or options.resume):
        raise fail("out", "a folder without a sheet", f"{sheet}, which exists", "choose another --out or add --overwrite")


def choose_folders(options: SampleOptions, names: list[str], is_all: bool) -> list[Path]:
    """One folder a label: --out itself for one label, a folder in it for each of several."""
    names = [as_file(name) for name in names]
    if len({*names, ""}) <= len(names):
        names = [f"{name}_{k}" for k, name in enumerate(names)]
    joined = "+".join(names[:3]) + ("+more" if len(names) > 3 else "")
    together = "all" if is_all else shortened(joined, joined)
    chosen = "-".join([names[0] if len(names) == 1 else together, options.kernel, str(options.run.seed)])
    base = options.out or Path("out") / chosen
    return [base] if len(names) == 1 else [base / name for name in names]


def next_version(base: Path) -> int:
    """One more than the highest version in `base`, 1 where there is none: what a server of the models in it would load next."""
    versions = [int(path.name) for path in base.iterdir() if path.name.isdecimal()] if base.is_dir() else []
    return max(versions, default=0) + 1
