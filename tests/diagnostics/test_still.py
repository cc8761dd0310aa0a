"""Statistics of chains that hardly moved and of few draws, and advice that is consistent."""

import numpy as np
import pytest

from tests.support.records import record_of
from tfgradgen.cli.commands import main
from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.advice import Run
from tfgradgen.diagnostics.convergence import Convergence, convergence, run_statistics, statistics
from tfgradgen.diagnostics.issues import chain_table, longest_run, never_moved, problems


def draws_of(z: np.ndarray, accept_prob: float = 0.5) -> Draws:
    """Return `Draws` with these z [num_results, num_chains] and made-up other fields."""
    moved = np.concatenate([np.ones_like(z[:1], bool), z[1:] != z[:-1]])
    prob = 1 / (1 + np.exp(-z))
    steps, ratio = np.full_like(z, 0.4), np.full_like(z, np.log(accept_prob))
    return Draws(z[..., None] * np.ones(6), prob, -0.5 * z**2, moved, steps, ratio)


def told(draws: Draws, target: float | None = 0.44) -> list[str]:
    run = Run(target_accept_prob=target, num_exact=draws.z.shape[1])
    found = problems(chain_table(draws), run_statistics(draws)[0], len(draws.z), draws.z.shape[2], run)
    return [one.line(run.medium) for one in found]


def test_chains_that_never_moved_have_no_rhat_and_an_ess_of_one_draw_each() -> None:
    z = np.tile(np.random.default_rng(0).standard_normal(4).astype(np.float32), (12, 1))
    found = statistics(draws_of(z))
    for name in ("class_prob", "target_log_prob"):
        assert found[name].rhat is None
        assert found[name].ess is not None
        assert found[name].ess <= 4
        assert found[name].ess_bulk is None or found[name].ess_bulk <= 4
        # Four starts are four independent draws: their spread is the error.
        assert found[name].standard_error == pytest.approx(z_spread(draws_of(z), name) / 2)
    assert never_moved(chain_table(draws_of(z)), 12) == "chains 0 to 3"
    assert any("chains 0 to 3 never moved in 12 draws" in line for line in told(draws_of(z)))


def z_spread(draws: Draws, name: str) -> float:
    return float(getattr(draws, name)[0].astype(np.float64).std(ddof=1))


@pytest.mark.parametrize("num_places", [2, 5, 20])
def test_an_effective_sample_size_is_never_above_the_number_of_distinct_draws(num_places: int) -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(rng.standard_normal((num_places, 4)), 200 // num_places, axis=0)
    found = convergence(x)
    for size in (found.ess, found.ess_bulk, found.ess_tail):
        assert size is None or 0 < size <= 4 * num_places


def test_the_effective_sample_size_is_that_of_the_error() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((200, 8)) + 0.5 * rng.standard_normal(8)
    found = convergence(x)
    assert found.standard_error is not None
    assert found.ess == pytest.approx((x.std() / found.standard_error) ** 2)
    assert found.ess_bulk is not None
    assert found.ess is not None
    assert found.ess < found.ess_bulk, "the chains' means lie further apart than one chain by itself says"


@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 1), (1, 16), (40, 1), (5, 4), (3, 2)])
@pytest.mark.parametrize("kind", ["normal", "constant", "still", "nan", "inf"])
def test_every_statistic_is_finite_or_unknown(shape: tuple[int, int], kind: str, independent: bool) -> None:
    x = np.random.default_rng(3).standard_normal(shape)
    x = {"normal": x, "constant": np.ones(shape), "still": np.tile(x[:1], (shape[0], 1))}.get(kind, x)
    if kind in ("nan", "inf"):
        x[0, 0] = float(kind)
    found = convergence(x, independent)
    assert all(value is None or np.isfinite(value) for value in found)
    if kind == "normal":
        assert found.mean == pytest.approx(x.mean())
    if shape == (1, 1) or kind == "constant":
        assert found.standard_error is None, "of one draw, or of a constant, the error is unknown"
    if kind == "nan" and x.size > 1:
        assert found.mean == pytest.approx(np.nanmean(x))


def test_a_long_standstill_is_named_by_chain() -> None:
    z = np.random.default_rng(4).standard_normal((264, 16)).astype(np.float32)
    assert not any("did not move" in line for line in told(draws_of(z)))
    z[100:216, 14] = z[100, 14]
    z[:61, 0] = z[0, 0]
    line = next(line for line in told(draws_of(z)) if "did not move" in line)
    expected = "means: chain 14 did not move in 115 of 264 draws (44%), chain 0 did not move in 60 of 264 draws (23%): "
    assert line.startswith(expected)
    assert "raise --target_accept_prob" in line
    assert any("lower --step_size" in line for line in told(draws_of(z), target=None)), "where the step size is not tuned"


def test_a_standstill_that_chance_explains_is_not_named() -> None:
    """Of 200 chains of 40 draws at acceptance 0.1, every second one stands still for a third of its draws or more."""
    rng = np.random.default_rng(5)
    z = rng.standard_normal((40, 200))
    for k in range(1, 40):
        z[k] = np.where(rng.uniform(size=200) < 0.1, z[k], z[k - 1])
    table = chain_table(draws_of(z, 0.1))
    assert np.median(table["standstill"]) > 40 / 3
    assert not any("did not move" in line for line in told(draws_of(z, 0.1), 0.1))


def test_longest_run() -> None:
    assert [longest_run(np.array(row, bool)) for row in ([], [0, 0], [1], [1, 1, 0, 1], [0, 1, 0, 1, 1, 1])] == [0, 0, 1, 2, 3]


def test_the_error_of_one_exact_draw_is_unknown(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--label=goldfish", "--kernel=rejection", "--num_results=1", "--num_chains=1", "--out=one", *toy_flags])
    out = capsys.readouterr().out
    assert "+- unknown; under the prior 0." in out
    record = record_of("one")
    assert record["statistics"]["class_prob"]["standard_error"] is None
    assert 0 < record["prior_class_prob_error"] < 0.1
    assert f"+- {record['prior_class_prob_error']:.3f} (256 draws)" in out
    main(["diagnose", "one"])


def test_chains_that_never_moved_are_reported(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_chains=4", "--num_results=12", "--num_burnin_steps=0", "--num_adaptation_steps=0", "--step_size=1000"]
    main(["sample", "--label=goldfish", "--kernel=mala", "--out=still", *flags, *toy_flags])
    out = capsys.readouterr().out
    assert "R-hat not defined: chains 0 to 3 never moved" in out
    stat = record_of("still")["statistics"]["class_prob"]
    assert stat["rhat"] is None
    assert stat["ess"] <= 4
    assert Convergence(**stat).ess is not None
