"""Models as Keras writes them, by `model.export` of Keras 3 and `model.save` of tf_keras."""

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfgradgen.cli.commands import main
from tfgradgen.models.classifier import fitted, load_classifier
from tfgradgen.models.generator import load_generator

pytestmark = pytest.mark.usefixtures("quick_runs", "same_weights")

KERAS = pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
NUM_CLASSES = 4


def write(library: Any, model: Any, folder: Path) -> Path:
    if library is keras:
        model.export(str(folder), verbose=False)
    else:
        model.save(str(folder))
    return folder


@KERAS
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_class_number_next_to_z(library: Any, dtype: str, tmp_path: Path) -> None:
    layers = library.layers
    z, number = library.Input((6,)), library.Input((1,), dtype=dtype)
    embedded = layers.Flatten()(layers.Embedding(NUM_CLASSES, 6)(number))
    image = layers.Reshape((4, 4, 3))(layers.Dense(48, activation="tanh")(layers.Add()([z, embedded])))
    model = library.Model([z, number], image)
    generator = load_generator(write(library, model, tmp_path / "g"), num_classes=NUM_CLASSES)
    assert (generator.latent_dim, generator.generator_class) == (6, "target")
    assert "class_input" in generator.assumed
    rows = tf.random.stateless_normal([3, 6], [1, 2])
    for k in range(NUM_CLASSES):
        expected = model([rows, tf.fill([3, 1], tf.cast(k, dtype))])
        np.testing.assert_allclose(generator.of_class(k)(rows), expected, atol=1e-5)


@KERAS
@pytest.mark.parametrize("ending", ["linear", "sigmoid"])
def test_one_output_and_a_rescaling_layer(library: Any, ending: str, tmp_path: Path, toy_pair: tuple[Path, Path]) -> None:
    layers, image = library.layers, library.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 127.5, -1)(image))
    last = layers.Dense(1, activation=ending, kernel_initializer=library.initializers.Constant([[9.0], [-3.0], [-3.0]]))
    model = library.Model(image, last(features))
    generator = load_generator(toy_pair[0])
    classifier = fitted(load_classifier(write(library, model, tmp_path / "c")), generator)
    assert (classifier.image_range, classifier.num_classes) == ((0, 255), 2)
    assert classifier.output == ("logits" if ending == "linear" else "probabilities")
    z = tf.random.stateless_normal([5, 6], [1, 2])
    found = model((generator(z) + 1) * 127.5)
    prob = tf.sigmoid(found) if ending == "linear" else found
    np.testing.assert_allclose(tf.exp(classifier.log_probs(generator(z)))[:, 1:], prob, rtol=1e-3)


@KERAS
@pytest.mark.parametrize("ending", ["linear", "softmax"])
def test_several_outputs(library: Any, ending: str, tmp_path: Path, toy_pair: tuple[Path, Path]) -> None:
    layers, image = library.layers, library.Input((8, 8, 3))
    model = library.Model(image, layers.Dense(NUM_CLASSES, activation=ending)(layers.Flatten()(image)))
    generator = load_generator(toy_pair[0])
    classifier = fitted(load_classifier(write(library, model, tmp_path / "c"), image_range=(-1, 1)), generator)
    assert classifier.output == ("logits" if ending == "linear" else "probabilities")
    shown = generator(tf.random.stateless_normal([5, 6], [1, 2]))
    expected = tf.nn.softmax(model(shown)) if ending == "linear" else model(shown)
    np.testing.assert_allclose(tf.exp(classifier.log_probs(shown)), expected, rtol=1e-3, atol=1e-6)


@KERAS
def test_weights_are_the_same_in_every_run(library: Any) -> None:
    """Otherwise a class may be too rare for a test that draws it, in one run of a dozen."""

    def weights() -> np.ndarray:
        layer = library.layers.Dense(2)
        layer.build((None, 3))
        values: np.ndarray = layer.get_weights()[0]
        return values

    random.seed(0)
    first, second = weights(), weights()
    random.seed(0)
    np.testing.assert_array_equal(weights(), first)
    assert not np.array_equal(first, second)


def test_a_latent_point_of_a_transposed_convolution_by_the_command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The generator takes z [?, 1, 1, 8], like DCGAN.

    The classifier takes grey images [?, 28, 28], by Keras's default names.
    """
    monkeypatch.chdir(tmp_path)
    layers = keras.layers
    z = keras.Input((1, 1, 8))
    write(keras, keras.Model(z, layers.Conv2DTranspose(1, 28, activation="tanh")(z)), tmp_path / "g")
    image = keras.Input((28, 28))
    write(keras, keras.Model(image, layers.Dense(10)(layers.Flatten()(image))), tmp_path / "c")
    (tmp_path / "c" / "labels.txt").write_text("".join(f"{k} digit {k}\n" for k in range(10)))
    main(
        [
            "sample",
            "--label=digit 3",
            "--kernel=rejection",
            "--num_chains=2",
            "--num_results=1",
            "--generator=g",
            "--classifier=c",
        ]
    )
    assert "wrote" in capsys.readouterr().out


def test_the_error_for_a_keras_file_says_how_to_convert_it(tmp_path: Path, capsys: Any) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(12), keras.layers.Reshape((2, 2, 3))])
    model.save(tmp_path / "net.keras")
    with pytest.raises(SystemExit) as code:
        main(["check", f"--generator={tmp_path / 'net.keras'}"])
    assert code.value.code == 2
    assert ".export(" in capsys.readouterr().err
