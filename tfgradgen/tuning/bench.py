"""Runs a schedule for a label with a seed, and says what its draws are worth."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Draws, ProgressFn, accept_prob
from tfgradgen.diagnostics.convergence import scalars, statistics
from tfgradgen.diagnostics.issues import MAX_ACCEPT_GAP, chain_table, faults, off_target
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.budget import trail_of, without_end
from tfgradgen.mcmc.chains import chain_chunks
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.space import MIN_KEPT

# The seeds that schedules are chosen by, those that the choice is judged by, and those of the exact draws.
SEARCH, FRESH, EXACT = 0, 1, 2
LEAST_DRAWS = 1.0  # what any run is worth
TRACE_POINTS = 80
_FIGURES = ("per_1000", "work", "num_results", "accept_rate", "accept_error", "step_size", "seconds")
_TRACE = ("gradients", "step_size", "accept_rate")


class Place(NamedTuple):
    """Where schedules are compared: label, its name; stream, `SEARCH` or `FRESH`; replicate, 0, 1, ... Chains of all schedules
    start alike there, and draw from the same seed."""

    label: str
    stream: int
    replicate: int


class Cell(NamedTuple):
    """What a schedule did at a place, JSON-able.

    per_1000: effective draws of 1000 gradients, those of burn-in and adaptation among them, by the statistic `worst` that has
    fewest (bulk effective sample size of all chains; Vehtari et al. 2021). work: gradients a chain. num_results: kept draws
    of a chain. accept_rate, step_size: of the kept draws, the mean, and the one of all chains; accept_error: standard error
    of the former, over chains. rhat: the largest, None where there is none. faults: what speaks against the run whatever its
    length, but for its acceptance (see `faults_of`). seconds: with compiling. trace: gradients, step_size and accept_rate
    along the run, acceptance as means over chains, at most TRACE_POINTS of each. chain_means: by statistic, of each chain's
    kept draws.
    """

    per_1000: float
    worst: str
    work: float
    num_results: int
    accept_rate: float
    accept_error: float
    step_size: float
    rhat: float | None
    faults: list[str]
    seconds: float
    trace: dict[str, list[float]]
    chain_means: dict[str, list[float]]


def cell_of(values: Any) -> Cell:
    """The cell that a study holds.

    Raises:
      AttributeError, TypeError, ValueError: it is none.
    """
    cell = Cell(**values)
    figures = [getattr(cell, name) for name in _FIGURES] + ([] if cell.rhat is None else [cell.rhat])
    traces = [cell.trace[name] for name in _TRACE]
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in figures) or len({*map(len, traces)}) != 1:
        raise ValueError("a run whose figures are none")
    if not all(isinstance(each, int | float) for each in itertools.chain.from_iterable(traces)):
        raise TypeError("a run whose traces are none")
    if not all(isinstance(mean, int | float) for means in cell.chain_means.values() for mean in means):
        raise TypeError("a run whose means are none")
    if min(cell.per_1000, cell.work, cell.num_results) < 0 or not isinstance(cell.num_results, int):
        raise ValueError("a run whose figures are out of their range")
    is_list = isinstance(cell.faults, list) and all(isinstance(fault, str) for fault in cell.faults)
    if not isinstance(cell.worst, str) or not is_list:
        raise TypeError("a run whose faults are no text")
    return cell


def failed(reason: str, work: float = 0.0) -> Cell:
    """The cell of a run that broke off."""
    nothing: dict[str, list[float]] = {"gradients": [], "step_size": [], "accept_rate": []}
    return Cell(0.0, "", work, 0, 0.0, 0.0, 0.0, None, [reason], 0.0, nothing, {})


def faults_of(recipe: Recipe, cells: Sequence[Cell]) -> list[str]:
    """What speaks against `recipe` after these runs of it, each once.

    Whether acceptance meets the target that it was tuned for is asked of the mean over runs, and it is out only beyond two
    standard errors of that: of the few chains of one run it is mostly luck, and each further run would be one more chance to
    be out.
    """
    found = list(dict.fromkeys(fault for cell in cells for fault in cell.faults))
    if not cells or found:
        return found
    target = recipe.config.to_dict()["target_accept_prob"] if recipe.schedule.num_adaptation_steps else None
    rate, error = (float(np.mean([getattr(cell, name) for cell in cells])) for name in ("accept_rate", "accept_error"))
    if target is None or abs(rate - target) < MAX_ACCEPT_GAP + 2 * error / np.sqrt(len(cells)):
        return []
    return list(off_target(rate, target))


class Bench:
    """The posteriors that schedules are tried on.

    Args:
      posteriors: by label name. run: its seed is that of the whole search. num_gradients: what each chain of a run takes after
        its start. All schedules take the same: the chains' starts are effective draws too, and whose runs were short of
        gradients would have them cheaper.
    """

    def __init__(self, posteriors: Mapping[str, ClassPosterior], run: RunConfig, num_gradients: float):
        self.posteriors, self.run, self.num_gradients = dict(posteriors), run, num_gradients
        self._starts: dict[tuple[Place, tuple[float, ...]], Any] = {}

    @property
    def labels(self) -> list[str]:
        return list(self.posteriors)

    def check(self) -> dict[str, list[str]]:
        """What the checks of the models found, by label, a line each; raises `UserError` where a run would go wrong."""
        return {name: admit(posterior, self.run, True).doubts for name, posterior in self.posteriors.items()}

    def places(self, stream: int, num_replicates: int) -> list[Place]:
        """All labels of the first replicate, then of the next."""
        return [Place(label, stream, k) for k in range(num_replicates) for label in self.labels]

    def seed_at(self, place: Place) -> int:
        """Of a run there, the same for all labels: each draws from a stream of its own (`ClassPosterior.own_seed`)."""
        return seed_of(self.run.seed, place.stream, place.replicate)

    def measure(self, recipe: Recipe, place: Place, progress_fn: ProgressFn) -> Cell:
        """Runs `recipe` at `place` with as many draws as the gradients pay for. The choice of start points, which all schedules
        share, is in no figure.

        Raises:
          UserError: they pay for fewer than `MIN_KEPT` draws.
        """
        start = time.monotonic()
        posterior = self.posteriors[place.label]
        run = replace(self.run, seed=self.seed_at(place))
        powers = tuple(kernel_sampler(recipe.kernel).powers(recipe.config))
        if (place, powers) not in self._starts:
            self._starts[place, powers] = choose_starts(posterior, run, powers).z
        schedule = without_end(recipe.schedule, self.num_gradients)
        chunks = chain_chunks(posterior, recipe.kernel, recipe.config, schedule, run, self._starts[place, powers])
        start_cost = kernel_sampler(recipe.kernel).start_cost(recipe.config)
        most = self.num_gradients + start_cost.work
        trail = trail_of(chunks, start_cost, run.num_chains, most, progress_fn)
        last = int(np.searchsorted(trail.work, most + 0.5))
        draws = trail.kept(last)
        if len(draws.z) < MIN_KEPT:
            what = f"{MIN_KEPT} draws after the burn-in from {self.num_gradients:.0f} gradients"
            raise fail("num_gradients", what, len(draws.z), "raise it, or shorten the burn-in")
        whole = Draws(*(column[:last] for column in trail.draws))
        return self._judged(draws, whole, trail.work[:last], time.monotonic() - start)

    def _judged(self, draws: Draws, whole: Draws, work: np.ndarray, seconds: float) -> Cell:
        found = statistics(draws)
        sizes = {name: convergence.ess_bulk for name, convergence in found.items()}
        worst = min(sizes, key=lambda name: sizes[name] or 0.0)
        wrong = faults(chain_table(draws), len(draws.z))
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
            faults=wrong,
            seconds=round(seconds, 3),
            trace=_trace(whole, work),
            chain_means={name: column.mean(0, dtype=np.float64).tolist() for name, column in scalars(draws).items()},
        )


def _median(step_size: np.ndarray) -> list[float]:
    """Over the chains that have a step size, [num_draws] of [num_draws, num_chains]; 0 where none has."""
    return [float(np.median(row[np.isfinite(row)])) if np.isfinite(row).any() else 0.0 for row in step_size]


def _trace(whole: Draws, work: np.ndarray) -> dict[str, list[float]]:
    edges = np.unique(np.linspace(0, len(work), min(TRACE_POINTS, len(work)) + 1).astype(int))
    accept = accept_prob(whole).mean(1)
    return {
        "gradients": work[edges[1:] - 1].tolist(),
        "step_size": _median(whole.step_size[edges[1:] - 1]),
        "accept_rate": [float(accept[a:b].mean()) for a, b in pairwise(edges)],
    }
