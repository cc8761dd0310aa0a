"""Learns the proposals of `surrogate`: a network is fitted to a pool of prior draws, then to proposals of the label.

1. The pool: prior draws with log p of every class, and a network that is fitted to them. Both serve all labels, conditions and
   temperatures, and are kept with the models.
2. Of a label: `num_refit_draws` proposals, which lie where the label is, are shown to the networks; the network is fitted once
   more, to both.
3. `num_judged_draws` proposals of the new network, of which it has seen none, are weighed. The surrogate stays only where their
   weights are better than those of prior draws. A fit says nothing true of itself: only fresh draws do.

Then everything is frozen. The seed decides all of it.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from arviz_stats.base import array_stats
from scipy import special

from tfgradgen.core.backend import Stream, as_seed, fold_in, full_float32
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Networks
from tfgradgen.core.memo import per_networks
from tfgradgen.mcmc.kernel import Learned
from tfgradgen.mcmc.surrogate import Proposals, SurrogateConfig, predict, prior_proposals, propose
from tfgradgen.mcmc.surrogate_net import Fit, first_fit, more_fit
from tfgradgen.models.bases import base_log_probs, bases_of, num_base_classes
from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

ROWS = 128  # that the networks look at together
NUM_SCALED = 65_536  # prior draws at which the network alone is looked at, for the scale of its likelihood
LEAST_TAKEN = 0.005  # of prior draws, as proposals: the likelihood is cut off at the top where fewer would be
MAX_PARETO_K = 0.7  # above it a mean over weights is not to be relied on (Vehtari et al. 2024)
MIN_ROWS = 64  # of the pool, with finite log-probabilities: of fewer nothing is learned
REFIT_IMPORTANCE = 4.0  # of a proposal, for 1 of a draw of the pool
REFIT_RATE = 0.3  # of the learning rate


class Pool(NamedTuple):
    """Prior draws z [n, latent_dim] float32 and log p of every base class there, [n, num_base_classes]."""

    z: np.ndarray
    log_probs: np.ndarray

    @property
    def finite(self) -> Pool:
        """Those rows whose numbers are all finite."""
        is_finite = np.isfinite(self.log_probs).all(1)
        return Pool(self.z[is_finite], self.log_probs[is_finite])


class Quality(NamedTuple):
    """Of importance weights. effective_share: effective number over number. largest_share: of the sum, held by one.
    pareto_k: of their tail; infinite where there is none."""

    effective_share: float
    largest_share: float
    pareto_k: float


def quality(log_weight: np.ndarray) -> Quality:
    """Of weights [n] as logs; -inf and NaN are 0."""
    log_weight = np.nan_to_num(np.asarray(log_weight, np.float64), nan=-np.inf, posinf=np.inf)
    if not np.isfinite(log_weight).any():
        return Quality(0.0, 1.0, np.inf)
    weight = np.exp(log_weight - special.logsumexp(log_weight))
    tail = log_weight[np.isfinite(log_weight)]
    k = float(array_stats.psislw(-tail)[1]) if len(tail) >= 5 else np.inf  # it takes logs of 1 / weight
    return Quality(float(1 / np.square(weight).sum() / len(weight)), float(weight.max()), k if np.isfinite(k) else np.inf)


def shared(networks: Networks) -> Networks:
    """What all labels and conditions on the same classifier have in common."""
    bases = bases_of(networks.classifier)
    observer = bases[0] if len(bases) == 1 else networks.classifier
    return networks._replace(classifier=observer, discriminator=None, discriminator_weight=0.0)


@per_networks
def _scorer(networks: Networks, num_rows: int) -> Any:
    """z [num_rows, latent_dim] -> base log-probabilities, compiled."""
    spec = tf.TensorSpec([num_rows, networks.generator.latent_dim], tf.float32)

    def score(z: tf.Tensor) -> tf.Tensor:
        return base_log_probs(bases_of(networks.classifier), networks.generator(z))

    return tf.function(score, input_signature=[spec], autograph=False)


def scored(networks: Networks, z: np.ndarray) -> np.ndarray:
    """`base_log_probs` [n, num_base_classes] of the images of z [n, latent_dim]: a forward pass each."""
    full_float32()
    num_rows = min(ROWS, networks.max_batch or ROWS)
    score_fn = _scorer(shared(networks), num_rows)
    filled = np.concatenate([z, np.zeros([-len(z) % num_rows, z.shape[1]], np.float32)])
    parts = [score_fn(tf.constant(filled[k : k + num_rows])).numpy() for k in range(0, len(filled), num_rows)]
    return np.concatenate(parts)[: len(z)]


def prior_pool(networks: Networks, num_draws: int, seed: tf.Tensor) -> Pool:
    """`num_draws` prior draws with their log-probabilities."""
    z = tf.random.stateless_normal([num_draws, networks.generator.latent_dim], seed).numpy()
    return Pool(z, scored(networks, z))


@per_networks
def fitted(networks: Networks, num_draws: int, seed: int) -> tuple[Pool, Fit | None]:
    """The pool of these models and the network that is fitted to it, once for all labels; None where too little is finite."""
    begun = fold_in(as_seed(seed), Stream.SURROGATE)
    logger.info("scoring %d prior draws for the surrogate", num_draws)
    pool = prior_pool(networks, num_draws, fold_in(begun, 0))
    finite = pool.finite
    if len(finite.z) < MIN_ROWS:
        return pool, None
    logger.info("fitting the surrogate")
    return pool, first_fit(finite.z, finite.log_probs, fold_in(begun, 1))


def proposals_of(fit: Fit, posterior: ClassPosterior, config: SurrogateConfig, seed: tf.Tensor) -> Proposals:
    """The proposals that the network makes for the target of `posterior`; see `surrogate` for their density."""
    z = tf.random.stateless_normal([NUM_SCALED, posterior.latent_dim], seed)
    log_peak = config.power * posterior.likelihood_from_bases(predict(fit.whole, z)).numpy().astype(np.float64)
    log_peak = np.sort(log_peak[np.isfinite(log_peak)])
    if not len(log_peak):
        return prior_proposals(posterior.latent_dim, num_base_classes(posterior.classifier))
    # Of each value the mean of min(peak / value, 1). Where the highest few tower above all others, these would hardly ever be
    # taken, so that a lower one is the cap.
    below = np.exp(np.logaddexp.accumulate(log_peak) - log_peak)
    mean = (below + np.arange(len(log_peak))[::-1]) / NUM_SCALED
    cap = np.flatnonzero(mean >= min(LEAST_TAKEN, mean[0]))[-1]
    floor = mean[cap] * config.prior_share / (1 - config.prior_share)
    scalars = (tf.constant(value, tf.float32) for value in (config.power, log_peak[cap], np.log(floor)))
    return Proposals(fit.whole, *scalars)


def drawn(proposals: Proposals, posterior: ClassPosterior, num: int, seed: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Fresh proposals z [num, latent_dim] and their log g [num]."""
    like, likelihood_fn = tf.zeros([8, posterior.latent_dim]), posterior.likelihood_from_bases
    go = tf.function(functools.partial(propose, likelihood_fn=likelihood_fn, num=-(-num // 8)), autograph=False)
    z, log_g = go(proposals=proposals, like=like, seed=seed)
    return z.numpy().reshape(-1, posterior.latent_dim)[:num], log_g.numpy().ravel()[:num]


def weights_of(posterior: ClassPosterior, log_probs: np.ndarray, log_g: np.ndarray | float = 0.0) -> np.ndarray:
    """log weights [n] of draws with these base log-probabilities and this log g; without a discriminator's term."""
    return posterior.likelihood_from_bases(tf.constant(log_probs)).numpy().astype(np.float64) - log_g


@per_networks
def _learned(networks: Networks, label: int, temperature: float, config: SurrogateConfig, seed: int) -> Learned:
    posterior = ClassPosterior.of(networks, label, temperature)
    pool, fit = fitted(shared(networks), config.num_pool_draws, seed)
    own_seed = fold_in(posterior.own_seed(seed), Stream.SURROGATE)
    prior, num_forward = quality(weights_of(posterior, pool.log_probs)), len(pool.z)
    if fit is None:
        return _dropped(posterior, prior, None, num_forward)
    if config.num_refit_draws:
        fit = _refitted(fit, pool.finite, posterior, config, own_seed)
        num_forward += config.num_refit_draws
    proposals = proposals_of(fit, posterior, config, fold_in(own_seed, 2))
    z, log_g = drawn(proposals, posterior, config.num_judged_draws, fold_in(own_seed, 3))
    found = quality(weights_of(posterior, scored(networks, z), log_g))
    num_forward += len(z)
    if not is_better(found, prior):
        return _dropped(posterior, prior, found, num_forward)
    return Learned({"proposals": proposals}, facts_of("surrogate", prior, found), [], num_forward)


def is_better(found: Quality, prior: Quality) -> bool:
    """Whether proposals of the quality `found` do more than prior draws: a larger share of them is effective, and the tail of
    their weights lets that be known, or lets it be known better than the prior's."""
    return found.effective_share > prior.effective_share and found.pareto_k <= max(MAX_PARETO_K, prior.pareto_k)


def facts_of(name: str, prior: Quality, found: Quality | None) -> dict[str, Any]:
    """What is said of the choice: `proposals`, 'surrogate' or 'prior', and the quality of both, JSON-able."""
    each = {"prior": prior} | ({"surrogate": found} if found else {})
    numbers = {
        kind: {key: value if np.isfinite(value) else None for key, value in own._asdict().items()} for kind, own in each.items()
    }
    return {"proposals": name, **numbers}


def _refitted(fit: Fit, pool: Pool, posterior: ClassPosterior, config: SurrogateConfig, seed: tf.Tensor) -> Fit:
    """`fit` after the pool and proposals of its own."""
    z, _ = drawn(proposals_of(fit, posterior, config, fold_in(seed, 0)), posterior, config.num_refit_draws, fold_in(seed, 1))
    new = Pool(z, scored(posterior.networks, z)).finite
    rows = [np.concatenate([a, b]) for a, b in zip(new, pool, strict=True)]
    importance = np.concatenate([np.full(len(new.z), REFIT_IMPORTANCE), np.ones(len(pool.z))])
    return more_fit(fit, *rows, importance, fold_in(seed, 4), REFIT_RATE)


def _dropped(posterior: ClassPosterior, prior: Quality, found: Quality | None, num_forward: int) -> Learned:
    """Prior draws as proposals, and why."""
    why = "too few prior draws have finite log-probabilities"
    if found:
        why = f"of its proposals {_said(found)}, of prior draws {_said(prior)}"
    doubt = f"surrogate: it does not beat prior draws for this label, which take its place: {why}"
    proposals = prior_proposals(posterior.latent_dim, num_base_classes(posterior.classifier))
    return Learned({"proposals": proposals}, facts_of("prior", prior, found), [doubt], num_forward)


def _said(found: Quality) -> str:
    return f"{found.effective_share:.2%} are effective (Pareto k {found.pareto_k:.2f}, largest share {found.largest_share:.0%})"


def learned(posterior: ClassPosterior, config: SurrogateConfig, run: RunConfig) -> Learned:
    """The frozen proposals for the target of `posterior`: the same for the same models, label, temperature, settings and seed.

    Raises:
      UserError: a vector of labels, each of which would have proposals of its own.
    """
    posterior.check_one_label("surrogate")
    found: Learned = _learned(posterior.networks, int(posterior.label), posterior.temperature, config, run.seed)
    return found
