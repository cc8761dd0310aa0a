"""The outputs of a posterior's models at many latent points."""

import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen import ClassPosterior

BATCH = 64
_FUNCTIONS: "weakref.WeakKeyDictionary[ClassPosterior, Any]" = weakref.WeakKeyDictionary()


def _compiled(posterior: ClassPosterior) -> Any:
    """Compile both for any number of points; the models alone are held, so that a posterior does not keep itself alive."""
    generator, classifier = posterior.generator, posterior.classifier

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, posterior.latent_dim], tf.float32)])
    def both(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = generator(z)
        return values, tf.nn.log_softmax(classifier(values))

    return both


def values_and_log_probs(posterior: ClassPosterior, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the generator's output for each `z`, and the classifier's log-probabilities for it."""
    both = _FUNCTIONS.get(posterior) or _FUNCTIONS.setdefault(posterior, _compiled(posterior))
    parts = [both(tf.constant(z[k : k + BATCH])) for k in range(0, len(z), BATCH)]
    return np.concatenate([values for values, _ in parts]), np.concatenate([log_prob for _, log_prob in parts])
