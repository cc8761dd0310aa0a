"""Chains of many labels, started at exact draws: a kernel that is exact keeps their distribution.

A prior draw and a class drawn from p(class | what it gives) are an exact draw of both, so z is an exact draw of that class.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tests.support.broken import ForgetsTheProposal
from tests.support.exact import values_and_log_probs
from tfgradgen import ClassPosterior
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers
from tfgradgen.mcmc.replica_exchange import ReplicaConfig, inverse_temperatures

LEVEL = 1e-4  # of each statistic
TRANSITIONS = {  # of about eight gradients
    "mala": 8,
    "hmc": 3,
    "split_hmc": 2,
    "chees": 2,
    "nuts": 1,
    "local_global": 1,
    "replica_exchange": 1,
    "elliptical_slice": 3,
}
# A kernel that learns its proposals learns them for one label; test_surrogate.py tests it by quadrature.
TESTED = [n for n, family in kernel_samplers().items() if family.is_calibrated(family.defaults) and family.learn_fn is None]


class Pairs(NamedTuple):
    """Prior draws whose class is not the background, with what they give."""

    z: np.ndarray  # [N, latent_dim]
    values: np.ndarray  # [N, ...]
    log_prob: np.ndarray  # [N, num_classes] in nats
    label: np.ndarray  # [N]

    def rows(self, rows: Any) -> "Pairs":
        """Return some of them."""
        return Pairs(*(column[rows] for column in self))


class Warm(NamedTuple):
    """Further prior draws: exact draws at higher temperatures are among them."""

    z: np.ndarray  # [N, latent_dim]
    log_prob: np.ndarray  # [N, num_classes] in nats


def make_kernel(name: str, posterior: ClassPosterior, step_size: float) -> tfp.mcmc.TransitionKernel:
    """Return the kernel `name`, or a "broken" one, with a fixed step size: a distance in z, halved for leapfrog steps."""
    if name == "broken":
        return tfp.mcmc.MetropolisHastings(ForgetsTheProposal(posterior.unnormalized_log_prob, step_size=step_size**2))
    own_size = step_size if name in ("mala", "local_global") else step_size / 2
    family = kernel_sampler(name)
    kernel = family.make_fn(posterior, family.defaults, tf.fill(family.step_shape(family.defaults), own_size), 0)
    return kernel.copy(state_includes_replicas=True) if name == "replica_exchange" else kernel


def exact_replicas(started: Pairs, warm: Warm) -> np.ndarray:
    """Return the starts, and exact draws of each chain's class at the temperatures of the further replicas.

    The shape is [R, N, latent_dim]. Only the states of all replicas together have the invariant distribution. Two chains
    may share a draw of a warm replica; none shares its own.
    """
    config = kernel_sampler("replica_exchange").defaults
    assert isinstance(config, ReplicaConfig)
    rng, replicas = np.random.default_rng(7), [started.z]
    for power in inverse_temperatures(config)[1:]:
        is_accepted = np.log(rng.random((len(started.z), len(warm.z)))) < power * warm.log_prob[:, started.label].T
        assert is_accepted.any(1).all(), "a chain without a draw of a replica: take more prior draws"
        replicas.append(warm.z[(is_accepted * rng.random(is_accepted.shape)).argmax(1)])
    return np.stack(replicas)


def evolve(
    posterior: ClassPosterior, name: str, started: Pairs, warm: Warm, step_size: float = 0.2, num_steps: int | None = None
) -> Pairs:
    """Return the chains after some transitions from `started`, the kernel's settings frozen."""
    batch = ClassPosterior(posterior.generator, posterior.classifier, started.label)
    kernel = make_kernel(name, batch, step_size)
    state = exact_replicas(started, warm) if name == "replica_exchange" else started.z
    count = num_steps or TRANSITIONS[name]

    @tf.function(autograph=False)
    def go(z: tf.Tensor) -> tf.Tensor:
        results = kernel.bootstrap_results(z)
        if name == "chees":
            results = results._replace(averaged_max_trajectory_length=tf.constant(4 * step_size / 2))  # as if it were tuned
        step = lambda i, z, results: (i + 1, *kernel.one_step(z, results, seed=fold_in(as_seed(2), i)))  # noqa: E731
        return tf.while_loop(lambda i, *_: i < count, step, (0, z, results), parallel_iterations=1)[1]

    evolved = go(tf.constant(state)).numpy()
    z = evolved[0] if name == "replica_exchange" else evolved
    assert np.linalg.norm(z - started.z, axis=-1).mean() > 0.5, "the chains have to move for this to mean anything"
    return Pairs(z, *values_and_log_probs(posterior, z), started.label)


def p_values(evolved: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Return two-sample Kolmogorov-Smirnov p-values of the same statistics of evolved chains and of fresh pairs."""
    return {name: float(stats.ks_2samp(evolved[name], expected[name]).pvalue) for name in evolved}
