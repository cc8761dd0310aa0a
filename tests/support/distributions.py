"""A density with a known distribution, and runs of kernels on it."""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core.backend import as_seed
from tfgradgen.core.config import KernelConfig
from tfgradgen.mcmc.kernel import KernelSampler, adaptive_kernel
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers

SCALES = tf.constant(np.linspace(0.4, 1.0, 16), tf.float32)
NUM_CHAINS, NUM_STEPS, FEW_STEPS = 128, 300, 40
# One draw of these tells as much as several of the others: with fewer they find out a wrong power of the likelihood as surely.
FEWER_DRAWS = {"nuts", "local_global", "replica_exchange", "surrogate"}


def num_steps_of(name: str) -> int:
    """Return the number of draws, and of adaptation steps, in a run of the kernel `name`.

    local_global has as many as others: after 100 adaptation steps, its acceptance may be 0.1 off its target.
    """
    return NUM_STEPS // 3 if name in FEWER_DRAWS - {"local_global"} else NUM_STEPS


def target(z: tf.Tensor) -> tf.Tensor:
    return -0.5 * tf.reduce_sum(tf.square(z / SCALES), -1)


class Bare:
    """A posterior that is only a density, split into the prior Normal(0, I) and the rest."""

    latent_dim = 16

    def __init__(self, fn: Any = target):
        self.unnormalized_log_prob = fn

    def prior_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        return -0.5 * tf.reduce_sum(tf.square(z), -1)

    def likelihood_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        return self.unnormalized_log_prob(z) - self.prior_log_prob(z)


def starts(num_chains: int = NUM_CHAINS) -> tf.Tensor:
    """Return exact draws, so that the draws of a correct kernel have the distribution from the first step on."""
    return SCALES * tf.random.stateless_normal([num_chains, 16], [1, 2])


def weighted(weight: Any, z: tf.Tensor) -> tf.Tensor:
    """Return `target` with its likelihood to the power `weight`."""
    bare = Bare()
    return bare.prior_log_prob(z) + weight * bare.likelihood_log_prob(z)


def compiled_run(family: KernelSampler, config: KernelConfig, fn: Any, num_steps: int) -> Any:
    """Compile a run of `num_steps` draws after as many adaptation steps; the target is `fn(weight, z)`.

    Returns:
      (init, weight) -> z, acceptance probability, step size, and whether the chain moved, each with a row for every draw.
    """

    @tf.function(autograph=False)
    def go(init: tf.Tensor, weight: tf.Tensor) -> Any:
        posterior = Bare(functools.partial(fn, weight))
        kernel = adaptive_kernel(family, posterior, config, num_steps)

        def trace(z: tf.Tensor, results: Any) -> Any:
            info = family.info_fn(posterior, config, z, results)
            return z, tf.exp(tf.minimum(info.log_accept_ratio, 0.0)), info.step_size, info.is_accepted

        return tfp.mcmc.sample_chain(
            num_steps, init, num_burnin_steps=num_steps, kernel=kernel, trace_fn=trace, seed=as_seed(5)
        ).trace

    return lambda init, weight=1.0: [t.numpy() for t in go(init, tf.constant(weight))]


def run(family: KernelSampler, config: KernelConfig, fn: Any = target, init: Any = None, num_steps: int = NUM_STEPS) -> Any:
    """Return what `compiled_run` returns for the target `fn(z)`, with its own graph, so that parts may be patched."""
    return compiled_run(family, config, lambda _, z: fn(z), num_steps)(starts() if init is None else init)


@functools.cache
def _distribution_fn(name: str) -> Any:
    return compiled_run(kernel_sampler(name), kernel_sampler(name).defaults, weighted, num_steps_of(name))


@functools.cache
def target_run(name: str, weight: float = 1.0) -> Any:
    """Return a run from exact draws of `target` by the kernel `name` with its defaults; its target is `weighted`.

    It is cached.
    """
    arrays = _distribution_fn(name)(starts(), weight)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def worst_z_score(z: np.ndarray) -> float:
    """Return the worst z-score of the mean square of each coordinate; the spread of the independent chains gives the error."""
    per_chain = np.square(z / SCALES.numpy()).mean(0)
    return float(np.abs((per_chain.mean(0) - 1) / (per_chain.std(0, ddof=1) / np.sqrt(NUM_CHAINS))).max())


def families_of(wanted: Any) -> dict[str, KernelSampler]:
    return {name: family for name, family in kernel_samplers().items() if wanted(family)}


def only(wanted: Any) -> Any:
    families = families_of(wanted)
    return pytest.mark.parametrize("family", families.values(), ids=families)


is_calibrated = only(lambda family: family.is_calibrated(family.defaults))


is_tuned = only(lambda family: "target_accept_prob" in family.defaults.to_dict())
