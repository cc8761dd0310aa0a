"""Chains of a request: each row has its own noise and number of steps, and goes through the networks alone or with others.

In the last bit, what a network computes for a row depends on the size of the batch and on the row's place in it, since a sum is
taken in an order that both decide. After a few dozen accepted and rejected proposals this becomes another image. So a row runs
alone, or in a batch of one fixed size at a place that follows from the row itself. Then its bits depend neither on the other
rows nor on where it stands in the request, unless a network mixes the rows of a batch (see `row_check`).
"""

from typing import NamedTuple

import tensorflow as tf

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.contracts import Networks
from tfgradgen.models.loading.metadata import Label
from tfgradgen.posterior import ClassPosterior
from tfgradgen.serving.rules import Noise, Point, choose, hamiltonian_step, point_at


class Plan(NamedTuple):
    """The fixed settings of an export.

    Attributes:
      labels: The classes that can be requested.
      indices: Their outputs of the classifier.
      step_sizes: Their step sizes, distances in z.
      num_leapfrog_steps: Leapfrog steps of one transition.
      temperature: Temperature of the likelihood.
      num_steps: Transitions of `serving_default`.
      max_steps: Largest number of transitions of a request.
      num_start_draws: Prior draws from which a start is chosen.
      batched: Rows that go through the networks together in the signatures for that; None for no such signatures.
    """

    labels: tuple[Label, ...]
    indices: tuple[int, ...]
    step_sizes: tuple[float, ...]
    num_leapfrog_steps: int
    temperature: float
    num_steps: int
    max_steps: int
    num_start_draws: int
    batched: int | None = None


class Rows(NamedTuple):
    """Rows of a request.

    Attributes:
      index: int32 [B], output of the classifier.
      step_size: [B], distance in z.
      seed: int32 [B, 2].
      num_steps: int32 [B], in 0..max_steps.
    """

    index: tf.Tensor
    step_size: tf.Tensor
    seed: tf.Tensor
    num_steps: tf.Tensor


class Ends(NamedTuple):
    """Where chains are after their last step.

    Attributes:
      values: What the generator gives, [B, *shape] in [-1, 1].
      class_prob: [B], in [0, 1].
      z: [B, latent_dim].
      target_log_prob: [B], in nats.
      accept_rate: [B], mean acceptance probability; 0 without steps.
    """

    values: tf.Tensor
    class_prob: tf.Tensor
    z: tf.Tensor
    target_log_prob: tf.Tensor
    accept_rate: tf.Tensor


class Places(NamedTuple):
    """Where rows go through the networks.

    Attributes:
      rows: int32 [R, size], the row at each place of each batch; -1 where there is none.
      batch: int32 [N], the batch of each row.
      place: int32 [N], the place of each row in its batch.
    """

    rows: tf.Tensor
    batch: tf.Tensor
    place: tf.Tensor


def run_together(networks: Networks, plan: Plan, rows: Rows, z: tf.Tensor, noise_seed: tf.Tensor) -> Ends:
    """Run the chains of `rows`, whose number B is static, as one batch. A row that has done its steps stays where it is.

    Args:
      z: [B, latent_dim], where the chains start.
      noise_seed: int32 [B, 2], from which the noise of each comes.
    """
    posterior = ClassPosterior.of(networks, rows.index, plan.temperature)
    count = rows.index.shape[0]

    def step(i: tf.Tensor, point: Point, total: tf.Tensor) -> tuple[tf.Tensor, Point, tf.Tensor]:
        noise, is_running = noise_of(noise_seed, i, posterior.latent_dim), i < rows.num_steps
        after, log_accept_ratio = hamiltonian_step(posterior, plan.num_leapfrog_steps, rows.step_size[:, None], point, noise)
        total += tf.where(is_running, tf.exp(tf.minimum(log_accept_ratio, 0.0)), 0.0)
        return i + 1, choose(is_running, after, point), total

    _, end, total = tf.while_loop(
        lambda i, *_: i < tf.reduce_max(rows.num_steps),
        step,
        (tf.constant(0), point_at(posterior, z), tf.zeros([count])),
        parallel_iterations=1,
    )
    accept_rate = tf.math.divide_no_nan(total, tf.cast(rows.num_steps, tf.float32))
    class_prob = posterior.class_prob_of(end.z, end.target_log_prob)
    return Ends(networks.generator(end.z), class_prob, end.z, end.target_log_prob, accept_rate)


def noise_of(seed: tf.Tensor, step: tf.Tensor, latent_dim: int) -> Noise:
    """Return the noise of transition `step` of B chains, each from its own stateless seed, `seed` int32 [B, 2]."""

    def of_one(own: tf.Tensor) -> Noise:
        own = fold_in(own, step)
        return Noise(tf.random.stateless_normal([latent_dim], fold_in(own, 0)), log_uniform([], fold_in(own, 1)))

    specs = Noise(tf.TensorSpec([latent_dim]), tf.TensorSpec([]))
    noise: Noise = tf.map_fn(of_one, seed, fn_output_signature=specs, parallel_iterations=seed.shape[0])
    return noise


def places_of(place: tf.Tensor, size: int) -> Places:
    """Put each row at its `place` int32 [N], in 0..size - 1, of the first batch in which it is free."""
    is_own = tf.one_hot(place, size, dtype=tf.int32)
    batch = tf.reduce_sum(tf.cumsum(is_own, exclusive=True) * is_own, 1)
    numbers = tf.range(1, tf.size(place) + 1)
    rows = tf.scatter_nd(tf.stack([batch, place], 1), numbers, [tf.reduce_max(batch) + 1, size]) - 1
    return Places(rows, batch, place)


def place_of(rows: Rows, size: int) -> tf.Tensor:
    """Return the place int32 [N] in a batch, in 0..size - 1, that follows from a row's seed and class.

    Consecutive seeds have different places, and so have consecutive classes.
    """
    return tf.math.floormod(rows.seed[:, 0] + rows.index, size)


def distinct(rows: Rows, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the indices int32 [M] of distinct rows, and for each row the position int32 [N] of its equal among them.

    A server fills a batch up with copies of a row, which would have to wait for its place.
    """
    key = tf.concat([rows.index[:, None], rows.seed, rows.num_steps[:, None], tf.bitcast(z, tf.int32)], 1)
    found = tf.raw_ops.UniqueV2(x=key, axis=[0])
    numbers = tf.range(tf.size(found.idx))
    return tf.math.unsorted_segment_min(numbers, found.idx, tf.shape(found.y)[0]), found.idx
