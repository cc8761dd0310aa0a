"""Starting points of chains: exact draws of the posterior, found among a few hundred prior draws per chain.

Each chain has a block of the pool of its seed (see `pool`). A prior draw that its own uniform number accepts with probability
likelihood ** (1 / temperature) is an exact draw (see `rejection`). Which draws are accepted carries no information about where
the accepted ones lie, so the accepted draws of all chains are independent exact draws, whichever chain takes them. A chain
takes, in this order:

1. the first accepted draw of its own block, which is then the same in a run of any number of chains;
2. an accepted draw that another chain has left over;
3. if the class is so rare that the draws of all chains together contain too few, one of the draws of all chains that were not
   accepted, chosen by its importance weight: sampling importance resampling (Rubin 1987), with a systematic sample. A draw
   then serves as many of these chains as its weight implies, rounded up or down, so that each start has the distribution of
   the weights, and no draw is chosen twice unless it holds more than its share. Without replacement, a draw that holds most of
   the weight could serve one chain only, and the starts of the others would be biased towards the prior. Such a start is
   likely, but not exact. Several of them are dependent, to the extent that few draws hold most of the weight.

With a discriminator in the target, its energy is unbounded, so nothing is accepted: each chain resamples its own draws.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import Stream, fold_in, log_uniform, resample_systematic
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Cost
from tfgradgen.core.text import counted
from tfgradgen.mcmc.annealing import annealed_points
from tfgradgen.mcmc.pool import CHUNK, pool_of, weigh
from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

SMALLEST = 1e-30  # smallest probability whose log is taken


class Scores(NamedTuple):
    """What is known of the prior draws of chains; each field is [..., num_draws].

    Attributes:
      class_log_prob: log p(class | g(z)), in nats.
      log_weight: Log of target over prior; -inf where it is not finite.
      log_uniform: Logs of uniform numbers, by which draws are accepted.
      noise: Gumbel noise, by which a draw is chosen with its weight.
    """

    class_log_prob: Any
    log_weight: Any
    log_uniform: Any
    noise: Any


class Starts(NamedTuple):
    """The starting points of chains.

    Attributes:
      z: [num_chains, latent_dim] float32.
      num_exact: Number of exact draws among them; None unless exact draws were requested.
      class_prob: Mean of p(class) over the prior draws where it is finite; None if it is finite nowhere.
      class_prob_error: Standard error of `class_prob`; None for fewer than two draws.
      num_draws: Number of prior draws, including those without a finite p(class).
      num_not_finite: Number of draws without a finite p(class), or without a finite output of a discriminator in the target.
      spent: What annealing cost, for all chains together.
      annealed: Numbers of prior draws without a finite p(class), and of all, with which annealing began.
      of_each: For a vector of labels, the starts of each label, in the order of `ClassPosterior.each_label`.
    """

    z: tf.Tensor
    num_exact: int | None
    class_prob: float | None
    class_prob_error: float | None
    num_draws: int
    num_not_finite: int
    spent: Cost = Cost(0, 0)
    annealed: tuple[int, int] = (0, 0)
    of_each: tuple["Starts", ...] = ()

    @property
    def stats(self) -> dict[str, Any]:
        """The starts as they appear in the stats of a run."""
        return {
            "prior_class_prob": self.class_prob,
            "prior_class_prob_error": self.class_prob_error,
            "prior_draws": self.num_draws,
            "exact_starts": self.num_exact,
            "num_not_finite": self.num_not_finite + self.annealed[0],
            "num_scored": self.num_draws + self.annealed[1],
        }


def score(posterior: ClassPosterior, num_draws: int, seed: tf.Tensor) -> tuple[tf.Tensor, Scores]:
    """Return `num_draws` prior draws z [num_draws, latent_dim] and their scores, with one forward pass each."""
    z = posterior.sample_prior(num_draws, fold_in(seed, 0))
    class_log_prob, log_weight = posterior.class_and_likelihood_log_prob(z)
    log_weight = tf.where(tf.math.is_finite(log_weight), log_weight, -np.inf)
    return z, Scores(class_log_prob, log_weight, log_uniform([num_draws], fold_in(seed, 1)), _gumbel(num_draws, seed))


def scored_blocks(posterior: ClassPosterior, run: RunConfig) -> Iterator[tuple[np.ndarray, Scores]]:
    """Yield the rows of the pool from which each chain's start is chosen, z [num_init_draws, latent_dim], and their scores.

    This takes one forward pass per row, unless the pool already has it.
    """
    blocks = pool_of(posterior, run).blocks(run.num_init_draws, run.num_chains)
    for draws, seed in zip(blocks, _seeds(posterior, run), strict=True):
        yield draws.z, Scores(*weigh(posterior, draws, run), _gumbel(len(draws.z), seed))


def _seeds(posterior: ClassPosterior, run: RunConfig) -> list[tf.Tensor]:
    """Return the seeds for the choice of each chain's start."""
    seed = fold_in(posterior.own_seed(run.seed), Stream.STARTS)
    return [fold_in(seed, chain) for chain in range(run.num_chains)]


def _gumbel(num_draws: int, seed: tf.Tensor) -> tf.Tensor:
    return -tf.math.log(-log_uniform([num_draws], fold_in(seed, 2)) + SMALLEST)


def start_point(posterior: ClassPosterior, num_draws: int, seed: tf.Tensor) -> tf.Tensor:
    """Return a start z [latent_dim] of a single chain, from `num_draws` prior draws, by TensorFlow ops that work in a graph.

    It is the first accepted draw, else one chosen by its weight; if there is only one draw, that draw. If no draw has a finite
    weight, the choice is meaningless.
    """
    z, scores = score(posterior, num_draws, seed)
    picked = tf.argmax(left_weight(scores.log_weight, posterior.has_energy) + scores.noise)
    accepted = scores.log_uniform < scores.log_weight
    if not posterior.has_energy:
        picked = tf.where(tf.reduce_any(accepted), tf.argmax(tf.cast(accepted, tf.int32)), picked)
    return z[picked]


def left_weight(log_weight: Any, has_energy: bool) -> Any:
    """Return the log importance weights of draws that were not accepted: their density is the prior times 1 - likelihood."""
    return log_weight if has_energy else log_weight - tf.math.log(tf.maximum(-tf.math.expm1(log_weight), SMALLEST))


def choose_starts(posterior: ClassPosterior, run: RunConfig, powers: Sequence[float] = ()) -> Starts:
    """Return the starting points of `run.num_chains` chains, as `run.init` specifies.

    'resample' chooses them as described above, from `RunConfig.num_init_draws` rows of the pool per chain. 'prior' takes one
    prior draw per chain, specific to the label. 'annealed' takes particles of an annealed population (see `annealing`). 'given'
    starts all chains at `run.init_z`. With a vector of labels, the chains of each label start as in a run of that label alone.

    Args:
      posterior: The target.
      run: Provides the seed, `num_chains`, `init` and its settings.
      powers: For a kernel with replicas, the power of the likelihood in the target of each replica, 1 first. z is then
        [num_replicas, num_chains, latent_dim]. A replica of a lower power takes a draw of its chain that is exact for its own
        target: the last one rather than the first, so that replicas share no draws if there are enough.

    Raises:
      UserError: No draw has a finite likelihood, `run.init_z` does not fit the generator, or `run` has another temperature than
        the posterior.
    """
    posterior.check_run(run)
    if posterior.is_batched:
        return _starts_of_each(posterior, run, powers)
    resample = run.init == "resample"
    num_draws = run.num_init_draws if resample else 1
    if run.init_z is None:
        chains, each = counted(run.num_chains, "chain"), counted(num_draws, "prior draw")
        logger.info("drawing the starts of %s, each from %s", chains, each)
    pool, seeds = pool_of(posterior, run) if resample else None, _seeds(posterior, run)
    if pool:
        found = [scores for _, scores in scored_blocks(posterior, run)]
    else:
        found = [score(posterior, num_draws, seed)[1] for seed in seeds]
    scores = Scores(*(np.stack([np.asarray(value) for value in column]) for column in zip(*found, strict=True)))
    if resample and not np.isfinite(scores.log_weight).any():
        raise fail(
            "p(class)",
            "a finite likelihood at some prior draw",
            f"none in {num_draws * run.num_chains}",
            "check the models' ranges and labels",
        )
    picks, num_exact = np.arange(run.num_chains) * num_draws, None
    if resample:
        picks, num_exact = pick(scores, posterior.has_energy)
    replicas = pick_replicas(scores, picks, powers, posterior.has_energy) if resample else [picks for _ in powers]
    rows = np.stack([picks, *replicas])
    z = np.empty([*rows.shape, posterior.latent_dim], np.float32)
    size = CHUNK if pool else num_draws
    for number in np.unique(rows // size).tolist():  # redrawn rather than kept: this needs no network and saves memory
        draws = pool.z(number) if pool else posterior.sample_prior(num_draws, fold_in(seeds[number], 0)).numpy()
        where = rows // size == number
        z[where] = draws[rows[where] % size]
    if run.init_z is not None:
        if len(run.init_z) != posterior.latent_dim:
            raise fail("init_z", f"{posterior.latent_dim} coordinates", len(run.init_z), "give a latent point of the generator")
        z[:] = np.asarray(run.init_z, np.float32)
    spent, annealed = Cost(0, 0), (0, 0)
    if run.init == "annealed":
        seed = fold_in(posterior.own_seed(run.seed), Stream.ANNEALING)
        z[:], spent, scored = annealed_points(posterior, run.num_chains, seed, run.jit)
        annealed = (int(scored[0]), int(scored[1]))
    finite = np.isfinite(scores.class_log_prob)
    prob = np.exp(scores.class_log_prob[finite].astype(np.float64))
    return Starts(
        tf.constant(z[1:] if len(powers) else z[0]),
        num_exact,
        float(prob.mean()) if prob.size else None,
        float(prob.std(ddof=1) / np.sqrt(prob.size)) if prob.size > 1 else None,
        scores.class_log_prob.size,
        int((~(finite & np.isfinite(scores.log_weight)) if posterior.has_energy else ~finite).sum()),
        spent,
        annealed,
    )


def _starts_of_each(posterior: ClassPosterior, run: RunConfig, powers: Sequence[float]) -> Starts:
    """Apply `choose_starts` to the chains of each label.

    p(class) is then the mean over the draws of all labels, each of its own label.
    """
    posterior.check_num_chains(run.num_chains)
    z = np.empty([*([len(powers)] if powers else []), run.num_chains, posterior.latent_dim], np.float32)
    parts = []
    for of_label, places in posterior.each_label():
        parts.append(choose_starts(of_label, replace(run, num_chains=len(places)), powers))
        z[..., places, :] = parts[-1].z
    exact = [found.num_exact for found in parts if found.num_exact is not None]
    num_draws, num_not_finite = sum(found.num_draws for found in parts), sum(found.num_not_finite for found in parts)
    shares = [(found.num_draws - found.num_not_finite) / max(num_draws - num_not_finite, 1) for found in parts]
    means, errors = [found.class_prob for found in parts], [found.class_prob_error for found in parts]
    mean = sum(share * (each or 0.0) for share, each in zip(shares, means, strict=True))
    error = float(np.sqrt(sum((share * each) ** 2 for share, each in zip(shares, errors, strict=True) if each is not None)))
    return Starts(
        tf.constant(z),
        sum(exact) if exact else None,
        None if all(each is None for each in means) else mean,
        None if all(each is None for each in errors) else error,
        num_draws,
        num_not_finite,
        Cost(*(sum(column) for column in zip(*(found.spent for found in parts), strict=True))),
        (sum(found.annealed[0] for found in parts), sum(found.annealed[1] for found in parts)),
        tuple(parts),
    )


def pick(scores: Scores, has_energy: bool) -> tuple[np.ndarray, int]:
    """Return the index of each chain's start among the draws of all chains, chain by chain, and the number of exact ones.

    Args:
      scores: Each field [num_chains, num_draws].
      has_energy: Whether a discriminator is in the target.
    """
    num_chains, num_draws = scores.log_weight.shape
    flat = np.arange(num_chains * num_draws).reshape(num_chains, num_draws)
    weight = np.asarray(left_weight(tf.constant(scores.log_weight), has_energy))
    key = weight + scores.noise
    if has_energy:
        own = flat[np.arange(num_chains), key.argmax(1)]
        return np.where(np.isfinite(key).any(1), own, key.argmax()), 0
    accepted = scores.log_uniform < scores.log_weight
    picks = np.where(accepted.any(1), flat[np.arange(num_chains), accepted.argmax(1)], -1)
    picks, num_exact = _filled(picks, accepted, weight, scores.noise)
    if -1 in picks:  # every draw with a likelihood was accepted: reuse them, from the first
        picks = np.where(picks < 0, np.resize(flat[accepted], num_chains), picks)
    return picks, num_exact


def _filled(picks: np.ndarray, accepted: np.ndarray, left_log_weight: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, int]:
    """Fill chains without a draw (-1) in `picks` [num_chains] with draws of any chain, as far as there are enough.

    Args:
      picks: Indices of the draws chosen so far.
      accepted: [num_chains, num_draws], draws that may be taken as they are.
      left_log_weight: Like it, log weights of the other draws; -inf for draws that are excluded.
      noise: Like it, Gumbel noise.

    Returns:
      The new indices, and the number of chains at accepted draws.
    """
    picks, without = picks.copy(), np.flatnonzero(picks < 0)
    spare = np.setdiff1d(np.flatnonzero(accepted), picks)[: len(without)]
    picks[without[: len(spare)]] = spare
    rest, log_weight = without[len(spare) :], np.where(accepted, -np.inf, left_log_weight).ravel().astype(np.float64)
    if len(rest) and np.isfinite(log_weight).any():
        offset = float(np.exp(-np.exp(-np.float64(noise[0, 0]))))  # a uniform number, independent of weights and acceptance
        picks[rest] = resample_systematic(np.exp(log_weight - log_weight.max()), min(offset, 1 - 1e-9), len(rest))
    return picks, len(picks) - len(rest)


def pick_replicas(scores: Scores, picks: np.ndarray, powers: Sequence[float], has_energy: bool) -> list[np.ndarray]:
    """Return the choice of `pick` for replicas whose likelihood has these powers; `picks` is that of the first one.

    A replica without an accepted draw of its chain takes one of another chain, as in `pick`: the best of its own few draws
    would be biased towards the prior. With a discriminator, each chain resamples its own draws.
    """
    num_chains, num_draws = scores.log_weight.shape
    rows, chains = [picks], np.arange(num_chains)
    used = np.zeros(num_chains * num_draws, bool)
    used[picks] = True
    for power in sorted(powers[1:]):
        log_weight = np.where(used.reshape(num_chains, num_draws), -np.inf, power * scores.log_weight)
        weight = np.asarray(left_weight(tf.constant(log_weight), has_energy))
        if has_energy:
            own = (weight + scores.noise).argmax(1)
            found = np.where(np.isfinite(log_weight[chains, own]), chains * num_draws + own, -1)
        else:
            accepted = scores.log_uniform < log_weight
            last = num_draws - 1 - accepted[:, ::-1].argmax(1)
            found = np.where(accepted.any(1), chains * num_draws + last, -1)
            found, _ = _filled(found, accepted, weight, scores.noise)
        used[found[found >= 0]] = True
        rows.append(np.where(found < 0, picks, found))
    return [rows[0], *rows[:0:-1]] if powers else []


def initial_points(posterior: ClassPosterior, run: RunConfig) -> tuple[tf.Tensor, float, int]:
    """Return starting points [num_chains, latent_dim], the mean p(class) of the scored prior draws, and their number.

    See `choose_starts`. The mean is NaN if p(class) is finite nowhere.
    """
    found = choose_starts(posterior, run)
    return found.z, float("nan") if found.class_prob is None else found.class_prob, found.num_draws
