"""The draws of a group go into its store: by one run in this process, or block by block."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgradgen.api import iter_chunks
from tfgradgen.cli.groups import Group
from tfgradgen.cli.options import SampleOptions
from tfgradgen.core.arrays import StateError, check_arrays
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Chunk, Draws, Progress, ProgressFn
from tfgradgen.core.files import own_folder
from tfgradgen.engine.blocks import BLOCKS, blocks_of, joined_state, joined_stats, state_of_block
from tfgradgen.io.folders import block_folder, clear
from tfgradgen.io.store import RunStore
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.results.files import LAYOUT

NEEDED = {"num_gradients", "num_forward", "seconds", "start_cost"}  # statistics that every unfinished run has
ROWS = 1 << 22  # values of z that are joined at a time


def draw(group: Group, options: SampleOptions, store: RunStore, progress_fn: ProgressFn, deadline: float = math.inf) -> int:
    """Run the sampler from the state in `store`, to its end or past `deadline`, and append the draws to `store`.

    Returns:
      The number of draws of each chain; below that of `options` only after the deadline.

    Raises:
      StateError: The state or the statistics in `store` do not fit the run.
    """
    posterior, run = group.posterior(options.run), group.run_of(options.run)
    resume = resume_of(group, run, posterior.latent_dim, store)
    for chunk in iter_chunks(posterior, options.recipe, run, resume):
        take(store, chunk)
        progress_fn(chunk.progress)
        if time.monotonic() > deadline and (count := len(store.draws().z)) < options.schedule.num_results:
            return count
    return complete(store, options)


def resume_of(group: Group, run: RunConfig, latent_dim: int, store: RunStore) -> Resume | None:
    """Return from where the run in `store` goes on; None from its start.

    Args:
      group: The group.
      run: Settings of the run, with all its chains.
      latent_dim: Dimension of z.
      store: Its draws so far.

    Raises:
      StateError: The state or the statistics in `store` do not fit the run.
    """
    if store.state is None:
        return None
    labels = store.stats.get("labels", [])
    for stats, needed in [(store.stats, NEEDED), *((each, NEEDED - {"seconds"}) for each in labels)]:
        for name in sorted(needed - {*stats}):
            raise StateError(f"no {name}")
    if len(labels) != (len(group.members) if group.is_batch else 0):
        raise StateError("statistics of other labels")
    check_draws(store.draws(), run.num_chains, latent_dim)
    return Resume(store.state, store.stats)


def take(store: RunStore, chunk: Chunk) -> None:
    """Append a chunk to the store of its run."""
    store.append(chunk.draws, chunk.state, store.stats | chunk.stats)


def complete(store: RunStore, options: SampleOptions) -> int:
    """Return the number of draws of each chain of a run that came to its end; raise `StateError` if it has another number."""
    if len(store.draws().z) != options.schedule.num_results:
        raise StateError(f"{len(store.draws().z)} draws, other than its state says")
    return options.schedule.num_results


def check_draws(draws: Draws, num_chains: int, latent_dim: int) -> None:
    """Raise `StateError` unless `draws` have `num_chains` chains of points with `latent_dim` coordinates."""
    try:
        sizes = check_arrays(draws._asdict(), LAYOUT)
    except ValueError as error:
        raise StateError(str(error)) from error
    if (sizes["chains"], sizes["latent_dim"]) != (num_chains, latent_dim):
        raise StateError(f"draws of {sizes['chains']} chains of {sizes['latent_dim']} coordinates")


def draw_blocks(group: Group, options: SampleOptions, store: RunStore, progress_fn: ProgressFn) -> int:
    """Run the blocks of a group of one label one after another, as `draw` runs all chains; there is no deadline."""
    runs = blocks_of(options.run, options.block)
    stores = stores_of(store, runs, options)
    for number, (run, own) in enumerate(zip(runs, stores, strict=True)):
        posterior = group.posterior(run)
        resume = resume_of(group, run, posterior.latent_dim, own)
        for chunk in iter_chunks(posterior, options.recipe, run, resume):
            begin(store, own, chunk)
            take(own, chunk)
            progress_fn(part_of(chunk.progress, number, len(runs)))
        complete(own, options)
    return join(store, stores, options)


def part_of(progress: Progress, number: int, count: int) -> Progress:
    """Return the progress of all `count` blocks of one length, of which `number` are done and one is at `progress`."""
    return progress._replace(num_done=number * progress.num_total + progress.num_done, num_total=count * progress.num_total)


def stores_of(store: RunStore, runs: Sequence[RunConfig], options: SampleOptions) -> list[RunStore]:
    """Return the stores of the blocks of the unfinished run in `store`.

    Blocks of a finished run that is extended begin with their part of its draws.

    Raises:
      StateError: The finished run has other blocks.
    """
    stores, first = [], 0
    for number, run in enumerate(runs):
        folder, identity = own_folder(block_folder(store.folder, number)), store.identity | {"number": number}
        own = RunStore(folder, identity)
        if not own.state and store.state:  # none, or one that was not copied to its end
            clear(folder)
            own = RunStore(folder, identity)
            _split(store, own, number, slice(first, first + run.num_chains))
        own.stats |= {"num_results": options.schedule.num_results}
        stores.append(own)
        first += run.num_chains
    return stores


def _split(store: RunStore, own: RunStore, number: int, chains: slice) -> None:
    parts = store.stats.get(BLOCKS, [])
    if number >= len(parts):
        raise StateError("statistics of other blocks")
    draws, step = store.draws(), rows_at_once(store)
    for k in range(0, len(draws.z), step):
        rows, is_last = Draws(*(column[k : k + step, chains] for column in draws)), k + step >= len(draws.z)
        own.append(rows, state_of_block(store.state or {}, number) if is_last else {}, parts[number])


def begin(store: RunStore, own: RunStore, chunk: Chunk) -> None:
    """Write the first checkpoint of a run of blocks, which says that there is something to resume, before its first chunk."""
    if own.state is None and not store.stats.get(BLOCKS) and store.state is None:
        shape = [column.shape[2:] for column in chunk.draws]
        nothing = Draws(*(np.empty((0, 1, *rest), column.dtype) for rest, column in zip(shape, chunk.draws, strict=True)))
        store.append(nothing, {}, store.stats)


def rows_at_once(store: RunStore) -> int:
    """Return how many draws are copied at a time, so that memory does not grow with their number."""
    row = store.draws().z[:1]
    return max(1, ROWS // max(1, int(np.prod(row.shape[1:]))))


def join(store: RunStore, stores: Sequence[RunStore], options: SampleOptions) -> int:
    """Append the draws of complete blocks to the store of their run, side by side; return their number."""
    parts = [own.draws() for own in stores]
    stats: dict[str, Any] = store.stats | joined_stats([own.stats for own in stores])
    state = joined_state([own.state or {} for own in stores])
    step = max(1, rows_at_once(stores[0]) // len(stores))
    for k in range(len(store.draws().z), options.schedule.num_results, step):
        rows = Draws(*(np.concatenate([getattr(part, name)[k : k + step] for part in parts], 1) for name in Draws._fields))
        store.append(rows, state, stats)
    return complete(store, options)
