"""Diagnostics of processes whose mixing is known, and the names of known problems."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import refused
from tfgradgen.cli.commands import main
from tfgradgen.diagnostics.convergence import Convergence, convergence, projections

pytestmark = pytest.mark.usefixtures("quick_runs")


def autoregressive(rho: float, num_results: int = 2000, num_chains: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = np.empty((num_results, num_chains))
    x[0] = rng.standard_normal(num_chains)
    for t in range(1, num_results):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * rng.standard_normal(num_chains)
    return x


# An AR(1) process has ESS = N (1 - rho) / (1 + rho); the estimate from 16,000 draws is accurate to about 10 %.
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregressive_process(rho: float) -> None:
    result = convergence(autoregressive(rho))
    expected = 16_000 * (1 - rho) / (1 + rho)
    assert result.ess_bulk == pytest.approx(expected, rel=0.2)
    assert result.standard_error == pytest.approx(1 / np.sqrt(expected), rel=0.2)
    assert result.rhat == pytest.approx(1, abs=0.01)
    assert result.ess_tail is not None
    assert result.ess_tail > expected / 3


def test_chains_apart_have_a_large_rhat_a_small_ess_and_their_variance_between() -> None:
    apart = convergence(autoregressive(0.5) + 3 * np.arange(8))
    assert apart.rhat is not None
    assert apart.rhat > 2
    assert apart.ess_bulk is not None
    assert apart.ess_bulk < 50
    variance = 9 * (8**2 - 1) / 12
    assert apart.between == pytest.approx(variance / (1 + variance), abs=0.02)


def test_chains_of_one_mean_and_two_scales_are_distinguished_by_ranks() -> None:
    """The folded part of the rank-normalized R-hat detects this; the classic R-hat does not."""
    scales = np.where(np.arange(8) < 4, 1.0, 5.0)
    rhat = convergence(autoregressive(0.0) * scales).rhat
    assert rhat is not None
    assert rhat > 1.1


def test_the_error_of_a_mean_is_the_larger_of_that_within_and_that_between_chains() -> None:
    """A mean is within two errors as often as a normal number, 0.954; by the means of four chains alone, in 0.861 (Student)."""
    rng, num = np.random.default_rng(0), 600
    inside, control = [], []
    for _ in range(num):
        x = rng.standard_normal((20, 4))
        mean, error = convergence(x)[:2]
        between = x.mean(0).std(ddof=1) / 2
        assert mean is not None
        assert error is not None
        assert error >= 0.999 * between
        inside.append(abs(mean) < 2 * error)
        control.append(abs(mean) < 2 * between)
    least = 0.954 - 3 * np.sqrt(0.954 * 0.046 / num)
    assert np.mean(inside) > least > np.mean(control)
    centred = x - x.mean(0)
    error = convergence(centred).standard_error
    assert error is not None
    assert error > 0.05, "chains whose means agree by chance still have that within them"


def test_what_cannot_be_computed_is_none() -> None:
    assert convergence(np.ones((10, 4))) == Convergence(1.0)
    assert convergence(np.zeros((3, 4)) + np.arange(4)).rhat is None
    assert convergence(np.full((10, 4), np.nan)).mean is None
    assert convergence(autoregressive(0.5)[:, :1]).rhat is None
    one_stuck = autoregressive(0.5)
    one_stuck[:, 0] = 0.3
    assert convergence(one_stuck).mean is not None


def test_independent_draws_count_in_full() -> None:
    x = autoregressive(0.0)
    result = convergence(x, independent=True)
    assert result.ess_bulk == x.size
    assert result.standard_error == pytest.approx(x.std(ddof=1) / np.sqrt(x.size))
    assert result.ess == x.size


def test_projections_are_of_unit_scale_and_the_same_every_time() -> None:
    z = np.random.default_rng(1).standard_normal((3000, 4, 6)).astype("float32")  # more than one block
    column = projections(z)
    assert column.shape[1:] == (3000, 4)
    np.testing.assert_allclose(column.std((1, 2)), 1, atol=0.05)
    np.testing.assert_array_equal(column, projections(z))
    np.testing.assert_allclose(column[:, 1500:], projections(z[1500:]), rtol=1e-6)


def diagnosed(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of `diagnose --strict` for a run that must fail."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["diagnose", str(folder), "--strict"])
    assert exit_.value.code == 1
    return capsys.readouterr().out


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_a_step_a_hundred_times_too_large_is_named(
    kernel: str, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "sample",
            "--label=goldfish",
            f"--kernel={kernel}",
            "--step_size=100",
            "--num_adaptation_steps=0",
            "--out=bad",
            *toy_flags,
        ]
    )
    out = diagnosed(Path("bad"), capsys)
    assert re.search(r"(stuck|never moved).*: the steps are too large there; lower --step_size \(about", out)
    assert "transitions diverged" in out


def test_a_model_that_is_not_a_number_for_part_of_z_is_named(
    toy_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def partly(z: tf.Tensor) -> tf.Tensor:
        image = tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))
        return tf.where(z[:, 5, None, None, None] > 1.0, np.nan, image)

    card = json.loads((toy_pair[0] / "model.json").read_text())
    toy.save(tmp_path / "partly", partly, [None, 6], card)
    main(["sample", "--label=goldfish", "--kernel=mala", "--out=bad", "--generator=partly", f"--classifier={toy_pair[1]}"])
    assert "had no finite density or gradient (" in diagnosed(Path("bad"), capsys)


def test_diagnose_says_what_sample_said(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["sample", "--label=goldfish", "--kernel=mala", "--num_results=20", "--strict", "--out=short", *toy_flags])
    assert exit_.value.code == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "warning "))]
    out = diagnosed(Path("short"), capsys).splitlines()
    assert said == [line for line in out if line.startswith(("ok ", "warning "))]
    assert any(line.startswith("warning ") for line in said)
    assert sum(line.split()[0].isdigit() for line in out) == 16, "one row a chain"
    main(["diagnose", "short"])  # without --strict it only prints the warnings
    capsys.readouterr()
    main(["sample", "--label=goldfish", "--kernel=rejection", "--strict", "--out=exact", *toy_flags])
    main(["diagnose", "exact", "--strict"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "warning "))]
    assert [line.split(":")[0] for line in lines] == 2 * ["ok       images", "ok       means", "ok       checked"]


def test_a_folder_without_a_run_is_refused(toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "folder: expected the folder of a run, got none" in refused(["diagnose"], capsys)
    assert "expected a run, got no run at nowhere (no such folder)" in refused(["diagnose", "nowhere"], capsys)
    (tmp_path / "run.json").write_text("[]")
    assert "got a run.json that is not an object" in refused(["diagnose", "."], capsys)
