"""Chains that run for a number of gradients instead of a number of draws, so that samplers can be compared at equal cost."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import UserError
from tfgradgen.core.config import Schedule
from tfgradgen.core.contracts import Chunk, Cost, Draws, ProgressFn

# Errors that end one of many runs; the other runs continue.
CELL_ERRORS = (UserError, ValueError, FloatingPointError, MemoryError, tf.errors.OpError)


class BudgetedTrace(NamedTuple):
    """The trace of a run, burn-in included.

    Attributes:
      draws: The draws of all transitions, including those of the burn-in.
      cost: [num_transitions, 2], gradients and forward passes of one chain up to and including each transition.
      num_burnin: Number of burn-in transitions.
    """

    draws: Draws
    cost: np.ndarray
    num_burnin: int

    @property
    def work(self) -> np.ndarray:
        """[num_transitions], work of one chain so far, with forward passes converted to gradients."""
        return np.asarray([Cost(*row).work for row in self.cost])

    def kept(self, last: int) -> Draws:
        """Return the draws after the burn-in, up to the transition `last` (exclusive)."""
        return Draws(*(column[self.num_burnin : last] for column in self.draws))


class OpenSchedule(Schedule):
    """A schedule of more draws than the budget allows."""

    is_open = True


def unbounded(schedule: Schedule, num_gradients: float) -> OpenSchedule:
    """Return a schedule long enough that `num_gradients`, not `num_results`, ends the run."""
    return OpenSchedule(int(10 * num_gradients), schedule.num_burnin_steps, schedule.num_adaptation_steps)


def run_until_budget(
    chunks: Iterable[Chunk], start_cost: Cost, num_chains: int, num_gradients: float, progress_fn: ProgressFn
) -> BudgetedTrace:
    """Consume `chunks` until a chain has spent `num_gradients`; this overshoots by at most one chunk.

    Args:
      chunks: At least one chunk of a run of `num_chains` chains from its start, with its discarded draws.
      start_cost: Cost of one chain before its first transition.
      num_chains: Number of chains.
      num_gradients: The budget of one chain, in gradients.
      progress_fn: Called with a `Progress` in gradients after each chunk.
    """
    before = np.asarray(start_cost, float)
    parts, costs, num_burnin = [], [], 0
    for chunk in chunks:
        rows = chunk.draws if chunk.discarded is None else chunk.discarded
        spent, count = np.asarray(chunk.cost) / num_chains, len(rows.z)
        # Only the cost of a whole chunk is known: divide it equally among its transitions.
        costs.append(before + (spent - before) * np.arange(1, count + 1)[:, None] / count)
        parts.append(rows)
        num_burnin += 0 if chunk.discarded is None else count
        before, work = spent, Cost(*spent).work
        done, total = min(int(work), int(num_gradients)), int(num_gradients)
        progress_fn(chunk.progress._replace(num_done=done, num_total=total))
        if work >= num_gradients:
            break
    return BudgetedTrace(Draws(*map(np.concatenate, zip(*parts, strict=True))), np.concatenate(costs), num_burnin)
