"""Check that rows that go through the networks together do not change one another's bits, as `--batched` requires.

The kernels of TensorFlow compute each row of a batch by the same operations, whatever the numbers are. So a row at one place of
a batch of one size has the same bits whatever the other rows are. A network that mixes the rows, such as one with a mean over
the batch, violates this.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import as_seed, compile_fn, fold_in
from tfgradgen.core.contracts import Networks
from tfgradgen.posterior import ClassPosterior
from tfgradgen.serving.rules import point_at

FAR = 30.0  # other rows are also replaced by points so many times as far from the origin


class RowCheck(NamedTuple):
    """The result of `check_rows`.

    Attributes:
      num_rows: Rows of a batch.
      is_independent: Whether a row at its place had the same bits when the other rows were replaced.
      row_gap: Largest change when they were replaced, of log density (nats), gradient and image; 0 if independent.
      place_gap: Largest change when a row moved by one place; 0 if each bit stayed.
    """

    num_rows: int
    is_independent: bool
    row_gap: float
    place_gap: float


def check_rows(networks: Networks, indices: Sequence[int], temperature: float, num_rows: int, seed: int) -> RowCheck:
    """Evaluate the models on batches that share some rows, and compare these rows bit by bit.

    Args:
      networks: The networks.
      indices: Outputs of the classifier that requests can ask for.
      temperature: Temperature of the likelihood.
      num_rows: Rows of a batch, >= 2.
      seed: Seed of the prior draws.
    """

    @compile_fn
    def evaluate(index: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        point = point_at(ClassPosterior.of(networks, index, temperature), z)
        values = tf.reshape(networks.generator(z), [num_rows, -1])
        return tf.concat([point.target_log_prob[:, None], point.gradient, values], 1)

    def evaluated(index: np.ndarray, z: np.ndarray) -> np.ndarray:
        found: np.ndarray = evaluate(tf.constant(index, tf.int32), tf.constant(z, tf.float32)).numpy()
        return found

    shape = [num_rows, networks.generator.latent_dim]
    z, other = (tf.random.stateless_normal(shape, fold_in(as_seed(seed), k)).numpy() for k in range(2))
    index = np.resize(np.asarray(indices, np.int32), num_rows)
    whole, replaced = evaluated(index, z), []
    for parity in (0, 1):
        is_other = np.arange(num_rows) % 2 == parity
        for scale in (1.0, FAR):
            company = np.where(is_other[:, None], scale * other, z)
            found = evaluated(np.where(is_other, np.roll(index, 1), index), company)
            replaced.append(_gap(whole[~is_other], found[~is_other]))
    moved = evaluated(np.roll(index, 1), np.roll(z, 1, 0))
    row_gap = max(replaced)
    return RowCheck(num_rows, row_gap == 0, row_gap, _gap(np.roll(whole, 1, 0), moved))


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference; 0 only if all bits agree, infinity if something else than numbers differs."""
    differs = one.view(np.int32) != other.view(np.int32)
    if not differs.any():
        return 0.0
    largest = float(np.abs(one[differs] - other[differs]).max())
    return largest if largest > 0 else np.inf  # NaN, or zeros of two signs
