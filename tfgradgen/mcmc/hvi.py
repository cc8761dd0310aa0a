"""Hamiltonian variational inference (Salimans, Kingma and Welling 2015): learned leapfrog steps from a Gaussian start.

`hvi_path` defines a path and explains why its mean log weight is a lower bound on log p(class). The start is a diagonal normal
with the moments of prior draws weighted by their likelihood. Adam then maximizes the bound. The networks' gradient at a point
is treated as a constant, as is usual: second derivatives are not defined for every model, cost twice the work, and carry
little information for ReLU networks, whose gradient is rough. The bound holds whatever was learned.

Without `exact`, the draws are independent draws of the learned distribution: they are approximate, however many there are.

With `exact`, chains use the paths as proposals in iterated sampling importance resampling (see `local_global`) on the extended
target of `hvi_path`. This is exact whatever the fit. A transition first redraws the momenta of the chain's own path, given its
z, by walking backwards. This is a Gibbs step, since these momenta have the conditional distribution of the extended target.
Then this path and fresh paths, from a fixed distribution of known density, compete by their weights. This leaves the extended
target invariant for any such distribution (Andrieu, Lee and Vihola 2018). By then learning has ended, and the marginal of the
extended target in z is the posterior. A share `prior_share` of the distribution of the fresh paths is the prior walked
backwards. Hence no weight exceeds 1 / prior_share, and the chains reach regions that q misses.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.arrays import StateError, check_state, check_within
from tfgradgen.core.backend import Stream, compile_fn, fold_in, full_float32, use_xla
from tfgradgen.core.checks import fail
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Cost, Draws, Networks, Progress
from tfgradgen.core.lazy import tf
from tfgradgen.core.memo import per_networks
from tfgradgen.core.settings import real, switch, whole
from tfgradgen.mcmc import hvi_path
from tfgradgen.mcmc.hvi_path import Parameters
from tfgradgen.mcmc.importance import FIT_FIGURES, log_mean, of_weights
from tfgradgen.mcmc.local_global import IsirState, resample
from tfgradgen.mcmc.sampler import Resume, Sampler, check_config, checked_stats, with_start

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

CHUNK_GRADIENTS = 320  # in a chunk: one or two seconds on two cores
MAX_WEIGHTS = 4096  # paths whose weights are kept: enough to estimate the shape of the tail
NUM_JUDGED = 256  # paths that are weighted before the chains start
PRIOR_WEIGHT = 10.0  # number of draws that the prior counts for in the moments of the start
MAX_NORM = 100.0  # norm at which the gradient of the bound is clipped, so that diverging paths do not dominate it


@dataclass(frozen=True)
class HviConfig(KernelConfig):
    """Settings of the path, of how it is learned, and of how it is used."""

    exact: bool = switch(help="run chains that propose the learned paths; they are exact whatever was learned")
    num_leapfrog_steps: int = whole(3, low=1, high=100, help="learned steps of a path; it takes one gradient more than steps")
    num_start_draws: int = whole(
        16_384, low=1, high=1_000_000, help="prior draws whose weighted moments are those of the start, before it is learned"
    )
    first_step: float = real(0.05, help="initial length of the steps in z, before they are learned")
    num_optimization_steps: int = whole(160, low=0, high=1_000_000, help="steps of Adam that maximize the bound")
    batch_size: int = whole(16, low=1, high=4096, help="paths in each step of Adam")
    # Adam changes each of the many parameters by about this much, however noisy its gradient. On the shipped models, a rate of
    # 0.02 costs the bound more than it gains, and one of 0.003 gains nothing in 80 steps.
    learning_rate: float = real(0.01, help="initial learning rate of Adam; it falls to 0 along a cosine")
    second_derivatives: bool = switch(help="also differentiate through the gradients of the networks: about twice the work")
    num_proposals: int = whole(2, low=1, high=10_000, help="with --exact: paths proposed in each transition")
    prior_share: float = real(0.1, high=1.0, help="with --exact: share of the proposed paths that come from the prior")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_proposals", "prior_share"):
            if not self.exact and getattr(self, name) != getattr(type(self), name):
                raise fail(name, "a setting that --exact uses", getattr(self, name), "leave it out, or add --exact")

    @property
    def path_cost(self) -> int:
        """Gradients of one path."""
        return 1 + self.num_leapfrog_steps

    @property
    def learning_cost(self) -> int:
        """Gradients of one step of Adam. A second derivative counts as one more gradient."""
        return self.batch_size * self.path_cost * (2 if self.second_derivatives else 1)


class Fit(NamedTuple):
    """The state of a run, as NumPy arrays.

    Attributes:
      rows: [num_rows, latent_dim], the learned parameters (see `hvi_path.Parameters`).
      moments: [2, num_rows, latent_dim], the moments of Adam.
      num_learned: Steps of Adam so far.
      log_weight: [num], log weights of the first paths drawn after learning.
      z: [num_chains, latent_dim], states of the chains, if `exact`.
      num_done: Rows of draws so far.
      num_jumped: Moves of the chains so far.
      cost: [2], gradients and forward passes so far.
      log_mass: [2], log of the mean weight of the prior draws, and its standard error.
    """

    rows: np.ndarray
    moments: np.ndarray
    num_learned: np.ndarray
    log_weight: np.ndarray
    z: np.ndarray
    num_done: np.ndarray
    num_jumped: np.ndarray
    cost: np.ndarray
    log_mass: np.ndarray


class Compiled(NamedTuple):
    """The compiled functions of a run.

    Attributes:
      learn_fn: (fit, label, seed, learning rate) -> rows, moments, mean p(class).
      draw_fn: (label, rows, seed) -> `Weighed` of num_chains paths.
      move_fn: (label, rows, seed, z) -> z, class_log_prob, log_likelihood and has_jumped of the chains.
    """

    learn_fn: Any
    draw_fn: Any
    move_fn: Any


@per_networks
def _compiled(networks: Networks, temperature: float, config: HviConfig, num_chains: int, xla: bool) -> Compiled:
    from tfgradgen.posterior import ClassPosterior

    compiled = functools.partial(compile_fn, jit_compile=xla)
    variable = tf.Variable(tf.zeros([hvi_path.num_rows(config.num_leapfrog_steps), networks.generator.latent_dim]))
    optimizer = tf.keras.optimizers.Adam(config.learning_rate, global_clipnorm=MAX_NORM)
    optimizer.build([variable])
    moments = [each for each in optimizer.variables if each.shape == variable.shape]

    @compiled
    def step(label: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        posterior = ClassPosterior.of(networks, label, temperature)
        with tf.GradientTape() as tape:
            paths = hvi_path.draw_paths(
                posterior,
                Parameters.of(variable),
                config.batch_size,
                seed,
                second_derivatives=config.second_derivatives,
            )
            is_fit = tf.math.is_finite(paths.log_weight)
            total = tf.reduce_sum(tf.where(is_fit, paths.log_weight, 0.0))
            loss = -total / tf.maximum(tf.reduce_sum(tf.cast(is_fit, tf.float32)), 1.0)
        gradient = tape.gradient(loss, variable)
        optimizer.apply_gradients([(tf.where(tf.math.is_finite(gradient), gradient, 0.0), variable)])
        return tf.reduce_mean(tf.exp(paths.class_log_prob))

    def learn(fit: Fit, label: tf.Tensor, seed: tf.Tensor, learning_rate: float) -> tuple[np.ndarray, np.ndarray, float]:
        variable.assign(fit.rows)
        for each, value in zip(moments, fit.moments, strict=True):
            each.assign(value)
        optimizer.iterations.assign(int(fit.num_learned))
        optimizer.learning_rate = learning_rate
        class_prob = step(label, seed)
        return variable.numpy(), np.stack([np.asarray(each) for each in moments]), float(class_prob)

    @compiled
    def draw(label: tf.Tensor, rows: tf.Tensor, seed: tf.Tensor) -> hvi_path.Weighed:
        posterior = ClassPosterior.of(networks, label, temperature)
        return hvi_path.draw_paths(posterior, Parameters.of(rows), num_chains, seed)

    @compiled
    def move(label: tf.Tensor, rows: tf.Tensor, seed: tf.Tensor, z: tf.Tensor) -> Any:
        posterior, parameters = ClassPosterior.of(networks, label, temperature), Parameters.of(rows)

        def state_of(paths: hvi_path.Weighed) -> IsirState:
            # Quantities that belong to a path are packed beside its z. Its density is such that likelihood over density is the
            # path's weight.
            packed = tf.concat([paths.z, paths.class_log_prob[:, None], paths.log_likelihood[:, None]], 1)
            return IsirState(packed, paths.log_likelihood, paths.log_likelihood - paths.log_mixture_weight)

        def fresh(i: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            state = state_of(hvi_path.propose(posterior, parameters, num_chains, config.prior_share, seed))
            return state.z, state.log_density

        own = state_of(hvi_path.walk_back(posterior, parameters, z, config.prior_share, fold_in(seed, 0)))
        packed, log_likelihood, has_jumped = resample(
            lambda packed: packed[:, -1], own, fresh, config.num_proposals, fold_in(seed, 1)
        )
        return packed[:, :-2], packed[:, -2], log_likelihood, has_jumped

    return Compiled(learn, draw, move)


def start_of(posterior: ClassPosterior, config: HviConfig, run: RunConfig) -> tuple[Fit, dict[str, Any]]:
    """Return the initial state of a run, and the statistics of the prior draws of its chains (`starts`).

    The prior draws provide the moments of the start. Those of the chains' own, the first of them, also provide the starting
    points of the chains, if `exact`.

    Raises:
      UserError: No prior draw has a finite likelihood.
    """
    from tfgradgen.mcmc.starts import Starts, pick

    dim = posterior.latent_dim
    flat, scores = _prior_draws(posterior, run)
    if not np.isfinite(scores.log_weight).any():
        expected, got = "a finite likelihood at some prior draw", f"none in {len(flat)}"
        raise fail("p(class)", expected, got, "check the models' ranges and labels")
    picks, num_exact = pick(scores, posterior.has_energy)
    prob = np.exp(scores.class_log_prob[np.isfinite(scores.class_log_prob)].astype(np.float64))
    num_bad = int((~np.isfinite(scores.class_log_prob) | ~np.isfinite(scores.log_weight)).sum())
    error = float(prob.std(ddof=1) / np.sqrt(prob.size)) if prob.size > 1 else None
    mean = float(prob.mean()) if prob.size else None
    starts = Starts(None, num_exact if config.exact else None, mean, error, len(flat), num_bad)
    z, log_weight = _weighed_draws(posterior, max(config.num_start_draws, len(flat)), run)
    rows = hvi_path.first_rows(*weighted_moments(z, log_weight), config.num_leapfrog_steps, config.first_step)
    zero = np.zeros((), np.int64)
    fit = Fit(
        rows,
        np.zeros([2, *rows.shape], np.float32),
        zero,
        np.zeros(0, np.float32),
        flat[picks] if config.exact else np.zeros([0, dim], np.float32),
        zero,
        zero,
        np.array([0, len(z)]),
        np.array(log_mean(log_weight)),
    )
    return fit, starts.stats


def _prior_draws(posterior: ClassPosterior, run: RunConfig) -> tuple[np.ndarray, Any]:
    """Return z [num_chains * num_init_draws, latent_dim] and their `starts.Scores` [num_chains, num_init_draws].

    They are the prior draws from which other samplers choose the starting points of these chains.
    """
    from tfgradgen.mcmc.starts import Scores, scored_blocks

    logger.info("evaluating %d prior draws for the start of the paths", run.num_init_draws * run.num_chains)
    parts = list(scored_blocks(posterior, run))
    columns = zip(*(scores for _, scores in parts), strict=True)
    return np.concatenate([z for z, _ in parts]), Scores(*(np.stack([np.asarray(v) for v in column]) for column in columns))


def _weighed_draws(posterior: ClassPosterior, num: int, run: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `num` prior draws z [num, latent_dim] of the seed, and their log weights [num]."""
    from tfgradgen.mcmc.pool import CHUNK, pool_of, weigh

    blocks = pool_of(posterior, run).blocks(CHUNK, -(-num // CHUNK))
    z, log_weight = zip(*((draws.z, weigh(posterior, draws, run).log_weight) for draws in blocks), strict=True)
    return np.concatenate(z)[:num], np.concatenate(log_weight)[:num]


def weighted_moments(z: np.ndarray, log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean and standard deviation, each [latent_dim], of z [num, latent_dim].

    They are shrunk towards those of the prior, 0 and 1; the more, the fewer draws hold most of the weight.
    """
    weight = np.exp(log_weight.astype(np.float64) - log_weight.max())
    weight /= weight.sum()
    size = 1 / np.square(weight).sum()
    share = size / (size + PRIOR_WEIGHT)
    mean = weight @ z
    variance = weight @ np.square(z - mean)
    return share * mean, np.sqrt(share * variance + (1 - share))


def _check_state(state: dict[str, np.ndarray], config: HviConfig, latent_dim: int, num_chains: int, num_results: int) -> None:
    """Raise `StateError` unless `state` can be that of a `Chunk` of `hvi_chunks`."""
    shape, count = (hvi_path.num_rows(config.num_leapfrog_steps), latent_dim), (np.int64, ())
    layout: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "rows": (np.float32, shape),
        "moments": (np.float32, (2, *shape)),
        "num_learned": count,
        "log_weight": (np.float32, ("weighed",)),
        "z": (np.float32, (num_chains if config.exact else 0, latent_dim)),
        "num_done": count,
        "num_jumped": count,
        "cost": (np.int64, (2,)),
        "log_mass": (np.float64, (2,)),
    }
    sizes = check_state(state, layout)
    check_within(state, "num_learned", 0, config.num_optimization_steps)
    check_within(state, "num_done", 0, num_results)
    check_within(state, "num_jumped", 0, num_results * num_chains)
    check_within(state, "cost", 0, np.inf)
    if sizes["weighed"] > MAX_WEIGHTS:
        raise StateError(f"{sizes['weighed']} weights")


def hvi_chunks(
    posterior: ClassPosterior, config: HviConfig, num_results: int, run: RunConfig, resume: Resume | None = None
) -> Iterator[Chunk]:
    """Learn the paths, then draw `num_results` rows of `run.num_chains` draws.

    The draws are independent or, if `exact`, those of chains that start at exact draws of the class (`starts`).

    Yields:
      A `Chunk` after about every `CHUNK_GRADIENTS` gradients; chunks of the learning phase contain no draws. Its stats are
        those of the prior draws and, for the first paths drawn after learning, `fit`: the statistics of their weights
        (`of_weights`) with `prior_log_mass` and `prior_log_mass_error`, the log of the same mass and its error as estimated
        from the prior draws.
    """
    logger.info("compiling hvi")
    compiled = _compiled(posterior.networks, posterior.temperature, _as_compiled(config), run.num_chains, use_xla(run.jit))
    stats: dict[str, Any] = {}
    if resume is None:
        fit, stats = start_of(posterior, config, run)
    else:
        _check_state(resume.state, config, posterior.latent_dim, run.num_chains, num_results)
        fit = Fit(**resume.state)
    seed = fold_in(posterior.own_seed(run.seed), Stream.HVI)
    prior = dict(zip(("prior_log_mass", "prior_log_mass_error"), fit.log_mass.tolist(), strict=True))
    num_judged = -(-NUM_JUDGED // run.num_chains) if config.exact else 0  # rows of paths before the chains start
    while fit.num_done < num_results:
        full_float32()
        draws = _no_draws(run.num_chains, posterior.latent_dim)
        num_weighed = len(fit.log_weight) // run.num_chains
        if fit.num_learned < config.num_optimization_steps:
            fit, class_prob = _learn(compiled, posterior, config, fit, fold_in(seed, 0))
        elif num_weighed < num_judged:
            num = _rows_in_chunk(num_judged - num_weighed, run.num_chains * config.path_cost)
            fit, drawn = _draw(compiled, posterior, config, fit, fold_in(seed, 1), range(num_weighed, num_weighed + num))
            num_weighed, class_prob = num_weighed + num, finite_mean(drawn.class_prob)
        else:
            done = int(fit.num_done)
            num = _rows_in_chunk(num_results - done, run.num_chains * int(SAMPLER.cost_fn(config).num_gradients))
            make_fn = _move if config.exact else _draw
            fit, draws = make_fn(compiled, posterior, config, fit, fold_in(seed, 2), range(done, done + num))
            fit, class_prob = fit._replace(num_done=fit.num_done + num), finite_mean(draws.class_prob)
        stats = stats | {"fit": of_weights(fit.log_weight) | prior}
        rate, bound = float("nan"), stats["fit"]["bound"]
        if config.exact and fit.num_done:
            rate = float(fit.num_jumped) / (float(fit.num_done) * run.num_chains)
            stats["accept_rate"] = rate
        yield Chunk(
            Progress(
                int(fit.num_learned) + min(num_weighed, num_judged) + int(fit.num_done),
                config.num_optimization_steps + num_judged + num_results,
                rate,
                float("nan"),
                class_prob,
                float("nan") if bound is None else bound,
            ),
            draws,
            {name: np.asarray(value) for name, value in fit._asdict().items()},
            Cost(*fit.cost.tolist()),
            stats,
        )


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _as_compiled(config: HviConfig) -> HviConfig:
    """Return `config` with the settings that are not compiled in reset, so that equal configs share compiled functions."""
    held = ("num_leapfrog_steps", "batch_size", "second_derivatives", "num_proposals", "prior_share")
    return HviConfig(exact=True, **{name: getattr(config, name) for name in held})


def _rows_in_chunk(left: int, cost: int) -> int:
    return min(left, max(1, CHUNK_GRADIENTS // cost))


def _learn(compiled: Compiled, posterior: ClassPosterior, config: HviConfig, fit: Fit, seed: tf.Tensor) -> tuple[Fit, float]:
    """Make the next few steps of Adam; also return the mean p(class) at the ends of the last step's paths."""
    first, class_prob = int(fit.num_learned), float("nan")
    for k in range(first, first + _rows_in_chunk(config.num_optimization_steps - first, config.learning_cost)):
        rate = config.learning_rate * 0.5 * (1 + np.cos(np.pi * k / config.num_optimization_steps))
        rows, moments, class_prob = compiled.learn_fn(fit, posterior.label, fold_in(seed, k), rate)
        cost = fit.cost + np.array([config.learning_cost, 0])
        fit = fit._replace(rows=rows, moments=moments, num_learned=fit.num_learned + 1, cost=cost)
    return fit, class_prob


def _draw(
    compiled: Compiled, posterior: ClassPosterior, config: HviConfig, fit: Fit, seed: tf.Tensor, numbers: range
) -> tuple[Fit, Draws]:
    """Draw the rows of independent paths with these numbers."""
    columns = []
    for row in numbers:
        paths = compiled.draw_fn(posterior.label, fit.rows, fold_in(seed, row))
        columns.append(_row(posterior, paths.z, paths.class_log_prob, paths.log_likelihood))
        weights = np.concatenate([fit.log_weight, paths.log_weight.numpy()])[:MAX_WEIGHTS]
        fit = fit._replace(log_weight=weights, cost=fit.cost + np.array([len(paths.z) * config.path_cost, 0]))
    return fit, Draws(*(np.stack(column) for column in zip(*columns, strict=True)))


def _move(
    compiled: Compiled, posterior: ClassPosterior, config: HviConfig, fit: Fit, seed: tf.Tensor, numbers: range
) -> tuple[Fit, Draws]:
    """Make the transitions of all chains with these numbers."""
    columns = []
    for row in numbers:
        z, class_log_prob, log_likelihood, has_jumped = compiled.move_fn(posterior.label, fit.rows, fold_in(seed, row), fit.z)
        columns.append(_row(posterior, z, class_log_prob, log_likelihood, has_jumped))
        fit = fit._replace(
            z=z.numpy(),
            num_jumped=fit.num_jumped + int(has_jumped.numpy().sum()),
            cost=fit.cost + np.array([len(z) * (1 + config.num_proposals) * config.path_cost, 0]),
        )
    return fit, Draws(*(np.stack(column) for column in zip(*columns, strict=True)))


def _row(posterior: ClassPosterior, z: Any, class_log_prob: Any, log_likelihood: Any, is_accepted: Any = True) -> Draws:
    """Return one row of `Draws`."""
    target = posterior.prior_log_prob(z) + log_likelihood
    zeros = np.zeros(len(z), np.float32)
    flags = np.broadcast_to(np.asarray(is_accepted), zeros.shape)
    return Draws(z.numpy(), np.exp(class_log_prob), target.numpy(), flags, zeros + np.float32(np.nan), zeros)


def _no_draws(num_chains: int, latent_dim: int) -> Draws:
    none = np.zeros([0, num_chains], np.float32)
    return Draws(np.zeros([0, num_chains, latent_dim], np.float32), none, none, none.astype(bool), none, none)


def _run(
    sampler: Sampler, posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    from tfgradgen.diagnostics.model_checks import with_number

    check_config(sampler.name, config, sampler.defaults)
    posterior.check_one_label(sampler.name)
    stats = checked_stats(posterior, run, sampler.takes_gradients, resume)
    if not {*FIT_FIGURES, "num_paths"} <= stats.get("fit", dict.fromkeys([*FIT_FIGURES, "num_paths"])).keys():
        raise StateError("a fit without all its figures")
    for chunk in hvi_chunks(with_number(posterior), config, schedule.num_results, run, resume):
        yield with_start(chunk, stats)


SAMPLER = Sampler(
    "hvi",
    about="learned leapfrog steps; also bounds log p(class)",
    exactness="approximate",
    defaults=HviConfig(),
    schedule=Schedule(num_results=40, num_burnin_steps=0, num_adaptation_steps=0),
    kind="fitted",
    kind_fn=lambda config: "chain" if config.exact else "fitted",
    cost_fn=lambda config: Cost(config.path_cost * (1 + config.num_proposals if config.exact else 1), 0),
    start_cost=lambda config: Cost(0, 0),
    is_calibrated=lambda config: config.exact,
    run_fn=_run,
)
