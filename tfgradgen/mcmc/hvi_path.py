"""Paths of Hamiltonian variational inference: learned leapfrog steps from a Gaussian start to the target, and their weights.

A path starts at z_0 ~ q_0, a diagonal normal. Step t draws a momentum v_t ~ q_t(v | z_{t-1}) and makes one leapfrog step,
(z_{t-1}, v_t) -> (z_t, u_t). The reverse model r_t(u | z_t) is a distribution of the momentum u_t given z_t. A leapfrog step
is a sequence of shears, whatever the force field, so its Jacobian is 1. The density of a path is therefore q_0(z_0) prod
q_t(v_t | z_{t-1}), in the coordinates (z_T, u_T, ..., u_1) as well. The r_t extend the target to those coordinates: its
marginal in z_T is still the posterior, and its conditional distribution of the momenta is the walk backwards, u_t ~ r_t(u |
z_t), in which every step is inverted. So

    log weight = log target(z_T) + sum log r_t(u_t | z_t) - log q_0(z_0) - sum log q_t(v_t | z_{t-1})

is the log of an importance weight of the whole path: its mean is at most the log of the target's mass (Salimans, Kingma and
Welling 2015), and the mean of the weight is that mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import fold_in
from tfgradgen.core.lazy import tf, tfp

LOG_2PI = float(np.log(2 * np.pi))
NUM_START, NUM_STEP = 2, 9  # rows of the parameters: those of the start, and those of each step


class Momentum(NamedTuple):
    """The distribution of a momentum: v ~ Normal(mean + of_z * z + of_force * force, exp(log_scale)), per coordinate.

    Each field is [num_steps, latent_dim].
    """

    mean: Any
    of_z: Any
    of_force: Any
    log_scale: Any

    def log_prob(self, v: Any, z: Any, force: Any) -> Any:
        scaled = (v - self._middle(z, force)) * tf.exp(-self.log_scale)
        return -tf.reduce_sum(0.5 * tf.square(scaled) + self.log_scale + 0.5 * LOG_2PI, -1)

    def draw(self, noise: Any, z: Any, force: Any) -> Any:
        return self._middle(z, force) + tf.exp(self.log_scale) * noise

    def _middle(self, z: Any, force: Any) -> Any:
        return self.mean + self.of_z * z + self.of_force * force


class Parameters(NamedTuple):
    """The learned parameters of a path.

    Attributes:
      start_mean: [latent_dim], mean of q_0.
      start_log_scale: [latent_dim], log of the standard deviation of q_0.
      log_step: [num_steps, latent_dim], logs of the sizes of the leapfrog steps.
      ahead: q_t.
      back: r_t.
    """

    start_mean: Any
    start_log_scale: Any
    log_step: Any
    ahead: Momentum
    back: Momentum

    @classmethod
    def of(cls, rows: Any) -> Parameters:
        """Return the parameters whose rows form the matrix `rows` [num_rows(num_steps), latent_dim]."""
        rows = tf.convert_to_tensor(rows)
        num_steps = (rows.shape[0] - NUM_START) // NUM_STEP
        parts = [rows[NUM_START + k * num_steps : NUM_START + (k + 1) * num_steps] for k in range(NUM_STEP)]
        return cls(rows[0], rows[1], parts[0], Momentum(*parts[1:5]), Momentum(*parts[5:]))


def num_rows(num_steps: int) -> int:
    """Return the number of rows of the matrix of parameters."""
    return NUM_START + NUM_STEP * num_steps


def first_rows(mean: np.ndarray, scale: np.ndarray, num_steps: int, step: float) -> np.ndarray:
    """Return the parameters before learning.

    The start is Normal(mean, scale), each [latent_dim]. All steps have size `step`, and all momenta are Normal(0, I), like
    those that HMC draws in each transition.
    """
    rows = np.zeros([num_rows(num_steps), len(mean)], np.float32)
    rows[0], rows[1] = mean, np.log(scale)
    rows[NUM_START : NUM_START + num_steps] = np.log(step)
    return rows


class TargetValues(NamedTuple):
    """What the networks return at points z [num, latent_dim]; neither of the first two fields is guaranteed to be a number.

    Attributes:
      class_log_prob: [num], log p(class | g(z)).
      log_likelihood: [num], log of the target over the prior.
      force: Gradient of the target's log density, like z; the likelihood's part is 0 where it is not finite. Steps have
        Jacobian 1 for any field that depends on z alone.
    """

    class_log_prob: Any
    log_likelihood: Any
    force: Any


def evaluate(posterior: Any, z: Any, second_derivatives: bool = False) -> TargetValues:
    """Evaluate the networks at z.

    Derivatives of `TargetValues` treat the likelihood's gradient as a constant: it is the derivative of `log_likelihood`, and
    its own derivative is 0, unless `second_derivatives` is set.
    """
    with tf.GradientTape() as tape:
        tape.watch(z)
        class_log_prob, log_likelihood = posterior.class_and_likelihood_log_prob(z)
    gradient = tape.gradient(log_likelihood, z)
    gradient = tf.zeros_like(z) if gradient is None else gradient
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    if not second_derivatives:
        gradient = tf.stop_gradient(gradient)
        # Avoid a second backward pass through the networks for a derivative that is already known.
        linear = tf.reduce_sum(gradient * (z - tf.stop_gradient(z)), -1)
        class_log_prob, log_likelihood = tf.stop_gradient(class_log_prob), tf.stop_gradient(log_likelihood) + linear
    return TargetValues(class_log_prob, log_likelihood, gradient - z)


class Walk(NamedTuple):
    """The end of a walk.

    Attributes:
      z: Where the walk ends.
      values: The values at `z`.
      log_from: [num], log density of the momenta that were drawn.
      log_to: [num], log density of the momenta after the steps, under the model of the other direction.
    """

    z: Any
    values: TargetValues
    log_from: Any
    log_to: Any


def walk(
    evaluate_fn: Callable[[Any], TargetValues], parameters: Parameters, z: Any, values: TargetValues, is_ahead: Any, seed: Any
) -> Walk:
    """Walk from z [num, latent_dim]: from q_0 to the target where `is_ahead` [num], else all the way back."""
    num_steps = int(parameters.log_step.shape[0])
    ahead = is_ahead[:, None]
    sign = tf.where(ahead, tf.ones([], z.dtype), -tf.ones([], z.dtype))

    def of_step(stack: Any, t: Any) -> Any:
        return tf.where(ahead, stack[t], stack[num_steps - 1 - t])

    def step(t: Any, z: Any, values: TargetValues, log_from: Any, log_to: Any) -> Any:
        pairs = [(of_step(a, t), of_step(b, t)) for a, b in zip(parameters.ahead, parameters.back, strict=True)]
        begin = Momentum(*(tf.where(ahead, a, b) for a, b in pairs))
        end = Momentum(*(tf.where(ahead, b, a) for a, b in pairs))
        size = tf.exp(of_step(parameters.log_step, t))
        noise = tf.random.stateless_normal(tf.shape(z), fold_in(seed, t), dtype=z.dtype)
        momentum = begin.draw(noise, z, values.force)
        log_from += begin.log_prob(momentum, z, values.force)
        # In reverse time, a leapfrog step is the same step with the momentum negated.
        half = sign * momentum + 0.5 * size * values.force
        z += size * half
        values = evaluate_fn(z)
        momentum = sign * (half + 0.5 * size * values.force)
        return t + 1, z, values, log_from, log_to + end.log_prob(momentum, z, values.force)

    zeros = tf.zeros_like(values.log_likelihood)
    _, z, values, log_from, log_to = tf.while_loop(
        lambda t, *_: t < num_steps,
        step,
        (tf.constant(0), z, values, zeros, zeros),
        parallel_iterations=1,
        maximum_iterations=num_steps,
    )
    return Walk(z, values, log_from, log_to)


class Weighed(NamedTuple):
    """Weighted paths. The fields below z are [num], in nats, and not guaranteed to be numbers where the likelihood is not.

    Attributes:
      z: [num, latent_dim], the target's end of the paths.
      class_log_prob: As in `TargetValues`, at `z`.
      log_likelihood: As in `TargetValues`, at `z`.
      log_weight: Log weight of a path as a draw of q.
      log_mixture_weight: Log weight of a path as a draw of the mixture of q and of the prior walked backwards (see `propose`).
    """

    z: Any
    class_log_prob: Any
    log_likelihood: Any
    log_weight: Any
    log_mixture_weight: Any


def weigh(
    posterior: Any, parameters: Parameters, z: Any, is_ahead: Any, prior_share: float, seed: Any, **options: Any
) -> Weighed:
    """Walk from z, draws of q_0 where `is_ahead` and points on the target's side elsewhere, and weight the paths."""

    def evaluate_fn(z: Any) -> TargetValues:
        return evaluate(posterior, z, **options)

    begun = evaluate_fn(z)
    end = walk(evaluate_fn, parameters, z, begun, is_ahead, seed)
    ahead = is_ahead[:, None]
    first, last = tf.where(ahead, z, end.z), tf.where(ahead, end.z, z)
    class_log_prob = tf.where(is_ahead, end.values.class_log_prob, begun.class_log_prob)
    log_likelihood = tf.where(is_ahead, end.values.log_likelihood, begun.log_likelihood)
    start = Momentum(parameters.start_mean, 0.0, 0.0, parameters.start_log_scale)
    log_q = start.log_prob(first, 0.0, 0.0) + tf.where(is_ahead, end.log_from, end.log_to)
    prior = -0.5 * tf.reduce_sum(tf.square(last) + LOG_2PI, -1)
    log_back = prior + tf.where(is_ahead, end.log_to, end.log_from)
    log_target = log_back + log_likelihood
    share = tf.constant(prior_share, z.dtype)
    log_mixture = tfp.math.log_add_exp(tf.math.log1p(-share) + log_q, tf.math.log(share) + log_back)
    return Weighed(last, class_log_prob, log_likelihood, log_target - log_q, log_target - log_mixture)


def draw_start(parameters: Parameters, num: int, seed: Any) -> Any:
    """Return `num` draws of q_0, [num, latent_dim]."""
    start = Momentum(parameters.start_mean, 0.0, 0.0, parameters.start_log_scale)
    return start.draw(tf.random.stateless_normal([num, parameters.start_mean.shape[0]], seed), 0.0, 0.0)


def draw_paths(posterior: Any, parameters: Parameters, num: int, seed: Any, **options: Any) -> Weighed:
    """Return `num` independent paths of q; their `log_mixture_weight` equals their `log_weight`."""
    z, is_ahead = draw_start(parameters, num, fold_in(seed, 0)), tf.fill([num], True)
    return weigh(posterior, parameters, z, is_ahead, 0.0, fold_in(seed, 1), **options)


def propose(posterior: Any, parameters: Parameters, num: int, prior_share: float, seed: Any) -> Weighed:
    """Return `num` independent paths of a mixture of q and, with weight `prior_share`, of prior draws walked backwards.

    The second component is the extended target without the likelihood. Hence no weight exceeds likelihood / prior_share,
    however bad q is. A path is weighted by the density of the mixture, whichever component it comes from.
    """
    is_ahead = tf.random.stateless_uniform([num], fold_in(seed, 2)) >= prior_share
    start, prior = draw_start(parameters, num, fold_in(seed, 0)), posterior.sample_prior(num, fold_in(seed, 3))
    z = tf.where(is_ahead[:, None], start, prior)
    return weigh(posterior, parameters, z, is_ahead, prior_share, fold_in(seed, 1))


def walk_back(posterior: Any, parameters: Parameters, z: Any, prior_share: float, seed: Any) -> Weighed:
    """Return paths that end at z [num, latent_dim], with momenta from the conditional distribution of the extended target."""
    is_ahead = tf.zeros(tf.shape(z)[:1], tf.bool)
    return weigh(posterior, parameters, z, is_ahead, prior_share, seed)
