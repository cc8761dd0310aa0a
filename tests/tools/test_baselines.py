"""The baselines of the table of kernels draw from the posterior, where it is known by quadrature."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tooling import tool
from tests.support.two_modes import FiveClasses, Plane, Truth, statistics_of
from tfgradgen.core.config import RunConfig
from tfgradgen.posterior import ClassPosterior

baselines = tool("baselines")
RUN = RunConfig(num_chains=200, seed=0)
FEW = 5.0  # standard errors


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(ClassPosterior(Plane(), FiveClasses(), 0))  # one mode, broad


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "EPOCHS", 1)
    monkeypatch.setattr(baselines, "NUM_ROUNDS", 2)


def worst(truth: Truth, measured: Any) -> float:
    """The largest z-score of p(class), the coordinates and their squares."""
    means = statistics_of(measured.draws.z, measured.draws.class_prob).mean(0)
    return float(np.abs(truth.z_scores(means)[:5]).max())


@pytest.mark.parametrize("name", ["tfp_hmc", "tfp_nuts", "flow"])
def test_draws_are_of_the_posterior(name: str, truth: Truth) -> None:
    measured = baselines.BASELINES[name](truth.posterior, 120, RUN)
    assert worst(truth, measured) < FEW
    assert 0 < measured.kept.work < measured.total.work
    assert measured.draws.z.shape[1:] == (200, 2)


def test_a_flow_that_misstates_its_density_is_found_out(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    make = baselines.make_flow

    def wrong(*given: Any) -> Any:
        density, variables = make(*given)
        monkeypatch.setattr(density, "log_prob", lambda z: -tf.reduce_sum(tf.square(z), -1))
        return density, variables

    monkeypatch.setattr(baselines, "make_flow", wrong)
    monkeypatch.setattr(baselines, "EPOCHS", 0)  # untrained: its draws are the prior's
    assert worst(truth, baselines.flow(truth.posterior, 120, RUN)) > 2 * FEW


def test_a_package_that_is_missing_is_named(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bench.bench_worker.network_arrays", dict)
    with pytest.raises(ImportError, match="blackjax"):
        baselines.blackjax_mala(truth.posterior, 4, RunConfig(num_chains=2))
