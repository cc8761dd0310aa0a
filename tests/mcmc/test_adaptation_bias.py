"""A run as a whole, adaptation included, keeps a distribution of two modes, and a step size for each chain does not.

Chains start at exact draws, so nothing has to be reached: what a run changes is its bias. The truth is by quadrature.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import chi2

from tfgradgen.core.config import AdaptedConfig, RunConfig, Schedule
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.mcmc.kernel import Dials, KernelSampler
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers
from tfgradgen.posterior import ClassPosterior

pytestmark = pytest.mark.slow

TUNED = [name for name, family in kernel_samplers().items() if isinstance(family.defaults, AdaptedConfig)]
NUM_CHAINS = 2000


class Plane:
    """The image has z as its upper row, and the shape of the toy's."""

    latent_dim = 2

    def __call__(self, z: Any) -> tf.Tensor:
        return tf.reshape(tf.concat([z, tf.zeros_like(z)], -1), [-1, 2, 2, 1])


class Bumps(NamedTuple):
    """log of a sum of two normal densities, but for their constants: (z_0, z_1), width and log height of each."""

    wide: tuple[float, float, float, float]
    narrow: tuple[float, float, float, float]

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        parts = [h - 0.5 * ((z[:, 0] - a) ** 2 + (z[:, 1] - b) ** 2) / s**2 for a, b, s, h in self]
        return tf.reduce_logsumexp(tf.stack(parts, -1), -1)


BUMPS = Bumps((-1.2, 0.6, 0.7, 1.2), (2.3, -0.5, 0.2, 4.5))


class FiveClasses:
    """Softmax of five logits; class 2 has two modes of unequal mass and width, and 4 % of the prior."""

    num_classes = 5

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        z = image[:, 0, :, 0]
        flat = tf.zeros_like(z[:, 0])
        return tf.stack([flat + 1.5, 1.0 + z[:, 0], BUMPS(z), 1.0 - z[:, 0], 0.5 + z[:, 1]], -1)


GRID = np.stack(np.meshgrid(*[np.linspace(-6, 6, 1201)] * 2, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
CELL = 0.01  # its spacing
MODE = 1.2  # of z_0, between the two modes


def statistics_of(z: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """p(class), both coordinates, their squares, and the share of the narrow mode, [..., 6]."""
    first, second = (z[..., k].astype(np.float64) for k in (0, 1))
    return np.stack([prob, first, second, first**2, second**2, first > MODE], -1)


class Truth(NamedTuple):
    """posterior, with the weight of each point of `GRID` and the mean of `statistics_of`, by quadrature."""

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
        """Exact draws but for the spacing of the grid, [count, 2]."""
        rng = np.random.default_rng(seed)
        points = GRID[rng.choice(len(GRID), count, p=self.weight)]
        return (points + CELL * rng.uniform(-0.5, 0.5, points.shape)).astype(np.float32)

    def run(self, kernel: str, init: np.ndarray, seed: int, schedule: Schedule | None = None) -> Any:
        """`Draws` of a run as a command makes it, from `init`."""
        family = kernel_sampler(kernel)
        run = RunConfig(num_chains=len(init), seed=seed)
        schedule = schedule or family.schedule
        return sample_chains(self.posterior, kernel, family.defaults, schedule, run, tf.constant(init))[0]

    def z_scores(self, chain_means: np.ndarray) -> np.ndarray:
        """Of means over chains [num_chains, 6], whose spread is the error."""
        error = chain_means.std(0, ddof=1) / np.sqrt(len(chain_means))
        return (chain_means.mean(0) - self.means) / error


def chain_means(draws: Any) -> np.ndarray:
    return statistics_of(draws.z, draws.class_prob).mean(0)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(ClassPosterior(Plane(), FiveClasses(), 2))


def each_chain_its_own(
    family: KernelSampler, posterior: Any, config: Any, num_adaptation_steps: int, dials: Dials
) -> tfp.mcmc.TransitionKernel:
    """The scheme that is refused: TFP's dual averaging of a step size for each chain."""
    step_size, numbers = tf.tile(dials.step_size, [NUM_CHAINS, 1]), dials.numbers
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        family.make_fn(posterior, config, step_size, num_adaptation_steps),
        num_adaptation_steps=dials.num_adaptation_steps,
        target_accept_prob=numbers["target_accept_prob"],
        exploration_shrinkage=numbers["exploration_shrinkage"],
        shrinkage_target=step_size,
        decay_rate=numbers["decay_rate"],
        step_count_smoothing=numbers["step_count_smoothing"],
        step_size_getter_fn=family.access.get,
        step_size_setter_fn=family.access.put,
        log_accept_prob_getter_fn=family.access.log_accept_prob,
    )


@pytest.fixture
def per_chain(monkeypatch: pytest.MonkeyPatch) -> Any:
    sampling.compiled.cache_clear()
    monkeypatch.setattr(sampling, "adaptive_kernel", each_chain_its_own)
    yield
    sampling.compiled.cache_clear()


def test_quadrature_agrees_with_rejection(truth: Truth) -> None:
    z = np.random.default_rng(1).standard_normal((200_000, 2)).astype(np.float32)
    prob = np.exp(truth.posterior.class_log_prob(tf.constant(z)).numpy())
    is_kept = np.random.default_rng(2).random(len(z)) < prob
    assert abs(truth.z_scores(statistics_of(z[is_kept], prob[is_kept]))).max() < 4
    assert 0.02 < is_kept.mean() < 0.06


@pytest.mark.parametrize("kernel", TUNED)
def test_a_run_keeps_both_modes(kernel: str, truth: Truth) -> None:
    """Six z-scores for each kernel; of 42 one beyond 4 has a chance of 0.3 %. The next test shows what it can see."""
    draws = truth.run(kernel, truth.draw(NUM_CHAINS, 0), seed=1)
    assert abs(truth.z_scores(chain_means(draws))).max() < 4
    assert len(np.unique(draws.step_size)) == 1


def test_step_sizes_chain_by_chain_move_mass_between_modes(truth: Truth, per_chain: None) -> None:
    """The negative control: 2000 chains of mala with the very schedule and settings of the test above."""
    draws = truth.run("mala", truth.draw(NUM_CHAINS, 0), seed=1)
    z_scores = truth.z_scores(chain_means(draws))
    assert z_scores[0] > 4, "p(class)"
    assert z_scores[5] > 4, "the share of the narrow mode"


def test_many_runs_of_sixteen_chains_keep_both_modes(truth: Truth) -> None:
    """As a user makes them: each run tunes on its own 16 chains. Chains of a run share a step, so that runs are the unit."""
    num_runs, schedule = 125, Schedule(64, 36, 27)  # the default's burn-in; fewer draws, for the sake of time
    init = truth.draw(num_runs * 16, 3).reshape(num_runs, 16, 2)
    means = np.stack([chain_means(truth.run("mala", starts, seed, schedule)).mean(0) for seed, starts in enumerate(init)])
    assert abs(truth.z_scores(means)).max() < 4


NUM_RANKED, NUM_BELOW = 1000, 4  # pairs whose z is ranked, each among so many chains of its own


def rank_chances(truth: Truth) -> list[float]:
    """Simulation-based calibration (Talts et al. 2018): the p-values of uniform ranks of z_0 and of p(class).

    Pairs are simulated, z of the prior and the class of p(class | g(z)), so each z is an exact draw of its own class. Of one
    class, some pairs start chains, and each of the others has the rank of its z among the last draws of `NUM_BELOW` chains.
    """
    rng = np.random.default_rng(7)
    z = rng.standard_normal((170_000, 2)).astype(np.float32)
    log_prob = truth.posterior.class_log_prob(tf.constant(z)).numpy()
    pairs = z[np.log(rng.random(len(z))) < log_prob][: NUM_RANKED * (1 + NUM_BELOW)]
    assert len(pairs) == NUM_RANKED * (1 + NUM_BELOW)
    ranked, init = pairs[:NUM_RANKED], pairs[NUM_RANKED:]
    parts = init.reshape(-1, NUM_CHAINS, 2)
    last = np.concatenate([truth.run("mala", part, seed, Schedule(1, 300, 280)).z[-1] for seed, part in enumerate(parts)])
    chances = []
    for value in (lambda z: z[:, 0], lambda z: truth.posterior.class_log_prob(tf.constant(z)).numpy()):
        ranks = (value(last).reshape(NUM_RANKED, NUM_BELOW) < value(ranked)[:, None]).sum(1)
        counts, expected = np.bincount(ranks, minlength=NUM_BELOW + 1), NUM_RANKED / (NUM_BELOW + 1)
        chances.append(float(chi2.sf((np.square(counts - expected) / expected).sum(), NUM_BELOW)))
    return chances


def test_ranks_of_simulated_pairs_are_uniform(truth: Truth) -> None:
    """Of two p-values; a step size for each chain is told with a power above 0.99, as the next test shows."""
    assert min(rank_chances(truth)) > 1e-4


def test_ranks_are_not_uniform_with_step_sizes_chain_by_chain(truth: Truth, per_chain: None) -> None:
    """The negative control."""
    assert min(rank_chances(truth)) < 1e-5
