"""Diagnostics against processes whose mixing is known."""

import numpy as np
import pytest

from tfgradgen.diagnostics import Convergence, convergence, problems


def autoregressive(rho: float, num_results: int = 2000, num_chains: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = np.empty((num_results, num_chains))
    x[0] = rng.standard_normal(num_chains)
    for t in range(1, num_results):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal(num_chains)
    return x


# An AR(1) process has ESS = N (1 - rho) / (1 + rho); the estimate from 16,000 draws is good to about a tenth.
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregressive_process(rho: float) -> None:
    result = convergence(autoregressive(rho))
    expected = 16_000 * (1 - rho) / (1 + rho)
    assert result.ess == pytest.approx(expected, rel=0.2)
    assert result.standard_error == pytest.approx(1 / np.sqrt(expected), rel=0.2)
    assert result.rhat == pytest.approx(1, abs=0.02)


def test_chains_apart_have_a_large_rhat_and_few_effective_draws() -> None:
    apart = convergence(autoregressive(0.5) + 3 * np.arange(8))
    assert apart.rhat is not None
    assert apart.rhat > 2
    assert apart.ess is not None
    assert apart.ess < 50


def test_what_cannot_be_computed_is_none() -> None:
    assert convergence(np.ones((10, 4))) == Convergence(1.0, None, None, None)
    assert convergence(np.zeros((3, 4)) + np.arange(4)).rhat is None
    assert convergence(np.full((10, 4), np.nan)).mean is None
    assert convergence(autoregressive(0.5)[:, :1]).rhat is None


def test_independent_draws_count_in_full() -> None:
    x = autoregressive(0.0)
    result = convergence(x, independent=True)
    assert result.ess == x.size
    assert result.standard_error == pytest.approx(x.std() / np.sqrt(x.size))


@pytest.mark.parametrize(
    ("stat", "accept", "target", "texts"),
    [
        (Convergence(0.8, 0.01, 500.0, 1.01), 0.6, 0.574, []),
        (Convergence(0.8, 0.01, 500.0, 1.01), 0.3, 0.574, ["acceptance 0.30"]),
        (Convergence(0.8, 0.01, 50.0, 1.2), 0.6, 0.574, ["R-hat 1.20", "few effective draws (50"]),
        (Convergence(None, None, None, None), 0.6, 0.574, ["not finite", "few effective draws (unknown"]),
        (Convergence(0.8, 0.01, 500.0, None), 0.05, None, []),
    ],
)
def test_problems_are_named_with_what_to_do(stat: Convergence, accept: float, target: float | None, texts: list[str]) -> None:
    found = problems(stat, accept, target)
    assert len(found) == len(texts)
    assert all(text in problem and ": " in problem for text, problem in zip(texts, found, strict=True))
