"""Sampling for a comparison: data of each label shared by all methods, and each method's states at each gradient budget."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tfgradgen.core.backend import Stream, fold_in, seed_of
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Cost, Draws, ProgressFn, Regularization, accept_prob, collect
from tfgradgen.diagnostics.convergence import MIN_RESULTS
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.evaluation.efficiency import ess_per_1000
from tfgradgen.evaluation.method_specs import MethodSpec
from tfgradgen.evaluation.report.catalogue import Value
from tfgradgen.mcmc.budget import BudgetedTrace, run_until_budget, unbounded
from tfgradgen.mcmc.chains import chain_chunks
from tfgradgen.mcmc.hvi import HviConfig
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.rejection import class_moments, exact_chunks
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior

NUM_TRUTH = 64  # smallest number of exact draws of a label that methods are compared with
TRUTH_SEED = 3  # of the pool of exact draws, together with the seed of the run
EXPECTED_STAGES = 5  # temperatures of smc; each halves the ESS, so a class with prior probability 3 % takes five
MIN_PARTICLES = 2
MAX_TRIALS = 6  # attempts to find the number of particles for a budget


class LabelReference(NamedTuple):
    """The data of one label that all methods share, as NumPy arrays.

    If the class is too rare for rejection, exact_z, truth_z, mean and scale have no rows.

    Attributes:
      init_z: [num_chains, latent_dim], the starts of all chains.
      prior_z: [num_chains, latent_dim], plain prior draws.
      exact_z: [num_chains, latent_dim], exact draws (the row of rejection).
      truth_z: [NUM_TRUTH or more, latent_dim], further exact draws, with which all rows are compared.
      mean: [latent_dim], mean of other exact draws of the class (`class_moments`).
      scale: [latent_dim], their standard deviation.
      num_drawn: Prior draws that rejection took.
      num_accepted: Those that it accepted.
    """

    init_z: np.ndarray
    prior_z: np.ndarray
    exact_z: np.ndarray
    truth_z: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    num_drawn: np.ndarray
    num_accepted: np.ndarray


class Cell(NamedTuple):
    """The states of one method for one label, as NumPy arrays.

    Attributes:
      z: [num_checkpoints, num_chains, latent_dim], the state of each chain at each checkpoint; NaN if the method needs more
        gradients than that.
      num_gradients: [num_checkpoints], mean number of gradients of a chain after the start.
      num_forward: [num_checkpoints], mean number of forward passes of a chain after the start.
      ess: [2], ESS per 1000 gradients and its standard error over chains; NaN for a method that does not sample.
      accept_rate: Acceptance rate of the kept draws; NaN for a method without one.
    """

    z: np.ndarray
    num_gradients: np.ndarray
    num_forward: np.ndarray
    ess: np.ndarray
    accept_rate: np.ndarray


def is_label_reference(reference: LabelReference, num_chains: int, latent_dim: int) -> bool:
    """Return whether arrays from a file have the dtypes and shapes for `num_chains` and `latent_dim`."""
    points, row, scalars = (num_chains, latent_dim), (latent_dim,), ((), ())
    is_rare = not len(np.atleast_1d(reference.exact_z))
    none = (0, latent_dim)
    found = (none, none, none, none) if is_rare else (points, (*reference.truth_z.shape[:1], latent_dim), row, row)
    return _are(reference, (points, points, *found, *scalars)) and bool(
        is_rare or 0 < reference.num_accepted <= reference.num_drawn
    )


def is_cell(cell: Cell, num_checkpoints: int, num_chains: int, latent_dim: int) -> bool:
    """Return whether arrays from a file have the dtypes and shapes for these numbers of checkpoints and chains."""
    each = (num_checkpoints,)
    return _are(cell, ((num_checkpoints, num_chains, latent_dim), each, each, (2,), ()))


def _are(arrays: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]) -> bool:
    return all(a.dtype.kind in "fiu" and a.shape == shape for a, shape in zip(arrays, shapes, strict=True))


def checkpoints_up_to(num_gradients: int) -> list[int]:
    """Return 10, 30, 100, 300, ... below `num_gradients`, and `num_gradients`."""
    steps = [step * 10**power for power in range(1, 8) for step in (1, 3)]
    return [step for step in steps if step < num_gradients] + [num_gradients]


def prepare_label(posterior: ClassPosterior, run: RunConfig, progress_fn: ProgressFn) -> LabelReference:
    """Compute the starts, prior draws and exact draws of one label.

    Raises:
      UserError: The models cannot be sampled by any method (`model_checks.admit`).
    """
    posterior = admit(posterior, run, takes_gradients=False).posterior
    init_z = choose_starts(posterior, run).z.numpy()
    prior_z = posterior.sample_prior(run.num_chains, fold_in(posterior.own_seed(run.seed), Stream.PRIOR)).numpy()
    none = np.zeros((0, posterior.latent_dim), np.float32)
    # The moments come from other draws. Otherwise regularization would pull chains to the draws that they are compared with.
    other_seed = replace(run, seed=seed_of(run.seed, TRUTH_SEED))
    num_rows = 1 + -(-NUM_TRUTH // run.num_chains)
    try:
        draws, cost, stats = collect(exact_chunks(posterior, num_rows, other_seed), progress_fn)
        mean, scale, _ = class_moments(posterior, run)
    except UserError:
        return LabelReference(init_z, prior_z, none, none, none, none, np.zeros(()), np.zeros(()))
    num_accepted = round(stats["accept_rate"] * cost.num_forward)
    truth_z = draws.z[1:].reshape(-1, posterior.latent_dim)
    return LabelReference(
        init_z, prior_z, draws.z[0], truth_z, mean, scale, np.asarray(cost.num_forward), np.asarray(num_accepted)
    )


def run_cell(
    posterior: ClassPosterior,
    spec: MethodSpec,
    reference: LabelReference,
    run: RunConfig,
    checkpoints: Sequence[int],
    progress_fn: ProgressFn,
) -> Cell:
    """Run a method until every chain has spent the last of `checkpoints`, in gradients.

    The cost of the start (a batch of prior draws, the moments of the class) is not counted, as all methods share it.

    Raises:
      UserError: The method needs exact draws and the class is too rare, the budget is too small, or a chain ends at a point
        that is not finite.
    """
    if (spec.sampler.kind == "exact" or spec.config.needs_class_moments) and not len(reference.exact_z):
        raise fail("rejection", "a class that is not too rare", "a rare class", "leave this method out")
    if spec.sampler.kind == "exact":
        return _exact_cell(reference, len(checkpoints))
    if spec.sampler.kind == "particles":
        return _particle_cell(posterior, spec, run, checkpoints, progress_fn)
    if spec.sampler.kind == "fitted":
        return _fitted_cell(posterior, spec, run, checkpoints, progress_fn)
    cell = _chain_cell(posterior, spec, reference, run, checkpoints, progress_fn)
    num_lost = int((~np.isfinite(cell.z[-1]).all(-1)).sum())
    if num_lost:
        raise fail(spec.name, "finite states", f"{num_lost} of {run.num_chains} chains without", "check the models")
    return cell


def as_array(value: Value) -> np.ndarray:
    """Return [value, error], with NaN for an unknown error."""
    return np.asarray([value.value, np.nan if value.error is None else value.error])


def _exact_cell(reference: LabelReference, num_checkpoints: int) -> Cell:
    """Return the exact draws, which are the same for all budgets. A draw costs 1 / acceptance rate forward passes."""
    rate = reference.num_accepted / reference.num_drawn
    per_1000 = 1000 / Cost(0, 1).work * rate
    return Cell(
        np.repeat(reference.exact_z[None], num_checkpoints, 0),
        np.zeros(num_checkpoints),
        np.full(num_checkpoints, 1 / rate),
        np.asarray([per_1000, per_1000 / np.sqrt(reference.num_accepted)]),
        np.asarray(rate),
    )


def _chain_cell(
    posterior: ClassPosterior,
    spec: MethodSpec,
    reference: LabelReference,
    run: RunConfig,
    checkpoints: Sequence[int],
    progress_fn: ProgressFn,
) -> Cell:
    trace = _trace(posterior, spec, reference, run, checkpoints[-1], progress_fn)
    # A chain is at a checkpoint after the last step that it could afford; before its first step it is at its start.
    paid = trace.work
    at = np.searchsorted(paid, np.asarray(checkpoints) + 0.5) - 1
    z = np.stack([trace.draws.z[k] if k >= 0 else reference.init_z for k in at])
    spent = np.stack([trace.cost[k] if k >= 0 else np.zeros(2) for k in at])
    first, last = trace.num_burnin, at[-1] + 1
    kept = trace.kept(last)
    ess, rate = Value(np.nan, None), np.nan
    if spec.sampler.kind == "chain" and len(kept.z) >= MIN_RESULTS:
        work = (paid[last - 1] - (paid[first - 1] if first else 0.0)) * run.num_chains
        ess, rate = ess_per_1000(kept, float(work)), float(accept_prob(kept).mean())
    return Cell(z, spent[:, 0], spent[:, 1], as_array(ess), np.asarray(rate))


def _trace(
    posterior: ClassPosterior,
    spec: MethodSpec,
    reference: LabelReference,
    run: RunConfig,
    num_gradients: int,
    progress_fn: ProgressFn,
) -> BudgetedTrace:
    if spec.config.needs_class_moments:
        weight = spec.config.to_dict()["class_reg"]
        posterior = posterior.regularized(Regularization(weight, reference.mean, reference.scale))
    sampler = kernel_sampler(spec.sampler.name)
    powers = sampler.powers(spec.config)
    # The shared starts do not include those of replicas, which come from the same prior draws.
    init_z = choose_starts(posterior, run, powers).z if powers and run.init == "resample" else reference.init_z
    chunks = chain_chunks(posterior, sampler.name, spec.config, unbounded(sampler.schedule, num_gradients), run, init_z)
    return run_until_budget(chunks, sampler.start_cost(spec.config), run.num_chains, num_gradients, progress_fn)


def _particle_cell(
    posterior: ClassPosterior, spec: MethodSpec, run: RunConfig, checkpoints: Sequence[int], progress_fn: ProgressFn
) -> Cell:
    """Run num_chains populations for each checkpoint, as large as the budget allows, and take one particle of each."""
    z = np.full((len(checkpoints), run.num_chains, posterior.latent_dim), np.nan, np.float32)
    spent = np.full((len(checkpoints), 2), np.nan)
    per_particle = EXPECTED_STAGES * (spec.config.to_dict()["num_mutations"] + 1.0)
    ess = Value(np.nan, None)
    for k, budget in enumerate(checkpoints):
        num_particles = _even(budget / per_particle)
        for _ in range(MAX_TRIALS):
            if num_particles < MIN_PARTICLES:
                break
            draws, cost = _populations(posterior, spec, run, num_particles, progress_fn)
            per_particle = cost.work / num_particles  # known only afterwards: more particles need more temperatures
            if cost.work <= budget:
                z[k], spent[k] = draws.z[0], cost
                ess = ess_per_1000(draws, cost.work * run.num_chains) if num_particles >= MIN_RESULTS else ess
                break
            num_particles = min(_even(budget / per_particle), num_particles - 2)
    if np.isnan(z[-1]).any():
        raise fail("num_gradients", f"at least {MIN_PARTICLES * per_particle:.0f} for smc", checkpoints[-1], "raise it")
    return Cell(z, spent[:, 0], spent[:, 1], as_array(ess), np.asarray(np.nan))


def _fitted_cell(
    posterior: ClassPosterior, spec: MethodSpec, run: RunConfig, checkpoints: Sequence[int], progress_fn: ProgressFn
) -> Cell:
    """Make a new fit for each checkpoint, with the budget that is left after one draw of each chain."""
    z = np.full((len(checkpoints), run.num_chains, posterior.latent_dim), np.nan, np.float32)
    spent, config = np.full((len(checkpoints), 2), np.nan), spec.config
    assert isinstance(config, HviConfig)
    for k, budget in enumerate(checkpoints):
        num_steps = (budget - config.path_cost) * run.num_chains // config.learning_cost
        if num_steps >= 0:
            fitted = replace(config, num_optimization_steps=num_steps)
            found = collect(spec.sampler.chunks_fn(posterior, fitted, Schedule(1, 0, 0), run, None), progress_fn)
            begun = np.add(found.stats["start_cost"], [0, found.stats["prior_draws"]])
            z[k], spent[k] = found.draws.z[0], np.subtract(found.cost, begun) / run.num_chains
    if np.isnan(spent[-1]).any():
        raise fail("num_gradients", f"at least {config.path_cost} for {spec.name}", checkpoints[-1], "raise it")
    return Cell(z, spent[:, 0], spent[:, 1], as_array(Value(np.nan, None)), np.asarray(np.nan))


def _even(number: float) -> int:
    """Round down to an even number, because each number of particles needs its own graph."""
    return int(number / 2) * 2


def _populations(
    posterior: ClassPosterior, spec: MethodSpec, run: RunConfig, num_particles: int, progress_fn: ProgressFn
) -> tuple[Draws, Cost]:
    """Return the particles of num_chains populations, and the cost of one population without the check before a run."""
    found = collect(spec.sampler.chunks_fn(posterior, spec.config, Schedule(num_particles, 0, 0), run, None), progress_fn)
    checked = found.stats["start_cost"]
    return found.draws, Cost(*((a - b) / run.num_chains for a, b in zip(found.cost, checked, strict=True)))
