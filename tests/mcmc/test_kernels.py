"""One contract over the registry, with wrong kernels that it must find out; each kernel against another that is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.laws import (
    FEW_STEPS,
    NUM_CHAINS,
    NUM_STEPS,
    Bare,
    compiled_run,
    is_calibrated,
    is_tuned,
    law_run,
    only,
    run,
    starts,
    target,
    worst_z_score,
)
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.config import KernelConfig
from tfgradgen.mcmc import hmc, local_global, mala, split_hmc
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler


def family_of(kernel_fn: Any, like: KernelSampler) -> KernelSampler:
    """`like` with a wrong kernel in place of its own."""
    return replace(like, name="wrong", make_fn=kernel_fn)


class StaleMala(mala.Mala):
    """MALA that keeps the drift of the previous step, as TFP's cached results would."""

    def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
        step_size = previous_kernel_results.step_size
        state, inner = self._inner(step_size).one_step(current_state, previous_kernel_results.inner_results, seed=seed)
        return state, mala.MalaResults(step_size, inner)


ONE_LEAPFROG = HmcConfig(step_size=0.3, target_accept_prob=0.574, num_leapfrog_steps=1)


def agreement(family: KernelSampler, config: KernelConfig) -> tuple[float, float, float]:
    """Against one-leapfrog HMC with the same adaptation: gap in acceptance, ratio of step sizes, worst z-score of E[z^2]."""
    z, accept, step_size, _ = run(family, config)
    _, accept_hmc, step_size_hmc, _ = run(hmc.SAMPLER, ONE_LEAPFROG)
    return (
        abs(accept.mean() - accept_hmc.mean()),
        step_size.mean() / step_size_hmc.mean(),
        worst_z_score(z),
    )


AS_ONE_LEAPFROG = type(mala.SAMPLER.defaults)(step_size=0.3, target_accept_prob=0.574)


# Acceptance: both are means over 128 chains x 300 draws tuned to one target. Law: 16 z-scores; 4 has p < 1e-3 in all.
@pytest.mark.slow
def test_adapted_mala_is_one_leapfrog_hmc() -> None:
    gap, ratio, z_score = agreement(mala.SAMPLER, AS_ONE_LEAPFROG)
    assert gap < 0.02
    assert 0.95 < ratio < 1.05
    assert z_score < 4


def test_a_step_size_that_changes_takes_its_own_drift_along() -> None:
    """As while it is tuned: a transition with a new step size is that of a kernel which never had another."""

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
    """A global move that weighs draws by the square root of their likelihood."""
    kernel = local_global.make_local_global(posterior, config, step_size, num_adaptation_steps)
    return kernel.copy(likelihood_log_prob_fn=lambda z: 0.5 * posterior.likelihood_log_prob(z))


TOO_FLAT = 0.8  # the power of the likelihood in another target: what a kernel that mistakes its target would have


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
def test_a_wrong_kernel_does_not_have_the_law(name: str) -> None:
    assert worst_z_score(run(WRONG[name], WRONG[name].defaults)[0]) > 4


class TestContract:
    """What every entry of the registry promises."""

    @pytest.mark.slow
    @is_calibrated
    def test_the_law_of_another_target_is_found_out(self, family: KernelSampler) -> None:
        """The negative control of the test below: it sees so small a difference in every kernel's draws."""
        assert worst_z_score(law_run(family.name, TOO_FLAT)[0]) > 4

    @pytest.mark.slow
    @is_calibrated
    def test_law_and_acceptance(self, family: KernelSampler) -> None:
        z, accept, _, is_accepted = law_run(family.name)
        given = family.defaults.to_dict()
        if "target_accept_prob" in given:
            assert abs(accept.mean() - given["target_accept_prob"]) < 0.1  # the promise of the README
        assert worst_z_score(z) < 4
        assert is_accepted.mean() > accept.mean() - 5 * 0.5 / np.sqrt(accept.size)

    @pytest.mark.slow
    @is_tuned
    def test_one_step_size_for_all_chains_is_frozen_after_adaptation(self, family: KernelSampler) -> None:
        step_size = law_run(family.name)[2]
        assert step_size.shape == (NUM_STEPS, NUM_CHAINS)
        assert len(np.unique(step_size)) == 1
        assert step_size[0, 0] != np.float32(family.defaults.to_dict()["step_size"])

    @only(lambda family: family.name != "map" and "target_accept_prob" not in family.defaults.to_dict())
    def test_without_a_step_size_a_chain_of_nan_moves_no_other(self, family: KernelSampler) -> None:
        good, bad = starts(4), starts(4) + 100.0 * tf.one_hot(3, 4)[:, None]
        run_fn = compiled_run(family, family.defaults, lambda _, z: partly_nan(z), FEW_STEPS)
        for with_good, with_bad in zip(run_fn(good), run_fn(bad), strict=True):
            np.testing.assert_array_equal(with_good[:, :3], with_bad[:, :3])

    @pytest.mark.slow
    def test_chains_of_nan_spoil_no_common_trajectory(self) -> None:
        """chees shares a length among chains besides the step size; the others stay well tuned."""
        family = kernel_sampler("chees")
        run_fn = compiled_run(family, family.defaults, lambda _, z: partly_nan(z), NUM_STEPS)
        for num_bad in (1, 5):
            is_bad = tf.range(8) >= 8 - num_bad
            z, accept, step_size, _ = run_fn(starts(8) + 100.0 * tf.cast(is_bad, tf.float32)[:, None])
            good = slice(0, 8 - num_bad)
            assert np.isfinite(z[:, good]).all()
            assert np.isfinite(step_size[:, good]).all()
            assert abs(accept[:, good].mean() - family.defaults.to_dict()["target_accept_prob"]) < 0.15

    @is_calibrated
    def test_rebuilt_from_its_parameters_it_is_the_same_kernel(self, family: KernelSampler) -> None:
        kernel = family.make_fn(Bare(), family.defaults, tf.fill(family.step_shape(family.defaults), 0.2), 3)
        z = starts(4)
        again = type(kernel)(**kernel.parameters)
        first, _ = kernel.one_step(z, kernel.bootstrap_results(z), seed=as_seed(1))
        second, _ = again.one_step(z, again.bootstrap_results(z), seed=as_seed(1))
        np.testing.assert_array_equal(first, second)
        assert kernel.is_calibrated
        assert isinstance(kernel, tfp.mcmc.TransitionKernel), "TFP's own, or one whose class is made without TFP"
        assert type(kernel.copy()) is type(kernel)

    @is_calibrated
    def test_evaluations_are_counted(self, family: KernelSampler) -> None:
        """Against a counter in the density itself, with as few chains as can be: none waits for another."""
        counts = {"gradient": 0, "forward": 0}

        def count(name: str, z: tf.Tensor) -> tf.Tensor:
            def add(value: np.ndarray) -> np.ndarray:
                counts[name] += int(np.prod(value.shape[:-1]))
                return value

            return tf.ensure_shape(tf.numpy_function(add, [z], tf.float32), z.shape)

        @tf.custom_gradient
        def counted(z: tf.Tensor) -> Any:
            return count("forward", z), lambda upstream: count("gradient", upstream)

        posterior = Bare(lambda z: target(counted(z)))
        num_chains = family.min_chains
        kernel = family.make_fn(posterior, family.defaults, tf.fill(family.step_shape(family.defaults), 0.2), 3)
        # Compiled: in eager mode TFP evaluates twice for a gradient.
        start_fn, step_fn = (tf.function(fn, autograph=False) for fn in (kernel.bootstrap_results, kernel.one_step))
        z = starts(num_chains)
        results = start_fn(z)
        started = family.start_cost(family.defaults)
        assert counts["gradient"] == started.num_gradients * num_chains
        assert counts["forward"] - counts["gradient"] == started.num_forward * num_chains
        for k in range(3):
            before = dict(counts)
            z, results = step_fn(z, results, seed=fold_in(as_seed(1), k))
            info = family.info_fn(posterior, family.defaults, z, results)
            gradients = counts["gradient"] - before["gradient"]
            assert gradients == int(tf.reduce_sum(info.num_gradients))
            assert counts["forward"] - before["forward"] - gradients == int(tf.reduce_sum(info.num_forward))

    @only(lambda family: True)
    def test_defaults_are_complete(self, family: KernelSampler) -> None:
        assert SAMPLERS[family.name] is family
        assert (family.schedule.num_adaptation_steps > 0) == ("target_accept_prob" in family.defaults.to_dict())
        assert family.schedule.num_burnin_steps > 0


def partly_nan(z: tf.Tensor) -> tf.Tensor:
    """`target` that is not a number beyond 90, where the last chain of the tests below starts."""
    return tf.where(tf.reduce_any(z > 90.0, -1), np.nan, target(z))
