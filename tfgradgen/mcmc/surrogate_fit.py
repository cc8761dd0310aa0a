"""Learns the proposals of `surrogate` and evaluates them.

A network is fitted to the first `num_pool_draws` prior draws of the pool, once for all labels, conditions and temperatures. Two
further networks, each fitted to half of these draws, predict the other half. They show for each label which power of the
predicted likelihood makes the best proposals: the network is the more overconfident, the narrower the target is. Then, for each
label, the models evaluate `num_judged_draws` of its proposals, and the surrogate is kept only if their weights are
better than those of prior draws. The fit's own loss is no evidence; these are draws that it has not seen. Then everything is
frozen. The seed determines all of it.

Refitting with a thousand proposals of the label among the draws is not done, because it did not help on the shipped models.
"""

from __future__ import annotations

import functools
import logging
import weakref
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from scipy import special

from tfgradgen.core.backend import Stream, as_seed, compile_fn, fold_in
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Networks
from tfgradgen.core.memo import per_networks
from tfgradgen.mcmc.importance import MAX_PARETO_K, tail_shape
from tfgradgen.mcmc.kernel import Learned
from tfgradgen.mcmc.pool import CHUNK, Pool, pool_of
from tfgradgen.mcmc.surrogate import Proposals, SurrogateConfig, Weights, num_classes_of, predict, prior_proposals, propose
from tfgradgen.mcmc.surrogate_net import fit_network
from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

NUM_SCALED = 16_384  # prior draws at which only the network is evaluated, for the scale of its likelihood
LEAST_TAKEN = 0.005  # least share of prior draws that become proposals; the cap of the likelihood is lowered to reach it
MIN_TAIL = 5  # weights; with fewer, the tail is unknown
NEARLY_EQUAL = 0.9  # effective share: the standard deviation of the weights is then below a third of their mean
POWERS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # among which the power is chosen
MIN_ROWS = 64  # rows of the pool with finite log-probabilities; with fewer, nothing is learned


class Rows(NamedTuple):
    """Latent points z [n, latent_dim] float32 with log p of every class there [n, num_classes] (see `num_classes_of`)."""

    z: np.ndarray
    log_probs: np.ndarray

    @property
    def finite(self) -> Rows:
        """The rows whose log-probabilities are all finite."""
        is_finite = np.isfinite(self.log_probs).all(1)
        return Rows(self.z[is_finite], self.log_probs[is_finite])


class Quality(NamedTuple):
    """The quality of importance weights.

    Attributes:
      effective_share: ESS over the number of weights.
      largest_share: Share of the largest weight in the sum.
      pareto_k: Pareto k of the tail; 0 if many weights share the largest value, infinite if there are too few weights.
    """

    effective_share: float
    largest_share: float
    pareto_k: float


def quality(log_weight: np.ndarray) -> Quality:
    """Return the quality of weights [n], given as logs; -inf and NaN are weights of 0."""
    log_weight = np.nan_to_num(np.asarray(log_weight, np.float64), nan=-np.inf, posinf=np.inf)
    if not np.isfinite(log_weight).any():
        return Quality(0.0, 1.0, np.inf)
    weight = np.exp(log_weight - special.logsumexp(log_weight))
    if (weight >= weight.max() * (1 - 1e-6)).sum() >= MIN_TAIL:
        k = 0.0
    else:
        tail = log_weight[np.isfinite(log_weight)]
        k = tail_shape(tail) if len(tail) >= MIN_TAIL else np.inf
    return Quality(float(1 / np.square(weight).sum() / len(weight)), float(weight.max()), k)


def pool_rows(pool: Pool, num_draws: int) -> Rows:
    """Return the first `num_draws` prior draws of the pool."""
    parts = [(block.z, np.concatenate(block.log_probs, 1)) for block in pool.blocks(CHUNK, -(-num_draws // CHUNK))]
    return Rows(*(np.concatenate(column)[:num_draws] for column in zip(*parts, strict=True)))


def scored(pool: Pool, z: np.ndarray) -> Rows:
    """Return `z` with the outputs of the pool's models there, with one forward pass each."""
    return Rows(z, pool.scores(z)[:, : sum(pool.widths)])


class Fitted(NamedTuple):
    """What is learned for all labels.

    Attributes:
      weights: Weights of the network that proposes.
      rows: The rows to which it was fitted, all finite.
      held_out: [n, num_classes] float32, log p of every class at `rows`, predicted by networks that have not seen them.
    """

    weights: Weights
    rows: Rows
    held_out: np.ndarray


_FITS: weakref.WeakKeyDictionary[Pool, dict[int, Fitted | None]] = weakref.WeakKeyDictionary()


def fitted(pool: Pool, num_draws: int, seed: int) -> Fitted | None:
    """Return what is learned of the first draws of the pool, once for all labels; None if too few rows are finite."""
    fits = _FITS.setdefault(pool, {})
    if num_draws not in fits:
        rows = pool_rows(pool, num_draws).finite
        logger.info("fitting the surrogate to %d prior draws", len(rows.z))
        begun = fold_in(as_seed(seed), Stream.SURROGATE)
        fits[num_draws] = _fitted(rows, begun) if len(rows.z) >= MIN_ROWS else None
    return fits[num_draws]


def _fitted(rows: Rows, seed: tf.Tensor) -> Fitted:
    held_out = np.empty_like(rows.log_probs)
    for half in (0, 1):
        fit = fit_network(rows.z[1 - half :: 2], rows.log_probs[1 - half :: 2], fold_in(seed, half))
        held_out[half::2] = predict(fit.weights, tf.constant(rows.z[half::2])).numpy()
    return Fitted(fit_network(*rows, seed).weights, rows, held_out)


def cut(log_peak: np.ndarray, prior_share: float) -> tuple[float, float]:
    """Return log cap and log floor for powers of the predicted likelihood [n] at prior draws, given as logs, all finite."""
    log_peak = np.sort(log_peak)
    # For each value, the mean of min(peak / value, 1). If the highest few values exceed all others by far, a draw would hardly
    # ever be accepted, so a lower value is the cap.
    below = np.exp(np.logaddexp.accumulate(log_peak) - log_peak)
    mean = (below + np.arange(len(log_peak))[::-1]) / len(log_peak)
    cap = np.flatnonzero(mean >= min(LEAST_TAKEN, mean[0]))[-1]
    return float(log_peak[cap]), float(np.log(mean[cap] * prior_share / (1 - prior_share)))


def expected_share(log_peak: np.ndarray, log_weight: np.ndarray, prior_share: float) -> float:
    """Return the effective share of proposals made from `log_peak` [n], as estimated by prior draws of `log_weight` [n]."""
    log_cap, log_floor = cut(log_peak, prior_share)
    log_g = np.logaddexp(log_floor, np.minimum(log_peak - log_cap, 0.0))
    total, squares = special.logsumexp(log_weight), special.logsumexp(2 * log_weight - log_g)
    return float(np.exp(2 * total - special.logsumexp(log_g) - squares))


def power_of(fit: Fitted, posterior: ClassPosterior, config: SurrogateConfig) -> float:
    """Return the power of `config` or, if that is 0, the one of `POWERS` with the largest `expected_share`."""
    if config.power:
        return config.power
    log_peak, log_weight = log_weights(posterior, fit.rows._replace(log_probs=fit.held_out)), log_weights(posterior, fit.rows)
    known = np.isfinite(log_peak)
    if not np.isfinite(log_weight[known]).any():
        return 1.0
    return max(POWERS, key=lambda power: expected_share(power * log_peak[known], log_weight[known], config.prior_share))


def proposals_of(fit: Fitted, posterior: ClassPosterior, config: SurrogateConfig, seed: tf.Tensor) -> Proposals:
    """Return the network's proposals for the target of `posterior`; see `surrogate` for their density."""
    z, power = tf.random.stateless_normal([NUM_SCALED, posterior.latent_dim], seed), power_of(fit, posterior, config)
    log_peak = power * posterior.likelihood_of(predict(fit.weights, z)).numpy().astype(np.float64)
    log_peak = log_peak[np.isfinite(log_peak)]
    if not len(log_peak):
        return prior_proposals(posterior.latent_dim, num_classes_of(posterior))
    scalars = (tf.constant(value, tf.float32) for value in (power, *cut(log_peak, config.prior_share)))
    return Proposals(fit.weights, *scalars)


def drawn(proposals: Proposals, posterior: ClassPosterior, num: int, seed: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return fresh proposals z [num, latent_dim] and their log g [num]."""
    like, likelihood_fn = tf.zeros([8, posterior.latent_dim]), posterior.likelihood_of
    go = compile_fn(functools.partial(propose, likelihood_fn=likelihood_fn, num=-(-num // 8)))
    z, log_g = go(proposals=proposals, like=like, seed=seed)
    return z.numpy().reshape(-1, posterior.latent_dim)[:num], log_g.numpy().ravel()[:num]


def log_weights(posterior: ClassPosterior, rows: Rows) -> np.ndarray:
    """Return log-likelihoods [n], the log weights of prior draws, without a discriminator's term."""
    found: np.ndarray = posterior.likelihood_of(tf.constant(rows.log_probs)).numpy().astype(np.float64)
    return found


@per_networks
def _learned(networks: Networks, label: int, temperature: float, config: SurrogateConfig, run: RunConfig) -> Learned:
    posterior = ClassPosterior.of(networks, label, temperature)
    pool, own_seed = pool_of(posterior, run), fold_in(posterior.own_seed(run.seed), Stream.SURROGATE)
    rows, fit = pool_rows(pool, config.num_pool_draws), fitted(pool, config.num_pool_draws, run.seed)
    num_counted = run.num_chains * run.num_init_draws if run.init == "resample" else 0  # rows already counted by the starts
    prior, num_forward = quality(log_weights(posterior, rows)), max(len(rows.z) - num_counted, 0)
    if fit is None:
        return _dropped(posterior, prior, None, num_forward)
    proposals = proposals_of(fit, posterior, config, fold_in(own_seed, 0))
    z, log_g = drawn(proposals, posterior, config.num_judged_draws, fold_in(own_seed, 1))
    found = quality(log_weights(posterior, scored(pool, z)) - log_g)
    num_forward += len(z)
    if not is_better(found, prior):
        return _dropped(posterior, prior, found, num_forward)
    stats = stats_of("surrogate", prior, found)
    stats["surrogate"]["power"] = float(proposals.power)
    return Learned({"proposals": proposals}, stats, [], num_forward)


def is_better(found: Quality, prior: Quality) -> bool:
    """Return whether proposals of the quality `found` are better than prior draws.

    A larger share of them must be effective, and the tail of their weights must make that estimate reliable, or more reliable
    than that of the prior. Weights that are nearly equal have no tail, whatever its fitted shape.
    """
    is_reliable = found.effective_share > NEARLY_EQUAL or found.pareto_k <= max(MAX_PARETO_K, prior.pareto_k)
    return found.effective_share > prior.effective_share and is_reliable


def stats_of(name: str, prior: Quality, found: Quality | None) -> dict[str, Any]:
    """Return the stats of the choice, JSON-serializable: `proposals`, 'surrogate' or 'prior', and the quality of both."""
    each = {"prior": prior} | ({"surrogate": found} if found else {})
    numbers = {
        kind: {key: value if np.isfinite(value) else None for key, value in own._asdict().items()} for kind, own in each.items()
    }
    return {"proposals": name, **numbers}


def _dropped(posterior: ClassPosterior, prior: Quality, found: Quality | None, num_forward: int) -> Learned:
    """Return prior draws as proposals, with the reason."""
    why = "too few prior draws have finite log-probabilities"
    if found:
        why = f"of its proposals {_said(found)}, of prior draws {_said(prior)}"
    warning = f"surrogate: its proposals are no better than prior draws for this label, which take their place: {why}"
    proposals = prior_proposals(posterior.latent_dim, num_classes_of(posterior))
    return Learned({"proposals": proposals}, stats_of("prior", prior, found), [warning], num_forward)


def _said(found: Quality) -> str:
    return f"{found.effective_share:.2%} are effective (Pareto k {found.pareto_k:.2f}, largest share {found.largest_share:.0%})"


def learned(posterior: ClassPosterior, config: SurrogateConfig, run: RunConfig) -> Learned:
    """Return the frozen proposals for the target of `posterior`.

    They are the same for the same models, label, temperature, settings and seed.

    Raises:
      UserError: The posterior has a vector of labels, each of which would have its own proposals.
    """
    posterior.check_one_label("surrogate")
    found: Learned = _learned(posterior.networks, int(posterior.label), posterior.temperature, config, run)
    return found
