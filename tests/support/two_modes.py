"""A posterior of two modes with true values by quadrature, and an adaptation scheme that biases it."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.mcmc.kernel import KernelSampler, TunableParams
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.posterior import ClassPosterior

NUM_CHAINS = 2000


class Plane:
    """A generator whose image has z as its upper row, and the shape of the toy's images."""

    latent_dim = 2

    def __call__(self, z: Any) -> tf.Tensor:
        return tf.reshape(tf.concat([z, tf.zeros_like(z)], -1), [-1, 2, 2, 1])


class Bumps(NamedTuple):
    """The log of a sum of two unnormalized normal densities; for each: (z_0, z_1), width and log height."""

    wide: tuple[float, float, float, float]
    narrow: tuple[float, float, float, float]

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        parts = [h - 0.5 * ((z[:, 0] - a) ** 2 + (z[:, 1] - b) ** 2) / s**2 for a, b, s, h in self]
        return tf.reduce_logsumexp(tf.stack(parts, -1), -1)


BUMPS = Bumps((-1.2, 0.6, 0.7, 1.2), (2.3, -0.5, 0.2, 4.5))


class FiveClasses:
    """A classifier of five classes; class 2 has two modes of unequal mass and width, and a mean of 0.04 under the prior."""

    num_classes = 5

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        z = image[:, 0, :, 0]
        flat = tf.zeros_like(z[:, 0])
        return tf.stack([flat + 1.5, 1.0 + z[:, 0], BUMPS(z), 1.0 - z[:, 0], 0.5 + z[:, 1]], -1)


GRID = np.stack(np.meshgrid(*[np.linspace(-6, 6, 1201)] * 2, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
CELL = 0.01  # spacing of the grid
MODE = 1.2  # value of z_0 between the two modes


def statistics_of(z: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Return p(class), both coordinates, their squares, and whether z is in the narrow mode, [..., 6]."""
    first, second = (z[..., k].astype(np.float64) for k in (0, 1))
    return np.stack([prob, first, second, first**2, second**2, first > MODE], -1)


class Truth(NamedTuple):
    """The true values of a posterior: the weight of each point of `GRID` and the mean of `statistics_of`, by quadrature."""

    posterior: ClassPosterior
    weight: np.ndarray
    means: np.ndarray

    @classmethod
    def of(cls, posterior: ClassPosterior) -> "Truth":
        prob = np.exp(posterior.class_log_prob(tf.constant(GRID)).numpy().astype(np.float64))
        weight = prob * np.exp(-0.5 * np.square(GRID.astype(np.float64)).sum(-1))
        weight /= weight.sum()
        return cls(posterior, weight, weight @ statistics_of(GRID, prob))

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Return draws [count, 2] that are exact up to the spacing of the grid."""
        rng = np.random.default_rng(seed)
        points = GRID[rng.choice(len(GRID), count, p=self.weight)]
        return (points + CELL * rng.uniform(-0.5, 0.5, points.shape)).astype(np.float32)

    def run(self, kernel: str, init: np.ndarray, seed: int, schedule: Schedule | None = None) -> Any:
        """Return the `Draws` of a run from `init`, as a command makes it."""
        family = kernel_sampler(kernel)
        run = RunConfig(num_chains=len(init), seed=seed)
        schedule = schedule or family.schedule
        return sample_chains(self.posterior, kernel, family.defaults, schedule, run, tf.constant(init))[0]

    def z_scores(self, chain_means: np.ndarray) -> np.ndarray:
        """Return z-scores of means over chains [num_chains, 6], whose spread gives the error."""
        error = chain_means.std(0, ddof=1) / np.sqrt(len(chain_means))
        return (chain_means.mean(0) - self.means) / error


def each_chain_its_own(
    family: KernelSampler,
    posterior: Any,
    config: Any,
    num_adaptation_steps: int,
    tunable_params: TunableParams,
    labels: Any = None,
) -> tfp.mcmc.TransitionKernel:
    """The rejected scheme: TFP's dual averaging with a step size for each chain."""
    step_size, numbers = tf.tile(tunable_params.step_size, [NUM_CHAINS, 1]), tunable_params.numbers
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        family.make_fn(posterior, config, step_size, num_adaptation_steps),
        num_adaptation_steps=tunable_params.num_adaptation_steps,
        target_accept_prob=numbers["target_accept_prob"],
        exploration_shrinkage=numbers["exploration_shrinkage"],
        shrinkage_target=step_size,
        decay_rate=numbers["decay_rate"],
        step_count_smoothing=numbers["step_count_smoothing"],
        step_size_getter_fn=family.access.get,
        step_size_setter_fn=family.access.put,
        log_accept_prob_getter_fn=family.access.log_accept_prob,
    )
