"""Latent priors of foreign generators as exact transports: each turns z ~ Normal(0, I) into what the generator was trained on.

A chain then lives in the normal z whatever the generator takes: log Normal(z; 0, I) is the prior's density, the transport is a
part of the generator, and every kernel stays valid (Brock et al. 2019 draw BigGAN's latent points from a truncated normal).
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

TRUNCATED_AT = 2.0  # standard deviations


def _uniform(z: tf.Tensor) -> tf.Tensor:
    """Uniform(-1, 1): 2 Phi(z) - 1."""
    return tf.math.erf(z / math.sqrt(2.0))


def _truncated_normal(z: tf.Tensor) -> tf.Tensor:
    """Normal(0, 1) within two standard deviations: its quantile function at Phi(z).

    By symmetry sqrt(2) erfinv(erf(sqrt(2)) erf(z / sqrt(2))), whose argument stays away from 1, where float32 would saturate.
    """
    return math.sqrt(2.0) * tf.math.erfinv(math.erf(TRUNCATED_AT / math.sqrt(2.0)) * _uniform(z))


# Name of the law -> z [..., latent_dim] ~ Normal(0, I) -> the same shape, of that law, coordinate by coordinate.
TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "normal": tf.identity,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
}
