"""The contents of the panels of plots.png for known processes, and the image itself."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import lfilter

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics import figure, plots
from tfgradgen.diagnostics.convergence import Convergence, run_statistics
from tfgradgen.diagnostics.plots import autocorrelation, plot_chains, rank_counts


def normal(num_results: int, num_chains: int, rho: float = 0.0) -> np.ndarray:
    """Return a stationary AR(1) process with unit variance, [num_results, num_chains]."""
    noise = np.random.default_rng(0).standard_normal((num_results, num_chains))
    noise[1:] *= np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], noise, axis=0)


def draws_of(num_results: int, num_chains: int) -> Draws:
    z = np.random.default_rng(1).standard_normal((num_results, num_chains, 6)).astype(np.float32)
    prob = 1 / (1 + np.exp(-z[..., 0]))
    step_size = np.full_like(prob, 0.5)
    return Draws(z, prob, -(z**2).sum(-1) / 2, prob > 0, step_size, np.zeros_like(prob))


def test_ranks_of_chains_that_agree_are_uniform() -> None:
    counts = rank_counts(normal(2000, 8), 20)
    assert (counts.sum(1) == 2000).all()
    assert (counts.sum(0) == 800).all(), "of distinct values, every part of the ranks holds as many"
    # Chi-squared with slightly fewer than 19 degrees of freedom, because draws share ranks.
    statistic = ((counts - 100) ** 2 / 100).sum(1)
    assert (statistic < 50).all(), "beyond 50 once in 7,000 chains"
    assert (statistic > 3).all(), "and no more uniform than draws are"


def test_ranks_of_a_chain_apart_and_of_a_stuck_one_are_not() -> None:
    values = normal(2000, 8)
    values[:, 3] += 2
    values[:, 5] = 0.1
    counts = rank_counts(values, 20)
    statistic = ((counts - 100) ** 2 / 100).sum(1)
    assert (statistic[[3, 5]] > 1000).all()
    assert counts[3, -1] > 500
    assert counts[5].max() == 2000, "equal draws share one rank"


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_autocorrelation_of_an_autoregressive_process(rho: float) -> None:
    num_results, num_chains, max_lag = 4000, 16, 30
    found = autocorrelation(normal(num_results, num_chains, rho), max_lag)
    lag = np.arange(max_lag + 1)
    # Bartlett's formula for the variance, and the bias that the chain's own mean and dividing by num_results bring.
    variance = ((1 + rho**2) * (1 - rho ** (2 * lag)) / (1 - rho**2) - 2 * lag * rho ** (2 * lag)) / num_results
    bias = ((1 + rho) / (1 - rho) + lag * rho**lag) / num_results
    np.testing.assert_array_equal(found[0], 1)
    assert (np.abs(found.mean(1) - rho**lag) < 4 * np.sqrt(variance / num_chains) + 2 * bias).all()
    assert (np.abs(found - rho ** lag[:, None]) < 5 * np.sqrt(variance)[:, None] + 2 * bias[:, None]).all()


def test_autocorrelation_is_that_of_the_definition() -> None:
    """Products are divided by num_results at every lag, so that the noise of large lags fades."""
    values = normal(37, 5, 0.5) * 1e200  # whose squares are not finite
    values[:, 2] = 7.0
    centred = values / 1e200 - (values / 1e200).mean(0)
    expected = np.ones((11, 5))
    for chain in (0, 1, 3, 4):
        x = centred[:, chain]
        expected[:, chain] = [(x[: len(x) - k] * x[k:]).sum() / (x**2).sum() for k in range(11)]
    np.testing.assert_allclose(autocorrelation(values, 10), expected, atol=1e-12)


def panels_of(image: np.ndarray) -> list[list[np.ndarray]]:
    """Return the image cut at the gaps between its panels: three rows of three."""
    height, width = image.shape[:2]
    rows = np.split(image, [int(0.36 * height), int(0.665 * height)])
    return [np.split(row, [int(0.355 * width), int(0.68 * width)], axis=1) for row in rows]


def colored(image: np.ndarray) -> np.ndarray:
    """Return [3, 3], whether a panel has lines or bars of chains; ink, grid and text are grey."""
    spread = np.ptp(image.astype(int), axis=-1) > 60
    return np.array([[part.sum() > 20 for part in row] for row in panels_of(spread)])


@pytest.mark.parametrize("num_chains", [1, 2, 16, 4096])
@pytest.mark.parametrize("num_results", [4, 60])
def test_every_panel_shows_chains_or_says_why_not(num_results: int, num_chains: int) -> None:
    image = plot_chains(draws_of(num_results, num_chains), "mala")
    assert image.size == (figure.WIDTH * figure.DPI, plots.HEIGHT * figure.DPI)
    found = colored(np.asarray(image))
    assert found[:, 0].all(), "a trace, be it of one draw"
    assert (found[:, 1] == (num_chains > 1)).all()
    assert found[:, 2].all()


@pytest.mark.parametrize("num_chains", [1, 2, 16, 4096])
@pytest.mark.parametrize("num_results", [1, 3])
def test_draws_of_short_chains_are_shown_in_one_row_without_empty_panels(num_results: int, num_chains: int) -> None:
    draws = draws_of(num_results, num_chains)
    image = np.asarray(plot_chains(draws, "mala"))
    assert image.shape[:2] == (plots.FEW_HEIGHT * figure.DPI, figure.WIDTH * figure.DPI)
    spread = np.ptp(image.astype(int), axis=-1) > 60
    assert all(part.sum() > 20 for part in np.split(spread, 3, axis=1))
    plot_chains(draws._replace(class_prob=draws.class_prob * np.nan))


def test_the_chain_farthest_from_the_others_stands_out() -> None:
    """It is orange in every panel of its row, and its number stands above the trace."""
    draws = draws_of(40, 5)
    draws.class_prob[:, 3] += 2
    orange = np.abs(np.asarray(plot_chains(draws)).astype(int) - [0xD5, 0x5E, 0]).sum(-1) < 30
    assert all(part.sum() > 50 for part in panels_of(orange)[0])
    assert plots._apart(np.asarray(draws.class_prob)) == 3
    assert plots._apart(np.full((4, 3), np.nan)) == 0


def test_what_cannot_be_drawn_is_said_and_does_not_warn() -> None:
    draws = draws_of(40, 3)
    holed, huge = draws.target_log_prob.copy(), draws.class_prob.astype(float) * 1e300
    holed[3, 1], holed[5] = np.nan, -np.inf
    constant, invalid = np.full_like(holed, 0.25), np.full_like(holed, -np.inf)
    for column, (trace, ranks, lags) in ((holed, (1, 0, 0)), (constant, (1, 0, 0)), (invalid, (0, 0, 0)), (huge, (1, 1, 1))):
        found = colored(np.asarray(plot_chains(draws._replace(target_log_prob=column))))
        assert found.tolist() == [[True] * 3, [trace, ranks, lags], [True] * 3]


def test_each_row_is_of_its_statistic() -> None:
    draws = draws_of(40, 4)
    base = np.asarray(plot_chains(draws)).astype(int)
    others = (
        draws._replace(class_prob=draws.class_prob[::-1, ::-1]),
        draws._replace(target_log_prob=draws.target_log_prob[::-1, ::-1]),
        draws._replace(z=draws.z[::-1, ::-1]),
    )
    for k, other in enumerate(others):
        changed = np.abs(np.asarray(plot_chains(other)).astype(int) - base).sum(-1) > 0
        assert [[part.any() for part in row] for row in panels_of(changed)] == [[j == k] * 3 for j in range(3)]


def test_of_many_chains_and_draws_the_title_says_what_is_left_out() -> None:
    def ink(num_results: int, num_chains: int) -> int:
        """Return the dark pixels of the line at the top."""
        return int((np.asarray(plot_chains(draws_of(num_results, num_chains), "mala"))[:45] < 128).sum())

    plain = ink(40, 16)
    assert ink(40, 17) > 2 * plain
    assert ink(plots.NUM_POINTS + 1, 2) > 2 * plain


def test_any_letters_may_stand_in_the_title() -> None:
    blank, odd = (np.asarray(plot_chains(draws_of(4, 2), title)) for title in ("", "金魚 $x_1 \\frac é"))
    assert (blank[45:] == odd[45:]).all()
    assert (odd[:45] < 128).sum() > 100


def test_matplotlib_is_imported_late_and_without_its_global_state() -> None:
    code = (
        "import sys, numpy as np\n"
        "sys.modules['arviz_base'] = None\n"  # which imports matplotlib where both are installed
        "import tfgradgen.diagnostics.plots as plots\n"
        "from tfgradgen.core.contracts import Draws\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_chains(Draws(np.ones((2, 2, 3)), *np.ones((5, 2, 2))))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_worst_coordinate_is_shown_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = draws_of(40, 4)
    draws.z[:, 1, 4] += 3
    labels: list[str] = []
    monkeypatch.setattr(plots, "to_image", lambda figure: labels.extend(axes.get_ylabel() for axes in figure.axes))
    plot_chains(draws)
    found, coordinate = run_statistics(draws)
    assert coordinate == 4
    worst = found["z"]
    assert (worst.rhat or 0) > 1.3
    assert f"z[4], worst of 6: R-hat {worst.rhat:.3f}, ESS {worst.ess:.0f}" in labels
    assert any(label.startswith("p(class): R-hat 1.") or label.startswith("p(class): R-hat 0.") for label in labels)
    labels.clear()
    plot_chains(draws, "", {name: Convergence(ess=7.0) for name in found}, 2)
    assert "z[2], worst of 6: ESS 7" in labels
