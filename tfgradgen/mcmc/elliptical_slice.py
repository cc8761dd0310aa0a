"""Elliptical slice sampling (Murray, Adams and MacKay 2010): no step size and no gradients, for a normal prior.

TFP's kernel is not used: its results do not include the number of evaluations, and a NaN likelihood keeps its loop from
ending. The tests compare the distributions of the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.config import KernelConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, StepInfo, nan_to_neg_inf, one_tensor

MAX_SHRINKS = 100  # the bracket is then far smaller than the precision of an angle


class SliceResults(NamedTuple):
    """Results of a transition.

    Attributes:
      log_likelihood: [num_chains], of the state.
      is_accepted: [num_chains] bool, whether a point was accepted.
      is_valid: [num_chains] bool, whether the likelihood was finite at every point tried.
      num_forward: int32 [num_chains], forward passes.
    """

    log_likelihood: tf.Tensor
    is_accepted: tf.Tensor
    is_valid: tf.Tensor
    num_forward: tf.Tensor


class Bracket(NamedTuple):
    """The search for an angle; each field is [num_chains], except for z.

    Attributes:
      low: Lower bound of the angle.
      high: Upper bound of the angle.
      z: [num_chains, latent_dim], the state.
      log_likelihood: Log-likelihood of `z`.
      is_found: bool, whether a point was accepted.
      is_valid: bool, whether the likelihood was finite at every point tried.
      num_forward: int32, evaluations so far.
    """

    low: tf.Tensor
    high: tf.Tensor
    z: tf.Tensor
    log_likelihood: tf.Tensor
    is_found: tf.Tensor
    is_valid: tf.Tensor
    num_forward: tf.Tensor


class EllipticalSlice(KernelBase):
    """Moves to the first point tried on the ellipse through z and a prior draw whose likelihood exceeds u * likelihood(z).

    Here u is uniform in (0, 1].

    Args:
      likelihood_log_prob_fn: `z [num_chains, latent_dim]` -> float32 [num_chains]; the prior is Normal(0, I).
    """

    def __init__(self, likelihood_log_prob_fn: Any):
        self._parameters = dict(likelihood_log_prob_fn=likelihood_log_prob_fn)

    def bootstrap_results(self, init_state: tf.Tensor) -> SliceResults:
        value = self._parameters["likelihood_log_prob_fn"](one_tensor(init_state))
        yes = tf.ones_like(value, tf.bool)
        return SliceResults(value, yes, yes, tf.ones_like(value, tf.int32))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: SliceResults, seed: Any = None) -> Any:
        seed = tfp.random.sanitize_seed(seed)
        shape, dtype = tf.shape(previous_kernel_results.log_likelihood), current_state.dtype
        other = tf.random.stateless_normal(tf.shape(current_state), fold_in(seed, 0), dtype=dtype)
        start = previous_kernel_results.log_likelihood
        # A chain at a point without a likelihood accepts the first point that has one.
        threshold = nan_to_neg_inf(start + tf.cast(log_uniform(shape, fold_in(seed, 1)), dtype))
        angle = tf.random.stateless_uniform(shape, fold_in(seed, 2), maxval=2 * np.pi, dtype=dtype)
        no = tf.zeros_like(start, tf.bool)
        bracket = Bracket(angle - 2 * np.pi, angle, current_state, start, no, ~no, tf.zeros_like(start, tf.int32))

        def shrink(i: tf.Tensor, angle: tf.Tensor, now: Bracket) -> Any:
            z = current_state * tf.cos(angle)[:, None] + other * tf.sin(angle)[:, None]
            z = tf.where(now.is_found[:, None], now.z, z)
            value = self._parameters["likelihood_log_prob_fn"](z)
            takes = ~now.is_found & (value > threshold)
            after = Bracket(
                tf.where(angle < 0, angle, now.low),
                tf.where(angle < 0, now.high, angle),
                tf.where(takes[:, None], z, now.z),
                tf.where(takes, value, now.log_likelihood),
                now.is_found | takes,
                now.is_valid & (now.is_found | tf.math.is_finite(value)),
                now.num_forward + tf.cast(~now.is_found, tf.int32),
            )
            share = tf.random.stateless_uniform(shape, fold_in(seed, 3 + i), dtype=dtype)
            return i + 1, after.low + share * (after.high - after.low), after

        _, _, end = tf.while_loop(
            lambda i, angle, now: (i < MAX_SHRINKS) & ~tf.reduce_all(now.is_found),
            shrink,
            (tf.constant(0), angle, bracket),
            parallel_iterations=1,
        )
        return end.z, SliceResults(end.log_likelihood, end.is_found, end.is_valid, end.num_forward)


def slice_info(posterior: PosteriorLike, config: KernelConfig, z: tf.Tensor, results: SliceResults) -> StepInfo:
    """Return the `StepInfo` of a transition; its step size is NaN, and `log_accept_ratio` is NaN unless `is_valid`."""
    value = results.log_likelihood
    return StepInfo(
        target_log_prob=posterior.prior_log_prob(z) + value,
        is_accepted=results.is_accepted,
        log_accept_ratio=tf.where(results.is_valid, tf.zeros_like(value), np.nan),
        step_size=tf.fill(tf.shape(value), np.float32(np.nan)),
        num_gradients=tf.zeros_like(results.num_forward),
        num_forward=results.num_forward,
    )


SAMPLER = KernelSampler(
    "elliptical_slice",
    about="needs no gradient and has nothing to tune",
    exactness="asymptotically exact",
    defaults=KernelConfig(),
    schedule=Schedule(num_results=100, num_burnin_steps=50, num_adaptation_steps=0),
    cost_fn=lambda config: Cost(0, 6),
    start_cost=lambda config: Cost(0, 1),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: EllipticalSlice(posterior.likelihood_log_prob),
    info_fn=slice_info,
)
