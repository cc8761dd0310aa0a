"""Looks at a posterior before the first step: what would otherwise fail silently in the middle of a run."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfgradgen.checks import fail


def check_likelihood(likelihood_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor) -> None:
    """Raises `UserError` unless the log-likelihood [B] and its gradient, the prior left out, are usable at `z` [B, latent_dim].

    A generator without gradient, one that ends in a cast for example, would go unnoticed behind the prior's gradient.
    """
    with tf.GradientTape() as tape:
        tape.watch(z)
        likelihood = likelihood_log_prob_fn(z)
    gradient = tape.gradient(likelihood, z)
    if not np.isfinite(likelihood).any():
        raise fail("p(class)", "a finite log-likelihood at the start points", "none", "check the models and their ranges")
    if gradient is not None and not np.isfinite(gradient).any():
        raise fail("models", "a finite gradient of log p(class | g(z)) by z", "none", "check the models and their ranges")
    if gradient is None or not np.any(np.nan_to_num(np.asarray(gradient), nan=0.0)):
        raise fail(
            "models",
            "a non-zero gradient of log p(class | g(z)) by z",
            "none",
            "the generator or classifier cuts it (a cast, a rounding, an argmax); use --kernel=rejection",
        )
