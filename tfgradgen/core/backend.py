"""Stateless seeds and the choice of compiler, as every sampling method uses them."""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Jit
from tfgradgen.core.lazy import tf

# The smallest normal float32, where a probability is bounded: 0 would give an infinite log and no gradient, and some devices
# flush what lies between to 0.
TINY = float(np.finfo(np.float32).tiny)


@unique
class Stream(IntEnum):
    """What a run draws random numbers for, each from its own stream, `fold_in(posterior.own_seed(seed), Stream.CHAINS)`.

    A draw is repeatable by these values, so none is ever changed, and that of a use that is gone is not given again.

    Attributes:
      STARTS: prior draws that the starts of chains are picked from, and the picking.
      CHAINS: the transitions of chains.
      REJECTION: rejection sampling.
      SMC: the populations of sequential Monte Carlo.
      PRIOR: plain prior draws, with which a comparison compares.
      POOL: the prior draws that all labels of a seed share. Folded into the seed itself, without a label's.
      SURROGATE: what a surrogate of the likelihood is fitted to and judged by, and its first weights.
      JITTER: of the step size. Folded into the seed of a transition, not of a run; kernels number their own streams there
        from 0.
    """

    STARTS = 0
    CHAINS = 1
    REJECTION = 2
    SMC = 3  # 4 was the preflight's
    PRIOR = 5
    POOL = 6
    SURROGATE = 7
    JITTER = -1


def as_seed(seed: int) -> tf.Tensor:
    """The stateless seed int32[2] of an integer in 0..2**62 - 1."""
    return tf.constant([seed & 0x7FFFFFFF, seed >> 31], tf.int32)


def seed_of(*numbers: int) -> int:
    """One integer seed in 0..2**62 - 1 from several integers >= 0: another for every tuple of them."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    return int(words[0]) << 29 | int(words[1]) >> 3


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """A new stateless seed int32[2] from `seed` and an integer: one stream for each integer.

    All 64 bits depend on `seed`. TensorFlow's own function keeps 32 of them, so that batches of draws repeat after some 1e5.
    """
    mixed = tf.random.stateless_uniform([2], seed, None, None, tf.int32)
    return mixed + tf.stack([0, tf.cast(data, tf.int32)])


def log_uniform(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """log of uniform numbers in (0, 1], float32 of the given shape: the threshold of every acceptance that is decided here.

    A float32 uniform number is a multiple of 2^-23, and once in 2^23 exactly 0, whose log accepts any likelihood. These are
    multiples of 2^-52, so nothing below -36 nats is accepted by rounding, and everything above with its own probability.
    """
    return tf.cast(tf.math.log1p(-tf.random.stateless_uniform(shape, seed, dtype=tf.float64)), tf.float32)


def resample_systematic(weights: np.ndarray, offset: float, num: int | None = None) -> np.ndarray:
    """Indices [num] of particles, each as often as its weight says, up to one (Kitagawa 1996).

    weights: [num_particles], of sum 1. offset: uniform in [0, 1). num: how many, by default num_particles.
    """
    num = len(weights) if num is None else num
    places = (np.arange(num) + offset) / num
    total = np.cumsum(weights)
    # Scaled, or rounding could leave the last place beyond the sum.
    return np.searchsorted(total / total[-1], places, side="right")


def full_float32() -> None:
    """Switches TensorFloat-32 off: it rounds the factors of a product to 11 bits, and on an Ampere or later GPU chains would
    accept by a blurred density.

    It is a switch of the whole process, read by each operation as it runs. It stays off after a run, so that whoever evaluates
    the posterior at its draws finds the densities that it reports; each chunk of a run switches it off again. Networks that the
    process trains beside it are slower then; `tf.config.experimental.enable_tensor_float_32_execution(True)` switches it on.
    """
    if tf.config.experimental.tensor_float_32_execution_enabled():
        tf.config.experimental.enable_tensor_float_32_execution(False)


def use_xla(jit: Jit) -> bool:
    """Resolves `jit`: 'auto' is XLA where TensorFlow sees a GPU; on CPU graph mode is several times faster."""
    return bool(tf.config.list_physical_devices("GPU")) if jit == "auto" else bool(jit)
