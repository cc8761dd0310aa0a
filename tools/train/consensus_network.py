"""The consensus classifier: EfficientNet-Lite features, a head with one hidden layer, and its file format."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tfgradgen.core.files import atomic_file
from tools.train.efficientnet_lite import TOP, Network
from tools.train.initializers import Normal

MAX_ROUNDS = 500  # of the search for biases
TAPS = (6, 14)  # blocks of Lite1 (40 and 112 channels) whose spatial means are further inputs of the head


class Student(keras.Model):
    """`image [B, 64, 64, 3]` in [-1, 1] -> logits [B, K + 1], "other" last.

    `opinion` calibrates the logits: it adds `other_bias` to the last one and divides all by `temperature`.
    """

    def __init__(self, num_outputs, variant="lite1", image_size=96, hidden=256, weight_dtype="float32", **kwargs):
        super().__init__(**kwargs)
        self.network = Network(variant, image_size, weight_dtype)
        self.num_features = sum(self.network.blocks[k][3] for k in TAPS) + TOP
        fixed = dict(trainable=False, autocast=False)
        self.shift = self.add_weight(shape=(self.num_features,), initializer="zeros", name="shift", **fixed)
        self.scale = self.add_weight(shape=(self.num_features,), initializer="ones", name="scale", **fixed)
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature", **fixed)
        self.other_bias = self.add_weight(shape=(), initializer="zeros", name="other_bias", **fixed)
        self.hidden = keras.layers.Dense(hidden, activation="silu")
        self.dropout = keras.layers.Dropout(0.2, seed=1)
        self.head = keras.layers.Dense(num_outputs, kernel_initializer=Normal(0.02))
        self.hidden.build((None, self.num_features))
        self.head.build((None, hidden))
        self.built = True

    def features(self, image):
        """Return the spatial means of two early feature maps and of the last one, [B, num_features]."""
        maps = self.network.maps(image)
        return ops.concatenate([ops.mean(maps[k], axis=(1, 2)) for k in (*TAPS, -1)], axis=1)

    def of_features(self, features, training=False):
        """Return the logits [B, K + 1] from features."""
        x = self.hidden((features - self.shift) * self.scale)
        return self.head(self.dropout(x, training=training))

    def call(self, image, training=False):
        return self.of_features(self.features(image), training)

    def opinion(self, image):
        """Return calibrated logits."""
        logits = self(image)
        return ops.concatenate([logits[:, :-1], logits[:, -1:] + self.other_bias], axis=1) / self.temperature

    def standardize(self, features):
        """Scale features so that the sample `features [N, F]` has mean 0 and variance 1."""
        self.shift.assign(features.mean(0))
        self.scale.assign(1 / (features.std(0) + 1e-3))

    def freeze(self, num_blocks):
        """Freeze the stem and the first `num_blocks` blocks; all blocks and the top for None."""
        network = self.network
        counts = [3 if block[4] > 1 else 2 for block in network.blocks]
        fixed = len(network.kernels) if num_blocks is None else 1 + sum(counts[:num_blocks])
        for k, variables in enumerate(zip(network.kernels, network.biases, strict=True)):
            for variable in variables:
                variable.trainable = k >= fixed


def save(student, path, settings=None):
    """Write the variables to the .npz `path`, and the `settings` with which they were made."""
    arrays: Any = {f"v{k}": np.asarray(variable) for k, variable in enumerate(student.weights)}
    with atomic_file(Path(path)) as file:
        np.savez(file, **arrays, settings=json.dumps(settings))


def settings_of(path):
    """Return the settings that `save` wrote into `path`; None if it had none, or if there is no such file."""
    if not Path(path).exists():
        return None
    with np.load(path) as arrays:
        return json.loads(str(arrays["settings"])) if "settings" in arrays else None


def restore(student, path):
    """Restore variables that `save` wrote, in the student's own precision."""
    if not Path(path).exists():
        raise SystemExit(f"{path}: expected weights of an earlier stage, got nothing; run that stage first.")
    with np.load(path) as arrays:
        for k, variable in enumerate(student.weights):
            variable.assign(arrays[f"v{k}"].astype(variable.dtype))
    return student


def soft_log_loss(logits, target, weight):
    """Return the weighted mean cross-entropy with soft targets [N, K + 1], in nats."""
    return float(np.average(-(target * log_softmax(logits, axis=1)).sum(1), weights=weight))


def calibration_of(logits, target, weight):
    """Return the (temperature, bias of the last column) that minimize the cross-entropy with soft targets."""
    last = np.eye(logits.shape[1])[-1]
    loss = lambda v: soft_log_loss((logits + v[1] * last) * np.exp(-v[0]), target, weight)  # noqa: E731
    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options=dict(xatol=1e-3, fatol=1e-6, maxiter=200)).x
    return float(np.exp(best[0])), float(best[1])


def biases_for(shares, logits, weight):
    """Return biases [K] of the classes with mean 0, at which the prior masses of the classes are in the ratio of `shares`.

    The mass of all classes together may change.

    Args:
      shares: What each class shall have, relative to the others, [K].
      logits: Calibrated logits of prior draws, [N, K + 1], "other" last. Its column gets no bias.
      weight: The weight of each draw in the prior, [N].
    """
    shares, biases = np.asarray(shares, "float64") / np.sum(shares), np.zeros(len(shares))
    for _ in range(MAX_ROUNDS):
        probs = softmax(logits + np.append(biases, 0.0), axis=1)
        mass = np.average(probs[:, :-1], axis=0, weights=weight)
        if not mass.all():
            raise SystemExit("biases: expected classes that some of the draws show, got one that none shows; label more draws.")
        change = np.log(shares * mass.sum() / mass)
        biases += change - change.mean()
        if np.ptp(change) < 1e-6:
            return biases
    raise SystemExit(f"biases: expected shares that {MAX_ROUNDS} rounds reach, got none; give shares that differ less.")
