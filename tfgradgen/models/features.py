"""Features of images: the signature `features` of a classifier's SavedModel."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

FEATURES = "features"  # image -> [B, D], see MODEL.md of the shipped classifiers


def features_fn(classifier: Any) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Return the function `image` [B, height, width, channels] in [-1, 1] -> features [B, D]; None without that signature.

    A condition has the features of the first classifier that it asks.
    """
    classifier = next(iter(getattr(classifier, "asked", ())), classifier)
    signature = getattr(getattr(classifier, "module", None), "signatures", {}).get(FEATURES)
    if signature is None or not hasattr(classifier, "as_input"):
        return None

    def see(image: tf.Tensor) -> tf.Tensor:
        (found,) = signature(classifier.as_input(tf.convert_to_tensor(image))).values()
        return tf.cast(found, tf.float32)

    return see


def cosine_distance(one: Any, other: Any) -> tf.Tensor:
    """Return 1 - cosine of the angle between rows of features, [..., D] each: 0 for the same direction, at most 2."""
    return 1.0 - tf.reduce_sum(tf.math.l2_normalize(one, -1) * tf.math.l2_normalize(other, -1), -1)
