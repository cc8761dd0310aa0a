"""Test of a schedule for bias: the means of its draws are compared with those of exact draws.

The objective of a search does not detect bias: a kernel that samples from a wrong distribution can have a high ESS. Rejection
from the prior gives exact draws if the class is not too rare. A schedule whose means differ significantly is refused.
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
from tfgradgen.tuning.objective import Cell, Problem

NUM_EXACT, LEAST_EXACT = 256, 64  # exact draws of a label: the number wanted, and the smallest useful number
MOST_FORWARD = 60_000  # most prior draws for these
LEVEL = 0.01  # probability that any unbiased schedule of a search is refused


class Exact(NamedTuple):
    """Exact draws of a label, JSON-serializable.

    Attributes:
      num_draws: Number of draws; 0 if they are too expensive.
      means: Mean of each statistic.
      errors: Standard errors of the means.
    """

    num_draws: int
    means: dict[str, float]
    errors: dict[str, float]


def exact_from(values: Any) -> Exact:
    """Return exact draws from a study.

    Raises:
      AttributeError, TypeError, ValueError: The values are invalid.
    """
    exact = Exact(**values)
    figures = [exact.num_draws, *exact.means.values(), *exact.errors.values()]
    if (
        not all(isinstance(each, int | float) and math.isfinite(each) for each in figures)
        or exact.means.keys() != exact.errors.keys()
    ):
        raise ValueError("exact draws with invalid numbers")
    return exact


def exact_of(posterior: ClassPosterior, run: RunConfig) -> Exact:
    """Draw `NUM_EXACT` exact draws, or as many as `MOST_FORWARD` prior draws give.

    The result is empty for fewer than `LEAST_EXACT`, and for a target with a discriminator, from which rejection cannot sample.
    """
    if posterior.has_energy:
        return Exact(0, {}, {})
    parts = []
    try:
        for chunk in exact_chunks(posterior, NUM_EXACT, replace(run, num_chains=1)):
            parts.append(chunk.draws)
            if chunk.cost.num_forward >= MOST_FORWARD:
                break
    except UserError:  # no draw was accepted
        return Exact(0, {}, {})
    draws = Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    num_draws = len(draws.z)
    if num_draws < LEAST_EXACT:
        return Exact(0, {}, {})
    values = {name: column[:, 0].astype(np.float64) for name, column in scalars(draws).items()}
    means = {name: float(column.mean()) for name, column in values.items()}
    return Exact(num_draws, means, {name: float(column.std(ddof=1) / np.sqrt(num_draws)) for name, column in values.items()})


class Difference(NamedTuple):
    """The difference between a mean over chains and that of exact draws.

    Attributes:
      label: Name of the label.
      statistic: Name of the statistic.
      mean: Mean over chains.
      error: Its standard error, from the spread of the chains.
      exact: Mean of the exact draws.
      exact_error: Its standard error.
      num_draws: Number of exact draws.
      chance: p-value of the difference.
    """

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


def differences(problems: Sequence[Problem], cells: Sequence[Cell], exact: Mapping[str, Exact]) -> list[Difference]:
    """Return the differences of all statistics for all labels with exact draws, smallest p-value first."""
    found = []
    for label, truth in exact.items():
        chains = [cell.chain_means for problem, cell in zip(problems, cells, strict=True) if problem.label == label]
        for name, right in truth.means.items():
            values = np.array([mean for means in chains for mean in means.get(name, [])])
            if len(values) < 2 or not np.isfinite(values).all() or values.std() == 0:
                continue
            error, right_error = float(values.std(ddof=1) / np.sqrt(len(values))), truth.errors[name]
            # Welch's test with the degrees of freedom of the smaller sample. With few chains, the estimated ones are too large.
            freedom = min(len(values), truth.num_draws) - 1
            mean = float(values.mean())
            chance = 2 * float(student.sf(abs(mean - right) / np.hypot(error, right_error), freedom))
            found.append(Difference(label, name, mean, error, right, right_error, truth.num_draws, chance))
    return sorted(found, key=lambda difference: difference.chance)


def bias_issues(found: Sequence[Difference], num_schedules: int) -> list[str]:
    """Return the most significant difference of a schedule as an issue, if it is significant.

    `LEVEL` is the significance level over all differences of `num_schedules` schedules together (Bonferroni).
    """
    if not found or found[0].chance * len(found) * num_schedules >= LEVEL:
        return []
    return [f"its draws are not from the posterior: {found[0]}"]


def guard_lines(found: Sequence[Difference], exact: Mapping[str, Exact]) -> list[str]:
    """Return sentences for the report: the largest difference, and the labels that could not be checked."""
    lines = []
    checked = [label for label, truth in exact.items() if truth.num_draws]
    if checked and found:
        lines.append(
            f"Means of {len({each.statistic for each in found})} statistics were compared with exact draws of "
            f"{', '.join(checked)}. The most significant difference: {found[0]} "
            f"(p {min(1.0, found[0].chance * len(found)):.2g} over {len(found)} comparisons)."
        )
    missing = [label for label in exact if label not in checked]
    if missing:
        lines.append(
            f"Means were not compared with exact draws of {', '.join(missing)}: rejection accepts fewer than {LEAST_EXACT} of "
            f"{MOST_FORWARD} prior draws. A bias would not be detected."
        )
    return lines
