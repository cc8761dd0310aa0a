"""The `sample` command: from checked options to folders on disk."""

from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.checks import fail
from tfgradgen.cli.load import choose_backend, load_models, start_at_photograph
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.output import as_file, check_partial, check_target, not_written, shortened
from tfgradgen.cli.run import Row, finished, run_label
from tfgradgen.cli.surroundings import plan
from tfgradgen.cli.terminal import as_text, say
from tfgradgen.images import make_grid, save_png
from tfgradgen.posterior import ClassPosterior

SHEET_COLUMNS = 8
NAME_LENGTH = 15  # letters that fit below a tile beside p(class)
SHEET_NAME = "sheet.png"


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
    for folder in folders:
        check_partial(folder, options.overwrite or options.resume)
        if not (options.resume and folder.is_dir()):
            check_target(folder, options.overwrite)
    sheet_path = folders[0].parent / SHEET_NAME if len(folders) > 1 else None
    if sheet_path and sheet_path.exists() and not (options.overwrite or options.resume):
        raise fail("out", "a folder without a sheet", f"{sheet_path}, which exists", "choose another --out or add --overwrite")
    plans = {folder: plan(options, loaded, target) for target, folder in zip(targets, folders, strict=True)}
    rows = {folder: finished(planned, folder) for folder, planned in plans.items() if options.resume and folder.exists()}
    for target, folder in zip(targets, folders, strict=True):
        if rows.get(folder):
            say(f"kept     {as_text(folder)}: this run was finished earlier")
        else:
            posterior = ClassPosterior.of(loaded.networks(target), target.index, options.run.temperature)
            rows[folder] = run_label(posterior, options, plans[folder], folder)
    whole = [row for row in (rows[folder] for folder in folders) if row]
    if sheet_path:
        try:
            save_png(sheet_path, sheet(whole))
        except OSError as error:
            raise not_written(sheet_path, error, "every label is whole, --resume makes the sheet") from None
        say(f"sheet    {as_text(sheet_path)}: one row a label")
    return [problem for row in whole for problem in row.problems]


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


def sheet(rows: list[Row]) -> Any:
    """One row of tiles a label, with the label's name below the first."""
    columns = min(SHEET_COLUMNS, len(rows[0].image))
    tiles = np.concatenate([images[:columns] for _, images, _, _ in rows])
    short = lambda name: name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"  # noqa: E731
    captions = [
        f"{short(name)} {p:.2f}" if k == 0 else f"{p:.2f}" for name, _, probs, _ in rows for k, p in enumerate(probs[:columns])
    ]
    return make_grid(tiles, captions, num_columns=columns)
