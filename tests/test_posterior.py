"""The joint, its pieces, and the shapes that keep chains apart."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator
from tfgradgen.core.backend import as_seed
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.diagnostics import model_checks, preflight
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD
from tfgradgen.posterior import ClassPosterior


def make(**kwargs: Any) -> ClassPosterior:
    return ClassPosterior(ToyGenerator(), ToyClassifier(), kwargs.pop("label", 1), **kwargs)


def test_densities_are_the_closed_form() -> None:
    z = tf.random.stateless_normal([5, 6], [0, 1])
    prior = -0.5 * np.sum(np.square(z), -1) - 3 * np.log(2 * np.pi)
    log_prob = -np.log1p(np.exp(-SLOPE * z[:, 0].numpy()))
    posterior = make(temperature=2.0)
    np.testing.assert_allclose(posterior.prior_log_prob(z), prior, rtol=1e-5)
    np.testing.assert_allclose(posterior.class_log_prob(z), log_prob, rtol=1e-5)
    np.testing.assert_allclose(posterior.likelihood_log_prob(z), log_prob / 2, rtol=1e-5)
    np.testing.assert_allclose(posterior.unnormalized_log_prob(z), prior + log_prob / 2, rtol=1e-5)
    np.testing.assert_allclose(posterior.class_prob_of(z, posterior.unnormalized_log_prob(z)), np.exp(log_prob), rtol=1e-4)


def test_it_is_tfps_pinned_joint_at_temperature_one() -> None:
    posterior, z = make(), tf.random.stateless_normal([4, 6], [0, 1])
    np.testing.assert_allclose(posterior.unnormalized_log_prob(z), posterior.pinned.unnormalized_log_prob(z=z), rtol=1e-6)
    assert set(posterior.joint.sample(3, seed=as_seed(0))) == {"z", "label"}


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_one_value_a_chain_whatever_the_batch(batch: tuple[int, ...]) -> None:
    posterior, z = make(), tf.random.stateless_normal([*batch, 6], [0, 1])
    for fn in (posterior.prior_log_prob, posterior.likelihood_log_prob, posterior.unnormalized_log_prob):
        assert fn(z).shape == batch
    flat = posterior.unnormalized_log_prob(tf.reshape(z, [-1, 6]))
    np.testing.assert_allclose(tf.reshape(posterior.unnormalized_log_prob(z), [-1]), flat, rtol=1e-6)


def test_a_classifier_that_mixes_the_batch_is_refused() -> None:
    classifier = ToyClassifier()

    class Scalar:
        num_classes = 2

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(classifier(image), 0)

    with pytest.raises(UserError, match="logits"):
        ClassPosterior(ToyGenerator(), Scalar(), 0).unnormalized_log_prob(tf.zeros([3, 6]))


@pytest.mark.parametrize("shape", [[], [5], [3, 5]])
def test_z_of_another_width_is_refused(shape: list[int]) -> None:
    with pytest.raises(UserError, match=r"z: expected shape \[..., 6\]"):
        make().unnormalized_log_prob(tf.zeros(shape))


@pytest.mark.parametrize("kwargs", [{"label": 2}, {"label": -1}, {"label": 1.0}, {"temperature": 0.0}])
def test_arguments_out_of_range(kwargs: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        make(**kwargs)


def test_any_tfp_kernel_takes_it() -> None:
    posterior = make()
    kernel = tfp.mcmc.NoUTurnSampler(posterior.unnormalized_log_prob, step_size=0.3)
    draws = tfp.mcmc.sample_chain(3, posterior.sample_prior(2, as_seed(1)), kernel=kernel, trace_fn=None, seed=as_seed(2))
    assert draws.shape == (3, 2, 6)
    assert np.isfinite(draws).all()


def test_prior_draws_are_standard_normal_and_follow_the_seed() -> None:
    posterior = make()
    z = posterior.sample_prior(4000, as_seed(3)).numpy()
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / z.size)
    np.testing.assert_array_equal(z, posterior.sample_prior(4000, as_seed(3)))


def test_preflight_takes_no_eager_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One would make every later graph of a SavedModel slower and larger."""

    def value_and_gradient(fn: Any, z: tf.Tensor) -> Any:
        assert not tf.executing_eagerly()
        return preflight.value_and_gradient(fn, z)

    monkeypatch.setattr(model_checks, "value_and_gradient", value_and_gradient)
    admit(ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(), takes_gradients=True)


def test_preflight_sees_a_missing_gradient_that_the_prior_hides() -> None:
    class Rounds(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return tf.cast(tf.cast(super().__call__(z) * 100, tf.int32), tf.float32) / 100

    class IsNan(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return super().__call__(z) * np.nan

    assert admit(make(), RunConfig(), True).cost == [16, NUM_FORWARD]
    assert admit(make(), RunConfig(), False).cost == [0, NUM_FORWARD]
    with pytest.raises(UserError, match="non-zero gradient"):
        admit(ClassPosterior(Rounds(), ToyClassifier(), 1), RunConfig(), True)
    for takes_gradients in (True, False):
        with pytest.raises(UserError, match="images without NaN or inf, got 0% of 64 points"):
            admit(ClassPosterior(IsNan(), ToyClassifier(), 1), RunConfig(), takes_gradients)
