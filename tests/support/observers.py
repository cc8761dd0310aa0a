"""Judges and discriminators for `compare` on the toy pair: a few numbers of coarse pixels."""

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

LABELS = [{"name": "goldfish"}, {"name": "king_penguin"}, {"name": "alp"}]


def save_network(folder: Path, logits_fn: Any, labels: list[dict[str, str]], with_features: bool = True) -> Path:
    """A SavedModel with logits and, as `compare` wants of a judge, a signature for features: coarse pixels."""
    network = tf.Module()
    inputs = [tf.TensorSpec([None, 8, 8, 3], tf.float32, name="input")]
    network.__call__ = tf.function(logits_fn, input_signature=inputs)
    network.features = tf.function(
        lambda input: {"features": tf.reshape(tf.nn.avg_pool2d(input, 4, 4, "VALID"), [-1, 12])}, input_signature=inputs
    )
    signatures = {"features": network.features} if with_features else {"serving_default": network.features}
    tf.saved_model.save(network, str(folder), signatures=signatures)
    (folder / "model.json").write_text(json.dumps({"image_range": [-1, 1], "labels": labels}))
    return folder


def save_observers(folder: Path) -> list[str]:
    """Save a judge and a discriminator, and return the flags that name them."""
    judge = save_network(folder / "judge", lambda x: 3.0 * tf.reduce_mean(x, [1, 2]), LABELS)
    sure = lambda x: tf.stack([tf.zeros_like(x[:, 0, 0, 0]), tf.reduce_mean(x, [1, 2, 3])], -1)  # noqa: E731
    natural = save_network(folder / "discriminator", sure, [{"name": "generated"}, {"name": "natural"}])
    return [f"--judge={judge}", f"--discriminator={natural}"]
