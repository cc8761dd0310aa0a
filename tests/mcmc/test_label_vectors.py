"""A vector of labels, one per chain: one compiled batch, the right distribution for each label, and separate tuning."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.toy import SLOPE, ToyClassifier, ToyGenerator
from tfgradgen.core.backend import as_seed
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Draws, collect
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.diagnostics.stored_images import last_images
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc import kernel as kernels
from tfgradgen.mcmc.kernel import pooled_log_accept_prob
from tfgradgen.mcmc.registry import SAMPLERS, kernel_samplers
from tfgradgen.mcmc.rejection import class_moments, sample_exact
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior

LABELS = [0, 1, 2, 0, 2, 1, 1, 0]
SLOPES = (0.0, SLOPE, -1.0)
Z = np.linspace(-12, 12, 200_001)


class ThreeClasses(ToyClassifier):
    """A classifier with p(class k) proportional to exp(SLOPES[k] * first pixel)."""

    num_classes = 3

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return image[:, 0, 0, :1] * tf.constant(SLOPES)


GENERATOR, CLASSIFIER = ToyGenerator(), ThreeClasses()


def make(label: Any, **further: Any) -> ClassPosterior:
    return ClassPosterior(GENERATOR, CLASSIFIER, label, **further)


def exact_mean(label: int) -> tuple[float, float]:
    """Return the means of z_0 and p(class) under a label's posterior, by quadrature."""
    scores = np.exp(np.outer(SLOPES, Z))
    prob = scores[label] / scores.sum(0)
    weight = np.exp(-0.5 * Z**2) * prob
    return float((weight * Z).sum() / weight.sum()), float((weight * prob).sum() / weight.sum())


def run_chains(posterior: ClassPosterior, kernel: str, schedule: Schedule, run: RunConfig) -> Draws:
    init_z = choose_starts(posterior, run).z
    return sampling.sample_chains(posterior, kernel, SAMPLERS[kernel].defaults, schedule, run, init_z)[0]


def worst_z_score(draws: Draws, labels: list[int]) -> float:
    """Return the worst z-score of the means of z_0 and p(class) over the chains of each label; their spread gives the error."""
    scores = []
    for label in set(labels):
        own = np.flatnonzero(np.asarray(labels) == label)
        for statistic, expected in zip((draws.z[..., 0], draws.class_prob), exact_mean(label), strict=True):
            means = statistic[:, own].mean(0)
            scores.append(abs(means.mean() - expected) / means.std(ddof=1) * np.sqrt(len(own)))
    return float(max(scores))


BY_LABEL = [
    name for name, family in kernel_samplers().items() if family.tunes_by_label and family.is_calibrated(family.defaults)
]
ALIKE = {"hmc", "split_hmc", "local_global"}  # kernels whose step sizes are shared as in nuts and mala


@pytest.mark.parametrize("kernel", [pytest.param(k, marks=[pytest.mark.slow] if k in ALIKE else []) for k in BY_LABEL])
def test_each_label_has_its_own_distribution_in_one_batch(kernel: str) -> None:
    labels = [0, 1] * 24
    sampling.compiled.cache_clear()
    tuned = 60 if SAMPLERS[kernel].schedule.num_adaptation_steps else 0
    run = RunConfig(num_chains=len(labels), seed=2)
    draws = run_chains(make(labels), kernel, Schedule(60, 80, tuned), run)
    family, posterior = kernel_samplers()[kernel], make(labels)
    functions = sampling.compiled(posterior.networks, 1.0, kernel, family.compiled_as(family.defaults), 0, False)
    assert functions.chunk_fn.experimental_get_tracing_count() == 1
    assert worst_z_score(draws, labels) < 4.5, "6e-6 a score, or with 23 degrees of freedom 2e-4"
    assert worst_z_score(draws, labels[::-1]) > 20, "labels swapped"
    target = posterior.unnormalized_log_prob(draws.z[-1])
    np.testing.assert_allclose(draws.target_log_prob[-1], target, rtol=1e-4)
    np.testing.assert_allclose(draws.class_prob[-1], np.exp(posterior.class_log_prob(draws.z[-1])), rtol=1e-3)


def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassPosterior, "own_seed", lambda self, seed: as_seed(7))


def first_two(kernel: str, labels: list[int], generator: ToyGenerator = GENERATOR) -> tuple[np.ndarray, np.ndarray]:
    """Return z and the step sizes of the first two of as many chains as `LABELS` has, whose graph tests below use, too."""
    run, init_z = RunConfig(num_chains=8), 0.1 * tf.ones([8, 6])
    posterior = ClassPosterior(generator, CLASSIFIER, labels * 2)
    draws, _ = sampling.sample_chains(posterior, kernel, SAMPLERS[kernel].defaults, Schedule(6, 12, 12), run, init_z)
    return draws.z[:, :2], draws.step_size[:, :2]


@pytest.mark.parametrize("kernel", ["mala", "replica_exchange"])
def test_no_label_steers_the_step_size_of_another(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    z, step_size = first_two(kernel, [0, 0, 1, 1])
    np.testing.assert_array_equal(step_size[:, 0], step_size[:, 1], "chains of one label share theirs")
    for found, other in zip((z, step_size), first_two(kernel, [0, 0, 2, 2]), strict=True):
        np.testing.assert_array_equal(found, other)


def test_pooling_over_all_chains_fails_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_noise(monkeypatch)
    one_pool = lambda *args: pooled_log_accept_prob(*args[:3], tf.zeros_like(args[3]))  # noqa: E731
    monkeypatch.setattr(kernels, "pooled_log_accept_prob", one_pool)
    generator = ToyGenerator()  # of its own, and so are the graphs
    steps = [first_two("mala", [0, 0, other, other], generator)[1] for other in (1, 2)]
    assert not np.array_equal(*steps)


def test_the_pooled_mean_is_that_of_each_label_by_itself() -> None:
    rng = np.random.default_rng(0)
    log_prob, labels = np.log(rng.uniform(size=[2, 8])).astype(np.float32), np.array(LABELS, np.int32)
    is_fit, num_moves = rng.uniform(size=[2, 8]) < 0.8, rng.integers(0, 9, [2, 8]).astype(np.int32)
    found = pooled_log_accept_prob(log_prob, tf.constant(is_fit), num_moves, tf.constant(labels)).numpy()
    for label in set(LABELS):
        own = labels == label
        alone = pooled_log_accept_prob(log_prob[:, own], tf.constant(is_fit[:, own]), num_moves[:, own]).numpy()
        np.testing.assert_allclose(found[:, own], np.repeat(alone, own.sum(), 1), rtol=1e-5)


def test_the_chains_of_a_label_start_as_in_a_run_of_it_alone() -> None:
    found, moments = choose_starts(make(LABELS), RunConfig(num_chains=8, seed=3)), class_moments(make([2, 1, 2]), RunConfig())
    assert found.num_exact == 8
    assert found.num_draws == 8 * RunConfig.num_init_draws
    for label in range(3):
        places = np.flatnonzero(np.asarray(LABELS) == label)
        alone = choose_starts(make(label), RunConfig(num_chains=len(places), seed=3))
        np.testing.assert_array_equal(found.z.numpy()[places], alone.z)
        assert alone.class_prob != found.class_prob
    np.testing.assert_array_equal(moments[0][[0, 2]], [class_moments(make(2), RunConfig())[0]] * 2)
    np.testing.assert_array_equal(moments[1][1], class_moments(make(1), RunConfig())[1])


def test_rejection_draws_each_label_as_alone_and_goes_on_where_it_was() -> None:
    run, schedule = RunConfig(num_chains=8, seed=4), Schedule(40, 0, 0)
    draws, cost, prior_prob, _ = sample_exact(make(LABELS), 40, run)
    assert draws.z.shape == (40, 8, 6)
    assert worst_z_score(draws, LABELS) < 8, "2e-3 at the two degrees of freedom of three chains"
    assert abs(prior_prob - 1 / 3) < 0.1
    alone = sample_exact(make(1), 40, replace(run, num_chains=3))[0]
    for ours, theirs in zip(draws, alone, strict=True):
        np.testing.assert_array_equal(ours[:, [1, 5, 6]], theirs)
    chunks = [*SAMPLERS["rejection"].chunks_fn(make(LABELS), SAMPLERS["rejection"].defaults, schedule, run, None)]
    assert [len(chunk.draws.z) for chunk in chunks[:-1]] == [0] * (len(chunks) - 1)
    for cut in range(len(chunks) - 1):
        resume = Resume(chunks[cut].state, chunks[cut].stats)
        rest = collect(SAMPLERS["rejection"].chunks_fn(make(LABELS), SAMPLERS["rejection"].defaults, schedule, run, resume))
        np.testing.assert_array_equal(rest.draws.z, draws.z)
        assert rest.stats == chunks[-1].stats
    assert chunks[-1].cost.num_forward > cost.num_forward, "with those of the checks"


@pytest.mark.parametrize("class_reg", [0.0, 0.5])
def test_a_run_of_chains_goes_on_where_it_was(class_reg: float) -> None:
    schedule, run, method = Schedule(5, 20, 20), RunConfig(num_chains=8), SAMPLERS["mala"]
    config = replace(method.defaults, class_reg=class_reg)
    chunks = [*method.chunks_fn(make(LABELS), config, schedule, run, None)]
    rest = collect(method.chunks_fn(make(LABELS), config, schedule, run, Resume(chunks[0].state, chunks[0].stats)))
    np.testing.assert_array_equal(rest.draws.z, collect(chunks).draws.z)
    assert (rest.cost, rest.stats) == (chunks[-1].cost, chunks[-1].stats)


@pytest.mark.parametrize(("kernel", "class_reg", "chains"), [("mala", 0.5, LABELS), ("nuts", None, [0, 1, 2] * 2)])
def test_each_label_has_stats_and_costs_of_its_own(kernel: str, class_reg: float | None, chains: list[int]) -> None:
    schedule, run, method = Schedule(4, 4, 4), RunConfig(num_chains=len(chains)), SAMPLERS[kernel]
    config = method.defaults if class_reg is None else replace(method.defaults, class_reg=class_reg)
    posterior = make(chains)
    found = collect(method.chunks_fn(posterior, config, schedule, run, None))
    labels = found.stats["labels"]
    assert len(labels) == 3
    for own, (each, places) in zip(labels, posterior.each_label(), strict=True):
        alone = collect(method.chunks_fn(each, config, schedule, replace(run, num_chains=len(places)), None))
        assert {name: own[name] for name in alone.stats} == alone.stats
        assert kernel == "nuts" or (own["num_gradients"], own["num_forward"]) == (
            alone.cost.num_gradients,
            alone.cost.num_forward,
        )
    assert sum(own["num_gradients"] for own in labels) == found.cost.num_gradients
    checks = admit(posterior, run, takes_gradients=True)
    shared = sum(cost[1] for _, cost in checks.of_each) - checks.cost[1]
    assert sum(own["num_forward"] for own in labels) == found.cost.num_forward + shared, "the checks of the models serve all"


def test_regularization_is_that_of_the_class_of_each_chain() -> None:
    config = replace(SAMPLERS["map"].defaults, class_reg=0.5, clip_sigma=1.0, clip_around="class")
    found = collect(SAMPLERS["map"].chunks_fn(make([1, 2]), config, Schedule(3, 0, 0), RunConfig(num_chains=2), None))
    mean, scale, _ = class_moments(make([1, 2]), RunConfig(num_chains=2))
    assert (np.abs(found.draws.z - mean) <= scale * 1.0001).all()
    assert np.sign(found.draws.z[-1, :, 0]).tolist() == [1, -1]


def test_each_label_is_checked_once() -> None:
    class Flat(ThreeClasses):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            near = tf.concat([image[:, 0, 0, :1], 1e-4 * image[:, 0, 0, :1], 0 * image[:, 0, 0, :1]], 1)
            return tf.math.log(tf.nn.softmax(near) * [1.0, 0.0, 0.0] + [0.0, 0.3, 0.3])

    lines = admit(ClassPosterior(GENERATOR, Flat(), [0, 1, 1, 2]), RunConfig(num_chains=4), takes_gradients=False).warnings
    assert sum("of '1'" in line for line in lines) == sum("of '2'" in line for line in lines)
    one, three = (admit(make(label), RunConfig(), takes_gradients=True).cost for label in (1, LABELS))
    assert (three[0], three[1]) == (3 * one[0], one[1])


def test_stored_images_are_compared_with_the_class_of_their_own_chain() -> None:
    class Bounded(ToyGenerator):
        def __call__(self, z: tf.Tensor) -> tf.Tensor:
            return tf.tanh(super().__call__(z))

    posterior, swapped = (ClassPosterior(Bounded(), CLASSIFIER, labels) for labels in ([0, 1, 2, 1], [1, 2, 1, 0]))
    draws = sample_exact(posterior, 2, RunConfig(num_chains=4))[0]
    assert last_images(posterior, draws)[1] == []
    assert "4 of 4" in last_images(swapped, draws)[1][0]


@pytest.mark.parametrize(
    ("kernel", "match"), [("smc", "one label for smc, got a vector of 2"), ("chees", "one label for chees, got a vector of 2")]
)
def test_methods_that_take_one_label_say_so(kernel: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        collect(
            SAMPLERS[kernel].chunks_fn(
                make([0, 1]), SAMPLERS[kernel].defaults, Schedule(4, 4, 4), RunConfig(num_chains=2), None
            )
        )


def test_one_label_for_each_chain() -> None:
    run = RunConfig(num_chains=3)
    for call in (
        lambda: choose_starts(make([0, 1]), run),
        lambda: sample_exact(make([0, 1]), 2, run),
        lambda: sampling.sample_chains(
            make([0, 1]), "mala", SAMPLERS["mala"].defaults, Schedule(1, 0, 0), run, tf.zeros([3, 6])
        ),
    ):
        with pytest.raises(
            UserError, match=r"label: expected 3 labels, one per chain, got 2 labels; give RunConfig\(num_chains=2\)"
        ):
            call()
