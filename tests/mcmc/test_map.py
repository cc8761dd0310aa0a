"""MAP ascent ends at the highest density, each regularizer does what it says, and chains sample the penalized target."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats

from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Regularization, SamplerResult, collect
from tfgradgen.diagnostics.model_checks import NUM_CHECKED, NUM_EVALUATIONS
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD
from tfgradgen.mcmc.mala import MalaConfig
from tfgradgen.mcmc.map_ascent import MapConfig
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler
from tfgradgen.mcmc.rejection import class_moments
from tfgradgen.posterior import ClassPosterior

POSTERIOR = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
RUN = RunConfig(num_chains=4, seed=2)


def ascend(steps: int = 600, **settings: Any) -> SamplerResult:
    config = MapConfig(**{"step_size": 0.05} | settings)
    return collect(SAMPLERS["map"].chunks_fn(POSTERIOR, config, Schedule(1, steps, 0), RUN, None))


def highest(negative_fn: Any) -> float:
    return float(optimize.minimize_scalar(negative_fn, (-5, 5), tol=1e-10).x)


def expected_mode(objective: str, weight: float = 0.0, mean: float = 0.0, scale: float = 1.0) -> float:
    """Return the mode of z_0, the only coordinate that the toy's classifier sees."""
    gain = {"log_prob": lambda z: -np.log1p(np.exp(-SLOPE * z)), "logit": lambda z: SLOPE * z}[objective]
    return highest(lambda z: 0.5 * z**2 + 0.5 * weight * ((z - mean) / scale) ** 2 - gain(z))


@pytest.mark.parametrize("objective", ["log_prob", "logit"])
def test_adam_ends_at_the_mode(objective: str) -> None:
    found = ascend(objective=objective)
    np.testing.assert_allclose(found.draws.z[-1, :, 0], expected_mode(objective), atol=1e-3)
    np.testing.assert_allclose(found.draws.z[-1, :, 1:], 0.0, atol=1e-3)
    np.testing.assert_allclose(found.draws.target_log_prob, POSTERIOR.unnormalized_log_prob(found.draws.z), rtol=1e-5)
    assert found.cost.num_gradients == 4 * (1 + 601) + NUM_CHECKED * NUM_EVALUATIONS


def test_a_normalized_step_ends_within_its_length_of_the_mode() -> None:
    z = ascend(optimizer="normalized", step_size=0.02).draws.z[-1]
    apart = np.linalg.norm(z - expected_mode("log_prob") * np.eye(6)[0], axis=-1)
    assert apart.max() < 0.04
    assert apart.max() > 1e-6  # it moves back and forth


def test_decay_takes_its_share_of_z_in_each_step() -> None:
    """Without a slope, only the decay would act; here it balances Adam's steps of at most step_size."""
    far, near = (np.abs(ascend(l2_decay=decay).draws.z[-1, :, 0]).max() for decay in (0.0, 0.5))
    assert near <= 0.05 * 1.01  # step_size * (1 - d) / d
    assert far > 0.5


def test_bounds_hold_around_the_prior_and_around_the_class() -> None:
    assert np.abs(ascend(clip_sigma=0.3).draws.z[-1]).max() <= 0.3 + 1e-6
    mean, scale, _ = class_moments(POSTERIOR, RUN)
    z = ascend(clip_sigma=0.1, clip_around="class").draws.z[-1]
    assert (np.abs(z - mean) <= 0.1 * scale + 1e-6).all()
    assert np.abs(z).max() > 0.1  # the mean of the class differs from that of the prior


def test_the_pull_of_the_class_moves_the_mode_as_its_formula_says() -> None:
    mean, scale, num_drawn = class_moments(POSTERIOR, RUN)
    found = ascend(class_reg=5.0)
    np.testing.assert_allclose(found.draws.z[-1, :, 0], expected_mode("log_prob", 5.0, mean[0], scale[0]), atol=1e-3)
    rest = 5.0 * mean[1:] / scale[1:] ** 2 / (1 + 5.0 / scale[1:] ** 2)
    np.testing.assert_allclose(found.draws.z[-1, :, 1:], np.tile(rest, [4, 1]), atol=1e-3)
    np.testing.assert_allclose(found.draws.class_prob, np.exp(POSTERIOR.class_log_prob(found.draws.z)), atol=1e-5)
    assert found.cost.num_forward == num_drawn + 4 * RunConfig.num_init_draws + NUM_FORWARD


def test_moments_are_those_of_the_class_at_any_temperature() -> None:
    mean, scale, num_drawn = class_moments(POSTERIOR, RUN)
    warm = ClassPosterior(POSTERIOR.generator, POSTERIOR.classifier, 1, temperature=50.0)
    np.testing.assert_array_equal(class_moments(warm, RUN)[0], mean)
    assert mean.shape == scale.shape == (6,)
    assert 0.3 < mean[0] < 1.1  # 0.69 +- 0.064 by quadrature
    assert np.abs(mean[1:]).max() < 4 / np.sqrt(128)
    assert num_drawn % 128 == 0


def test_a_class_too_rare_for_its_moments_names_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) * 0.0 - tf.constant([0.0, 80.0])

    monkeypatch.setattr("tfgradgen.mcmc.rejection.MAX_FRUITLESS_DRAWS", 500)
    with pytest.raises(UserError, match=r"^class_reg: .* none accepted in 500 prior draws"):
        class_moments(ClassPosterior(ToyGenerator(), Never(), 1), RUN)


def test_mala_with_the_pull_draws_from_the_pulled_density_and_from_no_other() -> None:
    """Compare z_5 of mala with --class_reg with its closed form, with one draw per chain."""
    run = RunConfig(num_chains=400, seed=5)
    chunks = SAMPLERS["mala"].chunks_fn(POSTERIOR, MalaConfig(0.8, 0.5, class_reg=3.0), Schedule(1, 60, 40), run, None)
    z = collect(chunks).draws.z[-1, :, 5]
    mean, scale, _ = class_moments(POSTERIOR, run)

    def p_value(weight: float) -> float:
        precision = 1 + weight / scale[5] ** 2
        return float(stats.kstest(z, stats.norm(weight * mean[5] / scale[5] ** 2 / precision, precision**-0.5).cdf).pvalue)

    assert p_value(3.0) > 1e-3
    assert p_value(0.0) < 1e-6  # the posterior itself
    assert not kernel_sampler("mala").is_calibrated(MalaConfig(0.8, 0.5, class_reg=3.0))
    assert kernel_sampler("mala").is_calibrated(MalaConfig(0.8, 0.5))


def test_regularized_posterior_is_the_sum_of_its_terms() -> None:
    z = tf.random.stateless_normal([5, 6], [1, 2])
    pulled = POSTERIOR.regularized(Regularization(2.0, np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32)))
    extra = -0.5 * 2.0 * np.square((z - 0.5) / 2.0).sum(-1)
    np.testing.assert_allclose(pulled.unnormalized_log_prob(z), POSTERIOR.unnormalized_log_prob(z) + extra, rtol=1e-5)
    np.testing.assert_allclose(pulled.objectives(z)[0], pulled.unnormalized_log_prob(z), rtol=1e-5)
