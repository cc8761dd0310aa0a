"""The shipped models and kernels together, as the README promises. These tests are slow, and the most important ones.

A prior draw and a class drawn from p(class | its image) are an exact draw of both, so z is an exact draw of that class. Most
such classes are "other"; the pairs of the twenty classes are kept, in the order of their draws. Chains of every class start at
pairs, and are compared with fresh ones.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tests.support.broken import ForgetsTheProposal
from tests.support.exact import values_and_log_probs
from tfgradgen import ClassPosterior, load_classifier, load_generator
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc.pool import CHUNK, pool_of
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers
from tfgradgen.mcmc.replica_exchange import ReplicaConfig, inverse_temperatures
from tfgradgen.models.loading.metadata import fingerprint
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.shipped import SHIPPED_MODELS, default_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shipped_cache")]

NUM_PRIOR = 8192  # an eighth of them are pairs of one of the twenty classes
NUM_CHAINS = 96
NUM_FRESH = 512  # the error of a comparison then comes mostly from the chains
NUM_NAMED = 20
STEP_SIZE = 0.2
LEVEL = 1e-4
TRANSITIONS = {  # each of about eight gradients
    "mala": 8,
    "broken": 8,
    "hmc": 3,
    "split_hmc": 2,
    "chees": 2,
    "nuts": 1,
    "local_global": 1,
    "replica_exchange": 1,
    "elliptical_slice": 3,
}


class Prior(NamedTuple):
    """Prior draws, each with a class drawn from the classifier's probabilities for its image."""

    z: np.ndarray  # [N, latent_dim]
    log_prob: np.ndarray  # [N, num_classes] in nats
    label: np.ndarray  # [N]


class Pairs(NamedTuple):
    """Prior draws whose class is not "other", with their images."""

    z: np.ndarray  # [N, latent_dim]
    image: np.ndarray  # [N, height, width, channels]
    log_prob: np.ndarray  # [N, num_classes] in nats
    label: np.ndarray  # [N]


@pytest.fixture(scope="module")
def posterior() -> ClassPosterior:
    return ClassPosterior(load_generator(default_model("generator")), load_classifier(default_model("classifier")), 0)


@pytest.fixture(scope="module")
def prior(posterior: ClassPosterior, worker_id: str) -> Prior:
    """Return rows of the pool.

    Two processes start at its two ends, and each finds in the cache what the other has evaluated.
    """
    pool, numbers = pool_of(posterior, RunConfig(seed=0)), range(NUM_PRIOR // CHUNK)
    for number in reversed(numbers) if worker_id == "gw1" else numbers:
        pool.draws(number * CHUNK, CHUNK)
    draws = pool.draws(0, NUM_PRIOR)
    ends = np.cumsum(np.exp(draws.logits.astype(np.float64)), 1)
    return Prior(draws.z, draws.logits, (ends < draws.uniform[:, None] * ends[:, -1:]).sum(1))


def pairs_of(posterior: ClassPosterior, prior: Prior, first: int, last: int | None) -> Pairs:
    """Return the pairs of a class from number `first` to `last`."""
    rows = np.flatnonzero(prior.label < NUM_NAMED)[first:last]
    return Pairs(prior.z[rows], values_and_log_probs(posterior, prior.z[rows])[0], prior.log_prob[rows], prior.label[rows])


@pytest.fixture(scope="module")
def started(posterior: ClassPosterior, prior: Prior) -> Pairs:
    """Return the pairs at which chains start."""
    return pairs_of(posterior, prior, 0, NUM_CHAINS)


@pytest.fixture(scope="module")
def fresh(posterior: ClassPosterior, prior: Prior) -> Pairs:
    return pairs_of(posterior, prior, NUM_CHAINS, NUM_CHAINS + NUM_FRESH)


@pytest.fixture(scope="module")
def further(posterior: ClassPosterior, prior: Prior) -> Pairs:
    """Return pairs at which no chain starts and with which none is compared."""
    pairs = pairs_of(posterior, prior, NUM_CHAINS + NUM_FRESH, None)
    assert set(pairs.label) == set(range(NUM_NAMED))
    return pairs


@pytest.fixture(scope="module")
def warm(prior: Prior) -> Prior:
    """Return prior draws beyond all those at which chains start or with which they are compared."""
    first = np.flatnonzero(prior.label < NUM_NAMED)[NUM_CHAINS + NUM_FRESH - 1] + 1
    return Prior(*(column[first:] for column in prior))


def make_kernel(name: str, posterior: ClassPosterior) -> tfp.mcmc.TransitionKernel:
    if name == "broken":
        return tfp.mcmc.MetropolisHastings(ForgetsTheProposal(posterior.unnormalized_log_prob, step_size=STEP_SIZE**2))
    step_size = STEP_SIZE if name in ("mala", "local_global") else STEP_SIZE / 2
    family = kernel_sampler(name)
    kernel = family.make_fn(posterior, family.defaults, tf.fill(family.step_shape(family.defaults), step_size), 0)
    return kernel.copy(state_includes_replicas=True) if name == "replica_exchange" else kernel


def exact_replicas(started: Pairs, warm: Prior) -> np.ndarray:
    """Return the starts, and exact draws of each chain's class at the temperatures of the further replicas.

    The shape is [R, NUM_CHAINS, latent_dim]. Only the states of all replicas together have the invariant distribution. Two
    chains may share a draw of a warm replica; none shares its own.
    """
    config = kernel_sampler("replica_exchange").defaults
    assert isinstance(config, ReplicaConfig)
    rng, replicas = np.random.default_rng(7), [started.z]
    for power in inverse_temperatures(config)[1:]:
        is_accepted = np.log(rng.random((NUM_CHAINS, len(warm.z)))) < power * warm.log_prob[:, started.label].T
        assert is_accepted.any(1).all(), "a chain without a draw of a replica: take more prior draws"
        replicas.append(warm.z[(is_accepted * rng.random(is_accepted.shape)).argmax(1)])
    return np.stack(replicas)


def evolve(posterior: ClassPosterior, name: str, started: Pairs, warm: Prior) -> np.ndarray:
    """Return the chains `[NUM_CHAINS, latent_dim]` after some transitions with frozen settings of the kernel."""
    batch = ClassPosterior(posterior.generator, posterior.classifier, started.label)
    kernel = make_kernel(name, batch)
    state = exact_replicas(started, warm) if name == "replica_exchange" else started.z

    @tf.function(autograph=False)
    def go(z: tf.Tensor) -> tf.Tensor:
        results = kernel.bootstrap_results(z)
        if name == "chees":
            results = results._replace(averaged_max_trajectory_length=tf.constant(4 * STEP_SIZE / 2))  # as if it were tuned
        step = lambda i, z, results: (i + 1, *kernel.one_step(z, results, seed=fold_in(as_seed(2), i)))  # noqa: E731
        return tf.while_loop(lambda i, *_: i < TRANSITIONS[name], step, (0, z, results), parallel_iterations=1)[1]

    evolved = go(tf.constant(state)).numpy()
    return evolved[0] if name == "replica_exchange" else evolved


def statistics(pairs: Pairs, further: Pairs) -> dict[str, np.ndarray]:
    """Return scalars of z, of the classifier's output and of the images, `[N]` each; some relative to the pair's own class."""
    own = lambda of_class: of_class[pairs.label]  # noqa: E731
    classes = range(NUM_NAMED)
    mean_z = np.stack([further.z[further.label == k].mean(0) for k in classes])
    mean_image = np.stack([further.image[further.label == k].mean((0, 1, 2)) for k in classes])
    directions = np.random.default_rng(0).standard_normal((pairs.z.shape[1], 2)) / np.sqrt(pairs.z.shape[1])
    projections, probs = pairs.z @ directions, np.exp(pairs.log_prob)
    return {
        "squared norm of z": np.square(pairs.z).sum(-1),
        **{f"projection {k} of z": projections[:, k] for k in range(2)},
        "z along its class's mean": (pairs.z * own(mean_z)).sum(-1) / np.linalg.norm(own(mean_z), axis=-1),
        "distance of z to its class's mean": np.linalg.norm(pairs.z - own(mean_z), axis=-1),
        "p(class)": probs[np.arange(len(probs)), pairs.label],
        "entropy of the class": -(probs * pairs.log_prob).sum(-1),
        "color of the image, relative to its class": np.abs(pairs.image.mean((1, 2)) - own(mean_image)).sum(-1),
        "contrast of the image": pairs.image.std((1, 2, 3)),
        "roughness of the image": np.abs(np.diff(pairs.image, axis=1)).mean((1, 2, 3)),
    }


def p_values(posterior: ClassPosterior, z: np.ndarray, started: Pairs, fresh: Pairs, further: Pairs) -> dict[str, float]:
    """Return two-sample Kolmogorov-Smirnov p-values of evolved chains against fresh pairs."""
    evolved = statistics(Pairs(z, *values_and_log_probs(posterior, z), started.label), further)
    expected = statistics(fresh, further)
    return {name: float(stats.ks_2samp(evolved[name], expected[name]).pvalue) for name in evolved}


# Ten statistics of ten kernels, at level 1e-4 each: correct kernels fail by chance in fewer than 1 of 100 seeds, all together.
# A kernel that learns its proposals learns them for one label; test_surrogate.py tests it by quadrature.
TESTED = [n for n, family in kernel_samplers().items() if family.is_calibrated(family.defaults) and family.learn_fn is None]


@pytest.mark.parametrize("name", TESTED)
def test_chains_started_at_exact_draws_stay_at_the_exact_distribution(
    name: str, posterior: ClassPosterior, started: Pairs, fresh: Pairs, further: Pairs, warm: Prior
) -> None:
    z = evolve(posterior, name, started, warm)
    assert np.linalg.norm(z - started.z, axis=-1).mean() > 1.0, "the chains have to move for this to mean anything"
    values = p_values(posterior, z, started, fresh, further)
    assert min(values.values()) > LEVEL, values


def test_a_wrong_acceptance_is_found_out(
    posterior: ClassPosterior, started: Pairs, fresh: Pairs, further: Pairs, warm: Prior
) -> None:
    values = p_values(posterior, evolve(posterior, "broken", started, warm), started, fresh, further)
    assert min(values.values()) < LEVEL, values


def test_another_class_is_found_out(posterior: ClassPosterior, started: Pairs, fresh: Pairs, further: Pairs) -> None:
    """Draws of one class take the place of another's, as in chains that follow the wrong label."""
    values = p_values(posterior, started.z, started._replace(label=np.roll(started.label, 1)), fresh, further)
    assert min(values.values()) < LEVEL, values


def test_gradients_in_bfloat16_keep_the_values(posterior: ClassPosterior, started: Pairs) -> None:
    """So the distribution stays the same, too (test_precision.py): the Metropolis test uses only values."""
    low = ClassPosterior(load_generator(default_model("generator")), load_classifier(default_model("classifier")), 0)
    for model in (low.generator, low.classifier):
        assert lower_gradients(model.module) > 0
    z = tf.constant(started.z[:8])
    np.testing.assert_array_equal(low.class_log_prob(z), posterior.class_log_prob(z))
    gradients = [tfp.math.value_and_gradient(p.class_log_prob, z)[1].numpy() for p in (posterior, low)]
    error = np.linalg.norm(gradients[0] - gradients[1], axis=-1) / np.linalg.norm(gradients[0], axis=-1)
    assert error.min() > 0, "the gradients are of lower precision"
    assert error.max() < 0.5, "and point where they did"


def test_every_class_is_within_reach_and_cards_tell_the_truth(prior: Prior, root: Path) -> None:
    """With 8192 prior draws, a class of mass 0.002 is measured to about 0.0004."""
    mass = np.exp(prior.log_prob).mean(0)
    assert len(mass) == NUM_NAMED + 1
    assert mass[:NUM_NAMED].min() > 0.001, mass
    for name in SHIPPED_MODELS:
        folder = root / "saved_models" / name
        assert fingerprint(folder) in (folder / "MODEL.md").read_text()


def test_judge_and_discriminator_on_exact_draws(posterior: ClassPosterior, fresh: Pairs) -> None:
    """The judge names most exact draws, not weighted by class (in the card: 0.95, with equal weights), and on average a draw
    does not pass for a photograph."""
    image, label = tf.constant(fresh.image[:256]), fresh.label[:256]
    judge, discriminator = (load_classifier(default_model(name)) for name in ("judge", "discriminator"))
    assert [label.name for label in judge.labels] == [label.name for label in posterior.classifier.labels]
    assert np.mean(tf.argmax(judge(image), 1) == label) > 0.9  # 3 errors of 0.014 below
    assert [label.name for label in discriminator.labels] == ["generated", "natural"]
    natural = tf.nn.log_softmax(discriminator(image))[:, 1]
    assert -30 < float(tf.reduce_mean(natural)) < -0.5
    assert judge.sha256 != posterior.classifier.sha256
