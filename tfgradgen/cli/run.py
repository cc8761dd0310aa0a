"""A run of one label, or of several as a batch: draws go into a store next to the folders, which are then written at once."""

import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.api import result_of
from tfgradgen.cli.draw import draw, draw_blocks
from tfgradgen.cli.groups import Group, Member, record_of_shorter
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import one_line
from tfgradgen.core.arrays import StateError
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.contracts import Draws
from tfgradgen.core.files import open_own, own_folder
from tfgradgen.core.parsing import parsing, read_bytes
from tfgradgen.evaluation.nearest import Gallery
from tfgradgen.io.folders import (
    RECORD,
    atomic_dir,
    check_target,
    clear,
    discard,
    exclusive_lock,
    has_checkpoint,
    not_written,
    partial_path,
    remove_stale,
)
from tfgradgen.io.store import CHECKPOINT, MAX_CHECKPOINT, RunStore, check_same, read_checkpoint
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.media.registry import medium_in
from tfgradgen.results.files import NETCDF, read_run, write_chains, write_each
from tfgradgen.results.record import BATCH, TIME_BUDGET, identity
from tfgradgen.results.result import SampleResult, load_run
from tfgradgen.results.summary import summary

DoneFn = Callable[["Member", "Row", str], None]


class Row(NamedTuple):
    """The result of one label, a row of the sheet.

    Attributes:
      name: Name of the label.
      image: [num_chains, ...] uint8, the images of the last draws; of sounds and clips a still of each.
      class_prob: [num_chains], p(class) of these images.
      problems: Problems of the run.
      record: The content of its run.json.
    """

    name: str
    image: np.ndarray
    class_prob: np.ndarray
    problems: list[str]
    record: dict[str, Any]


def finished(planned: dict[str, Any], folder: Path, overwrite: bool = False) -> Row | None:
    """Return the row of the finished run in `folder`; None if the planned run is still to be done.

    It is still to be done if there is no run, if the run is to be extended, if an unfinished run replaces it, or if it is
    another run or unreadable and `overwrite` is True. Otherwise remains next to the run are removed, and chains.nc is added if
    it is requested and missing.

    Raises:
      UserError: The folder holds another run, or an unreadable one, and `overwrite` is False.
    """
    try:
        row = _whole(planned, folder)
    except UserError:
        if not overwrite:
            raise
        check_target(folder, overwrite)  # fail now, rather than after the labels before this one
        return None
    if row is None:
        return None
    if is_remains(planned, folder):
        discard(partial_path(folder))
    files = {"netcdf": NETCDF, "save_images": medium_in(row.record, row.image).file_name(0, len(row.image))}
    missing = {flag for flag, file in files.items() if planned["arguments"][flag] and not (folder / file).exists()}
    if missing:
        add_files(folder, missing)
    return row


def _whole(planned: dict[str, Any], folder: Path) -> Row | None:
    """Return the result of `finished` without writing or removing anything.

    If `planned` belongs to an unfinished batch, only a run of that batch is finished; otherwise a run of any batch or none is.
    """
    if not (folder / RECORD).exists():
        return None
    record, draws, stored = read_run(folder, "resume", "choose another --out")
    stills = medium_in(record, stored).pictures(stored)
    row = Row(planned["label"]["name"], stills, draws.class_prob[-1], record["problems"], record)
    num_results = record["arguments"]["schedule"]["num_results"]
    try:
        check_same(identity(planned), identity(record), folder)
    except UserError:
        if has_checkpoint(folder) or BATCH in planned:
            return None
        raise
    if BATCH in planned and record.get(BATCH) != planned[BATCH]:
        return None
    check_length(planned, num_results, folder)
    if num_results < planned["arguments"]["schedule"]["num_results"]:
        if not has_checkpoint(folder) and not (folder / CHECKPOINT).exists():
            got = f"{folder}, which has no {CHECKPOINT}"
            raise fail("resume", "a run that can be made longer", got, "start over with --overwrite")
        return None
    return row


def check_length(planned: dict[str, Any], num_results: int, where: Path) -> None:
    """Raise `UserError` unless a run in `where` with `num_results` draws per chain can be extended to the planned run."""
    wanted = planned["arguments"]["schedule"]["num_results"]
    if wanted < num_results:
        expected, remedy = f"at least the --num_results={num_results} of the run in {where}", "start over with --overwrite"
        raise fail("resume", expected, f"--num_results={wanted}", f"give it again, or {remedy}")
    if wanted > num_results and not SAMPLERS[planned["kernel"]].can_go_on:
        raise fail(
            "resume",
            f"the --num_results={num_results} of the run in {where}: the particles of {planned['kernel']} move together",
            f"--num_results={wanted}, another run",
            "start over with --overwrite",
        )


def is_remains(planned: dict[str, Any], folder: Path) -> bool:
    """Return whether the finished run in `folder` left remains next to it, because it was killed after its last step."""
    partial = partial_path(folder)
    try:
        with exclusive_lock(partial):
            stats = RunStore(partial, identity(planned)).stats
    except (UserError, OSError):  # those of another run, of a running one, or none
        return False
    return bool(stats.get("num_results", 0) <= planned["arguments"]["schedule"]["num_results"])


def lay_out(group: Group, partial: Path) -> None:
    """Convert the finished runs of `group` to an unfinished run in `partial`, to be extended; the checkpoint comes last."""
    runs = [read_run(member.folder, "resume", "start over with --overwrite") for member in group.members]
    shortest = min(range(len(runs)), key=lambda k: len(runs[k][1].z))  # some may have been extended already
    num_results = len(runs[shortest][1].z)
    for name in Draws._fields:
        columns = [getattr(draws, name)[:num_results] for _, draws, _ in runs]
        with parsing("resume", "runs of one batch", "start over with --overwrite"):
            column = np.ascontiguousarray(np.concatenate(columns, 1))
        with open_own(partial / f"{name}.raw", "w+b") as stream:
            stream.write(column.tobytes())
    folder = group.members[shortest].folder
    with parsing("resume", f"a run with its {CHECKPOINT}", "start over with --overwrite"):
        checkpoint = read_bytes(folder / CHECKPOINT, MAX_CHECKPOINT, folder)
    read_checkpoint(folder)  # an error names this folder, not the copy
    beside = partial / f"{CHECKPOINT}.new"
    with open_own(beside, "w+b") as stream:
        stream.write(checkpoint)
    os.replace(beside, partial / CHECKPOINT)


def add_files(folder: Path, flags: Collection[str]) -> None:
    """Add what `flags` ask for (netcdf, save_images) to a finished run, by replacing its folder with a copy that has it."""
    found = _noted(load_run(folder), dict.fromkeys(flags, True))
    with atomic_dir(folder, overwrite=True) as beside:
        for path in folder.iterdir():
            shutil.copy2(path, beside, follow_symlinks=False)
        found.write_into(beside)
        if "netcdf" in flags:
            write_chains(beside, found.record, found.draws)
        if "save_images" in flags:
            write_each(beside, found.record, found.media)


def _noted(result: SampleResult, flags: dict[str, bool]) -> SampleResult:
    """Return `result` with `flags` among the arguments of its record, so that the command in it makes the same files."""
    arguments = result.record["arguments"]
    return result if arguments | flags == arguments else result.noted({"arguments": arguments | flags})


def add_photographs(folder: Path, gallery: Gallery) -> Row:
    """Add the nearest photographs to a finished run, by replacing its folder with a copy that has them; return its row."""
    found = gallery.of(load_run(folder))
    with atomic_dir(folder, overwrite=True) as beside:
        for path in folder.iterdir():
            shutil.copy2(path, beside, follow_symlinks=False)
        found.write_into(beside)
    return _row(found)


def _row(result: SampleResult) -> Row:
    record = result.record
    return Row(record["label"]["name"], result.images, np.array(result.class_prob[-1]), record["problems"], record)


def run_group(
    group: Group,
    options: SampleOptions,
    rows: Collection[Path],
    done_fn: DoneFn,
    deadline: float = math.inf,
    gallery: Gallery | None = None,
) -> None:
    """Run a group, or the rest of it, and write the folders of its members.

    Until all folders are written, the draws are kept next to them.

    Args:
      group: The group.
      options: Options of the command.
      rows: Folders that are written already.
      done_fn: Function that is called with each finished member, its row and the summary of its run.
      deadline: Time on the monotonic clock, in seconds, after which no further chunk is drawn.
      gallery: The photographs that images are compared with; None for none.

    Raises:
      UserError: The run failed.
      Stopped: A signal ended it.
    """
    with opened(group, options, rows, gallery) as run:
        with drawing(run), progress_bar(f"{options.kernel} {group.title}{group.count}") as progress_fn:
            if options.block is None:
                num_results = draw(group, options, run.store, progress_fn, deadline)
            else:
                num_results = draw_blocks(group, options, run.store, progress_fn)
        finish(run, done_fn, num_results)


class GroupRun(NamedTuple):
    """A group whose folders are locked.

    Attributes:
      group: The group.
      options: Options of the command.
      rows: Folders that are written already.
      store: The unfinished run.
      longer: Whether finished runs are extended.
      replaced: Whether the folder of a member may be replaced, by folder.
      gallery: The photographs that images are compared with; None for none.
    """

    group: Group
    options: SampleOptions
    rows: Collection[Path]
    store: RunStore
    longer: bool
    replaced: dict[Path, bool]
    gallery: Gallery | None = None

    @property
    def members(self) -> list[Member]:
        """The members whose folders are not written yet."""
        return [member for member in self.group.members if member.folder not in self.rows]


@contextmanager
def opened(group: Group, options: SampleOptions, rows: Collection[Path], gallery: Gallery | None = None) -> Iterator[GroupRun]:
    """Lock a group, and open its unfinished run or begin one; errors of the block say what is kept for --resume.

    Raises:
      UserError: The run failed.
      Stopped: A signal ended it.
    """
    partial = partial_path(group.place)
    try:
        own_folder(partial)
        with exclusive_lock(partial):
            try:
                yield _prepared(group, options, rows, gallery)
            finally:
                if not os.path.exists(partial / CHECKPOINT):  # finished, or not started
                    discard(partial)
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, _hint(partial)) from None
    except OSError as error:
        raise not_written(group.out, error, _hint(partial)) from error
    except (tf.errors.OpError, MemoryError) as error:
        raise broken_off(error, group.title, _hint(partial)) from error


def broken_off(error: BaseException, name: str, hint: str) -> UserError:
    """Return the error for a run that TensorFlow or the machine aborted.

    Args:
      error: The original error.
      name: Name of the label or batch.
      hint: What is kept for --resume; '' for nothing.
    """
    is_short = isinstance(error, MemoryError | tf.errors.ResourceExhaustedError)
    remedy = (
        "free memory, or start over with fewer --num_chains or --max_batch=N" if is_short else "check the models and the device"
    )
    got = "more data than fits into memory" if is_short else one_line(getattr(error, "message", error))
    found = fail(f"sample {name}", "a run to its end", got, remedy + (f"; {hint}" if hint else ""))
    found.can_resume = bool(hint)
    return found


def _hint(partial: Path) -> str:
    """Return where an interrupted run is kept; '' if nothing is kept."""
    is_kept = os.path.exists(partial / CHECKPOINT)  # unlike Path.exists, this never raises
    return f"what was drawn is in {partial}, --resume goes on with it" if is_kept else ""


def _prepared(group: Group, options: SampleOptions, rows: Collection[Path], gallery: Gallery | None) -> GroupRun:
    """Return a group, which the caller has locked, with its unfinished run opened and its folders checked."""
    partial, members = partial_path(group.place), [member for member in group.members if member.folder not in rows]
    if not group.is_batch:
        remove_stale(group.place)
    if options.overwrite and not options.resume:
        clear(partial)
    longer = options.resume and any(record_of_shorter(member.planned, member.folder) for member in members)
    is_new = longer and not has_checkpoint(group.place)
    try:
        if is_new:
            lay_out(group, partial)
        store = _opened(partial, group.planned)
    except UserError:
        if is_new or options.overwrite:  # the finished run is damaged, and so is its copy; or another run is to be replaced
            clear(partial)
        if not options.overwrite:
            raise
        longer, store = False, _opened(partial, group.planned)
    # A resumed run replaces what the interrupted run was to replace, and what that run had written already.
    overwrite = options.overwrite or longer or store.stats.get("overwrite", False)
    store.stats |= {"overwrite": overwrite, "num_results": options.schedule.num_results}
    replaced = {member.folder: overwrite or (options.resume and _is_half(member.folder)) for member in members}
    for folder, is_replaced in replaced.items():
        check_target(folder, is_replaced)
    return GroupRun(group, options, rows, store, longer, replaced, gallery)


@contextmanager
def drawing(run: GroupRun) -> Iterator[None]:
    """Keep or clear the unfinished run after an error of the block, in which it draws."""
    try:
        yield
    except StateError as error:  # kept for inspection, as every damaged run
        raise run.store.damaged(f"{CHECKPOINT} holds {error.what}") from error
    except UserError as error:  # caused by the models or the class, so a resumed run would fail again
        if not error.can_resume:
            clear(run.store.folder)
        raise


def finish(run: GroupRun, done_fn: DoneFn, num_results: int) -> None:
    """Write the folders of a group that has drawn `num_results` draws of each chain, and remove the unfinished run."""
    group, options, _, store, longer, replaced, gallery = run
    partial = store.folder
    if num_results < options.schedule.num_results:
        group = _cut(group, options, store, num_results)
    for member in run._replace(group=group).members:
        with _own_place(group, member, options.overwrite):
            has_netcdf = options.netcdf or (longer and (member.folder / NETCDF).exists())
            result = _result(group, member, options, store)
            result = gallery.of(result) if gallery else result
            first = member.folder / result.medium.file_name(0, options.run.num_chains)
            has_images = options.save_images or (longer and first.exists())
            result = _noted(result, {"netcdf": has_netcdf, "save_images": has_images})
            with atomic_dir(member.folder, replaced[member.folder], _hint(partial)) as beside:
                result.write_into(beside)
                if has_netcdf:
                    write_chains(beside, result.record, result.draws)
                if has_images:
                    write_each(beside, result.record, result.media)
                if SAMPLERS[options.kernel].can_go_on:
                    shutil.copyfile(partial / CHECKPOINT, beside / CHECKPOINT)
        done_fn(member, _row(result), summary(result.record, member.folder))
        del result  # releases the memory maps
    clear(partial)


def _cut(group: Group, options: SampleOptions, store: RunStore, num_results: int) -> Group:
    """Return `group` as the finished run of the draws that were made in --time_budget.

    Its record is that of a run with --num_results=`num_results`, which has the same bits, and says what cut it.

    Raises:
      UserError: There is no draw yet; what was done is kept for --resume.
    """
    wanted = options.schedule.num_results
    if not num_results:
        error = fail(
            "time_budget",
            "time for a draw of each chain",
            f"{options.time_budget:g} s, which ended before it",
            f"give more time; {_hint(partial_path(group.place))}",
        )
        error.can_resume = True
        raise error
    nothing = Draws(*(column[:0] for column in store.draws()))
    store.append(nothing, store.state or {}, store.stats | {"num_results": num_results})
    members = []
    for member in group.members:
        arguments = member.planned["arguments"]
        arguments = arguments | {"schedule": arguments["schedule"] | {"num_results": num_results}}
        cut = {"seconds": options.time_budget, "num_results": wanted}
        members.append(replace(member, planned=member.planned | {"arguments": arguments, TIME_BUDGET: cut}))
    return replace(group, members=tuple(members))


def _is_half(folder: Path) -> bool:
    """Return whether a run was killed while its files were moved into `folder`."""
    return folder.is_dir() and not (folder / RECORD).exists()


@contextmanager
def _own_place(group: Group, member: Member, overwrite: bool) -> Iterator[None]:
    """Lock the folder of a member of a batch during the block, as a run of that label alone does."""
    if not group.is_batch:
        yield
        return
    partial = partial_path(member.folder)
    own_folder(partial)
    with exclusive_lock(partial):
        remove_stale(member.folder)
        if overwrite:
            clear(partial)
        try:
            yield
        finally:
            if not os.path.exists(partial / CHECKPOINT):
                discard(partial)


def _result(group: Group, member: Member, options: SampleOptions, store: RunStore) -> SampleResult:
    """Return the result of one member of a group; `store` holds all draws of the group."""
    draws, stats, num_chains = store.draws(), store.stats, options.run.num_chains
    if group.is_batch:
        number = group.members.index(member)
        chains = slice(number * num_chains, (number + 1) * num_chains)
        draws = Draws(*(column[:, chains] for column in draws))
        stats = stats["labels"][number] | {"seconds": stats["seconds"] / len(group.members)}
    return result_of(group.posterior_of(member, options.run), group.planned_of(member), draws, stats)


def _opened(partial: Path, planned: dict[str, Any]) -> RunStore:
    """Return the store of the planned run in `partial`.

    Raises:
      UserError: It belongs to another run, cannot be extended to the planned one, or is damaged.
    """
    store = RunStore(partial, identity(planned))
    if "num_results" in store.stats:
        check_length(planned, store.stats["num_results"], partial)
    return store
