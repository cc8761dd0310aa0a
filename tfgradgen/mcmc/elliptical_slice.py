"""Elliptical slice sampling (Murray, Adams and MacKay 2010): no step size, no gradient, for a normal prior.

TFP has it too, but its results do not say how many evaluations a step took, and a likelihood that is not a number keeps its
loop from ending; the tests hold the two to the same law.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.config import KernelConfig
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.kernel import KernelFamily, OwnKernel, StepInfo, absent_if_nan, one_tensor
from tfgradgen.mcmc.presets import PRESETS

MAX_SHRINKS = 100  # the bracket is then far below the precision of an angle


class SliceResults(NamedTuple):
    """log_likelihood: [num_chains], of the state. is_accepted: [num_chains] bool. is_valid: [num_chains] bool, whether every
    point that was tried had a likelihood. num_forward: int32 [num_chains]."""

    log_likelihood: tf.Tensor
    is_accepted: tf.Tensor
    is_valid: tf.Tensor
    num_forward: tf.Tensor


class Bracket(NamedTuple):
    """While the angle is sought, each [num_chains] but z [num_chains, latent_dim]: its bounds, the state, what it is worth,
    whether it was found, whether every point had a likelihood, and evaluations so far."""

    low: tf.Tensor
    high: tf.Tensor
    z: tf.Tensor
    log_likelihood: tf.Tensor
    is_found: tf.Tensor
    is_valid: tf.Tensor
    num_forward: tf.Tensor


class EllipticalSlice(OwnKernel):
    """Takes the first point, on the ellipse through z and a prior draw, whose likelihood passes a random share of z's own.

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
        # A chain at a point without a likelihood takes the first that has one.
        threshold = absent_if_nan(start + tf.cast(log_uniform(shape, fold_in(seed, 1)), dtype))
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
    value = results.log_likelihood
    return StepInfo(
        target_log_prob=posterior.prior_log_prob(z) + value,
        is_accepted=results.is_accepted,
        log_accept_ratio=tf.where(results.is_valid, tf.zeros_like(value), np.nan),
        step_size=tf.fill(tf.shape(value), np.float32(np.nan)),
        num_gradients=tf.zeros_like(results.num_forward),
        num_forward=results.num_forward,
    )


FAMILY = KernelFamily(
    **vars(PRESETS["elliptical_slice"]),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: EllipticalSlice(posterior.likelihood_log_prob),
    info_fn=slice_info,
)
