"""Looks at a posterior before the first step: what would otherwise fail silently in the middle of a run."""

import numpy as np
import tensorflow as tf

from tfgradgen.checks import fail
from tfgradgen.posterior import ClassPosterior


def check_posterior(posterior: ClassPosterior, z: tf.Tensor) -> None:
    """Raises `UserError` unless the target and the gradient of the likelihood ALONE are usable at `z` [B, latent_dim].

    A generator without gradient, one that ends in a cast for example, would go unnoticed behind the prior's gradient.
    """
    with tf.GradientTape() as tape:
        tape.watch(z)
        likelihood = posterior.likelihood_log_prob(z)
    gradient = tape.gradient(likelihood, z)
    if not np.isfinite(likelihood).any():
        raise fail("p(class)", "a finite log-likelihood at the start points", "none", "check the models and their ranges")
    if gradient is None or not np.any(np.nan_to_num(np.asarray(gradient), nan=0.0)):
        raise fail("models", "a non-zero gradient of log p(class | g(z)) by z", "none",
                   "the generator or classifier cuts it (a cast, a rounding, an argmax); use --kernel=rejection")
    if not np.isfinite(gradient).any():
        raise fail("models", "a finite gradient of log p(class | g(z)) by z", "none", "check the models and their ranges")
