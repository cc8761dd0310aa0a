"""One contract for the whole registry, with wrong kernels that it must detect; each kernel compared with a known one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.contract import Contract
from tests.support.distributions import (
    run,
    starts,
    target,
    worst_z_score,
)
from tfgradgen.core.backend import as_seed
from tfgradgen.core.config import KernelConfig
from tfgradgen.mcmc import hmc, local_global, mala, split_hmc
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.kernel import KernelSampler


def family_of(kernel_fn: Any, like: KernelSampler) -> KernelSampler:
    """Return `like` with a wrong kernel in place of its own."""
    return replace(like, name="wrong", make_fn=kernel_fn)


class StaleMala(mala.Mala):
    """MALA that keeps the drift of the previous step, as TFP's cached results would."""

    def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
        step_size = previous_kernel_results.step_size
        state, inner = self._inner(step_size).one_step(current_state, previous_kernel_results.inner_results, seed=seed)
        return state, mala.MalaResults(step_size, inner)


ONE_LEAPFROG = HmcConfig(step_size=0.3, target_accept_prob=0.574, num_leapfrog_steps=1)


def agreement(family: KernelSampler, config: KernelConfig) -> tuple[float, float, float]:
    """Compare with one-leapfrog HMC, adapted alike: difference in acceptance, ratio of step sizes, worst z-score of E[z^2]."""
    z, accept, step_size, _ = run(family, config)
    _, accept_hmc, step_size_hmc, _ = run(hmc.SAMPLER, ONE_LEAPFROG)
    return (
        abs(accept.mean() - accept_hmc.mean()),
        step_size.mean() / step_size_hmc.mean(),
        worst_z_score(z),
    )


AS_ONE_LEAPFROG = type(mala.SAMPLER.defaults)(step_size=0.3, target_accept_prob=0.574)


# Acceptance: both are means over 128 chains x 300 draws tuned to one target. Of the 16 z-scores, any above 4 has p < 1e-3.
@pytest.mark.slow
def test_adapted_mala_is_one_leapfrog_hmc() -> None:
    gap, ratio, z_score = agreement(mala.SAMPLER, AS_ONE_LEAPFROG)
    assert gap < 0.02
    assert 0.95 < ratio < 1.05
    assert z_score < 4


def test_a_step_size_that_changes_takes_its_own_drift_along() -> None:
    """This happens during tuning: a transition with a new step size equals that of a kernel that never had another one."""

    def after_a_change(kernel: mala.Mala) -> Any:
        results = kernel.bootstrap_results(starts())._replace(step_size=tf.constant(0.6))
        return kernel.one_step(starts(), results, seed=as_seed(5))[1].inner_results.log_accept_ratio

    fresh = mala.Mala(target, 0.6)
    expected = fresh.one_step(starts(), fresh.bootstrap_results(starts()), seed=as_seed(5))[1].inner_results.log_accept_ratio
    np.testing.assert_allclose(after_a_change(mala.Mala(target, 0.3)), expected, atol=1e-4)
    assert np.abs(after_a_change(StaleMala(target, 0.3)) - expected).max() > 0.1, "the negative control keeps the old one"


def test_mala_is_hmc_step_by_step_with_the_same_noise() -> None:
    """The proposal of MALA(eps) from noise w is one leapfrog step of size eps from momentum w."""
    z, noise, step_size = tf.constant([[0.3, -0.2]]), tf.constant([[1.0, 0.5]]), 0.7
    fn = lambda x: -0.5 * tf.reduce_sum(tf.square(x), -1)  # noqa: E731
    results = mala.Mala(fn, step_size).bootstrap_results(z)
    drift = mala.with_drift(results.inner_results, tf.constant(step_size)).accepted_results.diffusion_drift[0]
    integrator = tfp.mcmc.internal.leapfrog_integrator.SimpleLeapfrogIntegrator(fn, [step_size], 1)
    leapfrog = integrator([noise], [z])[1][0]
    np.testing.assert_allclose(z + drift + step_size * noise, leapfrog, rtol=1e-6)


class KeepsNoKineticEnergy(split_hmc.UncalibratedSplitHmc):
    def _results(self, z: Any, likelihood: Any, gradient: Any, kinetic_loss: Any) -> Any:
        return super()._results(z, likelihood, gradient, tf.zeros_like(kinetic_loss))


class WrongSplitHmc(split_hmc.SplitHmc):
    def _inner(self, step_size: Any, num_leapfrog_steps: Any) -> Any:
        held = {"step_size": step_size, "num_leapfrog_steps": num_leapfrog_steps}
        return tfp.mcmc.MetropolisHastings(KeepsNoKineticEnergy(**self._parameters | held))


def make_forgetful_jump(posterior: Any, config: Any, step_size: Any, num_adaptation_steps: int) -> Any:
    """Return a global move that weights draws by the square root of their likelihood."""
    kernel = local_global.make_local_global(posterior, config, step_size, num_adaptation_steps)
    return kernel.copy(likelihood_log_prob_fn=lambda z: 0.5 * posterior.likelihood_log_prob(z))


WRONG = {
    "split_hmc": family_of(
        lambda posterior, config, step_size, n: WrongSplitHmc(
            posterior.prior_log_prob, posterior.likelihood_log_prob, step_size, config.num_leapfrog_steps
        ),
        split_hmc.SAMPLER,
    ),
    "local_global": family_of(make_forgetful_jump, local_global.SAMPLER),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_does_not_have_the_distribution(name: str) -> None:
    assert worst_z_score(run(WRONG[name], WRONG[name].defaults)[0]) > 4


class TestContract(Contract):
    """The contract, for every kernel in the registry."""
