"""Whether the draws of a schedule are of the posterior: their means against those of exact draws.

What a search maximizes is blind to bias: a kernel that samples another distribution can do so at a high rate. Rejection from
the prior gives exact draws, where a class is not too rare; a schedule whose means differ from theirs beyond chance is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.convergence import scalars
from tfgradgen.mcmc.rejection import exact_chunks
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.bench import Cell, Place

NUM_EXACT, LEAST_EXACT = 256, 64  # exact draws of a label: wanted, and fewer than which tell nothing
MOST_FORWARD = 20_000  # prior draws for those
LEVEL = 0.01  # chance that any sound schedule of a search is refused


class Exact(NamedTuple):
    """Exact draws of a label, JSON-able. num_draws: 0 where they were too dear. means, errors: by statistic, and the standard
    errors of the means."""

    num_draws: int
    means: dict[str, float]
    errors: dict[str, float]


def exact_from(values: Any) -> Exact:
    """The exact draws that a study holds.

    Raises:
      AttributeError, TypeError, ValueError: they are none.
    """
    exact = Exact(**values)
    figures = [exact.num_draws, *exact.means.values(), *exact.errors.values()]
    if (
        not all(isinstance(each, int | float) and math.isfinite(each) for each in figures)
        or exact.means.keys() != exact.errors.keys()
    ):
        raise ValueError("exact draws whose figures are none")
    return exact


def exact_of(posterior: ClassPosterior, run: RunConfig) -> Exact:
    """`NUM_EXACT` draws, or as many as `MOST_FORWARD` prior draws give; none where those are fewer than `LEAST_EXACT`, or where
    a discriminator is in the target, which rejection cannot take."""
    if posterior.has_energy:
        return Exact(0, {}, {})
    parts = []
    try:
        for chunk in exact_chunks(posterior, NUM_EXACT, replace(run, num_chains=1)):
            parts.append(chunk.draws)
            if chunk.cost.num_forward >= MOST_FORWARD:
                break
    except UserError:  # nothing was accepted at all
        return Exact(0, {}, {})
    draws = Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    num_draws = len(draws.z)
    if num_draws < LEAST_EXACT:
        return Exact(0, {}, {})
    values = {name: column[:, 0].astype(np.float64) for name, column in scalars(draws).items()}
    means = {name: float(column.mean()) for name, column in values.items()}
    return Exact(num_draws, means, {name: float(column.std(ddof=1) / np.sqrt(num_draws)) for name, column in values.items()})


class Difference(NamedTuple):
    """Of a mean over chains from exact draws. label, statistic: of what. mean, error: of the chains, whose spread is the error;
    exact, exact_error: of the exact draws. num_draws: how many those are. chance: of a difference as large without a bias."""

    label: str
    statistic: str
    mean: float
    error: float
    exact: float
    exact_error: float
    num_draws: int
    chance: float

    @property
    def num_errors(self) -> float:
        return abs(self.mean - self.exact) / float(np.hypot(self.error, self.exact_error))

    def __str__(self) -> str:
        return (
            f"the mean {self.statistic} of {self.label} is {self.mean:.3g} +- {self.error:.2g}, {self.num_errors:.1f} standard "
            f"errors from {self.exact:.3g} +- {self.exact_error:.2g} of {self.num_draws} exact draws"
        )


def differences(places: Sequence[Place], cells: Sequence[Cell], exact: Mapping[str, Exact]) -> list[Difference]:
    """Of every label that has exact draws and every statistic, the least likely first."""
    found = []
    for label, truth in exact.items():
        chains = [cell.chain_means for place, cell in zip(places, cells, strict=True) if place.label == label]
        for name, right in truth.means.items():
            values = np.array([mean for means in chains for mean in means.get(name, [])])
            if len(values) < 2 or not np.isfinite(values).all() or values.std() == 0:
                continue
            error, right_error = float(values.std(ddof=1) / np.sqrt(len(values))), truth.errors[name]
            # Welch's test, but with the freedom of the smaller sample: its estimated one, of few chains, refuses too often.
            freedom = min(len(values), truth.num_draws) - 1
            mean = float(values.mean())
            chance = 2 * float(student.sf(abs(mean - right) / np.hypot(error, right_error), freedom))
            found.append(Difference(label, name, mean, error, right, right_error, truth.num_draws, chance))
    return sorted(found, key=lambda difference: difference.chance)


def bias_faults(found: Sequence[Difference], num_schedules: int) -> list[str]:
    """The largest of the `differences` of one of `num_schedules` schedules, as a fault, where it is beyond chance: for any of
    them, with a chance of `LEVEL` in all (Bonferroni)."""
    if not found or found[0].chance * len(found) * num_schedules >= LEVEL:
        return []
    return [f"its draws are not of the posterior: {found[0]}"]


def said(found: Sequence[Difference], exact: Mapping[str, Exact]) -> list[str]:
    """What the guard saw of one schedule, and which labels it could not check, for the report."""
    lines = []
    checked = [label for label, truth in exact.items() if truth.num_draws]
    if checked and found:
        lines.append(
            f"Means of {len({each.statistic for each in found})} statistics were compared with exact draws of "
            f"{', '.join(checked)}. The largest difference: {found[0]} (such a one in {len(found)} has a chance of "
            f"{min(1.0, found[0].chance * len(found)):.2g})."
        )
    missing = [label for label in exact if label not in checked]
    if missing:
        lines.append(
            f"Means were not compared with exact draws of {', '.join(missing)}: rejection gives fewer than {LEAST_EXACT} of "
            f"{MOST_FORWARD} prior draws. A bias there would not be seen."
        )
    return lines
