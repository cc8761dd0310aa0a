"""The measures behind the cards of saved_models/, and the tool that checks the cards."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.tooling import tool


def test_a_card_is_completed_and_keeps_what_was_tried(tmp_path: Path) -> None:
    export, check = tool("export"), tool("check_models")
    figure = tool("figures").Figure
    export.write_card(tmp_path, "Judge", {"range": "[-1, 1]"}, "By hand.")
    measured = {"top-1": figure("0.883"), "by class": figure("a 0.90, b 1.00"), "sha256": figure("`12ab`")}
    export.write_measured(tmp_path, {what: row.text for what, row in measured.items()}, "Remarks.")
    assert check.differences(export.read_measured(tmp_path), measured) == []
    off = {"top-1": figure("0.870"), "by class": figure("a 0.90, b 0.91"), "sha256": figure("`12ac`"), "new": figure("1")}
    lines = check.differences(export.read_measured(tmp_path), off)
    assert [line.split(":")[0] for line in lines] == list(off)
    assert check.differences({"gone": "1"}, {}) == ["gone: in the card, but not measured"]
    with (tmp_path / "MODEL.md").open("a") as card:
        card.write("\n## What was tried\n\nMuch.\n")
    export.write_card(tmp_path, "Judge", {"range": "[0, 1]"}, "Again.")
    text = (tmp_path / "MODEL.md").read_text()
    assert text.endswith("## What was tried\n\nMuch.\n")
    assert "[0, 1]" in text
    assert "By hand" not in text
    assert "licence of the photographs was not given" in text
    export.write_card(tmp_path, "Judge", {"range": "[0, 1]"}, "Again.", "Public domain.")
    text = (tmp_path / "MODEL.md").read_text()
    assert "Public domain." in text
    assert "not given" not in text


def test_check_models_fails_without_photographs(root: Path) -> None:
    command = [sys.executable, "-m", "tools.cards.check_models", "--data=nowhere.tar"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "check_models: expected photographs at nowhere.tar, got nothing; give --data and --others."


def test_calibration_error_of_known_confidences() -> None:
    probs = np.array([[0.8, 0.2]] * 10)
    ece = tool("quality").expected_calibration_error
    assert ece(probs, np.array([0] * 8 + [1] * 2)) == pytest.approx(0.0)
    assert ece(probs, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)


def test_the_fitted_temperature_recovers_a_scaling() -> None:
    fit = tool("calibration").fit
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4_000, 4)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # Gumbel noise draws from softmax(logits)
    assert fit(logits * 3, labels)[0] == pytest.approx(3, rel=0.05)
    # "Other" rows, here as many as those of one class, count like two classes; the shift that was made is found.
    shifted = np.concatenate([logits[:, :3], logits[:, 3:] - 1.5], 1)
    temperature, bias = fit(shifted, labels, has_other=True)
    assert bias == pytest.approx(np.log(2) + 1.5, abs=0.3), "two classes' weight is twice its own"
    ours = labels < 3
    scaled = tool("calibration").applied(shifted[ours], temperature, bias)
    confidence = np.exp(scaled - np.log(np.exp(scaled).sum(1, keepdims=True))).max(1).mean()
    assert confidence == pytest.approx(np.mean(scaled.argmax(1) == labels[ours]), abs=0.01)


def test_cross_fitting_uses_the_other_half() -> None:
    """Each half is divided by the temperature of the other half, even if its own differs."""
    calibration = tool("calibration")
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2000, 3)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    logits[::2] *= 3  # even rows are overconfident, which only they can show
    factor = (logits / calibration.cross_fitted(logits, labels))[:, 0]
    even, odd = (calibration.fit(logits[k::2], labels[k::2])[0] for k in (0, 1))
    assert even > 2 * odd
    np.testing.assert_allclose(factor[::2], odd)
    np.testing.assert_allclose(factor[1::2], even)


def test_reliability_counts_every_row_once() -> None:
    probs = np.array([[0.85, 0.15]] * 6 + [[0.55, 0.45]] * 4)
    rows = tool("quality").reliability(probs, np.array([0] * 5 + [1] + [0, 1, 0, 1]))
    np.testing.assert_allclose(rows, [(0.55, 0.5, 4), (0.85, 5 / 6, 6)])


def test_spectral_norm_of_a_linear_generator() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 48)).astype("float32")
    norms = tool("smoothness").spectral_norms(lambda z: tf.reshape(z @ matrix, [-1, 4, 4, 3]), np.ones((2, 5)))
    np.testing.assert_allclose(norms, np.linalg.svd(matrix, compute_uv=False)[0], rtol=1e-4)


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_reach_is_1_on_a_slope_and_the_prior_share_on_a_plateau(kernel: str) -> None:
    arrivals = tool("reach").arrivals

    class Plateau(toy.ToyClassifier):
        """A classifier with p(class 1) = 0.99 if the first pixel is above 5, and 0.01 otherwise, without any slope."""

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            above = tf.stop_gradient(tf.cast(image[:, 0, 0, 0] > 5, tf.float32))
            return tf.stack([tf.zeros_like(above), 9.2 * above - 4.6], -1)

    generator = toy.ToyGenerator()
    assert np.isfinite(arrivals((generator, toy.ToyClassifier()), 1, kernel)).all()
    assert np.isfinite(arrivals((generator, Plateau()), 1, kernel)).mean() < 0.1


def test_annealed_starts_reach_what_prior_draws_do_not() -> None:
    """The class is behind a valley, where two in a hundred prior draws are. The means over four seeds are compared.

    Over 16 seeds, the reach of annealed starts was 0.88 with a standard deviation of 0.2. That of prior draws was 0.13 with 60
    gradients and 0.18 with 100, each with a standard deviation of 0.08.
    """
    tools, networks = tool("reach"), (toy.ToyGenerator(), toy.BehindAValley())
    arrived, spent = zip(*(tools.annealed_arrivals(networks, 1, seed=seed) for seed in range(4)), strict=True)
    assert np.isfinite(arrived).mean() > 0.6
    assert min(spent) > 10
    assert np.min(arrived) >= min(spent), "the gradients of the start count"
    others = [tools.arrivals(networks, 1, "mala", int(max(spent)), seed=seed) for seed in range(4)]
    assert np.isfinite(others).mean() < 0.35, "chains from prior draws, with as many gradients as a start takes at most"
