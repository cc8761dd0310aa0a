"""The contract of every kernel in the registry, as tests that `test_kernels` runs on all of them."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.distributions import (
    FEW_STEPS,
    NUM_CHAINS,
    NUM_STEPS,
    Bare,
    compiled_run,
    is_calibrated,
    is_tuned,
    num_steps_of,
    only,
    starts,
    target,
    target_run,
    worst_z_score,
)
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler

TOO_FLAT = 0.8  # the power of the likelihood in a wrong target, which a kernel with a wrong density would sample


def partly_nan(z: tf.Tensor) -> tf.Tensor:
    """Return `target` with NaN beyond 90, where the last chain of the tests below starts."""
    return tf.where(tf.reduce_any(z > 90.0, -1), np.nan, target(z))


class Contract:
    """The contract of every entry of the registry."""

    @pytest.mark.slow
    @is_calibrated
    def test_the_distribution_of_another_target_is_found_out(self, family: KernelSampler) -> None:
        """The negative control of the test below: it detects a difference of this size in every kernel's draws."""
        assert worst_z_score(target_run(family.name, TOO_FLAT)[0]) > 4

    @pytest.mark.slow
    @is_calibrated
    def test_distribution_and_acceptance(self, family: KernelSampler) -> None:
        z, accept, _, is_accepted = target_run(family.name)
        given = family.defaults.to_dict()
        if "target_accept_prob" in given:
            assert abs(accept.mean() - given["target_accept_prob"]) < 0.1  # as the README promises
        assert worst_z_score(z) < 4
        assert is_accepted.mean() > accept.mean() - 5 * 0.5 / np.sqrt(accept.size)

    @pytest.mark.slow
    @is_tuned
    def test_one_step_size_for_all_chains_is_frozen_after_adaptation(self, family: KernelSampler) -> None:
        step_size = target_run(family.name)[2]
        assert step_size.shape == (num_steps_of(family.name), NUM_CHAINS)
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
        """In chees, chains share a trajectory length besides the step size; the healthy ones stay well tuned."""
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
        """Compare with a counter in the density itself, with as few chains as possible, so that none waits for another."""
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
