"""Fits the network of `surrogate` to log-probabilities at latent points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import fold_in
from tfgradgen.mcmc.map_ascent import MapResults, adam
from tfgradgen.mcmc.surrogate import Weights, predict, shapes

BATCH = 256
MAX_EPOCHS = 40
PATIENCE = 4  # epochs without a lower held-out loss
HELD_OUT = 8  # one row in this many
# Standard deviations below the mean of its class at which a log-probability is clipped: how improbable an improbable class is
# does not matter.
MAX_DEVIATIONS = 5.0
SMALLEST_SCALE = 1e-6  # scale of a class whose log-probability never changes
LEARNING_RATE = 5e-3  # initial learning rate of Adam
WEIGHT_DECAY = 5e-3  # share of a weight that a step initially removes


class Fit(NamedTuple):
    """A fitted network.

    Attributes:
      weights: Weights of the network, whose outputs are log-probabilities.
      loss: Loss on the held-out rows, see `_loss`.
    """

    weights: Weights
    loss: float


def fit_network(z: np.ndarray, log_probs: np.ndarray, seed: tf.Tensor) -> Fit:
    """Fit a network to `log_probs` [n, num_outputs] at `z` [n, latent_dim], all finite.

    The result is the network of the epoch with the lowest loss on held-out rows. The same seed gives the same bits.
    """
    mean, scale = log_probs.mean(0), log_probs.std(0) + SMALLEST_SCALE
    wanted = np.maximum((log_probs - mean) / scale, -MAX_DEVIATIONS)
    is_held = np.arange(len(z)) % HELD_OUT == 0
    data, held_out = ([tf.constant(column[rows], tf.float32) for column in (z, wanted)] for rows in (~is_held, is_held))
    unit = tf.constant(scale, tf.float32), tf.constant(mean, tf.float32)
    rng = np.random.default_rng(seed.numpy().view(np.uint32))
    size = min(BATCH, len(data[0]))
    num_batches = len(data[0]) // size
    best, best_loss, since = _start(z.shape[1], log_probs.shape[1], seed), np.inf, 0
    zeros = [tf.zeros_like(weight) for weight in best]
    state: Any = (tf.constant(0), [*best], zeros, zeros)
    for _ in range(MAX_EPOCHS):
        order = rng.permutation(len(data[0]))[: num_batches * size].reshape(num_batches, size)
        state = _epoch(state, data, unit, tf.constant(order), tf.constant(float(MAX_EPOCHS * num_batches)))
        loss, since = float(_loss(Weights(*state[1]), held_out, unit)), since + 1
        if loss < best_loss:
            best, best_loss, since = Weights(*state[1]), loss, 0
        if since >= PATIENCE:
            break
    own = best._replace(last=best.last * unit[0], last_bias=best.last_bias * unit[0] + unit[1], linear=best.linear * unit[0])
    return Fit(own, best_loss)


def _start(latent_dim: int, num_outputs: int, seed: tf.Tensor) -> Weights:
    """Return random hidden layers whose outputs have the scale of their inputs; the weights of the outputs are 0."""
    all_shapes = shapes(latent_dim, num_outputs)
    zeros = Weights(*(tf.zeros(shape) for shape in all_shapes))
    hidden = {
        name: tf.random.stateless_normal(shape, fold_in(seed, k)) / np.sqrt(shape[0])
        for k, (name, shape) in enumerate(all_shapes._asdict().items())
        if name in ("first", "second")
    }
    return zeros._replace(**hidden)


def _loss(net: Weights, columns: Sequence[tf.Tensor], unit: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Return the mean squared error, in the outputs' units, plus the relative entropy of the softmax of all outputs.

    Both are means over rows. The first term keeps any class from being neglected; the second covers what matters for a
    proposal, the classes that an image may show.

    Args:
      net: Weights of the network.
      columns: z and target outputs.
      unit: Scale and mean of the outputs.
    """
    z, wanted = columns
    found = predict(net, z)
    said, meant = (tf.nn.log_softmax(outputs * unit[0] + unit[1]) for outputs in (found, wanted))
    entropy = tf.reduce_sum(tf.exp(meant) * (meant - said), 1)
    return tf.reduce_mean(tf.reduce_mean(tf.square(found - wanted), 1) + entropy)


def _pass(state: Any, data: list[tf.Tensor], unit: Any, order: tf.Tensor, num_steps: tf.Tensor) -> Any:
    """Make one pass of Adam over the rows [num_batches, size] of `order`; its learning rate falls to 0 over `num_steps`."""

    def step(i: tf.Tensor, count: tf.Tensor, weights: Any, first: Any, second: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = _loss(Weights(*weights), [tf.gather(column, order[i]) for column in data], unit)
        gradients = tape.gradient(loss, weights)
        share = 0.5 * (1 + tf.cos(np.pi * tf.cast(count, tf.float32) / num_steps))
        moved = [adam(MapResults(loss, *each, count)) for each in zip(gradients, first, second, strict=True)]
        uphill, first, second = (list(column) for column in zip(*moved, strict=True))
        pairs = zip(weights, uphill, strict=True)
        weights = [old * (1 - share * WEIGHT_DECAY) - share * LEARNING_RATE * each for old, each in pairs]
        return i + 1, count + 1, weights, first, second

    return tf.while_loop(lambda i, *_: i < tf.shape(order)[0], step, (tf.constant(0), *state), parallel_iterations=1)[1:]


_epoch = tf.function(_pass, autograph=False, reduce_retracing=True)
