"""Stateless seeds, random numbers and the choice of compiler, shared by all samplers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum, unique
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Jit
from tfgradgen.core.lazy import tf

# Lower bound of a probability: the smallest normal float32. At 0 the log is infinite and has no gradient, and some devices
# flush subnormal numbers to 0.
TINY = float(np.finfo(np.float32).tiny)


@unique
class Stream(IntEnum):
    """The streams of random numbers in a run, such as `fold_in(posterior.own_seed(seed), Stream.CHAINS)`.

    Draws depend on these values: never change one, and never reuse the value of a stream that was removed.

    Attributes:
      STARTS: The choice of starts, and prior draws at which chains start as they are.
      CHAINS: Transitions of chains.
      REJECTION: Uniform numbers by which a condition accepts.
      SMC: Populations of sequential Monte Carlo.
      HVI: The learning of paths, and the paths.
      PRIOR: Plain prior draws, the reference of a comparison.
      POOL: Prior draws that all labels of a seed share. Folded into the seed itself, without a label's.
      SURROGATE: The fit and the validation of a surrogate of the likelihood, and its first weights.
      ANNEALING: Populations of annealed starts.
      PROJECTION: Prior draws from which the image nearest to a photograph is sought. Folded into the seed itself.
      JITTER: Jitter of the step size. Folded into the seed of a transition, not of a run; there kernels number their own
        streams from 0.
    """

    STARTS = 0
    CHAINS = 1
    REJECTION = 2
    SMC = 3  # 4 was used by the preflight
    PRIOR = 5
    POOL = 6
    SURROGATE = 7
    HVI = 8
    JITTER = -1
    ANNEALING = 9
    PROJECTION = 10


def compile_fn(fn: Callable[..., Any], *, autograph: bool = False, **settings: Any) -> Any:
    """Return `fn` as a `tf.function`, whose traces TensorFlow does not add to those of other models.

    TensorFlow counts the traces of one code together. In a loop over posteriors it would warn that a function is retraced,
    although each has its own, traced once. The code of a `partial` is its own.

    Args:
      fn: A function of tensors.
      autograph: Whether `fn` has loops over tensors.
      **settings: Further arguments of `tf.function`, such as jit_compile.
    """
    return tf.function(functools.partial(fn), autograph=autograph, **settings)


def as_seed(seed: int) -> tf.Tensor:
    """Return the stateless seed int32[2] of an integer in 0..2**62 - 1."""
    return tf.constant([seed & 0x7FFFFFFF, seed >> 31], tf.int32)


def seed_of(*numbers: int) -> int:
    """Return an integer seed in 0..2**62 - 1 that depends on every one of `numbers`, integers >= 0."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    return int(words[0]) << 29 | int(words[1]) >> 3


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Return a new stateless seed int32[2] from `seed` and an integer: one stream per integer.

    All 64 bits depend on `seed`. `tf.random.experimental.stateless_fold_in` keeps only 32 of them, so batches of draws repeat
    after about 1e5.
    """
    mixed = tf.random.stateless_uniform([2], seed, None, None, tf.int32)
    return mixed + tf.stack([0, tf.cast(data, tf.int32)])


def log_uniform(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Return the log of uniform numbers in (0, 1], float32 of the given shape: the threshold of an acceptance test.

    A float32 uniform number is a multiple of 2^-23 and is exactly 0 once in 2^23, which accepts any likelihood. These numbers
    are multiples of 2^-52, so the acceptance probability is right down to -36 nats.
    """
    return tf.cast(tf.math.log1p(-tf.random.stateless_uniform(shape, seed, dtype=tf.float64)), tf.float32)


def resample_systematic(weights: np.ndarray, offset: float, num: int | None = None) -> np.ndarray:
    """Return indices of resampled particles by systematic resampling (Kitagawa 1996).

    Args:
      weights: [num_particles], with sum 1.
      offset: Uniform in [0, 1).
      num: Number of indices; num_particles by default.

    Returns:
      Indices [num]. A particle of weight w occurs num * w times, rounded up or down.
    """
    num = len(weights) if num is None else num
    points = (np.arange(num) + offset) / num
    total = np.cumsum(weights)
    # Normalize again: rounding could leave the last point beyond the sum.
    return np.searchsorted(total / total[-1], points, side="right")


def full_float32() -> None:
    """Switch TensorFloat-32 off.

    TensorFloat-32 rounds the factors of a product to 11 bits on Ampere and later GPUs, so chains would accept by an inexact
    density.

    The switch is global, and every op reads it when it runs. It stays off after a run, so that the posterior evaluated at the
    draws agrees with the densities in the result. Each chunk of a run switches it off again. Networks that the same process
    trains become slower; `tf.config.experimental.enable_tensor_float_32_execution(True)` switches it on again.
    """
    if tf.config.experimental.tensor_float_32_execution_enabled():
        tf.config.experimental.enable_tensor_float_32_execution(False)


def use_xla(jit: Jit) -> bool:
    """Resolve `jit`: 'auto' means XLA if TensorFlow sees a GPU. On a CPU, graph mode is several times faster."""
    return bool(tf.config.list_physical_devices("GPU")) if jit == "auto" else bool(jit)
