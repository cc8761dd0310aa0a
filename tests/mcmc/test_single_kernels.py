"""Properties of single kernels besides the contract: known special cases, bounds, and points without a likelihood."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.distributions import Bare, starts, target
from tfgradgen.core._tf_private import unnest
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.mcmc import elliptical_slice, local_global, split_hmc
from tfgradgen.mcmc.chees import CheesConfig
from tfgradgen.mcmc.kernel import adaptive_kernel
from tfgradgen.mcmc.local_global import LocalGlobalConfig
from tfgradgen.mcmc.registry import kernel_sampler


def test_split_hmc_of_one_leapfrog_step_is_the_crank_nicolson_langevin_proposal() -> None:
    """Cotter et al. 2013, (2 + d) z' = (2 - d) z + 2 d grad + sqrt(8 d) w, for d = step_size^2 / 2."""
    posterior, step_size = Bare(), 0.8
    z, seed = starts(4), as_seed(3)
    proposal = split_hmc.UncalibratedSplitHmc(posterior.prior_log_prob, posterior.likelihood_log_prob, step_size, 1)
    moved, _ = proposal.one_step(z, proposal.bootstrap_results(z), seed=seed)
    d, w = step_size**2 / 2, tf.random.stateless_normal([4, 16], seed)
    gradient = tfp.math.value_and_gradient(posterior.likelihood_log_prob, z)[1]
    np.testing.assert_allclose(moved, ((2 - d) * z + 2 * d * gradient + np.sqrt(8 * d) * w) / (2 + d), atol=1e-5)


def test_split_hmc_is_exact_for_the_prior_alone() -> None:
    """For any step size: without a likelihood, the energy is conserved, and every proposal is accepted."""
    prior = Bare().prior_log_prob
    kernel = split_hmc.SplitHmc(prior, lambda z: 0.0 * prior(z), 5.0, 7)
    _, results = kernel.one_step(starts(8), kernel.bootstrap_results(starts(8)), seed=as_seed(1))
    np.testing.assert_allclose(unnest.get_innermost(results, "log_accept_ratio"), 0.0, atol=1e-4)


def test_elliptical_slice_has_the_distribution_of_tfps_own() -> None:
    """After one step from the same points, the mean square step of each coordinate equals TFP's, within the error."""
    posterior, init = Bare(), tf.tile(starts(1), [4000, 1])
    ours = elliptical_slice.EllipticalSlice(posterior.likelihood_log_prob)
    theirs = tfp.experimental.mcmc.EllipticalSliceSampler(
        lambda seed: tf.random.stateless_normal(init.shape, seed), posterior.likelihood_log_prob
    )
    squares = []
    for kernel in (ours, theirs):
        moved = kernel.one_step(init, kernel.bootstrap_results(init), seed=as_seed(2))[0]
        squares.append(np.square(moved - init))
    means, errors = zip(*((s.mean(0), s.std(0) / np.sqrt(len(s))) for s in squares), strict=True)
    assert np.abs((means[0] - means[1]) / np.hypot(*errors)).max() < 4


def test_a_global_move_takes_each_draw_with_its_share_of_the_weight() -> None:
    """The move chooses among 7 prior draws and the state. The weights are known, so the share of chains that stay is, too."""
    log_weight = lambda z: tf.where(z[:, 0] > 0, np.float32(np.log(3.0)), 0.0)  # noqa: E731
    z = tf.ones([20_000, 2])
    moved, has_jumped = local_global.resample_prior(log_weight, z, log_weight(z), 7, as_seed(4))
    k = np.arange(8)  # number of draws with weight 3 among the 7
    chance = np.array([1, 7, 21, 35, 35, 21, 7, 1]) / 128
    stays = float((chance * 3 / (3 + 3 * k + (7 - k))).sum())
    heavy = float((chance * (3 + 3 * k) / (3 + 3 * k + (7 - k))).sum())
    assert abs(1 - np.mean(has_jumped) - stays) < 4 * 0.5 / np.sqrt(20_000)
    assert abs(np.mean(moved[:, 0] > 0) - heavy) < 4 * 0.5 / np.sqrt(20_000)
    np.testing.assert_array_equal(np.any(moved != z, -1), has_jumped)


def leapfrogs_of_chees(num_adaptation_steps: int, max_leapfrog_steps: int) -> list[int]:
    config = CheesConfig(0.02, 0.65, max_leapfrog_steps)  # so short a step needs many leapfrog steps
    kernel = adaptive_kernel(kernel_sampler("chees"), Bare(), config, num_adaptation_steps)
    z, counts = starts(16), []
    step_fn = tf.function(kernel.one_step, autograph=False)
    results = kernel.bootstrap_results(z)
    for k in range(40):
        z, results = step_fn(z, results, seed=fold_in(as_seed(1), k))
        counts.append(int(unnest.get_innermost(results, "num_leapfrog_steps")))
    return counts


def test_chees_takes_no_more_steps_than_it_may_and_its_own_length_without_adaptation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(leapfrogs_of_chees(30, 4)) <= 4
    ones = lambda shape, seed, short_share, dtype: tf.ones(shape, dtype)  # noqa: E731
    monkeypatch.setattr("tfgradgen.mcmc.kernel.jitter", ones)  # otherwise shorter steps would take more of them
    assert set(leapfrogs_of_chees(0, 16)) == {1, 2, 3}, "jittered up to the three that it starts with"


def test_a_global_move_passes_over_draws_without_a_likelihood() -> None:
    """Half of the z have none, including the state: the chain moves to the other half unless all 7 draws have none, too."""
    log_weight = lambda z: tf.where(z[:, 0] > 0, 0.0, np.nan)  # noqa: E731
    z = -tf.ones([20_000, 2])
    moved, has_jumped = local_global.resample_prior(log_weight, z, log_weight(z), 7, as_seed(4))
    share = 1 - 0.5**7
    assert abs(np.mean(has_jumped) - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
    assert np.all(moved.numpy()[has_jumped.numpy(), 0] > 0)


def test_a_move_in_any_local_step_is_a_move() -> None:
    family, posterior = kernel_sampler("local_global"), Bare()
    config = LocalGlobalConfig(0.3, 0.4, num_global_draws=1, num_local_steps=3)
    kernel = family.make_fn(posterior, config, tf.fill([1, 1], 0.6), 0)
    z = starts(500)
    after, results = kernel.one_step(z, kernel.bootstrap_results(z), seed=as_seed(2))
    is_accepted = family.info_fn(posterior, config, after, results).is_accepted
    np.testing.assert_array_equal(is_accepted, np.any(after != z, -1))


def test_elliptical_slice_says_where_a_point_had_no_likelihood() -> None:
    posterior = Bare(lambda z: tf.where(z[:, 0] > 0.2, np.nan, target(z)))
    family, z = kernel_sampler("elliptical_slice"), -tf.abs(starts(300))
    kernel = family.make_fn(posterior, family.defaults, None, 0)
    after, results = kernel.one_step(z, kernel.bootstrap_results(z), seed=as_seed(2))
    invalid = np.isnan(family.info_fn(posterior, family.defaults, after, results).log_accept_ratio)
    assert 0 < invalid.mean() < 1
    assert np.isfinite(posterior.likelihood_log_prob(after)).all()
