"""A run of one label, or of several as one batch: drawn into a store beside their folders, which are then written whole."""

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.api import iter_chunks, result_of
from tfgradgen.cli.groups import Group, Member, record_of_shorter
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import one_line
from tfgradgen.core.arrays import StateError, check_arrays
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.contracts import Draws, ProgressFn
from tfgradgen.core.files import open_own, own_folder
from tfgradgen.core.parsing import parsing, read_bytes
from tfgradgen.io.folders import (
    RECORD,
    check_target,
    clear,
    discard,
    has_checkpoint,
    held,
    new_folder,
    not_written,
    partial_of,
    sweep,
)
from tfgradgen.io.store import CHECKPOINT, MAX_CHECKPOINT, RunStore, check_same
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.results.files import LAYOUT, NETCDF, read_run, write_chains
from tfgradgen.results.record import BATCH, identity
from tfgradgen.results.result import SampleResult
from tfgradgen.results.summary import summary

NEEDED = {"num_gradients", "num_forward", "seconds", "start_cost"}  # facts of every run under way

DoneFn = Callable[["Member", "Row", str], None]


class Row(NamedTuple):
    """Of one label: its name, of each chain's last draw `image` [num_chains, ...] uint8 and `class_prob` [num_chains], and the
    problems of the run."""

    name: str
    image: np.ndarray
    class_prob: np.ndarray
    problems: list[str]


def finished(planned: dict[str, Any], folder: Path, overwrite: bool = False) -> Row | None:
    """The row of a run that is whole already; None where there is none, or one to be made longer, or replaced: by one under
    way, or because it is another run, or cannot be read, and `overwrite` says so.

    Raises:
      UserError: what lies there is another run, or cannot be read, and there is no `overwrite`.
    """
    try:
        row = _whole(planned, folder)
    except UserError:
        if not overwrite:
            raise
        check_target(folder, overwrite)  # now, rather than after the labels before it
        return None
    if row is None:
        return None
    if is_remains(planned, folder):
        discard(partial_of(folder))
    if planned["arguments"]["netcdf"] and not (folder / NETCDF).exists():
        add_netcdf(folder)
    return row


def _whole(planned: dict[str, Any], folder: Path) -> Row | None:
    """`finished`, of which nothing is written. Of a batch that is under way only what that batch wrote is finished; else a run
    of any batch, or of none, is."""
    if not (folder / RECORD).exists():
        return None
    record, draws, image = read_run(folder, "resume", "choose another --out")
    row = Row(planned["label"]["name"], image, draws.class_prob[-1], record["problems"])
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
            raise fail("resume", "a run that can be made longer", got, "start anew with --overwrite")
        return None
    return row


def check_length(planned: dict[str, Any], num_results: int, where: Path) -> None:
    """Raises `UserError` unless a run of `num_results` draws a chain, in the folder `where`, can become the planned one."""
    wanted = planned["arguments"]["schedule"]["num_results"]
    if wanted < num_results:
        expected, remedy = f"at least the --num_results={num_results} of the run in {where}", "start anew with --overwrite"
        raise fail("resume", expected, f"--num_results={wanted}", f"give it again, or {remedy}")
    if wanted > num_results and not SAMPLERS[planned["kernel"]].can_go_on:
        raise fail(
            "resume",
            f"the --num_results={num_results} of the run in {where}, for the particles of {planned['kernel']} move together",
            f"--num_results={wanted}, another run",
            "start anew with --overwrite",
        )


def is_remains(planned: dict[str, Any], folder: Path) -> bool:
    """Whether beside the finished run in `folder` lies what was left of it when it was killed after its last step."""
    partial = partial_of(folder)
    try:
        with held(partial):
            facts = RunStore(partial, identity(planned)).facts
    except (UserError, OSError):  # of another run, or of one at work, or none
        return False
    return bool(facts.get("num_results", 0) <= planned["arguments"]["schedule"]["num_results"])


def lay_out(group: Group, partial: Path) -> None:
    """Makes of the finished runs of `group` an unfinished one in `partial`, to go on with; the checkpoint comes last."""
    runs = [read_run(member.folder, "resume", "start anew with --overwrite") for member in group.members]
    shortest = min(range(len(runs)), key=lambda k: len(runs[k][1].z))  # where some were made longer already
    num_results = len(runs[shortest][1].z)
    for name in Draws._fields:
        columns = [getattr(draws, name)[:num_results] for _, draws, _ in runs]
        with parsing("resume", "runs of one batch", "start anew with --overwrite"):
            column = np.ascontiguousarray(np.concatenate(columns, 1))
        with open_own(partial / f"{name}.raw", "w+b") as stream:
            stream.write(column.tobytes())
    folder = group.members[shortest].folder
    with parsing("resume", f"a run with its {CHECKPOINT}", "start anew with --overwrite"):
        checkpoint = read_bytes(folder / CHECKPOINT, MAX_CHECKPOINT, folder)
    beside = partial / f"{CHECKPOINT}.new"
    with open_own(beside, "w+b") as stream:
        stream.write(checkpoint)
    os.replace(beside, partial / CHECKPOINT)


def add_netcdf(folder: Path) -> None:
    """Adds chains.nc to a run that is whole: a copy with it takes the folder's place."""
    record, draws, _ = read_run(folder, "resume", "choose another --out")
    with new_folder(folder, overwrite=True) as beside:
        for path in folder.iterdir():
            shutil.copy2(path, beside, follow_symlinks=False)
        write_chains(beside, record, draws)


def run_group(group: Group, options: SampleOptions, rows: Collection[Path], done_fn: DoneFn) -> None:
    """Runs a group, or the rest of it, and writes its members' folders. Until all are whole, what was drawn is beside them.

    rows: folders that are whole already. done_fn: gets each member that is whole now, its row and the lines that say what came
    out.
    """
    partial = partial_of(group.place)
    try:
        own_folder(partial)
        with held(partial):
            try:
                _run_held(group, options, rows, done_fn)
            finally:
                if not os.path.exists(partial / CHECKPOINT):  # whole, or not begun
                    discard(partial)
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, _hint(partial)) from None
    except OSError as error:
        raise not_written(group.out, error, _hint(partial)) from error
    except (tf.errors.OpError, MemoryError) as error:
        raise broken_off(error, group.title, _hint(partial)) from error


def broken_off(error: BaseException, name: str, hint: str) -> UserError:
    """The error of a run that TensorFlow or the machine broke off. hint: what is kept, that `--resume` goes on with."""
    is_short = isinstance(error, MemoryError | tf.errors.ResourceExhaustedError)
    remedy = (
        "free memory, or start anew with fewer --num_chains or --max_batch=N"
        if is_short
        else "look at the models and the device"
    )
    got = "more data than fits into memory" if is_short else one_line(getattr(error, "message", error))
    found = fail(f"sample {name}", "a run to its end", got, remedy + (f"; {hint}" if hint else ""))
    found.can_resume = bool(hint)
    return found


def _hint(partial: Path) -> str:
    """Where an interrupted run is kept; '' where nothing is."""
    is_kept = os.path.exists(partial / CHECKPOINT)  # unlike pathlib's, never an error of its own
    return f"what was drawn is in {partial}, --resume goes on with it" if is_kept else ""


def _run_held(group: Group, options: SampleOptions, rows: Collection[Path], done_fn: DoneFn) -> None:
    """`run_group` while no other process can come between."""
    partial, members = partial_of(group.place), [member for member in group.members if member.folder not in rows]
    if not group.is_batch:
        sweep(group.place)
    if options.overwrite and not options.resume:
        clear(partial)
    longer = options.resume and any(record_of_shorter(member.planned, member.folder) for member in members)
    is_new = longer and not has_checkpoint(group.place)
    try:
        if is_new:
            lay_out(group, partial)
        store = _opened(partial, group.planned)
    except UserError:
        if is_new or options.overwrite:  # the run is damaged, and its copy of no use; or it is another, to be replaced
            clear(partial)
        if not options.overwrite:
            raise
        longer, store = False, _opened(partial, group.planned)
    # A resumed run replaces what the interrupted one was to replace, and what that had put into place by then.
    overwrite = options.overwrite or longer or store.facts.get("overwrite", False)
    store.facts |= {"overwrite": overwrite, "num_results": options.schedule.num_results}
    replaced = {member.folder: overwrite or (options.resume and _is_half(member.folder)) for member in members}
    for folder, is_replaced in replaced.items():
        check_target(folder, is_replaced)
    try:
        with progress_bar(f"{options.kernel} {group.title}") as progress_fn:
            draw(group, options, store, progress_fn)
    except StateError as error:  # left for the user to look at, as every damaged run
        raise store.damaged(f"{CHECKPOINT} holds {error.what}") from error
    except UserError:  # of the models or of the class: to go on would meet it again
        clear(partial)
        raise
    for member in members:
        with _own_place(group, member, options.overwrite):
            has_netcdf = options.netcdf or (longer and (member.folder / NETCDF).exists())
            result = _result(group, member, options, store)
            with new_folder(member.folder, replaced[member.folder], _hint(partial)) as beside:
                result.write_into(beside)
                if has_netcdf:
                    write_chains(beside, result.record, result.draws)
                if SAMPLERS[options.kernel].can_go_on:
                    shutil.copyfile(partial / CHECKPOINT, beside / CHECKPOINT)
        row = Row(member.name, result.images, np.array(result.class_prob[-1]), result.record["problems"])
        done_fn(member, row, summary(result.record, member.folder))
        del result  # the maps of the files
    clear(partial)


def _is_half(folder: Path) -> bool:
    """Whether files of a run were being put into `folder` when it was killed."""
    return folder.is_dir() and not (folder / RECORD).exists()


@contextmanager
def _own_place(group: Group, member: Member, overwrite: bool) -> Iterator[None]:
    """Keeps other processes from the folder of a member of a batch, as a run of that label alone does."""
    if not group.is_batch:
        yield
        return
    partial = partial_of(member.folder)
    own_folder(partial)
    with held(partial):
        sweep(member.folder)
        if overwrite:
            clear(partial)
        try:
            yield
        finally:
            if not os.path.exists(partial / CHECKPOINT):
                discard(partial)


def _result(group: Group, member: Member, options: SampleOptions, store: RunStore) -> SampleResult:
    """Of one member of a group whose draws are all in `store`."""
    draws, facts, num_chains = store.draws(), store.facts, options.run.num_chains
    if group.is_batch:
        number = group.members.index(member)
        chains = slice(number * num_chains, (number + 1) * num_chains)
        draws = Draws(*(column[:, chains] for column in draws))
        facts = facts["labels"][number] | {"seconds": facts["seconds"] / len(group.members)}
    return result_of(group.posterior_of(member, options.run), group.planned_of(member), draws, facts)


def _opened(partial: Path, planned: dict[str, Any]) -> RunStore:
    """What there is of the planned run in `partial`; raises `UserError` where it is of another one, or damaged."""
    store = RunStore(partial, identity(planned))
    if "num_results" in store.facts:
        check_length(planned, store.facts["num_results"], partial)
    return store


def draw(group: Group, options: SampleOptions, store: RunStore, progress_fn: ProgressFn) -> None:
    """Runs the wanted method to its end, from where `store` is, and keeps in it what comes."""
    resume, posterior, run = None, group.posterior(options.run), group.run_of(options.run)
    if store.state is not None:
        labels = store.facts.get("labels", [])
        for facts, needed in [(store.facts, NEEDED), *((each, NEEDED - {"seconds"}) for each in labels)]:
            for name in sorted(needed - {*facts}):
                raise StateError(f"no {name}")
        if len(labels) != (len(group.members) if group.is_batch else 0):
            raise StateError("facts of other labels")
        check_draws(store.draws(), run.num_chains, posterior.latent_dim)
        resume = Resume(store.state, store.facts)
    for chunk in iter_chunks(posterior, options.recipe, run, resume):
        store.append(chunk.draws, chunk.state, store.facts | chunk.facts)
        progress_fn(chunk.progress)
    if len(store.draws().z) != options.schedule.num_results:
        raise StateError(f"{len(store.draws().z)} draws, other than its state says")


def check_draws(draws: Draws, num_chains: int, latent_dim: int) -> None:
    """Raises `StateError` unless `draws` are those of so many chains at points of so many coordinates."""
    try:
        sizes = check_arrays(draws._asdict(), LAYOUT)
    except ValueError as error:
        raise StateError(str(error)) from error
    if (sizes["chains"], sizes["latent_dim"]) != (num_chains, latent_dim):
        raise StateError(f"draws of {sizes['chains']} chains of {sizes['latent_dim']} coordinates")
