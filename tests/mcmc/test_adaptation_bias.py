"""A whole run, adaptation included, preserves a distribution with two modes; a step size for each chain does not.

Chains start at exact draws, so any change is a bias of the run. The true values are computed by quadrature.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chi2

from tests.support.two_modes import NUM_CHAINS, FiveClasses, Plane, Truth, each_chain_its_own, statistics_of
from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc.registry import kernel_samplers
from tfgradgen.posterior import ClassPosterior

pytestmark = pytest.mark.slow

TUNED = [name for name, family in kernel_samplers().items() if isinstance(family.defaults, AdaptedConfig)]


def chain_means(draws: Any) -> np.ndarray:
    return statistics_of(draws.z, draws.class_prob).mean(0)


@pytest.fixture(scope="module", autouse=True)
def long_chunks() -> Iterator[None]:
    """Run chains in fewer calls, which changes nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "GRADIENTS_PER_CHUNK", 500)
        yield


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(ClassPosterior(Plane(), FiveClasses(), 2))


@pytest.fixture(scope="module")
def truth_of_controls(truth: Truth) -> Truth:
    """Return `truth` with models of its own, so that no graph of the negative controls is one of the tests."""
    return truth._replace(posterior=ClassPosterior(Plane(), FiveClasses(), 2))


@pytest.fixture
def per_chain(truth_of_controls: Truth, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Return a truth whose runs have a step size for each chain."""
    monkeypatch.setattr(sampling, "adaptive_kernel", each_chain_its_own)
    return truth_of_controls


def test_quadrature_agrees_with_rejection(truth: Truth) -> None:
    z = np.random.default_rng(1).standard_normal((200_000, 2)).astype(np.float32)
    prob = np.exp(truth.posterior.class_log_prob(tf.constant(z)).numpy())
    is_kept = np.random.default_rng(2).random(len(z)) < prob
    assert abs(truth.z_scores(statistics_of(z[is_kept], prob[is_kept]))).max() < 4
    assert 0.02 < is_kept.mean() < 0.06


@pytest.mark.parametrize("kernel", TUNED)
def test_a_run_keeps_both_modes(kernel: str, truth: Truth) -> None:
    """There are six z-scores for each kernel; one of 42 exceeds 4 with probability 0.3 %. The next test shows the power."""
    draws = truth.run(kernel, truth.draw(NUM_CHAINS, 0), seed=1)
    assert abs(truth.z_scores(chain_means(draws))).max() < 4
    assert len(np.unique(draws.step_size)) == 1


def test_step_sizes_chain_by_chain_move_mass_between_modes(per_chain: Truth) -> None:
    """The negative control: 2000 chains of mala with the schedule and settings of the test above."""
    draws = per_chain.run("mala", per_chain.draw(NUM_CHAINS, 0), seed=1)
    z_scores = per_chain.z_scores(chain_means(draws))
    assert z_scores[0] > 4, "p(class)"
    assert z_scores[5] > 4, "the share of the narrow mode"


def test_many_runs_of_sixteen_chains_keep_both_modes(truth: Truth) -> None:
    """Each run tunes on its own 16 chains, as for a user.

    Chains of a run share a step size, so runs are the independent unit.
    """
    num_runs, schedule = 125, Schedule(64, 36, 27)  # the default burn-in; fewer draws, to save time
    init = truth.draw(num_runs * 16, 3).reshape(num_runs, 16, 2)
    means = np.stack([chain_means(truth.run("mala", starts, seed, schedule)).mean(0) for seed, starts in enumerate(init)])
    assert abs(truth.z_scores(means)).max() < 4


NUM_RANKED, NUM_BELOW = 1000, 4  # pairs whose z is ranked, each among this number of its own chains


def rank_chances(truth: Truth) -> list[float]:
    """Return the p-values of uniform ranks of z_0 and p(class), by simulation-based calibration (Talts et al. 2018).

    Pairs are simulated, z from the prior and the class from p(class | g(z)), so each z is an exact draw of its class. Of one
    class, some pairs start chains, and each of the others has the rank of its z among the last draws of `NUM_BELOW` chains.
    """
    rng = np.random.default_rng(7)
    z = rng.standard_normal((170_000, 2)).astype(np.float32)
    log_prob = truth.posterior.class_log_prob(tf.constant(z)).numpy()
    pairs = z[np.log(rng.random(len(z))) < log_prob][: NUM_RANKED * (1 + NUM_BELOW)]
    assert len(pairs) == NUM_RANKED * (1 + NUM_BELOW)
    ranked, init = pairs[:NUM_RANKED], pairs[NUM_RANKED:]
    parts = init.reshape(-1, NUM_CHAINS, 2)
    last = np.concatenate([truth.run("mala", part, seed, Schedule(1, 300, 280)).z[-1] for seed, part in enumerate(parts)])
    chances = []
    for value in (lambda z: z[:, 0], lambda z: truth.posterior.class_log_prob(tf.constant(z)).numpy()):
        ranks = (value(last).reshape(NUM_RANKED, NUM_BELOW) < value(ranked)[:, None]).sum(1)
        counts, expected = np.bincount(ranks, minlength=NUM_BELOW + 1), NUM_RANKED / (NUM_BELOW + 1)
        chances.append(float(chi2.sf((np.square(counts - expected) / expected).sum(), NUM_BELOW)))
    return chances


def test_ranks_of_simulated_pairs_are_uniform(truth: Truth) -> None:
    """Both p-values are large; a step size for each chain is detected with power above 0.99, as the next test shows."""
    assert min(rank_chances(truth)) > 1e-4


def test_ranks_are_not_uniform_with_step_sizes_chain_by_chain(per_chain: Truth) -> None:
    """The negative control."""
    assert min(rank_chances(per_chain)) < 1e-5
