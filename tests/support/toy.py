"""Models so small that their posterior is known, as callables and as SavedModels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SLOPE = 3.0


class ToyGenerator:
    """z [B, 6] -> image [B, 2, 2, 1]: the first four coordinates as pixels."""

    latent_dim = 6

    def __call__(self, z: Any) -> tf.Tensor:
        return tf.reshape(z[:, :4], [-1, 2, 2, 1])


class ToyClassifier:
    """image -> logits [B, 2] with p(class 1) = sigmoid(SLOPE * first pixel)."""

    num_classes = 2

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        first = SLOPE * image[:, 0, 0, 0]
        return tf.stack([tf.zeros_like(first), first], -1)


class BehindAValley(ToyClassifier):
    """A classifier with log-odds of class 1: -10 where the first pixel is below 0, -20 in a valley up to 2, 4 beyond."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        pixel = image[:, 0, 0, 0]
        value = -10.0 - 10.0 * tf.sigmoid(6.0 * pixel) + 24.0 * tf.sigmoid(8.0 * (pixel - 2.0))
        return tf.stack([tf.zeros_like(value), value], -1)


def exact_moments(temperature: float = 1.0) -> tuple[float, float, float]:
    """Return mean and standard deviation of z_0, and mean p(class 1), under the posterior of class 1, by quadrature."""
    z = np.linspace(-12, 12, 200_001)
    prob = 1 / (1 + np.exp(-SLOPE * z))
    weight = np.exp(-0.5 * z**2) * prob ** (1 / temperature)
    weight /= weight.sum()
    mean = float((weight * z).sum())
    return mean, float(np.sqrt((weight * (z - mean) ** 2).sum())), float((weight * prob).sum())


def save(folder: Path, fn: Any, shape: list[int | None], card: dict[str, Any] | None = None, signature: bool = False) -> Path:
    """Write `fn` as a SavedModel: a callable, or with `signature` only a serving_default."""
    module = tf.Module()
    compiled = tf.function(fn, input_signature=[tf.TensorSpec(shape, tf.float32, name="input")])
    if signature:
        module.serve = tf.function(
            lambda input: {"out": compiled(input)}, input_signature=[tf.TensorSpec(shape, tf.float32, name="input")]
        )
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    else:
        module.__call__ = compiled
        tf.saved_model.save(module, str(folder))
    if card is not None:
        (folder / "model.json").write_text(json.dumps(card))
    return folder


def save_signature(folder: Path, fn: Any, *specs: tf.TensorSpec, card: dict[str, Any] | None = None) -> Path:
    """Write `fn` of named inputs as a SavedModel with only a serving_default."""
    module = tf.Module()
    module.serve = tf.function(fn, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    if card is not None:
        (folder / "model.json").write_text(json.dumps(card))
    return folder


def save_pair(folder: Path) -> tuple[Path, Path]:
    """Save the toy pair, with three classes so that names can be confused."""

    def generate(z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))

    def classify(image: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(image, [1, 2]) * 4.0

    labels = [{"name": "goldfish", "wnid": "n01443537"}, {"name": "king_penguin", "wnid": "n02056570"}, {"name": "alp"}]
    generator = save(folder / "generator", generate, [None, 6], {"latent_dim": 6, "image_range": [-1, 1], "prior": "normal"})
    classifier = save(
        folder / "classifier", classify, [None, 8, 8, 3], {"image_range": [-1, 1], "labels": labels, "output": "logits"}
    )
    return generator, classifier
