"""Transports from the normal distribution: exact results, finite gradients, and the class as further coordinates."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfgradgen.models.conditional import class_fn, num_coordinates
from tfgradgen.models.priors import TRANSPORTS

DISTRIBUTIONS = {
    "normal": stats.norm(),
    "truncated_normal": stats.truncnorm(-2, 2),
    "uniform": stats.uniform(-1, 2),
}


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_transport_is_the_quantile_function_of_its_distribution(name: str) -> None:
    z = np.linspace(-5, 5, 401).astype(np.float32)
    ours = TRANSPORTS[name](tf.constant(z)).numpy()
    np.testing.assert_allclose(ours, DISTRIBUTIONS[name].ppf(stats.norm.cdf(z)), atol=5e-6)
    others = [each for other, each in DISTRIBUTIONS.items() if other != name]
    assert all(np.abs(ours - each.ppf(stats.norm.cdf(z))).max() > 0.1 for each in others), "and of no other distribution"


@pytest.mark.parametrize("name", TRANSPORTS)
def test_its_slope_is_the_ratio_of_the_densities_and_finite_far_out(name: str) -> None:
    z = tf.constant(np.linspace(-4, 4, 81), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        x = TRANSPORTS[name](z)
    slope = tape.gradient(x, z).numpy()
    np.testing.assert_allclose(slope, stats.norm.pdf(z) / DISTRIBUTIONS[name].pdf(x), rtol=2e-3)
    far = tf.constant([-20.0, 20.0])
    with tf.GradientTape() as tape:
        tape.watch(far)
        x = TRANSPORTS[name](far)
    assert np.isfinite(tape.gradient(x, far)).all()
    assert np.isfinite(x).all()


def test_every_class_is_as_likely() -> None:
    """With 40000 draws of 10 classes, the chi-squared statistic has mean 9 and exceeds 33 with probability 1e-4."""
    more = tf.random.stateless_normal([40_000, num_coordinates("uniform", 10)], [1, 2])
    for fn, bound in ((class_fn("uniform", 10, True), 33), (lambda u: tf.cast(5 + 2 * u[:, 0], tf.int32) % 10, None)):
        counts = np.bincount(fn(more), minlength=10)
        statistic = float(np.sum((counts - 4000) ** 2 / 4000))
        assert (statistic < bound) if bound else (statistic > 33)
    extremes = class_fn("uniform", 10, True)(tf.constant([[-40.0], [40.0]]))
    assert extremes.numpy().tolist() == [0, 9]


def test_the_class_of_the_target_and_of_a_mixture() -> None:
    nothing = tf.zeros([3, num_coordinates("target", 4)])
    np.testing.assert_array_equal(class_fn("target", 4, False, 2)(nothing), [[0, 0, 1, 0]] * 3)
    assert class_fn("target", 4, True, 2)(nothing).numpy().tolist() == [2, 2, 2]
    more = tf.random.stateless_normal([1000, num_coordinates("latent", 1000)], [1, 2])
    mixture = class_fn("latent", 1000, False)(more).numpy()
    np.testing.assert_allclose(mixture.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(mixture.argmax(1), more.numpy().argmax(1))
    assert np.median(mixture.max(1)) > 0.5, "mostly one class"
