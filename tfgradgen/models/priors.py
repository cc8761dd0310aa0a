"""Latent priors of other generators, as exact transports of z ~ Normal(0, I) to the distribution they were trained with.

Chains always move in z: log Normal(z; 0, I) is the density of the prior, the transport is part of the generator, and every
kernel stays valid. BigGAN, for example, takes latent points from a truncated normal (Brock et al. 2019).
"""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

TRUNCATED_AT = 2.0  # standard deviations


def _uniform(z: tf.Tensor) -> tf.Tensor:
    """Transport to Uniform(-1, 1): 2 Phi(z) - 1."""
    return tf.math.erf(z / math.sqrt(2.0))


def _truncated_normal(z: tf.Tensor) -> tf.Tensor:
    """Transport to Normal(0, 1) truncated at two standard deviations: its quantile function at Phi(z).

    By symmetry this is sqrt(2) erfinv(erf(sqrt(2)) erf(z / sqrt(2))). The argument of erfinv stays away from 1, where float32
    saturates.
    """
    return math.sqrt(2.0) * tf.math.erfinv(math.erf(TRUNCATED_AT / math.sqrt(2.0)) * _uniform(z))


# Name of the distribution -> its transport, a coordinate-wise function of z [..., latent_dim].
TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "normal": tf.identity,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
}
