"""The outputs of a posterior's models at many latent points."""

import numpy as np
import tensorflow as tf

from tfgradgen import ClassPosterior

BATCH = 64


def values_and_log_probs(posterior: ClassPosterior, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the generator's output for each `z`, and the classifier's log-probabilities for it."""

    @tf.function(autograph=False)
    def both(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = posterior.generator(z)
        return values, tf.nn.log_softmax(posterior.classifier(values))

    parts = [both(tf.constant(z[k : k + BATCH])) for k in range(0, len(z), BATCH)]
    return np.concatenate([values for values, _ in parts]), np.concatenate([log_prob for _, log_prob in parts])
