"""Runs of chains on a known posterior: the distribution, the seeds, the number of traces."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.support.distributions import FEWER_DRAWS
from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator, exact_moments
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Draws, Networks, Progress
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers
from tfgradgen.mcmc.rejection import sample_exact
from tfgradgen.mcmc.starts import initial_points
from tfgradgen.posterior import ClassPosterior

GENERATOR, CLASSIFIER = ToyGenerator(), ToyClassifier()
USUAL_CHUNK = sampling.GRADIENTS_PER_CHUNK


@pytest.fixture(scope="module", autouse=True)
def long_chunks() -> Iterator[None]:
    """Run chains in fewer calls, which changes nothing else, as a test below shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "GRADIENTS_PER_CHUNK", 500)
        yield


def make(label: int = 1, temperature: float = 1.0) -> ClassPosterior:
    return ClassPosterior(GENERATOR, CLASSIFIER, label, temperature=temperature)


def chains(posterior: ClassPosterior, kernel: str = "mala", schedule: Schedule | None = None, **run: Any) -> Draws:
    settings = RunConfig(**({"num_chains": 4} | run))
    init_z = initial_points(posterior, settings)[0]
    return sampling.sample_chains(
        posterior, kernel, kernel_sampler(kernel).defaults, schedule or Schedule(5, 7, 5), settings, init_z
    )[0]


# Tests of all kernels run kernel by kernel, so that the second and third use the graphs of those before them: few are kept.
each_kernel = pytest.mark.parametrize("kernel", list(kernel_samplers()), scope="module")
NUM_FEW, NUM_MANY = 4, 64


@each_kernel
def test_one_trace_serves_labels_seeds_and_phases(kernel: str) -> None:
    sampling.compiled.cache_clear()
    for label, seed in ((0, 1), (1, 1), (1, 2)):
        chains(make(label), kernel, seed=seed)
    counted = kernel_sampler(kernel).counts_adaptation
    if not counted:  # one for each number of adaptation steps, too
        chains(make(), kernel, Schedule(5, 7, 3))
    key = (Networks(GENERATOR, CLASSIFIER), 1.0, kernel, kernel_sampler(kernel).defaults, 5 if counted else 0, False)
    functions = sampling.compiled(*key)
    assert sampling.compiled.cache_info().currsize == 1
    assert functions.chunk_fn.experimental_get_tracing_count() == 1
    assert functions.bootstrap_fn.experimental_get_tracing_count() == 1


@pytest.mark.slow
@each_kernel
def test_a_chain_is_the_same_in_a_run_of_few_and_of_many(kernel: str) -> None:
    """This holds if nothing is tuned, and up to rounding, because the vectorization of a batch depends on its size.

    TFP's replica_exchange draws the noise replica by replica, for all chains at once: its chains are independent,
    but not the same.
    """
    few, many = (chains(make(), kernel, Schedule(10, 10, 0), num_chains=n) for n in (NUM_FEW, NUM_MANY))
    alike = [np.allclose(a, b[:, :NUM_FEW], rtol=1e-3, atol=1e-3, equal_nan=True) for a, b in zip(few, many, strict=True)]
    assert all(alike) == (kernel != "replica_exchange"), dict(zip(Draws._fields, alike, strict=True))


def worst_error(draws: Draws, moments: tuple[float, float, float]) -> float:
    """Return the worst z-score of five statistics; independent chains, whose spread is the Monte Carlo error."""
    mean, std, prob = moments
    errors = []
    for statistic, expected in (
        (draws.z[..., 0], mean),
        ((draws.z[..., 0] - mean) ** 2, std**2),
        (draws.class_prob, prob),
        (draws.z[..., 5], 0.0),
        (draws.z[..., 5] ** 2, 1.0),
    ):
        per_chain = statistic.mean(0)
        errors.append(abs(per_chain.mean() - expected) / per_chain.std(ddof=1) * np.sqrt(len(per_chain)))
    return float(max(errors))


def check_distribution(kernel: str, temperature: float) -> None:
    """Chains have the posterior's moments, and not those of another power of the likelihood, unless they are of an ascent."""
    family = kernel_sampler(kernel)
    tuned = 150 if family.schedule.num_adaptation_steps else 0
    schedule = Schedule(200 if kernel in FEWER_DRAWS else 400, 200 if tuned else 50, tuned)  # starts are resampled
    draws = chains(make(1, temperature), kernel, schedule, num_chains=NUM_MANY, seed=3)
    assert (worst_error(draws, exact_moments(temperature)) < 4) == family.is_calibrated(family.defaults)
    assert worst_error(draws, exact_moments(temperature / 0.8)) > 4, "another power of the likelihood is found out"


@pytest.mark.slow
@each_kernel
def test_chains_reach_the_known_distribution(kernel: str) -> None:
    check_distribution(kernel, 1.0)


# One kernel that uses the whole density, one that uses the likelihood alone, and one that raises it to powers of its own.
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["mala", "elliptical_slice", "replica_exchange"])
def test_chains_reach_the_known_distribution_at_another_temperature(kernel: str) -> None:
    check_distribution(kernel, 0.5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_rejection_is_exact(temperature: float) -> None:
    mean, std, prob = exact_moments(temperature)
    draws, cost, prior_prob, accept_rate = sample_exact(make(1, temperature), 2000, RunConfig(num_chains=20, seed=4))
    z = draws.z[..., 0].ravel()
    assert draws.z.shape == (2000, 20, 6)
    assert abs(z.mean() - mean) < 4 * std / np.sqrt(z.size)
    other = exact_moments(temperature / 0.9)[0]
    assert abs(z.mean() - other) > 4 * std / np.sqrt(z.size), "another power of the likelihood is found out"
    assert abs(draws.class_prob.mean() - prob) < 4 * draws.class_prob.std() / np.sqrt(z.size)
    if temperature == 1.0:
        assert abs(accept_rate - prior_prob) < 4 * 0.5 / np.sqrt(cost.num_forward)
    assert abs(prior_prob - 0.5) < 4 * 0.5 / np.sqrt(cost.num_forward)  # the toy is symmetric
    np.testing.assert_allclose(draws.target_log_prob, make(1, temperature).unnormalized_log_prob(draws.z), rtol=1e-5)
    assert draws.is_accepted.all()
    assert np.isnan(draws.step_size).all()


def test_a_class_that_cannot_be_drawn_ends_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(ToyClassifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) * 0.0 - tf.constant([0.0, 80.0])

    monkeypatch.setattr("tfgradgen.mcmc.rejection.MAX_FRUITLESS_DRAWS", 500)
    with pytest.raises(UserError, match="none accepted in 512 prior draws"):
        sample_exact(ClassPosterior(GENERATOR, Never(), 1), 1, RunConfig())


@pytest.mark.slow
def test_exact_draws_and_their_own_start_have_one_distribution_and_prior_starts_do_not() -> None:
    exact = sample_exact(make(), 500, RunConfig(num_chains=1, seed=1))[0].z[:, 0, 0]
    resampled = initial_points(make(), RunConfig(num_chains=300))[0].numpy()[:, 0]
    prior = initial_points(make(), RunConfig(num_chains=300, init="prior"))[0].numpy()[:, 0]
    assert stats.ks_2samp(exact, resampled).pvalue > 1e-3
    assert stats.ks_2samp(exact, prior).pvalue < 1e-6


def test_initial_points_report_the_prior_mean_of_p_class() -> None:
    _, mean, count = initial_points(make(), RunConfig())
    sd = np.std(1 / (1 + np.exp(-SLOPE * np.random.default_rng(0).standard_normal(10_000))))
    assert count == 16 * RunConfig.num_init_draws
    assert abs(mean - 0.5) < 4 * sd / np.sqrt(count)


def test_a_chain_starts_alike_whatever_the_number_of_chains() -> None:
    few, many = (initial_points(make(), RunConfig(num_chains=n))[0] for n in (4, 16))
    np.testing.assert_array_equal(few, many[:4])


def test_no_finite_likelihood_is_said() -> None:
    class IsNan(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return super().__call__(z) * np.nan

    with pytest.raises(UserError, match="finite likelihood"):
        initial_points(ClassPosterior(IsNan(), CLASSIFIER, 0), RunConfig())


def test_the_seed_decides_everything() -> None:
    first, again, other = (chains(make(), seed=s) for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.z, other.z)
    high = fold_in(as_seed(2**40 + 1), 0)
    assert not np.array_equal(high, fold_in(as_seed(1), 0))


def test_how_a_run_is_cut_into_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = chains(make(), schedule=Schedule(12, 9, 6))
    monkeypatch.setattr(sampling, "GRADIENTS_PER_CHUNK", 4)
    sampling.compiled.cache_clear()
    cut = chains(make(), schedule=Schedule(12, 9, 6))
    sampling.compiled.cache_clear()
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_traced_is_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "GRADIENTS_PER_CHUNK", USUAL_CHUNK)
    posterior, progress = make(), list[Progress]()
    settings = RunConfig(num_chains=3)
    init_z = initial_points(posterior, settings)[0]
    config = HmcConfig(0.3, 0.6, num_leapfrog_steps=3)
    draws, cost = sampling.sample_chains(posterior, "hmc", config, Schedule(7, 4, 3), settings, init_z, progress.append)
    assert draws.z.shape == (7, 3, 6)
    assert draws.z.dtype == np.float32
    np.testing.assert_allclose(draws.target_log_prob, posterior.unnormalized_log_prob(draws.z), rtol=1e-5)
    np.testing.assert_allclose(draws.class_prob, np.exp(posterior.class_log_prob(draws.z)), atol=1e-5)
    moved = np.any(draws.z[1:] != draws.z[:-1], -1)
    np.testing.assert_array_equal(moved, draws.is_accepted[1:])
    assert cost.num_gradients == 3 * (1 + 11 * 3)
    assert [p.num_done for p in progress] == [4, 10, 11]
    assert progress[-1].num_total == 11


@pytest.mark.slow
def test_xla_gives_the_same_distribution() -> None:
    """The two backends draw different numbers from one seed, so the distributions are compared."""
    distributions = [chains(make(), "mala", Schedule(40, 40, 30), num_chains=256, jit=jit).z[-1, :, 0] for jit in (True, False)]
    assert stats.ks_2samp(*distributions).pvalue > 1e-3
