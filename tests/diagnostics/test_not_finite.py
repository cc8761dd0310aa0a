"""Models that give NaN for part of z: every method counts such points, reports them, and leaves them out of its statistics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.records import record_of
from tfgradgen.cli.commands import main
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import collect
from tfgradgen.diagnostics.issues import chain_table, finite_mean, prior_problems
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.rejection import sample_exact
from tfgradgen.posterior import ClassPosterior

SHARE = 0.1587  # of the prior beyond 1


class Partly(toy.ToyGenerator):
    """A model that gives NaN if the last coordinate, on which the class does not depend, is above 1."""

    def __call__(self, z: Any) -> tf.Tensor:
        return super().__call__(z) + tf.where(z[:, 5] > 1.0, np.nan, 0.0)[:, None, None, None]


POSTERIOR = ClassPosterior(Partly(), toy.ToyClassifier(), 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_method_counts_prior_draws_without_a_finite_likelihood(name: str) -> None:
    method = SAMPLERS[name]
    schedule = Schedule(4, 2, 0) if method.takes_starts else Schedule(8, 0, 0)
    found = collect(method.chunks_fn(POSTERIOR, method.defaults, schedule, RunConfig(num_chains=4, seed=2), None))
    count, of = found.stats["num_not_finite"], found.stats["num_scored"]
    assert of >= 30
    assert abs(count / of - SHARE) < 4 * np.sqrt(SHARE * (1 - SHARE) / of)
    is_finite = np.isfinite(found.draws.class_prob)
    if method.kind == "fitted":  # an approximation may reach points where the model is not finite; the run says so
        assert sum(chain_table(found.draws)["num_not_finite"]) == (~is_finite).sum()
    else:
        assert is_finite.all()
        assert found.draws.z[..., 5].max() < 1.0
    if found.stats.get("prior_draws"):
        assert abs(found.stats["prior_class_prob"] - 0.5) < 4 * found.stats["prior_class_prob_error"]
    (one,) = prior_problems(count, of)
    assert one.what.startswith(f"{count} of {of} prior draws (")
    assert ("image_range" in one.what, one.page) == (False, "not-finite")


def test_rejection_treats_them_as_of_likelihood_zero() -> None:
    with pytest.warns(UserWarning, match="NaN or inf for part of z"):
        draws, cost, prior_prob, accept_rate = sample_exact(POSTERIOR, 50, RunConfig(num_chains=16, seed=1))
    mean, std, prob = toy.exact_moments()
    assert abs(draws.z[..., 0].mean() - mean) < 4 * std / np.sqrt(800)
    assert abs(draws.class_prob.mean() - prob) < 4 * draws.class_prob.std() / np.sqrt(800)
    assert abs(accept_rate - 0.5 * (1 - SHARE)) < 4 * 0.5 / np.sqrt(cost.num_forward)
    assert abs(prior_prob - 0.5) < 4 * 0.5 / np.sqrt(cost.num_forward)


def test_nothing_is_said_of_models_that_are_finite() -> None:
    assert prior_problems(0, 4096) == prior_problems(None, None) == []
    assert finite_mean(np.array([np.nan, 1.0, 3.0])) == 2.0
    assert finite_mean(np.array([np.nan])) is None


@pytest.fixture(scope="module")
def partly(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the toy's generator with NaN if the last coordinate is above 1."""

    def generate(z: tf.Tensor) -> tf.Tensor:
        image = tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))
        return tf.where(z[:, 5, None, None, None] > 1.0, np.nan, image)

    card = json.loads((toy_pair[0] / "model.json").read_text())
    return toy.save(tmp_path_factory.mktemp("partly") / "generator", generate, [None, 6], card)


@pytest.mark.usefixtures("sketched_plots")
@pytest.mark.parametrize("kernel", ["rejection", "smc", "map"])
def test_a_run_says_so_and_fails_where_it_is_to_be_strict(
    kernel: str,
    partly: Path,
    shared_models: set[str],
    toy_pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shared_models.add(str(partly))
    models = [f"--generator={partly}", f"--classifier={toy_pair[1]}"]
    for command in (
        [
            "sample",
            "--label=goldfish",
            f"--kernel={kernel}",
            "--num_results=8",
            "--num_chains=4",
            "--strict",
            "--out=run",
            *models,
        ],
        ["diagnose", "run", "--strict"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert exit_.value.code == 1
        out = capsys.readouterr().out
        assert "prior draws (" in out
        assert "had no finite p(class): a model returns NaN or inf" in out
        assert "mean nan" not in out
        assert "prior nan" not in out
    record = record_of("run")
    assert record["num_not_finite"] > 0
    assert record["mean_class_prob"] > 0
