"""Transition rules that a server runs, without TFP's state and with their noise passed in.

A rule is the same transition as the kernel of its name, given momentum and uniform number; the tests hold the two to each
other.

Served are the kernels whose steps cost the same, so that a clamp on their number bounds a request, and whose chains need
nothing of one another. A tree of `nuts` and a search of `elliptical_slice` have no length that is known before; `rejection` has
no bound on its draws, and a clamp would leave some requests without one; `smc`, `replica_exchange` and `chees` are populations;
`map` draws nothing. `local_global` is left out because a served chain begins with its global move
(`starts.start_point`), `surrogate` because it learns its proposals from thousands of images before the first.
"""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import leapfrog_integrator
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.kernel import absent_if_nan


class Point(NamedTuple):
    """Where chains are. z: [B, latent_dim]. target_log_prob: [B], in nats. gradient: [B, latent_dim], of it by z."""

    z: tf.Tensor
    target_log_prob: tf.Tensor
    gradient: tf.Tensor


class Noise(NamedTuple):
    """Of one transition. momentum: [B, latent_dim], standard normal. log_uniform: [B], log of a uniform number in (0, 1]."""

    momentum: tf.Tensor
    log_uniform: tf.Tensor


def point_at(posterior: PosteriorLike, z: tf.Tensor) -> Point:
    """The point of each `z` [B, latent_dim]: one evaluation of value and gradient."""
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
    log_accept_ratio = absent_if_nan(value - point.target_log_prob + kinetic_loss)
    takes = noise.log_uniform < log_accept_ratio
    return choose(takes, Point(z, value, gradient), point), log_accept_ratio


def choose(takes: tf.Tensor, one: Point, other: Point) -> Point:
    """`one` in the rows where `takes` [B], `other` elsewhere."""
    rows = takes[:, None]
    return Point(
        tf.where(rows, one.z, other.z),
        tf.where(takes, one.target_log_prob, other.target_log_prob),
        tf.where(rows, one.gradient, other.gradient),
    )
