"""R-hat over all coordinates: its definition, the worst coordinate, and how often the limit is exceeded by chance."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy.signal import lfilter

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics import convergence
from tfgradgen.diagnostics.convergence import coordinate_rhats, rank_rhat, rhat_limit, run_statistics, worst_coordinate

LATENT_DIM = 84


def autoregressive(shape: tuple[int, ...], rho: float, rng: np.random.Generator) -> np.ndarray:
    """Return a stationary AR(1) process along the first axis, with unit variance."""
    noise = rng.standard_normal(shape)
    noise[1:] *= np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1], [1, -rho], noise, axis=0))


@pytest.mark.parametrize("shape", [(4, 2), (7, 3), (101, 5), (264, 16)])
def test_it_is_that_of_arviz(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((6, *shape))
    x[1] += np.arange(shape[1])
    x[2] *= 1 + np.arange(shape[1])
    x[3] = np.round(x[3])  # ties
    expected = [float(array_stats.rhat(column.T, method="rank")) for column in x]
    np.testing.assert_allclose(rank_rhat(x), expected, rtol=1e-12)


def test_without_movement_finite_values_or_other_chains_there_is_none() -> None:
    rng = np.random.default_rng(1)
    z = rng.standard_normal((20, 4, 3))
    z[:, :, 0] = z[0, :, 0]
    z[3, 1, 1] = np.nan
    assert np.isfinite(coordinate_rhats(z)).tolist() == [False, False, True]
    assert np.isnan(coordinate_rhats(z[:, :1])).all()
    assert np.isnan(coordinate_rhats(z[:3])).all()


def alarms(rhats: np.ndarray, num_results: int, num_chains: int) -> float:
    return float(np.mean(rhats > rhat_limit(num_results, num_chains, LATENT_DIM)))


def worst_rhats(z: np.ndarray) -> np.ndarray:
    """Return the worst R-hat [runs] of z [runs, num_results, num_chains, latent_dim]."""
    return np.array([coordinate_rhats(one).max() for one in z])


def test_the_worst_of_all_coordinates_of_independent_draws_is_seldom_above_the_limit() -> None:
    """In short runs, chance alone brings R-hat far above 1.01. In 200 runs at 1 %, 9 or more have a probability of 1e-4."""
    z = np.random.default_rng(2).standard_normal((200, 10, 8, LATENT_DIM))
    rhats = worst_rhats(z)
    assert alarms(rhats, 10, 8) <= 8 / 200
    assert np.mean(rhats > 1.01) > 0.99, "the fixed limit would be above in every run"


@pytest.mark.slow
def test_so_is_that_of_chains_that_are_worth_the_draws_asked_for() -> None:
    """AR(1) chains have an ESS of 400 in total; chains with a fifth of that are above the limit most of the time."""
    rng, shape = np.random.default_rng(3), (100, 16, LATENT_DIM)

    def rhats(size: float) -> np.ndarray:
        return worst_rhats(np.stack([autoregressive(shape, rho_of(size, shape), rng) for _ in range(30)]))

    enough, few = rhats(400), rhats(80)
    assert alarms(enough, *shape[:2]) <= 4 / 30
    assert alarms(few, *shape[:2]) > 0.8


def rho_of(size: float, shape: tuple[int, ...]) -> float:
    share = size / (shape[0] * shape[1])
    return (1 - share) / (1 + share)


@pytest.mark.parametrize("kind", ["one stuck", "two modes", "other scale"])
def test_chains_that_disagree_in_one_of_many_coordinates_are_above_it(kind: str) -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(20):
        z = rng.standard_normal((100, 16, LATENT_DIM))
        if kind == "one stuck":
            z[:, 3, 17] = 3.0
        elif kind == "two modes":
            z[:, ::2, 17] += 1.5
        else:
            z[:, ::2, 17] *= 3
        assert worst_coordinate(z) == 17
        found.append(coordinate_rhats(z).max())
    assert alarms(np.array(found), 100, 16) == 1


def test_the_limit_is_that_of_the_paper_for_four_chains_but_for_the_many_statistics() -> None:
    """F, the ratio of variances, has mean 1 for the single statistic to which the paper's 1.01 applies."""
    one, many = (rhat_limit(10_000, 4, count) for count in (1, 86))
    assert 1.01 < one < many < 1.05
    assert np.sqrt(1 + 1 / (400 / 8 - 1)) == pytest.approx(1.01, abs=5e-4)
    assert 1.05 < rhat_limit(264, 16, 86) < 1.1
    assert rhat_limit(264, 4096, 86) < 1.1, "more chains do not make it larger"
    assert all(1 < rhat_limit(num, chains, 3) < 10 for num in (4, 5, 100) for chains in (2, 4096))


def test_the_worst_coordinate_is_found_without_r_hat_too() -> None:
    rng = np.random.default_rng(5)
    z = rng.standard_normal((200, 1, 5))
    z[:, 0, 3] = autoregressive((200,), 0.95, rng)
    assert worst_coordinate(z) == 3
    for odd in (z[:1], np.full((20, 3, 2), np.nan), np.ones((20, 3, 2))):
        assert worst_coordinate(odd) in range(odd.shape[2])


def test_of_a_long_run_every_k_th_draw_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(6).standard_normal((400, 4, 2))
    z[:, 1, 1] += 2
    monkeypatch.setattr(convergence, "NUM_RANKED", 400)
    np.testing.assert_array_equal(coordinate_rhats(z), rank_rhat(np.moveaxis(z[::4], -1, 0)))
    assert worst_coordinate(z) == 1


def draws_of(z: np.ndarray) -> Draws:
    prob = 1 / (1 + np.exp(-z[..., 0]))
    return Draws(z, prob, -np.square(z).sum(-1) / 2, prob > 0, np.full_like(prob, 0.4), np.full_like(prob, -0.7))


def test_chains_are_compared_with_those_of_their_own_label() -> None:
    labels = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    z = np.random.default_rng(7).standard_normal((200, 8, 3))
    z[:, labels == 2] += 5
    apart, _ = run_statistics(draws_of(z))
    own, _ = run_statistics(draws_of(z), labels=labels)
    assert (apart["z"].rhat or 0) > 1.5
    assert (own["z"].rhat or 9) < 1.02
    assert own["class_prob"].mean == pytest.approx(draws_of(z).class_prob.mean())
    assert (own["class_prob"].standard_error or 9) < (apart["class_prob"].standard_error or 0) / 5
    z[:, 0, 1] += 2
    own, coordinate = run_statistics(draws_of(z), labels=labels)
    assert ((own["z"].rhat or 0) > 1.1, coordinate) == (True, 1)
    alone, _ = run_statistics(draws_of(z), labels=np.arange(8))
    assert {one.rhat for one in alone.values()} == {None}
