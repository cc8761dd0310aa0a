"""Runs of a schedule for a label and a seed, and their effective sample sizes."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom

from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Draws, ProgressFn, accept_prob
from tfgradgen.diagnostics.convergence import scalars, statistics
from tfgradgen.diagnostics.issues import MAX_ACCEPT_GAP, MAX_ENERGY_ERROR, chain_table, off_target, proven_problems
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.budget import run_until_budget, unbounded
from tfgradgen.mcmc.chains import chain_chunks
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.space import MIN_KEPT

# Streams of seeds: for choosing schedules, for validating the choice, and for exact draws.
SEARCH, FRESH, EXACT = 0, 1, 2
LEAST_DRAWS = 1.0  # lower bound of the ESS of a run
TRACE_POINTS = 80
MAX_DIVERGENT_SHARE = 1e-3  # of the transitions of a schedule's runs
DIVERGENT_CHANCE = 0.01  # significance of a larger share
_COUNTS = ("num_results", "num_divergent", "num_transitions")
_FIGURES = ("per_1000", "work", "accept_rate", "accept_error", "step_size", "seconds", *_COUNTS)
OLD_FIELDS = {"faults": "issues"}  # of `Cell`, in studies of older versions
_TRACE = ("gradients", "step_size", "accept_rate")


class Problem(NamedTuple):
    """A problem on which schedules are compared. All schedules have the same starts and the same seed on it.

    Attributes:
      label: Name of the label.
      stream: `SEARCH` or `FRESH`.
      replicate: 0, 1, ...
    """

    label: str
    stream: int
    replicate: int


class Cell(NamedTuple):
    """The result of a schedule on a problem, JSON-serializable.

    Attributes:
      per_1000: ESS per 1000 gradients, those of burn-in and adaptation included, of the statistic `worst` (bulk ESS of all
        chains; Vehtari et al. 2021).
      worst: The statistic with the smallest ESS.
      work: Gradients per chain.
      num_results: Kept draws per chain.
      accept_rate: Mean acceptance probability of the kept draws.
      accept_error: Its standard error over chains.
      step_size: Step size of the kept draws, shared by all chains.
      rhat: Largest R-hat; None if undefined.
      issues: Problems that this run alone proves, and that do not depend on its length (see `issues_of`).
      seconds: Seconds, including compilation.
      trace: gradients, step_size and accept_rate (mean over chains) along the run, with at most TRACE_POINTS values each.
      chain_means: By statistic, the mean of each chain's kept draws.
      num_divergent: Divergent ones among the transitions to the kept draws. Older studies have them in `issues`.
      num_transitions: Transitions to the kept draws, of all chains.
    """

    per_1000: float
    worst: str
    work: float
    num_results: int
    accept_rate: float
    accept_error: float
    step_size: float
    rhat: float | None
    issues: list[str]
    seconds: float
    trace: dict[str, list[float]]
    chain_means: dict[str, list[float]]
    num_divergent: int = 0
    num_transitions: int = 0


def cell_of(values: Any) -> Cell:
    """Return a cell from a study.

    Raises:
      AttributeError, TypeError, ValueError: The values are invalid.
    """
    cell = Cell(**{OLD_FIELDS.get(name, name): value for name, value in values.items()})
    figures = [getattr(cell, name) for name in _FIGURES] + ([] if cell.rhat is None else [cell.rhat])
    traces = [cell.trace[name] for name in _TRACE]
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in figures) or len({*map(len, traces)}) != 1:
        raise ValueError("a run with invalid numbers")
    if not all(isinstance(each, int | float) for each in itertools.chain.from_iterable(traces)):
        raise TypeError("a run with invalid traces")
    if not all(isinstance(mean, int | float) for means in cell.chain_means.values() for mean in means):
        raise TypeError("a run with invalid means")
    counts = [getattr(cell, name) for name in _COUNTS]
    if min(cell.per_1000, cell.work, *counts) < 0 or not all(isinstance(count, int) for count in counts):
        raise ValueError("a run with numbers out of range")
    is_list = isinstance(cell.issues, list) and all(isinstance(issue, str) for issue in cell.issues)
    if not isinstance(cell.worst, str) or not is_list:
        raise TypeError("a run with issues that are not text")
    return cell


def failed(reason: str, work: float = 0.0) -> Cell:
    """Return the cell of a run that failed."""
    nothing: dict[str, list[float]] = {"gradients": [], "step_size": [], "accept_rate": []}
    return Cell(0.0, "", work, 0, 0.0, 0.0, 0.0, None, [reason], 0.0, nothing, {})


def issues_of(recipe: Recipe, cells: Sequence[Cell]) -> list[str]:
    """Return the distinct issues of `recipe` in these runs.

    Acceptance and divergences are judged over all runs: in one run of few chains they are mostly noise, and with a check per
    run each further run would be another chance of elimination. The mean acceptance may differ from its target by two standard
    errors more than `MAX_ACCEPT_GAP`.
    """
    found = list(dict.fromkeys(issue for cell in cells for issue in cell.issues))
    if not cells or found:
        return found
    found += often_diverged(cells)
    target = recipe.config.to_dict()["target_accept_prob"] if recipe.schedule.num_adaptation_steps else None
    rate, error = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("accept_rate", "accept_error"))
    if target is None or abs(rate - target) < MAX_ACCEPT_GAP + 2 * error / np.sqrt(len(cells)):
        return found
    return [*found, *off_target(rate, target)]


def often_diverged(cells: Sequence[Cell]) -> list[str]:
    """Return an issue if significantly more than `MAX_DIVERGENT_SHARE` of the transitions diverged, by a binomial test.

    A divergent proposal is rejected, so the chain stays exact. Many of them show a region that chains cannot enter. A
    single one must not decide: the longer the runs, the more schedules have one.
    """
    num_divergent, num_transitions = (sum(getattr(cell, name) for cell in cells) for name in _COUNTS[1:])
    if binom.sf(num_divergent - 1, num_transitions, MAX_DIVERGENT_SHARE) >= DIVERGENT_CHANCE:
        return []
    found = f"{num_divergent} of {num_transitions} transitions diverged, energy error above {MAX_ENERGY_ERROR:.0f} nats"
    return [f"{found}: significantly more than 1 in {1 / MAX_DIVERGENT_SHARE:.0f}"]


class Objective:
    """What a search maximizes: the effective sample size of a schedule on posteriors.

    Args:
      posteriors: Posteriors by name of the label.
      run: Settings of all runs, with the seed of the whole search.
      num_gradients: Gradients of each chain of a run after its start, the same for all schedules. The starts count as effective
        draws too, so shorter runs would have an advantage.
    """

    def __init__(self, posteriors: Mapping[str, ClassPosterior], run: RunConfig, num_gradients: float):
        self.posteriors, self.run, self.num_gradients = dict(posteriors), run, num_gradients
        self._starts: dict[tuple[Problem, tuple[float, ...]], Any] = {}

    @property
    def labels(self) -> list[str]:
        return list(self.posteriors)

    def check(self) -> dict[str, list[str]]:
        """Return the warnings from the checks of the models by label; raise `UserError` if they cannot be sampled."""
        return {name: admit(posterior, self.run, True).warnings for name, posterior in self.posteriors.items()}

    def problems(self, stream: int, num_replicates: int) -> list[Problem]:
        """Return all labels of the first replicate, then of the next ones."""
        return [Problem(label, stream, k) for k in range(num_replicates) for label in self.labels]

    def seed_at(self, problem: Problem) -> int:
        """Return the seed of a run. It is the same for all labels, which have separate streams (`ClassPosterior.own_seed`)."""
        return seed_of(self.run.seed, problem.stream, problem.replicate)

    def expect(self, runs: Sequence[tuple[Recipe, Problem]]) -> None:
        """Prepare for `measure` of these runs, none of which depends on another. Here nothing is done."""

    def measure(self, recipe: Recipe, problem: Problem, progress_fn: ProgressFn) -> Cell:
        """Run `recipe` at `problem` with as many draws as the gradients allow.

        The cost of the starts, which all schedules share, is not counted.

        Raises:
          UserError: The gradients allow fewer than `MIN_KEPT` draws.
        """
        start = time.monotonic()
        posterior = self.posteriors[problem.label]
        run = replace(self.run, seed=self.seed_at(problem))
        powers = tuple(kernel_sampler(recipe.kernel).powers(recipe.config))
        if (problem, powers) not in self._starts:
            self._starts[problem, powers] = choose_starts(posterior, run, powers).z
        schedule = unbounded(recipe.schedule, self.num_gradients)
        chunks = chain_chunks(posterior, recipe.kernel, recipe.config, schedule, run, self._starts[problem, powers])
        start_cost = kernel_sampler(recipe.kernel).start_cost(recipe.config)
        most = self.num_gradients + start_cost.work
        trace = run_until_budget(chunks, start_cost, run.num_chains, most, progress_fn)
        last = int(np.searchsorted(trace.work, most + 0.5))
        draws = trace.kept(last)
        if len(draws.z) < MIN_KEPT:
            expected = f"enough gradients for {MIN_KEPT} draws after the burn-in"
            got = f"{self.num_gradients:.0f}, enough for {len(draws.z)}"
            raise fail("num_gradients", expected, got, "raise it, or shorten the burn-in")
        whole = Draws(*(column[:last] for column in trace.draws))
        return self._cell(draws, whole, trace.work[:last], time.monotonic() - start)

    def _cell(self, draws: Draws, whole: Draws, work: np.ndarray, seconds: float) -> Cell:
        found = statistics(draws)
        sizes = {name: convergence.ess_bulk for name, convergence in found.items()}
        worst = min(sizes, key=lambda name: sizes[name] or 0.0)
        chains = chain_table(draws)
        wrong = proven_problems(chains, len(draws.z))
        if sizes[worst] is None:
            wrong.append(f"the effective sample size of {worst} is unknown: it is constant or not finite")
        rhats = [c.rhat for c in found.values() if c.rhat is not None]
        return Cell(
            per_1000=1000 * max(sizes[worst] or 0.0, LEAST_DRAWS) / (float(work[-1]) * self.run.num_chains),
            worst=worst,
            work=float(work[-1]),
            num_results=len(draws.z),
            accept_rate=float(accept_prob(draws).mean()),
            accept_error=float(accept_prob(draws).mean(0).std(ddof=1) / np.sqrt(self.run.num_chains)),
            step_size=_median(draws.step_size[-1:])[0],
            rhat=max(rhats, default=None),
            issues=wrong,
            seconds=round(seconds, 3),
            trace=_trace(whole, work),
            chain_means={name: column.mean(0, dtype=np.float64).tolist() for name, column in scalars(draws).items()},
            num_divergent=sum(chains["num_divergent"]),
            num_transitions=draws.class_prob.size,
        )


def _median(step_size: np.ndarray) -> list[float]:
    """Return the median over chains with a step size, [num_draws] of [num_draws, num_chains]; 0 if no chain has one."""
    return [float(np.median(row[np.isfinite(row)])) if np.isfinite(row).any() else 0.0 for row in step_size]


def _trace(whole: Draws, work: np.ndarray) -> dict[str, list[float]]:
    edges = np.unique(np.linspace(0, len(work), min(TRACE_POINTS, len(work)) + 1).astype(int))
    accept = accept_prob(whole).mean(1)
    return {
        "gradients": work[edges[1:] - 1].tolist(),
        "step_size": _median(whole.step_size[edges[1:] - 1]),
        "accept_rate": [float(accept[a:b].mean()) for a, b in pairwise(edges)],
    }
