"""The shipped models and kernels together: what the README promises. Slow, and the heart of the suite."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfgradgen import ClassPosterior, RunConfig, load_classifier, load_generator, sample_exact
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.mcmc.registry import kernel_sampler, kernel_samplers
from tfgradgen.mcmc.replica_exchange import ReplicaConfig, inverse_temperatures
from tfgradgen.models.loading.metadata import fingerprint
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.shipped import SHIPPED_MODELS, default_model

pytestmark = pytest.mark.slow

NUM_DRAWS = 320  # exact draws evolved, and as many fresh ones to compare with
BATCH = 64
STEP_SIZE = 0.2
LEVEL = 1e-4
TRANSITIONS = {  # of about ten gradients
    "mala": 10,
    "broken": 10,
    "hmc": 3,
    "split_hmc": 3,
    "chees": 3,
    "nuts": 2,
    "local_global": 2,
    "replica_exchange": 2,
    "elliptical_slice": 5,
}


@pytest.fixture(scope="module")
def posterior() -> ClassPosterior:
    return ClassPosterior(load_generator(default_model("generator")), load_classifier(default_model("classifier")), 0)


@pytest.fixture(scope="module")
def low_posterior() -> ClassPosterior:
    """The same density, bit for bit, with gradients in bfloat16."""
    generator, classifier = load_generator(default_model("generator")), load_classifier(default_model("classifier"))
    for model in (generator, classifier):
        assert lower_gradients(model.module) > 0
    return ClassPosterior(generator, classifier, 0)


@pytest.fixture(scope="module")
def exact_sets(posterior: ClassPosterior) -> list[tf.Tensor]:
    """Two independent sets of exact goldfish draws [NUM_DRAWS, latent_dim]."""
    z = sample_exact(posterior, 2, RunConfig(num_chains=NUM_DRAWS, seed=4))[0].z
    return [tf.constant(z[0]), tf.constant(z[1])]


class ForgetsTheProposal(tfp.mcmc.UncalibratedLangevin):
    """A Langevin proposal that reports itself symmetric, so that the Metropolis test accepts by the target's ratio alone."""

    def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
        state, results = super().one_step(current_state, previous_kernel_results, seed=seed)
        correction = tf.zeros_like(results.log_acceptance_correction)
        return state, results._replace(log_acceptance_correction=correction)


def make_kernel(name: str, posterior: ClassPosterior) -> tfp.mcmc.TransitionKernel:
    if name == "broken":
        return tfp.mcmc.MetropolisHastings(ForgetsTheProposal(posterior.unnormalized_log_prob, step_size=STEP_SIZE**2))
    step_size = STEP_SIZE if name in ("mala", "local_global") else STEP_SIZE / 2
    family = kernel_sampler(name)
    kernel = family.make_fn(posterior, family.defaults, tf.fill(family.step_shape(family.defaults), step_size), 0)
    return kernel.copy(state_includes_replicas=True) if name == "replica_exchange" else kernel


def exact_replicas(posterior: ClassPosterior, z: tf.Tensor) -> tf.Tensor:
    """`z` and exact draws of each further replica's own law: only all together are they where the kernel is to stay."""
    config = kernel_sampler("replica_exchange").defaults
    assert isinstance(config, ReplicaConfig)
    tempered = []
    for k, power in enumerate(inverse_temperatures(config)[1:]):
        warm = ClassPosterior(posterior.generator, posterior.classifier, posterior.label, temperature=float(1 / power))
        tempered.append(sample_exact(warm, 1, RunConfig(num_chains=len(z), seed=10 + k))[0].z[0])
    return tf.stack([z, *tempered])


def evolve(posterior: ClassPosterior, name: str, z: tf.Tensor) -> tf.Tensor:
    """`z` [NUM_DRAWS, latent_dim] after some transitions, the kernel's settings frozen."""
    kernel = make_kernel(name, posterior)
    state = exact_replicas(posterior, z) if name == "replica_exchange" else z

    @tf.function(autograph=False)
    def go(z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        results = kernel.bootstrap_results(z)
        if name == "chees":
            results = results._replace(averaged_max_trajectory_length=tf.constant(4 * STEP_SIZE / 2))  # as if it were tuned
        step = lambda i, z, results: (i + 1, *kernel.one_step(z, results, seed=fold_in(seed, i)))  # noqa: E731
        return tf.while_loop(lambda i, *_: i < TRANSITIONS[name], step, (0, z, results), parallel_iterations=1)[1]

    batches = [go(state[..., k : k + BATCH, :], fold_in(as_seed(2), k)) for k in range(0, len(z), BATCH)]
    evolved = tf.concat(batches, -2)
    return evolved[0] if name == "replica_exchange" else evolved


def statistics(posterior: ClassPosterior, z: tf.Tensor) -> dict[str, np.ndarray]:
    """Scalars of z, of the classifier's opinion, and of the pictures, [NUM_DRAWS] each."""
    images = tf.concat([posterior.generator(z[k : k + BATCH]) for k in range(0, len(z), BATCH)], 0)
    logits = tf.concat([posterior.classifier(images[k : k + BATCH]) for k in range(0, len(z), BATCH)], 0)
    directions = np.random.default_rng(0).standard_normal((z.shape[1], 3)) / np.sqrt(z.shape[1])
    projections = z.numpy() @ directions
    probs = tf.nn.softmax(logits).numpy()
    return {
        "squared norm of z": np.square(z).sum(-1),
        **{f"projection {k} of z": projections[:, k] for k in range(3)},
        "goldfish coordinate of z": z[:, 0].numpy(),
        "p(class)": probs[:, 0],
        "entropy of the class": -(probs * np.log(probs + 1e-30)).sum(-1),
        "mean red of the picture": images.numpy()[..., 0].mean((1, 2)),
        "contrast of the picture": images.numpy().std((1, 2, 3)),
        "roughness of the picture": np.abs(np.diff(images.numpy(), axis=1)).mean((1, 2, 3)),
    }


def p_values(posterior: ClassPosterior, z: tf.Tensor, fresh: tf.Tensor) -> dict[str, float]:
    """Two-sample Kolmogorov-Smirnov p-values of evolved draws against fresh ones."""
    evolved, expected = statistics(posterior, z), statistics(posterior, fresh)
    return {name: float(stats.ks_2samp(evolved[name], expected[name]).pvalue) for name in evolved}


# Ten statistics of ten kernels, at level 1e-4 each: correct kernels fail by chance in less than 1 seed of 100, all together.
# The wrong one has a p-value of 1e-20 or so.
@pytest.mark.parametrize("name", [name for name, family in kernel_samplers().items() if family.is_calibrated(family.defaults)])
def test_chains_started_at_exact_draws_stay_at_the_exact_law(
    name: str, posterior: ClassPosterior, exact_sets: list[tf.Tensor]
) -> None:
    z = evolve(posterior, name, exact_sets[0])
    assert float(tf.reduce_mean(tf.norm(z - exact_sets[0], axis=-1))) > 1.0, "the chains have to move for this to mean anything"
    values = p_values(posterior, z, exact_sets[1])
    assert min(values.values()) > LEVEL, values


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_gradients_in_bfloat16_keep_the_exact_law(
    name: str, posterior: ClassPosterior, low_posterior: ClassPosterior, exact_sets: list[tf.Tensor]
) -> None:
    z = evolve(low_posterior, name, exact_sets[0][: 2 * BATCH])  # where bfloat16 is emulated, ten times as dear as float32
    values = p_values(posterior, z, exact_sets[1])
    assert min(values.values()) > LEVEL, values
    np.testing.assert_array_equal(low_posterior.class_log_prob(z[:BATCH]), posterior.class_log_prob(z[:BATCH]))


def test_a_wrong_acceptance_is_found_out(posterior: ClassPosterior, exact_sets: list[tf.Tensor]) -> None:
    values = p_values(posterior, evolve(posterior, "broken", exact_sets[0]), exact_sets[1])
    assert min(values.values()) < LEVEL, values


def test_every_class_is_within_reach_and_cards_tell_the_truth(posterior: ClassPosterior, root: Path) -> None:
    """2048 prior draws: a class of mass 0.02 is measured to about 0.003."""
    draws = [posterior.sample_prior(BATCH, fold_in(as_seed(3), k)) for k in range(32)]
    mass = np.mean([tf.nn.softmax(posterior.class_logits(z)).numpy().mean(0) for z in draws], 0)
    assert len(mass) == 21
    assert mass[:20].min() > 0.01, mass
    for name in SHIPPED_MODELS:
        folder = root / "saved_models" / name
        assert fingerprint(folder) in (folder / "MODEL.md").read_text()


def test_judge_and_discriminator_on_exact_draws(posterior: ClassPosterior, exact_sets: list[tf.Tensor]) -> None:
    """On exact goldfish draws: the judge knows many of them, and on average a draw does not pass for a photograph."""
    z = exact_sets[0][:BATCH]
    judge, discriminator = (load_classifier(default_model(name)) for name in ("judge", "discriminator"))
    image = posterior.generator(z)
    assert [label.name for label in judge.labels] == [label.name for label in posterior.classifier.labels]
    right = tf.argmax(judge(image), 1) == 0
    assert float(tf.reduce_mean(tf.cast(right, tf.float32))) > 0.4
    assert [label.name for label in discriminator.labels] == ["generated", "natural"]
    natural = tf.nn.log_softmax(discriminator(image))[:, 1]
    assert -30 < float(tf.reduce_mean(natural)) < -0.5
    assert judge.sha256 != posterior.classifier.sha256
