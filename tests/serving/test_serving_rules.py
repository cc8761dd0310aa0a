"""A served transition equals that of TFP's kernel, given the same noise."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.mcmc.hmc import make_hmc
from tfgradgen.mcmc.mala import Mala
from tfgradgen.posterior import ClassPosterior
from tfgradgen.serving.rules import Noise, hamiltonian_step, point_at

NUM_CHAINS, STEP_SIZE = 50, 0.9


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_a_rule_is_the_kernel_of_its_name(kernel: str) -> None:
    posterior = ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 1)
    z = tf.random.stateless_normal([NUM_CHAINS, 6], [1, 2])
    start, density_fn = point_at(posterior, z), posterior.unnormalized_log_prob
    step: Any = Mala(density_fn, STEP_SIZE) if kernel == "mala" else make_hmc(density_fn, STEP_SIZE, 3)
    _, results = step.one_step(z, step.bootstrap_results(z), seed=tf.constant([3, 4]))
    inner = results.inner_results if kernel == "mala" else results
    if kernel == "mala":
        momentum = (inner.proposed_state - z - 0.5 * STEP_SIZE**2 * start.gradient) / STEP_SIZE
    else:
        [momentum] = inner.proposed_results.initial_momentum
    # Just below and just above the ratio that TFP found.
    for shift, accepts in ((-1e-2, True), (1e-2, False)):
        noise = Noise(momentum, inner.log_accept_ratio + shift)
        after, log_accept_ratio = hamiltonian_step(posterior, {"mala": 1, "hmc": 3}[kernel], STEP_SIZE, start, noise)
        np.testing.assert_allclose(log_accept_ratio, inner.log_accept_ratio, atol=1e-3)
        np.testing.assert_allclose(after.z, inner.proposed_state if accepts else z, rtol=1e-4, atol=1e-5)
        at_end = point_at(posterior, after.z)
        np.testing.assert_allclose(after.target_log_prob, at_end.target_log_prob, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after.gradient, at_end.gradient, rtol=1e-3, atol=1e-4)
    assert 0 < np.mean(inner.is_accepted) < 1, "some of both"
    assert np.ptp(log_accept_ratio) > 0.1


def test_a_point_without_a_finite_density_is_not_accepted() -> None:
    class Torn:
        latent_dim = 1

        def unnormalized_log_prob(self, z: tf.Tensor) -> tf.Tensor:
            return tf.where(z[:, 0] > 0.5, np.nan, -0.5 * z[:, 0] ** 2)

    posterior: Any = Torn()
    start = point_at(posterior, tf.zeros([1, 1]))
    after, log_accept_ratio = hamiltonian_step(posterior, 1, 1.0, start, Noise(tf.ones([1, 1]), tf.constant([-1e9])))
    assert after.z.numpy() == 0
    assert log_accept_ratio.numpy() == -np.inf
