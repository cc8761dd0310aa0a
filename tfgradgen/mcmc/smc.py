"""Sequential Monte Carlo from the prior to the posterior by annealing the likelihood; it also estimates p(class).

A pilot population chooses the temperatures and the step sizes, and is discarded; all other populations use them unchanged. The
evidence estimate of a population that chooses its own temperatures is biased, towards low values if the class is rare.

After Neal (2001) and Del Moral, Doucet and Jasra (2012), with this package's MALA. TFP's `sample_sequential_monte_carlo` is
not used: in version 0.25 it draws every stage with the same seed, and reweights its evidence by an inverse temperature above 1
in the last stage.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.arrays import StateError, check_state, check_within
from tfgradgen.core.backend import Stream, compile_fn, fold_in, full_float32, resample_systematic, use_xla
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig, Schedule, StepConfig
from tfgradgen.core.contracts import Chunk, Cost, Draws, Networks, Progress
from tfgradgen.core.lazy import LazyModule, tf
from tfgradgen.core.memo import per_networks
from tfgradgen.core.settings import again, real, whole
from tfgradgen.mcmc.kernel import log_accept_prob, nan_to_neg_inf
from tfgradgen.mcmc.mala import Mala
from tfgradgen.mcmc.sampler import Resume, Sampler, check_config, checked_stats, with_start

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)
optimize, special = LazyModule("scipy.optimize"), LazyModule("scipy.special")

SLICE = 64  # particles in one batch through the networks
STEPS_SHOWN = 100  # steps of progress per population
MAX_FRUITLESS = 1000  # prior draws of a population, all without a finite p(class)
STEP_GAIN = 1.0  # change of the log step size per unit of acceptance above its target in one stage


@dataclass(frozen=True)
class SmcConfig(StepConfig):
    """Settings of the moves of the particles and of the distance between temperatures."""

    step_size: float = again(StepConfig, "step_size", 0.4)
    target_accept_prob: float = again(StepConfig, "target_accept_prob", 0.4)

    num_mutations: int = whole(4, low=1, high=1000, help="mala steps at each power of the likelihood")
    ess_share: float = real(0.5, low=0.0, high=1.0, help="effective share of the particles after each change of the power")


class Population(NamedTuple):
    """The state of a population of particles.

    Attributes:
      z: [num_particles, latent_dim].
      log_prob: [num_particles], log p(class | g(z)) at temperature 1.
      inverse_temperature: Scalar in 0..1, that of the likelihood.
      log_evidence: Scalar, log evidence so far, in nats.
      log_step_size: Scalar, log of the step size.
      stage: Scalar, number of stages done.
    """

    z: np.ndarray
    log_prob: np.ndarray
    inverse_temperature: np.ndarray
    log_evidence: np.ndarray
    log_step_size: np.ndarray
    stage: np.ndarray


@per_networks
def compiled(networks: Networks, num_mutations: int, xla: bool) -> Any:
    """Return the compiled functions that draw particles from the prior and that move them by `num_mutations` steps of MALA."""
    from tfgradgen.posterior import ClassPosterior

    def start(label: tf.Tensor, seed: tf.Tensor, num_particles: int) -> tuple[tf.Tensor, tf.Tensor]:
        posterior = ClassPosterior.of(networks, label)
        z = posterior.sample_prior(num_particles, seed)
        return z, posterior.class_log_prob(z)

    def mutate(label: tf.Tensor, seed: tf.Tensor, z: tf.Tensor, temperature: tf.Tensor, step_size: tf.Tensor) -> Any:
        posterior = ClassPosterior.of(networks, label, temperature)
        kernel = Mala(posterior.unnormalized_log_prob, step_size)

        def step(i: tf.Tensor, z: tf.Tensor, results: Any, accepted: tf.Tensor) -> Any:
            z, results = kernel.one_step(z, results, seed=fold_in(seed, i))
            return i + 1, z, results, accepted + tf.reduce_mean(tf.exp(nan_to_neg_inf(log_accept_prob(results))))

        _, z, _, accepted = tf.while_loop(
            lambda i, *_: i < num_mutations,
            step,
            (tf.constant(0), z, kernel.bootstrap_results(z), 0.0),
            parallel_iterations=1,
        )
        # Recompute it: recovering log p(class) from the tempered target leaves only rounding errors at high temperatures.
        return z, posterior.class_log_prob(z), accepted / num_mutations

    return compile_fn(start, jit_compile=xla), compile_fn(mutate, jit_compile=xla)


def next_inverse_temperature(log_likelihood: np.ndarray, now: float, ess_share: float) -> float:
    """Return the inverse temperature in (now, 1] to which reweighting keeps an ESS of `ess_share` (Jasra et al. 2011).

    Args:
      log_likelihood: [num_particles], at inverse temperature 1; -inf at particles without a likelihood, which any reweighting
        drops. At least one must be finite.
      now: The current inverse temperature.
      ess_share: ESS after reweighting over the number of particles with a finite likelihood.
    """
    log_likelihood = log_likelihood[np.isfinite(log_likelihood)]

    def excess(beta: float) -> float:
        log_weight = (beta - now) * log_likelihood
        log_ess = 2 * special.logsumexp(log_weight) - special.logsumexp(2 * log_weight)
        return float(log_ess - np.log(ess_share * len(log_likelihood)))

    if excess(1.0) >= 0:
        return 1.0
    return float(optimize.brentq(excess, now, 1.0, xtol=1e-12, rtol=1e-6))


def next_stage(
    posterior: ClassPosterior, config: SmcConfig, mutate_fn: Any, now: Population, seed: tf.Tensor, ladder: np.ndarray | None
) -> tuple[Population, float]:
    """Reweight to the next temperature, resample and move; return the new population and the mean acceptance of the moves.

    Args:
      posterior: The target.
      config: Settings of the sampler.
      mutate_fn: The compiled moves.
      now: The current population.
      seed: Seed of the stage.
      ladder: [num_stages, 2], the inverse temperature and the log step size of each stage; None for the pilot, whose particles
        choose them.

    Raises:
      UserError: No particle has a finite likelihood.
    """
    log_likelihood = now.log_prob.astype(np.float64) / posterior.temperature
    log_likelihood = np.where(np.isfinite(log_likelihood), log_likelihood, -np.inf)
    if not np.isfinite(log_likelihood).any():
        raise fail("p(class)", "a finite likelihood at some particle", "none", "check the models' ranges and labels")
    if ladder is None:
        beta, log_step_size = (
            next_inverse_temperature(log_likelihood, float(now.inverse_temperature), config.ess_share),
            float(now.log_step_size),
        )
    else:
        beta, log_step_size = ladder[int(now.stage)]
    log_weight = (beta - now.inverse_temperature) * log_likelihood
    total = special.logsumexp(log_weight)
    offset = float(tf.random.stateless_uniform([], fold_in(seed, 1), dtype=tf.float64))
    chosen = resample_systematic(np.exp(log_weight - total), offset)
    temperature = tf.constant(posterior.temperature / beta, tf.float32)
    step_size = tf.constant(np.exp(log_step_size), tf.float32)
    move_seed = fold_in(seed, 2)
    moved = [
        mutate_fn(posterior.label, fold_in(move_seed, k), tf.constant(now.z[chosen[k : k + SLICE]]), temperature, step_size)
        for k in range(0, len(chosen), SLICE)
    ]
    z, log_prob = (np.concatenate(parts) for parts in list(zip(*moved, strict=True))[:2])
    accepted = np.average([float(part[2]) for part in moved], weights=[len(part[0]) for part in moved])
    after = Population(
        z,
        log_prob,
        np.asarray(beta),
        now.log_evidence + total - np.log(np.isfinite(log_likelihood).sum()),  # particles without a likelihood do not count
        now.log_step_size + STEP_GAIN * (float(accepted) - config.target_accept_prob),
        now.stage + 1,
    )
    return after, float(accepted)


def start_population(start_fn: Any, num_particles: int, config: SmcConfig, seed: tf.Tensor) -> tuple[Population, np.ndarray]:
    """Return prior draws to start from, and the numbers [2] of those scored without a finite p(class) and of all scored.

    A population without any finite p(class) is redrawn: given that it has some, its mean likelihood over those is unbiased.

    Raises:
      UserError: No p(class) is finite in `MAX_FRUITLESS` draws, or in one population if that is larger.
    """
    sizes = [min(SLICE, num_particles - k) for k in range(0, num_particles, SLICE)]
    scored = np.zeros(2, np.int64)
    while scored[0] < max(MAX_FRUITLESS, 1):
        first = int(scored[1]) // num_particles * len(sizes)
        parts = [start_fn(fold_in(fold_in(seed, 0), first + k), tf.constant(n)) for k, n in enumerate(sizes)]
        z, log_prob = (np.concatenate(column) for column in zip(*parts, strict=True))
        scored = scored + np.array([(~np.isfinite(log_prob)).sum(), num_particles])
        if np.isfinite(log_prob).any():
            zero = np.zeros(())
            return Population(z, log_prob, zero, zero, np.log(config.step_size), zero), scored
    raise fail(
        "p(class)",
        "a finite likelihood at some particle",
        f"none at {scored[0]} prior draws",
        "check the models' ranges and labels",
    )


def _check_state(state: dict[str, np.ndarray], latent_dim: int, num_results: int, num_chains: int) -> None:
    """Raise `StateError` unless `state` can be that of a `Chunk` of `smc_chunks`."""
    layout: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "whole_z": (np.float32, (num_results, "whole", latent_dim)),
        "whole_log_prob": (np.float32, (num_results, "whole")),
        "evidence": (np.float64, ("whole",)),
        "cost": (np.int64, (2,)),
        "moves": (np.float64, (2,)),
        "ladder": (np.float64, ("stages", 2)),
        "scored": (np.int64, (2,)),
    }
    if "stage" in state:  # a population is in progress
        layout |= dict.fromkeys(Population._fields, (np.float64, ()))
        layout |= {"z": (np.float32, (num_results, latent_dim)), "log_prob": (np.float32, (num_results,))}
    sizes = check_state(state, layout)
    if sizes["whole"] > num_chains:
        raise StateError(f"{sizes['whole']} populations of {num_chains}")
    if "stage" in state:
        check_within(state, "inverse_temperature", 0, 1)
        check_within(state, "stage", 0, sizes["stages"])
        is_last = state["stage"] == sizes["stages"]
        if is_last and sizes["stages"] and state["ladder"][-1, 0] == 1.0:
            raise StateError("a population beyond the last temperature")


def smc_chunks(
    posterior: ClassPosterior, config: SmcConfig, num_results: int, run: RunConfig, state: dict[str, np.ndarray] | None = None
) -> Iterator[Chunk]:
    """Run a pilot and then `run.num_chains` independent populations, one after the other, one temperature at a time.

    The draws of each population are in random order, so that they resemble those of a chain. The draws of a population of
    finite size are biased, by order 1 / num_results. Its evidence estimate is not, because the pilot chose the temperatures:
    the mean over populations is unbiased, and their spread gives its standard error.

    Args:
      posterior: The target, with one label and without a discriminator.
      config: Settings of the sampler.
      num_results: Particles in each population.
      run: Provides the seed, `num_chains` and `jit`.
      state: The state of an earlier chunk of the same run, to continue after it.

    Yields:
      A `Chunk` after each temperature of the pilot and of each population; all draws come with the last one. Its stats are
        `evidence`, the estimate of each finished population of the mean of likelihood ** (1 / temperature) under the prior
        where that is finite, as in every sampler (at temperature 1, of p(class)); `accept_rate`, the mean acceptance of all
        moves so far; `num_scored`, the number of prior draws from which populations started; and `num_not_finite`, the number
        of those without a finite p(class), from which no population continues.
    """
    from tfgradgen.diagnostics.model_checks import admit, with_number

    posterior.check_without_energy("smc")
    posterior.check_one_label("smc")
    stats: dict[str, Any] = {}
    check_config("smc", config, SmcConfig())
    if state is None:
        posterior, stats["doubts"], *_ = admit(posterior, run, takes_gradients=True)
    else:  # checked at the start of the run
        posterior = with_number(posterior)
    start_fn, mutate_fn = compiled(posterior.networks, config.num_mutations, use_xla(run.jit))
    if not mutate_fn.experimental_get_tracing_count():
        logger.info("compiling smc")
    run_seed = fold_in(posterior.own_seed(run.seed), Stream.SMC)
    z, log_prob = np.zeros([num_results, 0, posterior.latent_dim], np.float32), np.zeros([num_results, 0], np.float32)
    evidence, cost, moves = np.zeros(0), np.zeros(2, np.int64), np.zeros(2)
    ladder, scored = np.zeros([0, 2]), np.zeros(2, np.int64)
    population: Population | None = None
    shape = (0, run.num_chains)
    no_draws = as_draws(posterior, np.zeros([*shape, posterior.latent_dim], np.float32), np.zeros(shape, np.float32))
    if state is not None:
        _check_state(state, posterior.latent_dim, num_results, run.num_chains)
        z, log_prob, evidence, cost = (state[name] for name in ("whole_z", "whole_log_prob", "evidence", "cost"))
        moves, ladder, scored = (state[name] for name in ("moves", "ladder", "scored"))
        population = Population(*(state[name] for name in Population._fields)) if "stage" in state else None
    while len(evidence) < run.num_chains:
        full_float32()
        is_pilot = not len(ladder) or ladder[-1, 0] < 1.0
        seed = fold_in(run_seed, 0 if is_pilot else 1 + len(evidence))
        if population is None:
            population, found = start_population(functools.partial(start_fn, posterior.label), num_results, config, seed)
            cost = cost + np.array([0, found[1]])
            scored = scored + found
        log_step_size, stage_seed = float(population.log_step_size), fold_in(seed, 1 + int(population.stage))
        population, accepted = next_stage(posterior, config, mutate_fn, population, stage_seed, None if is_pilot else ladder)
        if is_pilot:
            ladder = np.append(ladder, [[float(population.inverse_temperature), log_step_size]], 0)
        cost = cost + np.array([num_results * (1 + config.num_mutations), num_results])
        moves = moves + np.array([accepted, 1.0])
        beta, now = float(population.inverse_temperature), population
        done = (0 if is_pilot else 1) + len(evidence) + beta
        if beta == 1.0 and is_pilot:
            population = None
        elif beta == 1.0:
            order = np.random.default_rng([*run_seed.numpy().view(np.uint32), len(evidence)]).permutation(num_results)
            z, log_prob = (
                np.concatenate([whole, new[order][:, None]], 1)
                for whole, new in ((z, population.z), (log_prob, population.log_prob))
            )
            evidence, population = np.append(evidence, np.exp(population.log_evidence)), None
        under_way = {name: np.asarray(value) for name, value in population._asdict().items()} if population else {}
        is_last = len(evidence) == run.num_chains
        yield Chunk(
            Progress(
                int(STEPS_SHOWN * done),
                STEPS_SHOWN * (1 + run.num_chains),
                accepted,
                float(np.exp(now.log_step_size)),
                float(np.exp(now.log_prob).mean()),
            ),
            as_draws(posterior, z, log_prob) if is_last else no_draws,
            {"whole_z": z, "whole_log_prob": log_prob, "evidence": evidence, "cost": cost, "moves": moves}
            | {"ladder": ladder, "scored": scored, **under_way},
            Cost(*cost.tolist()),
            stats
            | {"evidence": evidence.tolist(), "accept_rate": float(moves[0] / moves[1])}
            | {"num_not_finite": int(scored[0]), "num_scored": int(scored[1])},
        )


def as_draws(posterior: ClassPosterior, z: np.ndarray, log_prob: np.ndarray) -> Draws:
    """Return the `Draws` of particles z [num_results, num_chains, latent_dim].

    `log_prob` is log p(class | g(z)), [num_results, num_chains].
    """
    target = posterior.prior_log_prob(z).numpy() + log_prob / np.float32(posterior.temperature)
    no_step = np.full_like(log_prob, np.nan)
    return Draws(z, np.exp(log_prob), target, np.ones(log_prob.shape, bool), no_step, np.zeros_like(log_prob))


def _run(
    sampler: Sampler, posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    stats = checked_stats(posterior, run, sampler.takes_gradients, resume)
    for chunk in smc_chunks(posterior, config, schedule.num_results, run, resume and resume.state):
        yield with_start(chunk, stats)


SAMPLER = Sampler(
    "smc",
    about="many particles; also estimates p(class)",
    exactness="biased",  # by order 1 / num_results
    defaults=SmcConfig(),
    schedule=Schedule(num_results=32, num_burnin_steps=0, num_adaptation_steps=0),
    kind="particles",
    cost_fn=lambda config: Cost(config.num_mutations + 1, 1),
    start_cost=lambda config: Cost(0, 1),
    is_calibrated=lambda config: False,
    run_fn=_run,
)
