"""Blocks of chains: how a run is divided, and how its parts become one run again.

Block k of a run is the run of its chains alone with a seed of its own: that of the run for k = 0, `block_seed` for the others.
It has its own prior draws, adapts its own step size, and therefore depends neither on the other blocks nor on where they run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import check_int, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Chunk, Cost, Draws, ProgressFn, SamplerResult
from tfgradgen.engine.schedule import Scheduler
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.sampler import Sampler
from tfgradgen.results.record import smallest_block

BLOCK_SEED = 4  # of a block, together with the seed of the run; others use 1 and 3, and `tune` 0 to 2 with a further number
BLOCKS = "blocks"  # in the statistics of a run: those of its blocks
COUNTS = ("num_gradients", "num_forward", "prior_draws", "num_not_finite", "num_scored")


def check_block(size: Any, sampler: Sampler, num_chains: int) -> int:
    """Return `size`, the number of chains in a block, as an int.

    Raises:
      UserError: It is out of range, or the chains of the sampler cannot be divided.
    """
    number: int = check_int("block", size, 1, num_chains)
    if not isinstance(sampler, KernelSampler) or sampler.learn_fn:
        why = "whose chains are not divided" if isinstance(sampler, KernelSampler) else "which runs no chains"
        raise fail("block", "a kernel that runs chains, such as mala", f"{sampler.name}, {why}", "leave --block out")
    least = smallest_block(number, num_chains)
    if least < sampler.min_chains:
        expected = f"at least {sampler.min_chains} chains in each block for --kernel={sampler.name}"
        raise fail("block", expected, f"a block of {least} of {num_chains} chains", "give another --block or --num_chains")
    return number


def block_seed(seed: int, number: int) -> int:
    """Return the seed of block `number` of a run with `seed`."""
    return seed if number == 0 else seed_of(seed, BLOCK_SEED, number)


def blocks_of(run: RunConfig, size: int | None) -> list[RunConfig]:
    """Return the settings of each block of `size` chains, the last of which may be smaller; those of the run for None."""
    if size is None:
        return [run]
    firsts = range(0, run.num_chains, size)
    sizes = [min(size, run.num_chains - first) for first in firsts]
    return [replace(run, num_chains=own, seed=block_seed(run.seed, k)) for k, own in enumerate(sizes)]


def joined_stats(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the statistics of a run from those of its blocks, as of one run of all chains.

    Seconds are the sum over blocks, whether they ran one after another or at the same time.
    """
    found = dict(parts[0])
    for name in COUNTS:
        values = [part[name] for part in parts if part.get(name) is not None]
        if values:
            found[name] = sum(values)
    found["seconds"] = sum(part["seconds"] for part in parts)
    found["start_cost"] = [sum(part["start_cost"][k] for part in parts) for k in range(len(Cost._fields))]
    found["doubts"] = list(dict.fromkeys(line for part in parts for line in part.get("doubts", [])))
    exact = [part.get("exact_starts") for part in parts]
    if all(number is not None for number in exact):
        found["exact_starts"] = sum(number for number in exact if number is not None)
    found |= _mean(parts)
    return found | {BLOCKS: [dict(part) for part in parts]}


def _mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean p(class) over all prior draws of the blocks and its standard error, by their names."""
    name, error = "prior_class_prob", "prior_class_prob_error"
    known = [
        (part["prior_draws"] - (part.get("num_not_finite") or 0), part[name], part.get(error))
        for part in parts
        if part.get(name) is not None
    ]
    if not known:
        return {}
    counts = np.array([max(count, 1) for count, _, _ in known], float)
    weights = counts / counts.sum()
    errors = [error for _, _, error in known]
    total = None if any(value is None for value in errors) else float(np.sqrt(np.sum((weights * np.array(errors, float)) ** 2)))
    return {name: float(np.sum(weights * np.array([mean for _, mean, _ in known]))), error: total}


def joined_chunks(pieces: Iterable[tuple[int, Chunk]], num_blocks: int, progress_fn: ProgressFn | None = None) -> SamplerResult:
    """Return the result of a run from the chunks of its blocks, each with its block's number, in any order of the blocks."""
    kept: list[list[Draws]] = [[] for _ in range(num_blocks)]
    stats: list[dict[str, Any]] = [{} for _ in range(num_blocks)]
    done = [0] * num_blocks
    for k, chunk in pieces:
        kept[k].append(chunk.draws)
        stats[k], done[k] = chunk.stats, chunk.progress.num_done
        if progress_fn:
            total = chunk.progress.num_total * num_blocks
            progress_fn(chunk.progress._replace(num_done=min(sum(done), total), num_total=total))
    columns = [[np.concatenate([getattr(draws, name) for draws in own]) for own in kept] for name in Draws._fields]
    found = joined_stats(stats)
    return SamplerResult(
        Draws(*(np.concatenate(each, 1) for each in columns)), Cost(*(found[name] for name in Cost._fields)), found
    )


def pieces_of(scheduler: Scheduler) -> Iterator[tuple[Any, Any]]:
    """Run all blocks of `scheduler` and yield the key and value of each piece.

    Raises:
      UserError: A block failed.
    """
    for event in scheduler.events():
        if event.error:
            raise event.error
        if event.piece:
            yield event.key, event.piece.value


def joined_state(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the states of all blocks as one set of named arrays."""
    return {f"{k}_{name}": array for k, part in enumerate(parts) for name, array in part.items()}


def state_of_block(state: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """Return the part of a `joined_state` that is block `number`'s."""
    start = f"{number}_"
    return {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}
