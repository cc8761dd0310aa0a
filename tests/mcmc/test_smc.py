"""Annealing from the prior: evidence and distribution are known for the toy; the temperatures keep the promised ESS share."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator, exact_moments
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import SamplerResult, collect
from tfgradgen.mcmc import smc
from tfgradgen.mcmc.smc import SmcConfig, next_inverse_temperature, smc_chunks
from tfgradgen.posterior import ClassPosterior

NUM_POPULATIONS = 24
GENERATOR, CLASSIFIER = ToyGenerator(), ToyClassifier()  # the same in all tests, which so share compiled graphs


def anneal(temperature: float = 1.0, num_mutations: int = 4, label: int = 1, ess_share: float = 0.9) -> SamplerResult:
    posterior = ClassPosterior(GENERATOR, CLASSIFIER, label, temperature=temperature)
    config = SmcConfig(0.8, 0.5, num_mutations, ess_share)  # the toy is so easy that a share of 0.5 needs only one step
    return collect(smc_chunks(posterior, config, 200, RunConfig(num_chains=NUM_POPULATIONS, seed=3)))


def true_evidence(temperature: float) -> float:
    z = np.linspace(-12, 12, 200_001)
    prior = np.exp(-0.5 * z**2)
    return float((prior * (1 / (1 + np.exp(-SLOPE * z))) ** (1 / temperature)).sum() / prior.sum())


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_evidence_and_distribution_are_those_of_the_posterior(temperature: float) -> None:
    found = anneal(temperature)
    evidence = np.array(found.stats["evidence"])
    error = evidence.std(ddof=1) / np.sqrt(NUM_POPULATIONS)
    assert abs(evidence.mean() - true_evidence(temperature)) < 4 * error
    assert error < 0.02 * true_evidence(temperature) / 0.5, "so wide an error would agree with anything"
    mean, std, prob = exact_moments(temperature)
    draws = found.draws
    assert draws.z.shape == (200, NUM_POPULATIONS, 6)
    for statistic, expected in (
        (draws.z[..., 0], mean),
        ((draws.z[..., 0] - mean) ** 2, std**2),
        (draws.class_prob, prob),
        (draws.z[..., 5] ** 2, 1.0),
    ):
        per_population = statistic.mean(0)
        assert abs(per_population.mean() - expected) < 4 * per_population.std(ddof=1) / np.sqrt(NUM_POPULATIONS)


def test_a_wrong_weight_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    damped = SimpleNamespace(logsumexp=lambda log_weight: logsumexp(0.9 * log_weight))
    monkeypatch.setattr("tfgradgen.mcmc.smc.special", damped)
    evidence = np.array(anneal().stats["evidence"])
    assert abs(evidence.mean() - true_evidence(1.0)) > 4 * evidence.std(ddof=1) / np.sqrt(NUM_POPULATIONS)


RARE_EDGE, RARE_STEEPNESS, NUM_RARE = 3.43, 6.0, 250


class Rare(ToyClassifier):
    """A classifier with p(class 1) = sigmoid(6 (first pixel - 3.43)), whose mean under the prior is 5.1e-4."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        value = RARE_STEEPNESS * (image[:, 0, 0, 0] - RARE_EDGE)
        return tf.stack([tf.zeros_like(value), value], -1)


RARE = Rare()


def rare_evidence() -> np.ndarray:
    """Return the evidence of `NUM_RARE` populations of 12, divided by the true value by quadrature."""
    z = np.linspace(-12, 12, 200_001)
    prior = np.exp(-0.5 * z**2)
    truth = (prior / (1 + np.exp(-RARE_STEEPNESS * (z - RARE_EDGE)))).sum() / prior.sum()
    assert truth == pytest.approx(5.1e-4, rel=0.05)
    posterior = ClassPosterior(GENERATOR, RARE, 1)
    found = collect(smc_chunks(posterior, SmcConfig(0.6, 0.5, 8), 12, RunConfig(num_chains=NUM_RARE, seed=1)))
    return np.array(found.stats["evidence"]) / truth


def errors_off(shares: np.ndarray) -> float:
    return float((shares.mean() - 1) / shares.std(ddof=1) * np.sqrt(len(shares)))


def test_the_evidence_of_a_rare_class_is_unbiased() -> None:
    assert abs(errors_off(rare_evidence())) < 3


def test_temperatures_of_a_populations_own_choice_fail_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_fn = smc.next_stage
    monkeypatch.setattr(smc, "next_stage", lambda *given: chosen_fn(*given[:-1], None))
    assert errors_off(rare_evidence()) < -3


def test_each_temperature_keeps_its_share_of_the_particles() -> None:
    log_likelihood = np.random.default_rng(0).normal(-20.0, 8.0, 500)
    beta, steps = 0.0, 0
    while beta < 1.0:
        after = next_inverse_temperature(log_likelihood, beta, 0.5)
        assert after > beta
        log_weight = (after - beta) * log_likelihood
        share = np.exp(2 * logsumexp(log_weight) - logsumexp(2 * log_weight)) / 500
        assert share == pytest.approx(0.5, abs=1e-3) or (after == 1.0 and share > 0.5)
        beta, steps = after, steps + 1
    assert steps > 3
    assert next_inverse_temperature(np.zeros(500), 0.0, 0.5) == 1.0
    few = np.full(500, -np.inf)
    few[:10] = -1.0
    assert next_inverse_temperature(few, 0.0, 0.5) == 1.0, "particles without likelihood are left behind by any reweighting"


def test_a_likelihood_that_is_absent_for_most_of_z_counts_as_none() -> None:
    """There are 128 dimensions. The likelihood is absent where the first is below 0.5 (69 % of the prior). The evidence is the
    mean over the rest."""

    class Wide(ToyGenerator):
        latent_dim = 128

        def __call__(self, z: tf.Tensor) -> tf.Tensor:
            return super().__call__(z) + tf.where(z[:, 0] < 0.5, np.nan, 0.0)[:, None, None, None]

    posterior = ClassPosterior(Wide(), ToyClassifier(), 0)
    found = collect(smc_chunks(posterior, SmcConfig(0.5, 0.5), 150, RunConfig(num_chains=NUM_POPULATIONS, seed=3)))
    z = np.linspace(-12, 12, 200_001)
    weight = np.where(z < 0.5, 0.0, np.exp(-0.5 * z**2) / (1 + np.exp(SLOPE * z)))
    evidence = np.array(found.stats["evidence"])
    expected = weight.sum() / np.exp(-0.5 * z[z >= 0.5] ** 2).sum()
    assert abs(evidence.mean() - expected) < 4 * evidence.std(ddof=1) / np.sqrt(NUM_POPULATIONS)
    per_population = found.draws.class_prob.mean(0)
    truth = (weight / (1 + np.exp(SLOPE * z))).sum() / weight.sum()
    assert abs(per_population.mean() - truth) < 4 * per_population.std(ddof=1) / np.sqrt(NUM_POPULATIONS)
    assert np.isfinite(found.draws.target_log_prob).all()


def test_progress_cost_and_a_model_without_likelihood() -> None:
    posterior = ClassPosterior(GENERATOR, CLASSIFIER, 1)
    chunks = list(smc_chunks(posterior, SmcConfig(0.8, 0.5, 3, 0.9), 10, RunConfig(num_chains=2)))
    assert [c.progress.num_total for c in chunks] == [300] * len(chunks), "the pilot and two populations"
    assert chunks[-1].progress.num_done == 300
    assert chunks[-1].cost == (len(chunks) * 10 * 4, len(chunks) * 10 + 3 * 10)
    assert len(chunks) % 3 == 0, "all take the temperatures of the pilot"
    assert 0 < chunks[-1].stats["accept_rate"] < 1
    assert [len(c.draws.z) for c in chunks] == [0] * (len(chunks) - 1) + [10]

    class IsNan(ToyGenerator):
        def __call__(self, z):  # type: ignore[no-untyped-def]
            return super().__call__(z) * np.nan

    with pytest.raises(UserError, match="images without NaN or inf, got 0% of 64 points"):
        list(smc_chunks(ClassPosterior(IsNan(), ToyClassifier(), 1), SmcConfig(0.8, 0.5), 10, RunConfig(num_chains=1)))


class Half(ToyGenerator):
    """A model that gives NaN if the last coordinate, on which the class does not depend, is positive."""

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        return super().__call__(z) + tf.where(z[:, 5] > 0.0, np.nan, 0.0)[:, None, None, None]


HALF = ClassPosterior(Half(), CLASSIFIER, 1)


@pytest.mark.parametrize("num_results", [1, 2, 50])
def test_the_evidence_is_the_mean_over_draws_that_are_finite(num_results: int) -> None:
    """0.5, as other methods say, not 0.25. Half of the populations of one particle have no finite one at first."""
    run = RunConfig(num_chains=200, seed=4)
    found = collect(smc_chunks(HALF, SmcConfig(0.8, 0.5, 1, 0.5), num_results, run))
    evidence = np.array(found.stats["evidence"])
    assert abs(evidence.mean() - 0.5) < 4 * evidence.std(ddof=1) / np.sqrt(len(evidence))
    assert evidence.std(ddof=1) / np.sqrt(len(evidence)) < 0.05, "else 0.25 would pass too"
    count, of = found.stats["num_not_finite"], found.stats["num_scored"]
    assert abs(count / of - 0.5) < 4 * 0.5 / np.sqrt(of)
    assert found.cost.num_forward >= of
    assert found.draws.z[..., 5].max() <= 0.0


def test_a_population_that_nowhere_finds_a_likelihood_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = lambda seed, num: (np.zeros([num, 6], np.float32), np.full(num, np.nan, np.float32))  # noqa: E731
    with pytest.raises(UserError, match="a finite likelihood at some particle, got none at 1000 prior draws"):
        smc.start_population(nan, 1, SmcConfig(0.8, 0.5), tf.constant([1, 2]))
