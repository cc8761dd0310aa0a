"""Annealed starts have the posterior distribution where chains from the prior stay behind a valley."""

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.toy import BehindAValley, ToyGenerator
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import collect
from tfgradgen.mcmc.annealing import PARTICLES_PER_CHAIN
from tfgradgen.mcmc.mala import MalaConfig
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.runs import started_chunks
from tfgradgen.mcmc.starts import Starts, choose_starts, score
from tfgradgen.posterior import ClassPosterior

NUM_CHAINS, NUM_FEW = 400, 16
NUM_GRADIENTS = 300
GENERATOR, CLASSIFIER = ToyGenerator(), BehindAValley()  # the same in all tests, which so share compiled graphs


def posterior(temperature: float = 1.0, label: int = 1) -> ClassPosterior:
    return ClassPosterior(GENERATOR, CLASSIFIER, label, temperature=temperature)


def starts(init: str, temperature: float = 1.0, seed: int = 0, num_chains: int = NUM_CHAINS) -> Starts:
    return choose_starts(posterior(temperature), RunConfig(num_chains=num_chains, init=init, seed=seed))  # type: ignore[arg-type]


@pytest.fixture
def compiled_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score the prior draws of each chain by a compiled function: for many chains, that takes less time."""

    @functools.cache
    def score_fn(posterior: ClassPosterior, num_draws: int) -> Any:
        return tf.function(lambda seed: score(posterior, num_draws, seed), autograph=False)

    monkeypatch.setattr("tfgradgen.mcmc.starts.score", lambda posterior, num, seed: score_fn(posterior, num)(seed))


def share(z: np.ndarray) -> float:
    """Return the share of z [num_chains, 6] beyond the valley."""
    return float(np.mean(z[:, 0] > 2.0))


def exact_share() -> float:
    """Return the share of the posterior beyond the valley, by quadrature."""
    x = np.linspace(-8, 8, 100_001, dtype=np.float32)
    logits = BehindAValley()(tf.reshape(tf.constant(x), [-1, 1, 1, 1])).numpy().astype(np.float64)
    weight = np.exp(-0.5 * x.astype(np.float64) ** 2 - np.logaddexp(0.0, -logits[:, 1]))
    return float(weight[x > 2.0].sum() / weight.sum())


@pytest.mark.usefixtures("compiled_scores")
def test_they_are_of_the_posterior_where_chains_from_the_prior_are_not() -> None:
    """The population is biased by order 1 / 1600 and its chains are dependent: 0.05 is three errors of the share of 400."""
    truth = exact_share()
    few = Schedule(num_results=25, num_burnin_steps=NUM_GRADIENTS - 25, num_adaptation_steps=100)
    run = RunConfig(num_chains=NUM_CHAINS, init="prior")
    plain = started_chunks(kernel_sampler("mala"), posterior(), MalaConfig(0.4), few, run, None)
    assert abs(share(starts("annealed").z.numpy()) - truth) < 0.05
    assert share(collect(plain)[0].z[-1]) < truth - 0.2, "chains from the prior have to fail"


def test_its_cost_is_counted() -> None:
    found = starts("annealed", num_chains=NUM_FEW)
    num_particles = PARTICLES_PER_CHAIN * NUM_FEW
    stages, rest = divmod(found.spent.num_gradients, 5 * num_particles)
    assert (stages > 2, rest) == (True, 0)
    assert found.spent.num_forward == (1 + stages) * num_particles
    assert (found.num_exact, found.num_draws) == (None, NUM_FEW)
    assert starts("prior").spent == (0, 0)


def test_a_seed_has_its_starts() -> None:
    first, again, other = (starts("annealed", seed=seed, num_chains=NUM_FEW).z.numpy() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(other, first).any()


def test_each_label_of_a_batch_starts_as_alone() -> None:
    batch = ClassPosterior(GENERATOR, CLASSIFIER, [0] * NUM_FEW + [1] * NUM_FEW)
    found = choose_starts(batch, RunConfig(num_chains=2 * NUM_FEW, init="annealed"))
    parts = [each.spent for each in found.of_each]
    assert found.spent == tuple(map(sum, zip(*parts, strict=True)))
    for label in (0, 1):
        alone = choose_starts(posterior(label=label), RunConfig(num_chains=NUM_FEW, init="annealed"))
        np.testing.assert_array_equal(found.z[NUM_FEW * label : NUM_FEW * (label + 1)], alone.z)


@pytest.mark.usefixtures("compiled_scores")
def test_a_high_temperature_keeps_the_prior() -> None:
    """The likelihood then hardly matters: z_0 is standard normal, within 4 errors."""
    z = starts("annealed", temperature=1e4).z.numpy()[:, 0]
    assert abs(z.mean()) < 4 / np.sqrt(NUM_CHAINS)
    assert abs(z.std() - 1) < 4 / np.sqrt(2 * NUM_CHAINS)


def test_a_discriminator_is_refused() -> None:
    energetic = ClassPosterior(
        GENERATOR, CLASSIFIER, 1, discriminator=lambda image: image[:, 0, 0, 0], discriminator_weight=1.0
    )
    with pytest.raises(UserError, match="annealed"):
        choose_starts(energetic, RunConfig(num_chains=4, init="annealed"))


def test_prior_draws_of_nan_are_counted() -> None:
    class PartlyNan(BehindAValley):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return tf.where(image[:, 0, :1, 0] < -1.0, np.nan, super().__call__(image))

    found = choose_starts(ClassPosterior(ToyGenerator(), PartlyNan(), 1), RunConfig(num_chains=100, init="annealed"))
    assert found.stats["num_scored"] == (1 + PARTICLES_PER_CHAIN) * 100
    assert 0.1 < found.stats["num_not_finite"] / found.stats["num_scored"] < 0.22  # a share of 0.159 of the prior
    assert np.isfinite(found.z).all()


def test_gradients_are_checked_even_if_the_kernel_takes_none() -> None:
    class Steps(ToyGenerator):
        def __call__(self, z: tf.Tensor) -> tf.Tensor:
            return tf.cast(tf.cast(64 * super().__call__(z), tf.int32), tf.float32) / 64

    steps = ClassPosterior(Steps(), BehindAValley(), 1)
    sampler, few = kernel_sampler("elliptical_slice"), Schedule(num_results=4, num_burnin_steps=0, num_adaptation_steps=0)
    chunks = started_chunks(sampler, steps, sampler.defaults, few, RunConfig(num_chains=4, init="annealed"), None)
    with pytest.raises(UserError, match="gradient"):
        next(chunks)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(UserError, match="annealed"):
        starts("annealled")
