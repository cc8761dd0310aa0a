"""One contract over the registry; adapted MALA against one-leapfrog HMC; a stale drift must be found out."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.backend import as_seed
from tfgradgen.config import KernelConfig, Schedule
from tfgradgen.kernels import KERNELS, hmc, mala
from tfgradgen.kernels.base import KernelFamily, adaptive_kernel, step_info

SCALES = tf.constant(np.linspace(0.5, 2.0, 16), tf.float32)
NUM_CHAINS, NUM_ADAPTATION, NUM_RESULTS = 128, 300, 300


def target(z: tf.Tensor) -> tf.Tensor:
    return -0.5 * tf.reduce_sum(tf.square(z / SCALES), -1)


def run(family: KernelFamily, config: KernelConfig, fn: Any = target, init: Any = None) -> Any:
    """Traces z, acceptance probability, step size and acceptance of the kept draws."""
    init = SCALES * tf.random.stateless_normal([NUM_CHAINS, 16], [1, 2]) if init is None else init
    kernel = adaptive_kernel(family, fn, config, init.shape[0], NUM_ADAPTATION)

    def trace(z: tf.Tensor, results: Any) -> Any:
        info = step_info(results)
        return z, tf.exp(tf.minimum(info.log_accept_ratio, 0.0)), info.step_size, info.is_accepted

    @tf.function(autograph=False)
    def go() -> Any:
        return tfp.mcmc.sample_chain(
            NUM_RESULTS, init, num_burnin_steps=NUM_ADAPTATION, kernel=kernel, trace_fn=trace, seed=as_seed(5)
        ).trace

    return [t.numpy() for t in go()]


class StaleMala(mala.Mala):
    """MALA that keeps the drift of the previous step, as TFP's cached results would."""

    def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
        step_size = previous_kernel_results.step_size
        state, inner = self._inner(step_size).one_step(current_state, previous_kernel_results.inner_results, seed=seed)
        return state, mala.MalaResults(step_size, inner)


STALE = KernelFamily(
    "stale", lambda fn, step_size, config: StaleMala(fn, step_size), (), mala.FAMILY.defaults, Schedule(1, 0, 0)
)
ONE_LEAPFROG = KernelConfig(step_size=0.3, target_accept_prob=0.574, num_leapfrog_steps=1)


def agreement(family: KernelFamily) -> tuple[float, float, float]:
    """Against one-leapfrog HMC with the same adaptation: gap in acceptance, ratio of step sizes, worst z-score of E[z^2]."""
    z, accept, step_size, _ = run(family, ONE_LEAPFROG)
    _, accept_hmc, step_size_hmc, _ = run(hmc.FAMILY, ONE_LEAPFROG)
    per_chain = np.square(z / SCALES.numpy()).mean(0)  # chains are independent, so their spread is the Monte Carlo error
    z_scores = (per_chain.mean(0) - 1) / (per_chain.std(0, ddof=1) / np.sqrt(NUM_CHAINS))
    return (
        abs(accept.mean() - accept_hmc.mean()),
        step_size.mean() / step_size_hmc.mean(),
        float(np.abs(z_scores).max()),
    )


# Acceptance: both are means over 128 chains x 300 draws tuned to one target. Law: 16 z-scores; 4 has p < 1e-3 in all.
def test_adapted_mala_is_one_leapfrog_hmc() -> None:
    gap, ratio, z_score = agreement(mala.FAMILY)
    assert gap < 0.02
    assert 0.95 < ratio < 1.05
    assert z_score < 4


def test_a_stale_drift_is_found_out() -> None:
    gap, ratio, z_score = agreement(STALE)
    assert gap > 0.02 or not 0.95 < ratio < 1.05 or z_score > 4


def test_mala_is_hmc_step_by_step_with_the_same_noise() -> None:
    """The proposal of MALA(eps) from noise w is one leapfrog step of size eps from momentum w."""
    z, noise, step_size = tf.constant([[0.3, -0.2]]), tf.constant([[1.0, 0.5]]), 0.7
    fn = lambda x: -0.5 * tf.reduce_sum(tf.square(x), -1)  # noqa: E731
    results = mala.Mala(fn, step_size).bootstrap_results(z)
    drift = mala.with_drift(results.inner_results, tf.constant(step_size)).accepted_results.diffusion_drift[0]
    integrator = tfp.mcmc.internal.leapfrog_integrator.SimpleLeapfrogIntegrator(fn, [step_size], 1)
    leapfrog = integrator([noise], [z])[1][0]
    np.testing.assert_allclose(z + drift + step_size * noise, leapfrog, rtol=1e-6)


@pytest.mark.parametrize("family", KERNELS.values(), ids=KERNELS)
class TestContract:
    """What every entry of the registry promises."""

    def test_law_and_acceptance(self, family: KernelFamily) -> None:
        z, accept, _, is_accepted = run(family, family.defaults)
        assert abs(accept.mean() - family.defaults.target_accept_prob) < 0.1  # the promise of the README
        per_chain = np.square(z / SCALES.numpy()).mean(0)
        z_scores = (per_chain.mean(0) - 1) / (per_chain.std(0, ddof=1) / np.sqrt(NUM_CHAINS))
        assert np.abs(z_scores).max() < 4
        assert abs(is_accepted.mean() - accept.mean()) < 5 * 0.5 / np.sqrt(accept.size)

    def test_step_sizes_are_per_chain_and_frozen_after_adaptation(self, family: KernelFamily) -> None:
        step_size = run(family, family.defaults)[2]
        assert step_size.shape == (NUM_RESULTS, NUM_CHAINS)
        np.testing.assert_array_equal(step_size, np.broadcast_to(step_size[0], step_size.shape))
        assert len(np.unique(step_size[0])) > NUM_CHAINS // 2

    def test_a_chain_of_nan_moves_no_other(self, family: KernelFamily) -> None:
        def partly_nan(z: tf.Tensor) -> tf.Tensor:
            # The last chain starts beyond 90, where the density is not a number.
            return tf.where(z[:, 0] > 90.0, np.nan, target(z))

        good = SCALES * tf.random.stateless_normal([4, 16], [1, 2])
        bad = tf.concat([good[:3], good[3:] + 100.0], 0)
        for with_good, with_bad in zip(
            run(family, family.defaults, partly_nan, good), run(family, family.defaults, partly_nan, bad), strict=True
        ):
            np.testing.assert_array_equal(with_good[:, :3], with_bad[:, :3])
            assert not np.array_equal(with_good[:, 3], with_bad[:, 3])

    def test_rebuilt_from_its_parameters_it_is_the_same_kernel(self, family: KernelFamily) -> None:
        kernel = family.make_fn(target, tf.fill([4, 1], 0.2), family.defaults)
        z = SCALES * tf.random.stateless_normal([4, 16], [1, 2])
        again = type(kernel)(**kernel.parameters)
        first, _ = kernel.one_step(z, kernel.bootstrap_results(z), seed=as_seed(1))
        second, _ = again.one_step(z, again.bootstrap_results(z), seed=as_seed(1))
        np.testing.assert_array_equal(first, second)
        assert kernel.is_calibrated

    def test_defaults_are_complete(self, family: KernelFamily) -> None:
        assert KERNELS[family.name] is family
        assert family.schedule.num_adaptation_steps > 0
        assert set(family.flags) <= set(family.defaults.to_dict())
