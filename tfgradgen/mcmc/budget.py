"""Chains for a number of gradients instead of a number of draws: what methods are compared at."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import UserError
from tfgradgen.core.config import Schedule
from tfgradgen.core.contracts import Chunk, Cost, Draws, ProgressFn

# What breaks off one of many runs; the others go on.
CELL_ERRORS = (UserError, ValueError, FloatingPointError, MemoryError, tf.errors.OpError)


class Trail(NamedTuple):
    """Where chains have been.

    draws: of all transitions, those of the burn-in among them. cost: [num_transitions, 2], gradients and forward passes that
    one chain had taken after each. num_burnin: how many of them are burn-in.
    """

    draws: Draws
    cost: np.ndarray
    num_burnin: int

    @property
    def work(self) -> np.ndarray:
        """[num_transitions], of one chain, forward passes counted in gradients."""
        return np.asarray([Cost(*row).work for row in self.cost])

    def kept(self, last: int) -> Draws:
        """The draws after the burn-in, up to the transition `last`."""
        return Draws(*(column[self.num_burnin : last] for column in self.draws))


def without_end(schedule: Schedule, num_gradients: float) -> Schedule:
    """`schedule` with more draws than `num_gradients` pay for, which then end the run."""
    return Schedule(int(10 * num_gradients), schedule.num_burnin_steps, schedule.num_adaptation_steps)


def trail_of(
    chunks: Iterable[Chunk], start_cost: Cost, num_chains: int, num_gradients: float, progress_fn: ProgressFn
) -> Trail:
    """What `chunks` give until a chain has taken `num_gradients`, and a little further.

    Args:
      chunks: of a run of `num_chains` from its start, with its discarded draws, and at least one of them. start_cost: of a
        chain before its first transition.
    """
    before = np.asarray(start_cost, float)
    parts, costs, num_burnin = [], [], 0
    for chunk in chunks:
        rows = chunk.draws if chunk.discarded is None else chunk.discarded
        spent, count = np.asarray(chunk.cost) / num_chains, len(rows.z)
        # What one step of a chunk took is known of the chunk only.
        costs.append(before + (spent - before) * np.arange(1, count + 1)[:, None] / count)
        parts.append(rows)
        num_burnin += 0 if chunk.discarded is None else count
        before, work = spent, Cost(*spent).work
        done, total = min(int(work), int(num_gradients)), int(num_gradients)
        progress_fn(chunk.progress._replace(num_done=done, num_total=total))
        if work >= num_gradients:
            break
    return Trail(Draws(*map(np.concatenate, zip(*parts, strict=True))), np.concatenate(costs), num_burnin)
