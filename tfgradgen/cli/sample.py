"""The `sample` command: samples the requested labels into folders."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.choice import parts_of
from tfgradgen.cli.diagnose import table
from tfgradgen.cli.groups import Group, Member, groups_of, split_text, under_way
from tfgradgen.cli.load import load_models, start_at_photograph
from tfgradgen.cli.opening import open_file
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.output import PLACE, SHEET_NAME, check_folders, choose_folders, note_nothing
from tfgradgen.cli.remote import remote_of
from tfgradgen.cli.remote_run import Job, RemoteRuns
from tfgradgen.cli.run import Row, add_photographs, finished, is_remains, run_group
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import note, say, started
from tfgradgen.core.checks import UserError
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.convergence import CLASS_PROB
from tfgradgen.diagnostics.issues import GRADES
from tfgradgen.engine.engine import Engine, running
from tfgradgen.evaluation.nearest import Gallery, check_images
from tfgradgen.io.folders import REPORT, discard, not_written, partial_path
from tfgradgen.io.images import make_grid, save_png
from tfgradgen.media.medium import Medium
from tfgradgen.models.targets import Target
from tfgradgen.results.record import NEAREST

SHEET_COLUMNS = 8
NAME_LENGTH = 24  # most letters of a name to the left of its row


def run_sample(options: SampleOptions) -> list[str]:
    """Sample each requested label into a folder of its own.

    Several labels run as one batch of chains if the method allows it. They share a sheet with one row per label.

    Returns:
      The problems of all runs.

    Raises:
      UserError: A run cannot be made.
      Stopped: A signal ended the command.
    """
    with running(options.place) as engine:
        return _run(options, engine)


def _run(options: SampleOptions, engine: Engine | None) -> list[str]:
    loaded = load_models(options.models, options.gradient_precision)
    if engine:
        loaded = loaded._replace(remote=remote_of(engine, options.models, loaded, options.gradient_precision))
    targets = loaded.targets(options.label)
    options = start_at_photograph(options, loaded, targets)
    names = [target.label.name for target in targets]
    is_all = {label.name for label in loaded.classifiers[0].labels if not label.background} == set(names)
    folders = choose_folders(options, names, is_all)
    if not check_folders(options, folders) and options.resume:
        note_nothing(options.out or folders[0])
    gallery = _gallery(options, names, loaded.generator.medium) if options.photographs else None
    sheet_path = folders[0].parent / SHEET_NAME if len(folders) > 1 else None
    rows: dict[Path, Row] = {}
    groups: list[tuple[SampleOptions, Group]] = []
    for part in parts_of(options, loaded, targets, folders):
        found, left = _planned(part.options, part.members)
        rows |= found
        groups += [(part.options, group) for group in left]
    made: list[Path] = []
    num_groups, end = len(groups), math.inf if options.time_budget is None else started() + options.time_budget

    def done(member: Member, row: Row, lines: str) -> None:
        rows[member.folder] = row
        made.append(member.folder)
        if len(folders) > 1:
            say(f"label    {len(made)} of {len(folders)}: {as_text(member.name)}")
        say(lines, as_text(member.name) if len(folders) > 1 else "")

    try:
        for folder in rows:
            made.append(folder)
            if gallery and rows[folder].record.get(NEAREST, {}).get("photographs") != str(gallery.place):
                rows[folder] = add_photographs(folder, gallery)
            say(f"kept     {as_text(folder)}: this run was finished earlier")
        if loaded.remote:
            jobs = [Job(own, group, places_of(group, targets)) for own, group in groups]
            RemoteRuns(loaded.remote, rows, done, gallery).run(jobs)
            groups.clear()
        while groups:  # this releases each finished group with its compiled graphs
            share = max(end - time.monotonic(), 0.0) / len(groups)  # of the time that is left
            own, group = groups.pop(0)
            if num_groups > 1:
                group = replace(group, count=f" ({num_groups - len(groups)} of {num_groups})")
            run_group(group, own, {*rows}, done, time.monotonic() + share, gallery)
        whole = [rows[folder] for folder in folders]
        if len(whole) > 1:
            say(table(overview([row.record for row in whole])))
        if sheet_path:
            save_png(sheet_path, sheet(whole, sheet_title(options)))
            say(f"sheet    {as_text(sheet_path)}: one row a label")
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, kept(made, "goes on with the rest")) from None
    except UserError as error:
        error.can_resume = error.can_resume or (bool(made) and sheet_path is not None)
        raise
    except OSError as error:
        raise not_written(sheet_path or folders[0], error, kept(made, "goes on with the rest")) from error
    if options.opens:
        open_file(sheet_path or folders[0] / REPORT)
    return [problem for row in whole for problem in row.problems]


def _gallery(options: SampleOptions, names: list[str], medium: Medium) -> Gallery:
    """Return the photographs of --photographs, which must be readable and enough for each of the labels `names`.

    Raises:
      UserError: They are not, or `medium` is not that of images.
    """
    assert options.photographs is not None
    check_images(medium)
    gallery = Gallery(options.photographs)
    others = gallery.check(names)
    if others:
        missing = as_text(", ".join(others))
        note(f"note     {as_text(gallery.place)} has no folder for {missing}: all photographs are compared")
    return gallery


def places_of(group: Group, targets: Sequence[Target]) -> tuple[int, ...]:
    """Return the places of the members of `group` among all targets of the command."""
    return tuple(next(k for k, target in enumerate(targets) if target is member.target) for member in group.members)


def _planned(options: SampleOptions, members: list[Member]) -> tuple[dict[Path, Row], list[Group]]:
    """Return the rows of the finished runs by folder, and the groups in which the other labels run."""
    place = members[0].folder.parent / PLACE
    begun = under_way(options, members, place) if len(members) > 1 else None
    rows: dict[Path, Row] = {}
    for member in members if options.resume else ():
        planned = begun.planned_of(member) if begun and member in begun.members else member.planned
        row = finished(planned, member.folder, options.overwrite)
        if row:
            rows[member.folder] = row
    if begun and all(member.folder in rows for member in begun.members):
        if is_remains(begun.planned, begun.place):
            discard(partial_path(begun.place))
        begun = None
    first = [begun] if begun else []
    left = [member for member in members if member.folder not in rows and not (begun and member in begun.members)]
    groups = [*first, *groups_of(options, members, left, place)]
    if len(groups) > 1 and any(group.is_batch for group in groups):
        note(split_text(groups))
    return rows, groups


def kept(folders: list[Path], then: str) -> str:
    """Return the text that says how many labels are finished, and what --resume does `then`; '' if none is finished."""
    if not folders:
        return ""
    return f"{len(folders)} label{'s are' if len(folders) > 1 else ' is'} finished, --resume {then}"


def overview(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the table at the end of several labels, from their run.json. Older runs lack some entries."""
    statistics = [record.get("statistics", {}) for record in records]
    rhats = [[found["rhat"] for found in each.values() if found.get("rhat") is not None] for each in statistics]
    return {
        "label": [as_text(record["label"]["name"]) for record in records],
        **{grade: [record.get("grades", {}).get(grade) for record in records] for grade in GRADES},
        "p(class)": [record.get("mean_class_prob") for record in records],
        "acceptance": [record.get("accept_rate") for record in records],
        "ESS": [each.get(CLASS_PROB, {}).get("ess") for each in statistics],
        "worst R-hat": [max(each, default=None) for each in rhats],
        "draws": [record["arguments"]["schedule"]["num_results"] for record in records],
        "seconds": [record["seconds"] for record in records],
        "warnings": [len(record["problems"]) for record in records],
    }


def sheet(rows: list[Row], title: str = "") -> Any:
    """Return an image with one row of tiles per label, the label's name at its left."""
    columns = min(SHEET_COLUMNS, len(rows[0].image))
    tiles = np.concatenate([row.image[:columns] for row in rows])
    names = [row.name if len(row.name) <= NAME_LENGTH else f"{row.name[: NAME_LENGTH - 1]}…" for row in rows]
    captions = [f"p {p:.2f}" for row in rows for p in row.class_prob[:columns]]
    return make_grid(tiles, captions, num_columns=columns, title=title, row_names=names)


def sheet_title(options: SampleOptions) -> str:
    """Return what the images of a sheet are."""
    run = options.run
    about = f"{options.kernel}, seed {run.seed}, temperature {run.temperature:g}: the first chains of each class"
    return f"{about}\np: the classifier's probability of the class of the row"
