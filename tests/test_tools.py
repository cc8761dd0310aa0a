"""The training tools where a mistake would go unseen: shapes, tricks that claim to be the same map, and the measures."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator


@pytest.fixture(scope="module", autouse=True)
def tools_on_path(root: Path) -> Any:
    sys.path.insert(0, str(root / "tools"))
    yield
    sys.path.remove(str(root / "tools"))


def tool(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_up_conv_is_nearest_doubling_then_a_3x3_convolution() -> None:
    layer = tool("networks").UpConv(5)
    x = tf.random.stateless_normal([2, 4, 4, 3], [0, 1])
    y = layer(x)
    kernel = tf.transpose(layer.kernel.value, [0, 1, 3, 2])
    doubled = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
    # A transposed convolution applies its taps mirrored.
    np.testing.assert_allclose(y, tf.nn.conv2d(doubled, kernel[::-1, ::-1], 1, "SAME"), atol=1e-5)


def test_networks_export_load_and_agree(tmp_path: Path) -> None:
    networks, export = tool("networks"), tool("export")
    generator, classifier = networks.Generator(3), networks.Classifier(3)
    z = tf.random.stateless_normal([4, 67], [0, 1])
    generator.calibrate([z, z + 0.5])
    image = generator(z)
    assert image.shape == (4, 64, 64, 3)
    assert float(tf.reduce_max(tf.abs(image))) <= 1
    logits = classifier(image)
    export.export(generator, (67,), tmp_path / "g", {"latent_dim": 67, "image_range": [-1, 1], "prior": "normal"})
    export.export(classifier, (64, 64, 3), tmp_path / "c", {"labels": ["a", "b", "c"]})
    loaded = load_generator(tmp_path / "g")
    np.testing.assert_allclose(loaded(z), image, atol=1e-5)
    np.testing.assert_allclose(load_classifier(tmp_path / "c")(image), logits, atol=1e-4)
    assert loaded.assumed == ()


def test_calibration_is_the_mean_of_the_batches_moments() -> None:
    norm = tool("networks").ConditionalBatchNorm()
    x = [tf.random.stateless_normal([64, 2, 2, 3], [k, 1], mean=k) for k in range(3)]
    h = tf.zeros([64, 2])
    for k, batch in enumerate(x):
        norm.momentum = k / (k + 1)
        norm([batch, h], training=True)
    np.testing.assert_allclose(norm.moving_mean.value, np.mean([b.numpy().mean((0, 1, 2)) for b in x], 0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.value, np.mean([b.numpy().var((0, 1, 2)) for b in x], 0), atol=1e-4)


def test_swapping_the_class_keeps_the_prior() -> None:
    z = tf.random.stateless_normal([20_000, 9], [0, 1])
    label = tf.random.stateless_uniform([20_000], [2, 3], 0, 4, tf.int32)
    swapped = tool("projected_gan").swap_class(z, label, 4).numpy()
    np.testing.assert_array_equal(swapped[:, :4].argmax(1), label)
    assert np.abs(swapped.mean(0)).max() < 4.5 / np.sqrt(20_000)
    assert np.abs(swapped.var(0) - 1).max() < 4.5 * np.sqrt(2 / 20_000)


def test_spectral_kernel_has_unit_norm() -> None:
    kernel = tool("projected_gan").SpectralKernel((3, 3, 8, 16))
    for _ in range(60):
        weight = kernel(training=True)
    top = np.linalg.svd(np.reshape(weight, (-1, 16)), compute_uv=False)[0]
    assert top == pytest.approx(1, abs=1e-3)


def test_kid_is_the_squared_distance_of_kernel_means() -> None:
    kid = tool("quality").kid
    rng = np.random.default_rng(0)
    same = [kid(rng.standard_normal((200, 8)), rng.standard_normal((200, 8))) for _ in range(30)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(30), "unbiased: zero on average for equal laws"
    apart = kid(rng.standard_normal((200, 8)) + 1, rng.standard_normal((200, 8)))
    assert apart > 10 * np.std(same)


def test_calibration_error_of_known_confidences() -> None:
    probs = np.array([[0.8, 0.2]] * 10)
    ece = tool("quality").expected_calibration_error
    assert ece(probs, np.array([0] * 8 + [1] * 2)) == pytest.approx(0.0)
    assert ece(probs, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.3)


def test_the_fitted_temperature_recovers_a_scaling() -> None:
    trainer = tool("train_classifier")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20_000, 4)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # Gumbel noise draws from softmax(logits)
    assert trainer.fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
