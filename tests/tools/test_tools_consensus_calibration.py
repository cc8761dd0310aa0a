"""The calibration of the consensus classifier: temperature, bias of "other", and equally frequent classes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tests.support.tooling import tool

NUM_CLASSES = 3


def test_calibration_finds_temperature_and_bias() -> None:
    network = tool("consensus_network")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2000, NUM_CLASSES + 1)) * 3
    target = softmax((logits + 1.5 * np.eye(NUM_CLASSES + 1)[-1]) / 0.7, axis=1)
    temperature, bias = network.calibration_of(logits, target, np.ones(2000))
    assert (temperature, bias) == pytest.approx((0.7, 1.5), abs=0.02)


def test_biases_give_each_class_its_share_of_the_prior() -> None:
    network = tool("consensus_network")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2000, NUM_CLASSES + 1)) + 2 * np.arange(NUM_CLASSES + 1)
    weight, shares = rng.random(2000), np.array([0.5, *[1.0] * (NUM_CLASSES - 1)])
    biases = np.append(network.biases_for(shares, logits, weight), 0.0)
    assert biases[:-1].mean() == pytest.approx(0, abs=1e-9)
    mass_of = lambda b: np.average(softmax(logits + b, axis=1), axis=0, weights=weight)[:-1]  # noqa: E731
    share_of = lambda b: mass_of(b) / mass_of(b).sum()  # noqa: E731
    np.testing.assert_allclose(share_of(biases), shares / shares.sum(), rtol=1e-6)
    assert share_of(0)[0] < 0.5 * share_of(biases)[0], "without biases, the first class is far rarer"
    logits[:, 0] = -np.inf
    with pytest.raises(SystemExit, match="label more draws"):
        network.biases_for(shares, logits, weight)


def test_a_balanced_stage_is_softer_and_its_classes_are_equally_frequent(tmp_path: Path, monkeypatch: Any) -> None:
    module, stages = tool("consensus_network"), tool("consensus_stages")
    keras.utils.set_random_seed(0)
    empty = lambda: module.Student(NUM_CLASSES + 1, variant="lite0", image_size=32, hidden=8)  # noqa: E731
    student = empty()
    student.temperature.assign(0.5)
    student.other_bias.assign(0.25)
    rng = np.random.default_rng(0)
    raw, weight = 2 * rng.standard_normal((200, NUM_CLASSES + 1)) + np.arange(NUM_CLASSES + 1), rng.random(200)
    last = np.eye(NUM_CLASSES + 1)[-1]

    def opinion(student: Any) -> Any:
        logits = raw + np.asarray(student.head.bias) + float(student.other_bias) * last
        return logits / float(student.temperature)

    held_out = MagicMock(weight=weight)
    held_out.__len__.return_value = len(raw)
    draws = MagicMock(return_value=held_out)
    monkeypatch.setattr(stages, "Draws", draws)
    monkeypatch.setattr(stages, "CLASS_SHARES", {"c1": 0.4, "whale": 2.0})
    studio = SimpleNamespace(
        weights=lambda stage: tmp_path / f"{stage}.npz",
        student=lambda stage: module.restore(empty(), tmp_path / f"{stage}.npz"),
        opinion=lambda student: lambda images: opinion(student),
        names=[f"c{k}" for k in range(NUM_CLASSES)],
        draws=tmp_path,
    )
    module.save(student, studio.weights("tune"))
    assert stages.balance(studio, "tune_balanced", "tune")
    draws.assert_called_once_with(tmp_path, held_out=True, kinds=["prior"])
    balanced = studio.student("tune_balanced")
    assert float(balanced.temperature) == pytest.approx(0.5 * stages.SOFTNESS)
    assert float(balanced.other_bias) == pytest.approx(0.25 + 0.5 * stages.OTHER_SHIFT)
    probs = softmax(opinion(balanced), axis=1)[:, :-1]
    mass, unweighted = np.average(probs, axis=0, weights=weight), probs.mean(0)
    expected = [0.4 if name == "c1" else 1.0 for name in studio.names]
    np.testing.assert_allclose(mass / mass[0], expected, rtol=1e-3)
    assert np.abs(unweighted / unweighted[0] / expected - 1).max() > 0.01, "not so without the weights of the draws"
    assert not stages.balance(studio, "tune_balanced", "tune"), "done before"
    assert "whale" not in stages.softening_text(module.settings_of(studio.weights("tune_balanced")))
    monkeypatch.setattr(stages, "OTHER_SHIFT", -2.0)
    assert stages.balance(studio, "tune_balanced", "tune"), "with another setting"
    student.temperature.assign(0.6)
    module.save(student, studio.weights("tune"))
    assert stages.balance(studio, "tune_balanced", "tune"), "from other weights"
    assert float(studio.student("tune_balanced").temperature) == pytest.approx(0.6 * stages.SOFTNESS)
