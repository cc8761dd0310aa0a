"""The table of kernels: the ESS is right for known chains, and no cell is computed twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tooling import tool
from tfgradgen.core.contracts import Draws
from tfgradgen.evaluation.efficiency import mean_ess
from tfgradgen.mcmc.registry import SAMPLERS

compare_kernels = tool("compare_kernels")


def chains(rho: float, between: float = 0.0) -> Draws:
    """Return 64 chains of 2000 draws: each coordinate and p(class) is AR(1) with unit variance, with means `between` apart."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2000, 64, 7)) * np.sqrt(1 - rho**2)
    x = np.empty_like(noise)
    x[0] = rng.standard_normal((64, 7))
    for t in range(1, len(x)):
        x[t] = rho * x[t - 1] + noise[t]
    x += between * rng.standard_normal((64, 7))
    rows = np.zeros(x.shape[:2])
    return Draws(x[..., 1:], x[..., 0], rows, rows > 0, rows, rows)


# Known: num_draws * (1 - rho) / (1 + rho). The spread of 64 means gives each variance to 18 %, and five statistics to 8 %;
# the error is the larger of two estimates, so the ESS tends to be low.
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_ess_of_an_autoregression(rho: float) -> None:
    expected = 2000 * 64 * (1 - rho) / (1 + rho)
    assert 0.7 * expected < mean_ess(chains(rho)) < 1.1 * expected


def test_chains_that_do_not_meet_count_little() -> None:
    """The ESS is about the number of chains if most of the variance lies between them."""
    assert mean_ess(chains(0.0, between=3.0)) < 2 * 64


def test_schedules_scale_with_the_budget() -> None:
    def schedule_of(name: str) -> Any:
        return compare_kernels.schedule_of(SAMPLERS[name], SAMPLERS[name].defaults, 300)

    schedule = schedule_of("hmc")
    assert (schedule.num_results, schedule.num_burnin_steps, schedule.num_adaptation_steps) == (100, 50, 37)
    assert schedule_of("smc") == SAMPLERS["smc"].schedule


def test_a_cell_that_is_done_is_shown_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare_kernels, "DIMENSIONS", (32, 64))
    work = tmp_path / "cells.json"
    compare_kernels.main(work, ladder=True, budget=30, num_chains=4)
    cells = json.loads(work.read_text())
    assert len(cells) == 4
    cells["hmc 32"]["per_1000_gradients"] = 12345.6
    work.write_text(json.dumps(cells))
    capsys.readouterr()
    compare_kernels.main(work, ladder=True, budget=30, num_chains=4)
    shown = capsys.readouterr()
    assert shown.err == ""
    rows = [line for line in shown.out.splitlines() if line.startswith("| ")]
    assert "12345.6" in rows[1]
    assert [row.split()[1] for row in rows] == ["kernel", "hmc", "split_hmc"]
    expected = r"expected cells of \{'budget': 31, .*\} in .*, got \{'budget': 30, .*\} \(hmc 32\): give another file"
    with pytest.raises(SystemExit, match=expected):
        compare_kernels.main(work, ladder=True, budget=31, num_chains=4)
