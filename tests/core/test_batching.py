"""A batch in parts gives the values and gradients of the whole batch, in graph mode and with XLA, one part at a time."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.core.batching import map_batched
from tfgradgen.core.contracts import Networks
from tfgradgen.posterior import ClassPosterior

WEIGHTS = tf.Variable(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))


def layer(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(x @ WEIGHTS)


def value_and_gradient(fn: Any, x: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = fn(x)
        total = tf.reduce_sum(value * value)
    return value.numpy(), tape.gradient(total, x).numpy()


@pytest.mark.parametrize("num_rows", [1, 4, 10])
@pytest.mark.parametrize("compile_fn", [None, False, True], ids=["eager", "graph", "xla"])
def test_parts_give_the_batch_and_its_gradient(num_rows: int, compile_fn: bool | None) -> None:
    x = tf.random.stateless_normal([num_rows, 5], [num_rows, 1])
    parts = map_batched(layer, 4)
    fn = parts if compile_fn is None else tf.function(parts, autograph=False, jit_compile=compile_fn)
    for ours, expected in zip(value_and_gradient(fn, x), value_and_gradient(layer, x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_batch_of_unknown_size_is_split_too() -> None:
    fn = tf.function(map_batched(layer, 4), autograph=False, input_signature=[tf.TensorSpec([None, 5])])
    x = tf.random.stateless_normal([7, 5], [7, 1])
    np.testing.assert_allclose(fn(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_networks_see_no_more_rows_than_max_batch() -> None:
    """The density and gradient of a chain do not change; without the bound the generator sees all rows at once."""
    seen = []

    class Watched(toy.ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            seen.append(z.shape[0])
            return super().__call__(z)

    z = tf.random.stateless_normal([7, 6], [1, 2])
    results = []
    for max_batch in (None, 3):
        posterior = ClassPosterior.of(Networks(Watched(), toy.ToyClassifier(), max_batch=max_batch), 1)
        with tf.GradientTape() as tape:
            tape.watch(z)
            density = posterior.unnormalized_log_prob(z)
        results.append((density.numpy(), tape.gradient(density, z).numpy()))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert seen[0] == 7
    assert set(seen[1:]) == {3}
