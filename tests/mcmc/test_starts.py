"""Starts: exact draws if there are any among the prior draws, otherwise likely ones; replicas have their own distributions."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.toy import ToyClassifier, ToyGenerator, exact_moments
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import collect
from tfgradgen.mcmc import starts
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler
from tfgradgen.mcmc.rejection import exact_chunks
from tfgradgen.mcmc.replica_exchange import inverse_temperatures
from tfgradgen.mcmc.smc import smc_chunks
from tfgradgen.mcmc.starts import Scores, choose_starts, pick, start_point
from tfgradgen.posterior import ClassPosterior
from tfgradgen.tuning.guard import exact_of

STEEPNESS, EDGE = 6.0, 2.0
NUM_CHAINS = 600
RUN = RunConfig(num_chains=NUM_CHAINS, seed=1, temperature=1.0)


class Rare(ToyClassifier):
    """A classifier with p(class 1) = sigmoid(6 (first pixel - 2)), whose mean under the prior is 0.028."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        value = STEEPNESS * (image[:, 0, 0, 0] - EDGE)
        return tf.stack([tf.zeros_like(value), value], -1)


GENERATOR, RARE = ToyGenerator(), Rare()  # the same in all tests, which so share compiled graphs


@functools.cache
def rare(temperature: float) -> ClassPosterior:
    return ClassPosterior(GENERATOR, RARE, 1, temperature=temperature)


def truth(power: float = 1.0) -> tuple[float, float]:
    """Return mean p(class 1) and mean z_0 under the prior times a power of the likelihood, by quadrature."""
    z = np.linspace(-12, 12, 200_001)
    prob = 1 / (1 + np.exp(-STEEPNESS * (z - EDGE)))
    weight = np.exp(-0.5 * z**2) * prob**power
    return float((weight * prob).sum() / weight.sum()), float((weight * z).sum() / weight.sum())


def standard_errors_off(z: np.ndarray, power: float = 1.0) -> float:
    """Return how many standard errors mean p(class) or z_0 of starts z [num_chains, 6] is off, for the worse of the two."""
    prob = 1 / (1 + np.exp(-STEEPNESS * (z[:, 0] - EDGE)))
    pairs = zip((prob, z[:, 0]), truth(power), strict=True)
    return max(float(abs(x.mean() - mean) / x.std(ddof=1) * np.sqrt(len(x))) for x, mean in pairs)


_scored_blocks = starts.scored_blocks
scored_blocks = functools.cache(lambda posterior, run: [*_scored_blocks(posterior, run)])


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """With 64 prior draws per chain, 1.8 are accepted on average: one chain in six has none of its own.

    They are scored once for each posterior and run.
    """
    monkeypatch.setattr(RunConfig, "num_init_draws", 64)
    monkeypatch.setattr(starts, "scored_blocks", scored_blocks)
    return monkeypatch


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_starts_are_exact_draws(few_draws: pytest.MonkeyPatch, temperature: float) -> None:
    found = choose_starts(rare(temperature), replace(RUN, temperature=temperature))
    assert found.num_exact == NUM_CHAINS
    z = found.z.numpy()
    assert standard_errors_off(z, 1 / temperature) < 4
    assert len(np.unique(z, axis=0)) == NUM_CHAINS, "chains share no draw"


def test_resampling_fails_the_same_test(few_draws: pytest.MonkeyPatch) -> None:
    few_draws.setattr(starts, "pick", lambda scores, has_energy: pick(scores, True))
    z = choose_starts(rare(1.0), RUN).z.numpy()
    assert standard_errors_off(z) > 5, "its mean p(class) is 0.54 for 0.63: 7 standard errors"


def scores(log_weight: list[list[float]], accepted: list[list[int]]) -> Scores:
    weight = np.asarray(log_weight, np.float32)
    uniform = np.where(np.asarray(accepted, bool), weight - 1, np.minimum(weight + 1, 0))
    return Scores(weight, weight, uniform.astype(np.float32), np.zeros_like(weight))


def test_a_chain_takes_its_own_first_then_what_others_leave_then_the_likeliest_left() -> None:
    weight = [[-1.0, -2, -3, -4], [-1, -2, -3, -4], [-5, -6, -7, -8], [-9, -0.5, -11, -12], [-5.5, -6, -7, -8]]
    accepted = [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    picks, num_exact = pick(scores(weight, accepted), False)
    assert picks[:3].tolist() == [1, 6, 7], "own, own, chain 1's second"
    assert num_exact == 3
    weights = np.exp(np.asarray(weight)).ravel() / -np.expm1(np.asarray(weight)).ravel() * (1 - np.ravel(accepted))
    places = (np.arange(2) + np.exp(-1)) / 2  # noise is 0
    assert picks[3:].tolist() == np.searchsorted(np.cumsum(weights) / weights.sum(), places).tolist(), "then by weight"
    few = np.full((3, 2), -np.inf)
    few[1, 1] = -2.0
    picks, num_exact = pick(scores(few.tolist(), np.zeros((3, 2)).tolist()), False)
    assert picks.tolist() == [3, 3, 3], "the only draw with a likelihood serves all"
    assert num_exact == 0


def test_a_class_too_rare_is_started_at_likely_draws_and_counted() -> None:
    class Rarer(Rare):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) - tf.constant([0.0, 9.0])

    found = choose_starts(ClassPosterior(ToyGenerator(), Rarer(), 1), RunConfig(num_chains=32, seed=1))
    assert found.num_exact is not None
    assert found.num_exact < 32
    assert np.median(found.z.numpy()[:, 0]) > 2.5, "of 8192 draws 51 lie so far out"
    assert len(np.unique(found.z, axis=0)) > 8, "none serves more chains than its weight says"


def test_with_a_discriminator_starts_are_resampled_by_the_whole_target() -> None:
    """The energy shifts the second pixel by 1; it is unbounded, so nothing can be accepted."""
    posterior = ClassPosterior(
        ToyGenerator(), ToyClassifier(), 1, discriminator=lambda image: image[:, 0, 1, 0], discriminator_weight=1.0
    )
    found = choose_starts(posterior, RunConfig(num_chains=200, seed=2))
    assert found.num_exact == 0
    z = found.z.numpy()
    mean, std, _ = exact_moments()
    assert abs(z[:, 0].mean() - mean) < 4 * std / np.sqrt(200)
    assert abs(z[:, 1].mean() - 1.0) < 4 / np.sqrt(200)


def test_a_start_by_itself_is_picked_as_that_of_a_chain() -> None:
    """An export compiles the same choice, from its own prior draws."""
    posterior, seed = rare(1.0), as_seed(3)
    alone = tf.function(lambda s: start_point(posterior, RunConfig.num_init_draws, s), autograph=False)
    for chain in range(4):
        z, scores = starts.score(posterior, RunConfig.num_init_draws, fold_in(seed, chain))
        picks, _ = pick(Scores(*(np.asarray(column)[None] for column in scores)), False)
        np.testing.assert_allclose(alone(fold_in(seed, chain)), z[picks[0]], rtol=1e-6)


def test_draws_without_a_likelihood_are_counted_and_never_started_at() -> None:
    class Partly(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return super().__call__(z) + tf.where(z[:, 5] > 1.0, np.nan, 0.0)[:, None, None, None]

    found = choose_starts(ClassPosterior(Partly(), ToyClassifier(), 1), RunConfig(num_chains=16, seed=1))
    share = 0.1587
    assert abs(found.num_not_finite / found.num_draws - share) < 4 * np.sqrt(share / found.num_draws)
    assert found.z.numpy()[:, 5].max() < 1.0
    assert found.class_prob_error is not None
    assert abs(found.class_prob - 0.5) < 4 * found.class_prob_error


def test_replicas_start_at_their_own_distributions_from_the_same_draws(few_draws: pytest.MonkeyPatch) -> None:
    config = kernel_sampler("replica_exchange").defaults
    powers = kernel_sampler("replica_exchange").powers(config)
    np.testing.assert_allclose(powers, inverse_temperatures(config))  # type: ignore[arg-type]
    found = choose_starts(rare(1.0), RUN, powers)
    z = found.z.numpy()
    assert z.shape == (4, NUM_CHAINS, 6)
    np.testing.assert_array_equal(z[0], choose_starts(rare(1.0), RUN).z)
    assert found.num_draws == 64 * NUM_CHAINS, "no further evaluations"
    hottest = [standard_errors_off(z[-1], power) for power in (powers[-1], 1.0)]
    assert hottest[0] < 4 < hottest[1]
    assert len(np.unique(z.reshape(-1, 6), axis=0)) > 3.9 * NUM_CHAINS


def test_replica_exchange_begins_with_them() -> None:
    method, run = SAMPLERS["replica_exchange"], RunConfig(num_chains=4, seed=1)
    family, posterior = kernel_sampler("replica_exchange"), rare(1.0)
    z = choose_starts(posterior, run, family.powers(family.defaults)).z
    kernel = family.make_fn(posterior, family.defaults, tf.fill([4, 1], 1e-6), 0)
    states = kernel.bootstrap_results(z).post_swap_replica_states
    np.testing.assert_array_equal(tf.reshape(states[0], z.shape), z)
    draws = collect(method.chunks_fn(posterior, method.defaults, Schedule(3, 2, 1), run, None)).draws
    assert np.isfinite(draws.target_log_prob).all()


def test_methods_that_need_a_probability_refuse_a_discriminator() -> None:
    posterior = ClassPosterior(
        ToyGenerator(), ToyClassifier(), 1, discriminator=lambda image: image[:, 0, 1, 0], discriminator_weight=1.0
    )
    run = RunConfig(num_chains=2)
    for chunks in (exact_chunks(posterior, 1, run), smc_chunks(posterior, SAMPLERS["smc"].defaults, 4, run, None)):
        with pytest.raises(UserError, match="discriminator_weight: expected a target without discriminator for"):
            next(chunks)
    assert exact_of(posterior, run).num_draws == 0, "tune compares with none"


NUM_REPEATS, NUM_FEW, NUM_EACH = 1500, 24, 16


def gentle(z: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-2.0 * (z - 3.0))))


def few_scores(rng: np.random.Generator) -> tuple[np.ndarray, Scores]:
    """Return prior draws z [chains, draws] of one coordinate; about one in 50 is accepted, too few for 24 chains."""
    z, prob = (x := rng.standard_normal((NUM_FEW, NUM_EACH))), gentle(x)
    uniform, noise = np.log(rng.random(z.shape)), rng.gumbel(size=z.shape)
    return z, Scores(np.log(prob), np.log(prob).astype("f4"), uniform.astype("f4"), noise.astype("f4"))


def without_replacement(scores: Scores) -> np.ndarray:
    """Return a biased choice: of the draws that are left, those with the largest weight times noise, each once."""
    accepted = scores.log_uniform < scores.log_weight
    taken = np.flatnonzero(accepted)[:NUM_FEW]
    key = np.where(accepted, -np.inf, scores.log_weight - np.log(-np.expm1(scores.log_weight)) + scores.noise).ravel()
    return np.concatenate([taken, np.argsort(-key)[: NUM_FEW - len(taken)]])


def test_likely_draws_have_the_distribution_of_their_weights() -> None:
    """Mean z over many pools is right; without replacement, the starts are four times as far from the true value."""
    grid = np.linspace(-9, 9, 20_001)
    weight = np.exp(-0.5 * grid**2) * gentle(grid)
    truth, rng, means = (weight * grid).sum() / weight.sum(), np.random.default_rng(0), []
    for _ in range(NUM_REPEATS):
        z, found = few_scores(rng)
        picks, num_exact = pick(found, False)
        assert num_exact < NUM_FEW
        means.append((z.ravel()[picks].mean(), z.ravel()[without_replacement(found)].mean()))
    ours, once = np.mean(means, 0) - truth
    error = np.std(means, 0).max() / np.sqrt(NUM_REPEATS)
    assert abs(once) > 20 * error
    assert abs(ours) < abs(once) / 4 + 4 * error


def test_a_replica_without_a_draw_of_its_own_takes_one_of_another_chain() -> None:
    """Chain 1 has no draw that a replica with power 0.5 accepts; chain 0 has two spare ones."""
    weight = [[-1.0, -1.0, -1.0, -1.0], [-30.0, -31.0, -32.0, -33.0]]
    found = scores(weight, [[1, 1, 1, 1], [0, 0, 0, 0]])
    found.log_uniform[1] = 0.0  # not accepted at any power
    picks, num_exact = pick(found, False)
    assert (picks.tolist(), num_exact) == ([0, 1], 2)
    replicas = starts.pick_replicas(found, picks, (1.0, 0.5), False)
    assert replicas[1].tolist() == [3, 2]


def test_a_discriminator_that_is_not_finite_is_counted() -> None:
    posterior = ClassPosterior(
        ToyGenerator(),
        ToyClassifier(),
        1,
        discriminator=lambda image: tf.where(image[:, 0, 1, 0] > 1.0, np.nan, image[:, 0, 1, 0]),
        discriminator_weight=1.0,
    )
    found = choose_starts(posterior, RunConfig(num_chains=16, seed=1))
    share = 0.1587
    assert abs(found.num_not_finite / found.num_draws - share) < 4 * np.sqrt(share / found.num_draws)
    assert found.z.numpy()[:, 1].max() <= 1.0
