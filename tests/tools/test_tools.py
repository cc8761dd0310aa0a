"""The networks that tools/ trains: shapes, faster equivalent forms, and their export."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.tooling import tool
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator


def test_up_conv_is_nearest_doubling_then_a_3x3_convolution() -> None:
    layer = tool("generator_network").UpConv(5)
    x = tf.random.stateless_normal([2, 4, 4, 3], [0, 1])
    y = layer(x)
    kernel = tf.transpose(layer.kernel.value, [0, 1, 3, 2])
    doubled = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
    # A transposed convolution applies its taps mirrored.
    np.testing.assert_allclose(y, tf.nn.conv2d(doubled, kernel[::-1, ::-1], 1, "SAME"), atol=1e-5)


def test_networks_export_load_and_agree(tmp_path: Path) -> None:
    export = tool("export")
    generator = tool("generator_network").Generator(3)
    z = tf.random.stateless_normal([4, 67], [0, 1])
    generator.calibrate([z, z + 0.5])
    image = generator(z)
    assert image.shape == (4, 64, 64, 3)
    assert float(tf.reduce_max(tf.abs(image))) <= 1
    folded = tool("generator_network").FoldedGenerator(generator)
    export.export(folded, folded, (67,), tmp_path / "g", {"latent_dim": 67, "image_range": [-1, 1], "prior": "normal"})
    loaded = load_generator(tmp_path / "g")
    np.testing.assert_allclose(loaded(z), image, atol=1e-5)
    assert loaded.assumed == ()
    for role, network in tool("classifier_networks").NETWORKS.items():
        classifier = network(3, num_others=4)
        opinion = classifier.opinion(image)
        further = {"features": classifier.features}
        export.export(classifier, classifier.opinion, (64, 64, 3), tmp_path / role, {"labels": list("abcd")}, further)
        model = load_classifier(tmp_path / role)
        np.testing.assert_allclose(model(image), opinion, atol=1e-4)
        (features,) = model.module.signatures["features"](image).values()
        np.testing.assert_allclose(features, classifier.features(image), atol=1e-4)


def test_a_compact_judge_says_the_same_with_smaller_weights() -> None:
    judge = tool("classifier_networks").NETWORKS["judge"](3, num_others=4)
    image = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1], -1, 1)
    judge.temperature.assign(2.0)
    small = judge.compact()
    np.testing.assert_allclose(small.opinion(image), judge.opinion(image), atol=0.01)
    sizes = [sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in network.variables) for network in (judge, small)]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_judge_begins_with_what_imagenet_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, lite = tool("classifier_networks"), tool("efficientnet_lite")
    judge, pretrained = networks.NETWORKS["judge"](3), lite.Network("lite0", 96)
    monkeypatch.setattr(networks, "Pretrained", lambda variant, size: SimpleNamespace(network=pretrained))
    image = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1], -1, 1)
    assert not np.allclose(judge.features(image), pretrained(image), atol=1e-3)
    judge.begin()
    np.testing.assert_allclose(judge.features(image), pretrained(image), atol=1e-5)


def test_a_folded_generator_gives_the_same_images_from_fewer_operations() -> None:
    network = tool("generator_network")
    generator = network.Generator(3)
    z = tf.random.stateless_normal([4, 67], [0, 1])
    generator.calibrate([z, z + 0.5])
    norms = [generator.stem_norm, generator.residual_norm, *generator.norms]
    for k, variable in enumerate([generator.rgb64.bias, *(v for norm in norms for v in (norm.gain, norm.bias))]):
        variable.assign(variable + 0.2 * tf.random.stateless_normal(variable.shape, [1, k]))  # away from their initial values
    folded = network.FoldedGenerator(generator)
    np.testing.assert_allclose(folded(z), generator(z), atol=2e-5)
    assert np.std(generator(z)) > 0.1
    graph = tf.function(lambda z: folded(z)).get_concrete_function(tf.TensorSpec([None, 67])).graph
    kinds = [op.type for op in graph.get_operations()]
    assert not {"Rsqrt", "Pad"} & set(kinds), "of batch normalization and of the kernels"
    assert kinds.count("MatMul") == 1


@pytest.mark.parametrize("role", ["teacher", "judge", "discriminator"])
def test_the_other_class_is_the_sum_of_the_others(role: str) -> None:
    network = tool("classifier_networks").NETWORKS[role](3, num_others=4)
    image = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1], -1, 1)
    logits = network(image)
    probs = tf.nn.softmax(network.opinion(image)).numpy()
    expected = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(probs[:, :3], expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(probs[:, 3], expected[:, 3:].sum(1), atol=1e-5)
    network.other_bias.assign(np.log(2.0))  # twice the odds of "other"
    biased = tf.nn.softmax(network.opinion(image)).numpy()
    np.testing.assert_allclose(biased[:, 3] / biased[:, 0], 2 * probs[:, 3] / probs[:, 0], rtol=1e-4)


def test_features_of_a_trained_classifier_are_its_stages(tmp_path: Path) -> None:
    network = tool("classifier_networks").ResidualClassifier(3, num_others=5)
    image = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1], -1, 1)
    network(image)
    network.save_weights(tmp_path / "final.weights.h5")
    features = tool("features").load_features(tmp_path / "final.weights.h5")
    taps = features(image)
    assert tuple(tap.shape[-1] for tap in taps) == features.channels
    for tap, own in zip(taps, network.taps(image), strict=True):
        np.testing.assert_allclose(tap, own, atol=1e-4)
    gan = tool("projected_gan").ProjectedGan(tool("generator_network").Generator(3), features, 3, 8, 10, smoothness=0.5)
    labels = np.array([0, 1, 2, 0] * 2, "int32")
    losses = gan((np.zeros((8, 64, 64, 3), "uint8"), labels), training=True)
    assert np.isfinite(float(losses["loss"]))


def test_evenness_sees_a_cliff() -> None:
    """A linear generator changes evenly along z; one with a cliff does not."""
    gan_module = tool("projected_gan")
    features = SimpleNamespace(channels=(4, 4, 4, 4), image_size=64)
    z = tf.random.stateless_normal([256, 5], [0, 1])
    values = {}
    for name, steepness in (("linear", 0.0), ("cliff", 20.0)):

        def generate(z: Any, training: bool = False, steepness: float = steepness) -> tf.Tensor:
            first = z[:, 0] + steepness * tf.tanh(20 * z[:, 1])
            return first[:, None, None, None] + tf.reshape(z, [-1, 5, 1, 1]) * tf.ones([1, 1, 5, 3])

        generate.dtype_policy = tool("keras").DTypePolicy("float32")  # type: ignore[attr-defined]
        gan = gan_module.ProjectedGan(generate, features, 2, 256, 10, smoothness=1.0)
        values[name] = float(gan.fakes(z, training=True)[1])
    assert values["cliff"] > 4 * values["linear"]


def test_calibration_is_the_mean_of_the_batches_moments() -> None:
    norm = tool("generator_network").ConditionalBatchNorm()
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
    keras.utils.set_random_seed(0)
    kernel = tool("projected_gan").SpectralKernel((3, 3, 8, 16))
    for _ in range(500):  # slow if the two largest singular values are close
        weight = kernel(training=True)
    top = np.linalg.svd(np.reshape(weight, (-1, 16)), compute_uv=False)[0]
    assert top == pytest.approx(1, abs=1e-3)


def test_an_exported_generator_can_be_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, train = tool("generator_network"), tool("train_generator")
    monkeypatch.setattr(tool("unfold"), "NUM_BATCHES", 2)
    monkeypatch.setattr(tool("unfold"), "BATCH", 64)
    generator = network.Generator(3, 6.0, widths=(24, 16, 12, 8, 6))
    z = tf.random.stateless_normal([64, 67], [0, 1])
    generator(z)
    norms = [generator.stem_norm, generator.residual_norm, *generator.norms]
    for k, variable in enumerate([generator.rgb64.bias, *(v for norm in norms for v in (norm.gain, norm.bias))]):
        variable.assign(variable + 0.2 * tf.random.stateless_normal(variable.shape, [1, k]))  # away from their initial values
    folded = network.FoldedGenerator(generator)  # its moments are not those of its draws, so that they count
    tool("export").export(folded, folded, (67,), tmp_path / "g", {"latent_dim": 67, "image_range": [-1, 1], "prior": "normal"})
    again = train.begun(["a", "b", "c"], "float32", str(tmp_path / "g"), train.GOING_ON)
    assert (again.widths, again.sharpness) == (generator.widths, 6.0)
    expected = generator(z)
    error = lambda image: float(tf.reduce_mean(tf.abs(image - expected)))  # noqa: E731
    spread = float(tf.math.reduce_std(expected))
    assert error(again(z)) < 1e-4 * spread
    assert error(again(z, training=True)) < 0.1 * spread, "the moments of a batch vary"
    assert error(generator(z, training=True)) > 0.2 * spread, "the first generator's own form in training"
    with pytest.raises(SystemExit, match="start: expected a generator of 2 classes, got one of 3"):
        train.begun(["a", "b"], "float32", str(tmp_path / "g"), train.GOING_ON)
    with pytest.raises(SystemExit, match="start: expected a generator that train_generator exported"):
        tool("unfold").unfolded({"kernel": np.zeros((3, 3))}, 6.0)


def test_a_kernel_of_doubling_is_found_again() -> None:
    layer = tool("generator_network").UpConv(5)
    layer.build((1, 4, 4, 3))
    np.testing.assert_allclose(tool("unfold").narrowed(np.asarray(layer.transposed_kernel())), layer.kernel, atol=1e-5)


def test_the_card_says_whether_the_best_or_the_last_weights_are_shipped() -> None:
    rows = [{"images": "16000", "kid": "0.1"}, {"images": "32000", "kid": "0.2"}]
    described = tool("train_generator").described
    assert "that\nafter 16,000 images" in described(rows, ["x/squeezenet10.npz"], None)
    text = described(rows, tool("photographs").as_names("x/squeezenet10.npz,lite1"), "saved_models/generator")
    assert "with squeezenet10.npz and lite1 as frozen features" in text
    assert "for\n32,000 images; the last" in text
