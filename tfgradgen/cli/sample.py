"""The `sample` command: from checked options to folders on disk."""

from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.load import choose_backend, load_models, start_at_photograph
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.output import SHEET_NAME, check_folders, choose_folders
from tfgradgen.cli.run import Row, finished, run_label
from tfgradgen.cli.surroundings import plan_of
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import say
from tfgradgen.core.checks import UserError
from tfgradgen.core.text import as_text
from tfgradgen.io.folders import not_written
from tfgradgen.io.images import make_grid, save_png
from tfgradgen.posterior import ClassPosterior

SHEET_COLUMNS = 8
NAME_LENGTH = 15  # letters that fit below a tile beside p(class)


def run_sample(options: SampleOptions) -> list[str]:
    """Samples every wanted label into a folder of its own; several labels also share a sheet, one row a label.

    Returns what speaks against trusting any of them.
    """
    loaded = load_models(options.models, options.gradient_precision)
    options = start_at_photograph(options, loaded.generator)
    targets = loaded.targets(options.label)
    options = choose_backend(options, loaded, targets[0])
    names = [target.label.name for target in targets]
    is_all = {label.name for label in loaded.classifiers[0].labels if not label.background} == set(names)
    folders = choose_folders(options, names, is_all)
    check_folders(options, folders)
    sheet_path = folders[0].parent / SHEET_NAME if len(folders) > 1 else None
    plans = {folder: plan_of(options, loaded, target) for target, folder in zip(targets, folders, strict=True)}
    rows = {folder: finished(plans[folder], folder, options.overwrite) for folder in folders if options.resume}
    made: list[Path] = []
    try:
        for target, folder in zip(targets, folders, strict=True):
            if rows.get(folder):
                told = f"kept     {as_text(folder)}: this run was finished earlier"
            else:
                posterior = ClassPosterior.of(loaded.networks(target), target.index, options.run.temperature)
                rows[folder], told = run_label(posterior, options, plans[folder], folder)
            made.append(folder)
            say(told)
        whole = [row for row in (rows[folder] for folder in folders) if row]
        if sheet_path:
            save_png(sheet_path, sheet(whole))
            say(f"sheet    {as_text(sheet_path)}: one row a label")
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, kept(made, "goes on with the rest")) from None
    except UserError as error:
        error.can_resume = error.can_resume or (bool(made) and sheet_path is not None)
        raise
    except OSError as error:
        raise not_written(sheet_path or folders[0], error, kept(made, "goes on with the rest")) from error
    return [problem for row in whole for problem in row.problems]


def kept(folders: list[Path], then: str) -> str:
    """What is kept of several labels, and what --resume does `then`; '' where none is finished."""
    if not folders:
        return ""
    return f"{len(folders)} label{'s are' if len(folders) > 1 else ' is'} finished, --resume {then}"


def sheet(rows: list[Row]) -> Any:
    """One row of tiles a label, with the label's name below the first."""
    columns = min(SHEET_COLUMNS, len(rows[0].image))
    tiles = np.concatenate([images[:columns] for _, images, _, _ in rows])

    def short(name: str) -> str:
        return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"

    captions = [
        f"{short(name)} {p:.2f}" if k == 0 else f"{p:.2f}" for name, _, probs, _ in rows for k, p in enumerate(probs[:columns])
    ]
    return make_grid(tiles, captions, num_columns=columns)
