"""Transition rules for a server, without TFP's state and with noise as an argument.

A rule makes the same transition as the kernel with its name, given momentum and uniform number; tests compare the two.

A server runs only kernels whose steps have a fixed cost, so that a limit on their number bounds a request, and whose chains are
independent. Trees of `nuts` and searches of `elliptical_slice` have no fixed length. `rejection` needs an unbounded number of
draws, and with a limit some requests would get no image. `smc`, `replica_exchange` and `chees` use populations. `map` does not
sample. `local_global` is excluded because a served chain starts with its global move (`starts.start_point`), `surrogate` and
`hvi` because they learn their proposals from thousands of images.
"""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import leapfrog_integrator
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.kernel import nan_to_neg_inf


class Point(NamedTuple):
    """The state of chains.

    Attributes:
      z: [B, latent_dim].
      target_log_prob: [B], in nats.
      gradient: [B, latent_dim], gradient of target_log_prob.
    """

    z: tf.Tensor
    target_log_prob: tf.Tensor
    gradient: tf.Tensor


class Noise(NamedTuple):
    """The noise of one transition.

    Attributes:
      momentum: [B, latent_dim], standard normal.
      log_uniform: [B], log of a uniform number in (0, 1].
    """

    momentum: tf.Tensor
    log_uniform: tf.Tensor


def point_at(posterior: PosteriorLike, z: tf.Tensor) -> Point:
    """Return the state at `z` [B, latent_dim], with one evaluation of value and gradient."""
    return Point(z, *tfp.math.value_and_gradient(posterior.unnormalized_log_prob, z))


def hamiltonian_step(
    posterior: PosteriorLike, num_leapfrog_steps: int, step_size: tf.Tensor, point: Point, noise: Noise
) -> tuple[Point, tf.Tensor]:
    """One transition of HMC (Neal 2011): the next point, and the log acceptance ratio [B] of the proposal.

    With one leapfrog step it is MALA's: the proposal z + (step_size^2 / 2) gradient + step_size * momentum, and the same ratio.

    Args:
      step_size: scalar or [B, 1], a distance in z.
    """
    leapfrog = leapfrog_integrator.SimpleLeapfrogIntegrator(
        posterior.unnormalized_log_prob, step_sizes=[step_size], num_steps=num_leapfrog_steps
    )
    [momentum], [z], value, [gradient] = leapfrog([noise.momentum], [point.z], point.target_log_prob, [point.gradient])
    kinetic_loss = 0.5 * tf.reduce_sum(tf.square(noise.momentum) - tf.square(momentum), -1)
    log_accept_ratio = nan_to_neg_inf(value - point.target_log_prob + kinetic_loss)
    takes = noise.log_uniform < log_accept_ratio
    return choose(takes, Point(z, value, gradient), point), log_accept_ratio


def choose(takes: tf.Tensor, one: Point, other: Point) -> Point:
    """Return `one` in rows with `takes` [B], and `other` elsewhere."""
    rows = takes[:, None]
    return Point(
        tf.where(rows, one.z, other.z),
        tf.where(takes, one.target_log_prob, other.target_log_prob),
        tf.where(rows, one.gradient, other.gradient),
    )
