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
PATIENCE = 4  # epochs without a better held-out loss
HELD_OUT = 8  # one row in so many
MAX_DEVIATIONS = (
    5.0  # of a log-probability below its class's mean: how impossible a class is where it is impossible is no matter
)
LEARNING_RATE = 5e-3  # of Adam at the start
WEIGHT_DECAY = 5e-3  # share of a weight that a step takes off at the start


class Fit(NamedTuple):
    """weights: of the network whose outputs are in units of `scale` about `mean`, [num_outputs] each. loss: the least held-out
    one, a share of the variance."""

    weights: Weights
    mean: np.ndarray
    scale: np.ndarray
    loss: float

    @property
    def whole(self) -> Weights:
        """Of the network whose outputs are log-probabilities."""
        own = self.weights
        return own._replace(
            last=own.last * self.scale, last_bias=own.last_bias * self.scale + self.mean, linear=own.linear * self.scale
        )


def first_fit(z: np.ndarray, log_probs: np.ndarray, seed: tf.Tensor) -> Fit:
    """Fits a network to `log_probs` [n, num_outputs] at `z` [n, latent_dim], both finite; the same bits for the same seed."""
    mean, scale = log_probs.mean(0), log_probs.std(0) + 1e-6
    start = []
    for k, shape in enumerate(shapes(z.shape[1], log_probs.shape[1])):
        spread = 1 / np.sqrt(shape[0]) if len(shape) == 2 and k < 4 else 0.0
        start.append(spread * tf.random.stateless_normal(shape, fold_in(seed, k)))
    return more_fit(Fit(Weights(*start), mean, scale, np.inf), z, log_probs, np.ones(len(z)), seed)


def more_fit(fit: Fit, z: np.ndarray, log_probs: np.ndarray, importance: np.ndarray, seed: tf.Tensor, rate: float = 1.0) -> Fit:
    """`fit` after more epochs on these rows, of which each counts as `importance` [n] says; the epoch with the least loss on
    rows that are held out is the last one."""
    wanted = np.maximum((log_probs - fit.mean) / fit.scale, -MAX_DEVIATIONS).astype(np.float32)
    is_held = np.arange(len(z)) % HELD_OUT == 0
    rows, held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    data = [tf.constant(np.asarray(column), tf.float32) for column in (z, wanted, importance / importance.mean())]
    rng = np.random.default_rng(seed.numpy().view(np.uint32))
    size = min(BATCH, len(rows))
    num_batches = len(rows) // size
    zeros = [tf.zeros_like(weight) for weight in fit.weights]
    state: Any = (tf.constant(0), [*fit.weights], zeros, zeros)
    held_out = [tf.gather(column, held) for column in data]
    unit = tf.constant(fit.scale, tf.float32), tf.constant(fit.mean, tf.float32)
    best, best_loss, since = fit.weights, _loss(fit.weights, held_out, unit).numpy(), 0
    for _ in range(MAX_EPOCHS):
        order = rng.permutation(rows)[: num_batches * size].reshape(num_batches, size)
        state = _epoch(state, data, unit, tf.constant(order), tf.constant(rate * LEARNING_RATE, tf.float32))
        loss = _loss(Weights(*state[1]), held_out, unit).numpy()
        since += 1
        if loss < best_loss:
            best, best_loss, since = Weights(*state[1]), loss, 0
        if since >= PATIENCE:
            break
    return fit._replace(weights=best, loss=float(best_loss))


def _loss(net: Weights, columns: Sequence[tf.Tensor], unit: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Mean over rows of the squared error, in the outputs' units, and of the relative entropy of the softmax of all outputs.

    The first lets no class be left out; the second is for what matters in a proposal, the classes that an image may show.
    columns: z, wanted outputs and importance. unit: scale and mean of the outputs.
    """
    z, wanted, importance = columns
    found = predict(net, z)
    said, meant = (tf.nn.log_softmax(outputs * unit[0] + unit[1]) for outputs in (found, wanted))
    entropy = tf.reduce_sum(tf.exp(meant) * (meant - said), 1)
    return tf.reduce_mean(importance * (tf.reduce_mean(tf.square(found - wanted), 1) + entropy))


@tf.function(autograph=False, reduce_retracing=True)
def _epoch(state: Any, data: list[tf.Tensor], unit: Any, order: tf.Tensor, rate: tf.Tensor) -> Any:
    """One pass of Adam through the rows [num_batches, size] of `order`; the rate falls to 0 over `MAX_EPOCHS`."""
    num_batches = tf.shape(order)[0]
    num_steps = tf.cast(MAX_EPOCHS * num_batches, tf.float32)

    def step(i: tf.Tensor, count: tf.Tensor, weights: Any, first: Any, second: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = _loss(Weights(*weights), [tf.gather(column, order[i]) for column in data], unit)
        gradients = tape.gradient(loss, weights)
        now = 0.5 * rate * (1 + tf.cos(np.pi * tf.cast(count, tf.float32) / num_steps))
        moved = [adam(MapResults(loss, *each, count)) for each in zip(gradients, first, second, strict=True)]
        uphill, first, second = (list(column) for column in zip(*moved, strict=True))
        weights = [
            old * (1 - now * WEIGHT_DECAY / LEARNING_RATE) - now * each for old, each in zip(weights, uphill, strict=True)
        ]
        return i + 1, count + 1, weights, first, second

    return tf.while_loop(lambda i, *_: i < num_batches, step, (tf.constant(0), *state), parallel_iterations=1)[1:]
