"""Stand-ins of the hub's classifiers: the interface of the real modules, and scores that depend on colours and textures.

A few classes follow the mean colour strongly (a reddish image looks like a goldfish), so that their probability runs
from about 0.001 to 0.5 between smooth random images and a sampler has something to climb; the others follow random
textures.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.support.standins_writing import Signature, Weights, placeholder, write_hub_module

# index among the 1000 of ImageNet: direction in (red, green, blue)
COLOURS = {
    1: (1.0, 0.0, -1.0),  # goldfish
    301: (1.2, -0.6, -0.6),  # ladybug
    323: (0.8, -0.8, 0.0),  # monarch
    950: (0.6, 0.5, -1.1),  # orange
    31: (-0.6, 1.2, -0.6),  # tree frog
    88: (-0.8, 0.0, 0.8),  # macaw
}
TEXTURES = 16


def parameters(seed: int, num_classes: int) -> dict[str, np.ndarray]:
    """Return seeded float32 parameters; outputs of width 1000 have no background class, others have it at index 0."""
    rng = np.random.default_rng(seed)
    values = {
        "kernel": rng.standard_normal([5, 5, 3, TEXTURES]) / 5,
        "moving_mean": np.full(TEXTURES, 0.4),
        "moving_variance": np.full(TEXTURES, 0.1),
        "textures": 0.25 * rng.standard_normal([TEXTURES, num_classes]),
        "colours": 0.5 * rng.standard_normal([3, num_classes]),
        "bias": np.zeros(num_classes),
    }
    for index, direction in COLOURS.items():
        column = index + (num_classes != 1000)
        if column < num_classes:
            values["colours"][:, column] = 10.0 * np.array(direction)
            values["textures"][:, column] *= 0.3
            values["bias"][column] = 4.5
    return {name: value.astype(np.float32) for name, value in values.items()}


def textures_of(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """images [B, H, W, 3] in [0, 1] -> mean responses [B, TEXTURES], of any height and width."""
    return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(2.0 * images - 1.0, kernel, 4, "SAME")), [1, 2])


def logits_of(images: tf.Tensor, normal: tf.Tensor, values: Mapping[str, Any]) -> tf.Tensor:
    """images [B, H, W, 3] and their normalized textures [B, TEXTURES] -> logits [B, num_classes]."""
    colours = tf.matmul(tf.reduce_mean(images, [1, 2]), values["colours"])
    return colours + tf.matmul(normal, values["textures"]) + values["bias"]


class Classifier(tf.__internal__.tracking.AutoTrackable):
    """A TF2 module with batch norm and the attributes that hub.KerasLayer reads."""

    def __init__(self, seed: int, num_classes: int) -> None:
        values = parameters(seed, num_classes)
        self.values = {name: tf.Variable(value, trainable="moving" not in name) for name, value in values.items()}
        self.variables = list(self.values.values())
        self.trainable_variables = [variable for variable in self.variables if variable.trainable]
        self.regularization_losses: list[Any] = []

    @tf.function
    def __call__(
        self, inputs: tf.Tensor, training: bool = False, trainable: bool = False, batch_norm_momentum: Any = 0.99
    ) -> tf.Tensor:
        """inputs [?, H, W, 3] in [0, 1] -> logits; training: by the batch's statistics, which move the stored ones."""
        textures = textures_of(inputs, self.values["kernel"])
        mean, variance = self.values["moving_mean"], self.values["moving_variance"]
        if training:
            moments = tf.nn.moments(textures, [0])
            for stored, new in zip((mean, variance), moments, strict=True):
                stored.assign(batch_norm_momentum * stored + (1.0 - batch_norm_momentum) * new)
            mean, variance = moments
        return logits_of(inputs, (textures - mean) * tf.math.rsqrt(variance + 1e-3), self.values)


def slim(folder: Path, seed: int, size: int | None) -> Path:
    """TF2, callable; `serving_default`: `inputs` [?, size, size, 3] -> `logits` [?, 1001]; size None: any."""
    model = Classifier(seed, 1001)
    spec = tf.TensorSpec([None, size, size, 3], tf.float32, "inputs")
    momentum = tf.TensorSpec([], tf.float32, "batch_norm_momentum")
    for training in (False, True):
        for trainable in (False, True):
            model.__call__.get_concrete_function(spec, training, trainable, momentum)
    serve = tf.function(lambda inputs: {"logits": model(inputs)}, input_signature=[spec])
    tf.saved_model.save(model, str(folder), signatures={"serving_default": serve})
    return folder


def big_transfer(folder: Path) -> Path:
    """TF2, callable; `serving_default`: `input_1` [?, ?, ?, 3] in [0, 1] -> `output_1` [?, 1000] logits."""
    model = tf.Module()
    classifier = Classifier(50, 1000)
    model.classifier = classifier
    spec = tf.TensorSpec([None, None, None, 3], tf.float32, "input_1")
    model.__call__ = tf.function(lambda input_1: classifier(input_1), input_signature=[spec])
    serve = tf.function(lambda input_1: {"output_1": classifier(input_1)}, input_signature=[spec])
    tf.saved_model.save(model, str(folder), signatures={"serving_default": serve})
    return folder


def _frozen(weights: Weights, images: tf.Tensor, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return logits and normalized textures with the parameters as variables of the graph."""
    values = {name: weights.put(name, value) for name, value in parameters(weights.seed, num_classes).items()}
    textures = textures_of(images, values["kernel"])
    normal = (textures - values["moving_mean"]) * tf.math.rsqrt(values["moving_variance"] + 1e-3)
    return logits_of(images, normal, values), normal


def efficientnet(folder: Path) -> Path:
    """TF1: `default` and `image_classification` `images` [?, 224, 224, 3] -> `default` [?, 1000]; feature vectors [?, 1280]."""

    def graph(weights: Weights) -> dict[str, Signature]:
        images = placeholder("images", None, 224, 224, 3)
        logits, normal = _frozen(weights, images, 1000)
        features = {"default": weights.dense("features", normal, 1280)}
        return {
            "default": Signature({"images": images}, {"default": logits}),
            "image_classification": Signature({"images": images}, {"default": logits}),
            "image_feature_vector": Signature({"images": images}, features),
        }

    return write_hub_module(folder, [((), graph), (("train",), graph)], Weights(80, resource=True))


def birds(folder: Path) -> Path:
    """TF1: `default` `images` [?, 224, 224, 3] -> `default`, and `image_classifier` -> `logits`: probabilities both."""

    def graph(weights: Weights) -> dict[str, Signature]:
        images = placeholder("images", None, 224, 224, 3)
        probabilities = tf.nn.softmax(_frozen(weights, images, 965)[0])
        return {
            "default": Signature({"images": images}, {"default": probabilities}),
            "image_classifier": Signature({"images": images}, {"logits": probabilities}),
        }

    return write_hub_module(folder, [((), graph)], Weights(965, resource=False))


class Yamnet(tf.Module):
    """waveform [N] at 16 kHz -> (scores [frames, 521], embeddings [frames, 1024], log mel spectrogram [M, 64])."""

    def __init__(self, class_map: Path) -> None:
        super().__init__()
        rng = np.random.default_rng(521)
        self.embed = tf.Variable(0.2 * rng.standard_normal([64, 1024], np.float32))
        self.score = tf.Variable(0.05 * rng.standard_normal([1024, 521], np.float32))
        self.mel = tf.constant(tf.signal.linear_to_mel_weight_matrix(64, 257, 16000, 125.0, 7500.0))
        self.class_map = tf.saved_model.Asset(str(class_map))

    @tf.function(input_signature=[])
    def class_map_path(self) -> tf.Tensor:
        return self.class_map.asset_path

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "waveform")])
    def __call__(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # padded as in YAMNet: one patch of 0.975 s, then whole hops of 0.48 s
        excess = tf.maximum(tf.shape(waveform)[0] - 15600, 0)
        length = 15600 + 7680 * ((excess + 7679) // 7680)
        padded = tf.pad(waveform, [[0, length - tf.shape(waveform)[0]]])
        spectrum = tf.abs(tf.signal.stft(padded, 400, 160, 512))
        log_mel = tf.math.log(tf.matmul(spectrum, self.mel) + 0.001)
        patches = tf.signal.frame(log_mel, 96, 48, axis=0)
        embeddings = tf.nn.relu(tf.matmul(tf.reduce_mean(patches, 1) / 3.0 + 1.0, self.embed))
        return tf.sigmoid(tf.matmul(embeddings, self.score)), embeddings, log_mel


def yamnet(folder: Path) -> Path:
    """TF2, callable without batch axis; `serving_default`: `waveform` -> `output_0`, `output_1`, `output_2`; a class map."""
    names = {0: "Speech", 494: "Silence"}
    rows = [f"{k},/m/{k:05d},{names.get(k, f'Sound {k}')}" for k in range(521)]
    with tempfile.TemporaryDirectory() as scratch:
        class_map = Path(scratch) / "yamnet_class_map.csv"
        class_map.write_text("\n".join(["index,mid,display_name", *rows, ""]))
        model = Yamnet(class_map)
        tf.saved_model.save(model, str(folder), signatures=model.__call__.get_concrete_function())
    return folder
