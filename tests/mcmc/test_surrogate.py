"""Learned proposals: the draws are exact whatever the network says, and useless proposals are found by fresh draws and dropped.

True values are computed by quadrature, and chains start at exact draws, so any change is a bias of the run.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.toy import ToyClassifier, ToyGenerator
from tests.support.two_modes import CELL, GRID, FiveClasses, Plane, Truth, statistics_of
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import SamplerResult, collect
from tfgradgen.mcmc import surrogate, surrogate_fit, surrogate_net
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.mcmc.surrogate import Proposals, SurrogateConfig, Weights
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.labels import Label
from tfgradgen.posterior import ClassPosterior

NUM_CHAINS = 600
CONFIG = SurrogateConfig(num_proposals=6, num_pool_draws=2048, num_judged_draws=256)
POSTERIOR = ClassPosterior(Plane(), FiveClasses(), 2)


def forget() -> None:
    """Forget all that was learned."""
    surrogate_fit._FITS.clear()
    surrogate_fit._learned.cache_clear()


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "WIDTH", 16)
    monkeypatch.setattr(surrogate, "BLOCK", 16)
    monkeypatch.setattr(surrogate_net, "MAX_EPOCHS", 30)
    forget()


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(POSTERIOR)


def wrong_weights(slope: float = 3.0) -> Weights:
    """Return a network that is confident and wrong: it puts the class where z_0 and z_1 are large."""
    shapes = surrogate.shapes(2, 5)
    return Weights(*(tf.zeros(shape) for shape in shapes))._replace(linear=slope * tf.one_hot([2, 2], 5))


def proposals_of(weights: Weights, power: float = 0.7, log_cap: float = -0.1, log_floor: float = -2.5) -> Proposals:
    return Proposals(weights, *(tf.constant(value, tf.float32) for value in (power, log_cap, log_floor)))


def new_step(posterior: ClassPosterior) -> tuple[Any, Any]:
    """Return the kernel and a transition of it, with a graph of its own that serves all proposals."""
    kernel = SAMPLERS["surrogate"].make_fn(posterior, CONFIG, None, 0)  # type: ignore[attr-defined]

    @tf.function(autograph=False)
    def step(z: tf.Tensor, results: Any, k: tf.Tensor) -> Any:
        z, results = kernel.one_step(z, results, seed=fold_in(as_seed(3), k))
        return z, results, tf.exp(posterior.class_log_prob(z))

    return kernel, step


step_of = functools.cache(new_step)


def run_of(
    proposals: Proposals, init: np.ndarray, posterior: ClassPosterior = POSTERIOR, num_steps: int = 8, make_step: Any = step_of
) -> np.ndarray:
    """Return the means [num_chains, 6] of `statistics_of` over each chain of a run with these proposals."""
    kernel, step = make_step(posterior)
    z = tf.constant(init)
    results, means = kernel.bootstrap_results(z)._replace(proposals=proposals), []
    for k in range(num_steps):
        z, results, prob = step(z, results, tf.constant(k))
        means.append(statistics_of(z.numpy(), prob.numpy()))
    return np.mean(means, 0)


WRONG = {
    "another class": lambda: proposals_of(wrong_weights()),
    "another floor and cap": lambda: proposals_of(wrong_weights(), log_cap=-4.0, log_floor=1.0),
    "no number": lambda: proposals_of(wrong_weights(np.nan), log_floor=0.0),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_draws_are_exact_whatever_the_network_says(kind: str, truth: Truth) -> None:
    """One of 18 z-scores exceeds 4 with probability 0.1 %."""
    assert abs(truth.z_scores(run_of(WRONG[kind](), truth.draw(NUM_CHAINS, 1)))).max() < 4


def test_weights_without_the_density_of_the_proposals_are_found_out(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the same proposals, weighted as prior draws."""
    resample = surrogate.resample

    def forgetful(likelihood_fn: Any, place: Any, draw_fn: Any, num: Any, seed: Any) -> Any:
        without = place._replace(log_density=tf.zeros_like(place.log_density))
        return resample(likelihood_fn, without, lambda i, s: (draw_fn(i, s)[0], 0.0), num, seed)

    monkeypatch.setattr(surrogate, "resample", forgetful)
    means = run_of(WRONG["another class"](), truth.draw(NUM_CHAINS, 1), make_step=new_step)
    assert abs(truth.z_scores(means)).max() > 4


def test_proposals_have_the_density_that_is_said(truth: Truth) -> None:
    """Means of z agree with quadrature of the prior times g; those of plain prior draws differ."""
    proposals = WRONG["another class"]()
    likelihood_fn = POSTERIOR.likelihood_of
    z, log_g = surrogate.propose(proposals, likelihood_fn, tf.zeros([64, 2]), 50, as_seed(5))
    assert z.shape == (64, 50, 2)
    flat = tf.reshape(z, [-1, 2])
    np.testing.assert_allclose(
        tf.reshape(log_g, [-1]), surrogate.log_density(proposals, likelihood_fn, flat), rtol=1e-4, atol=1e-4
    )
    weight = np.exp(surrogate.log_density(proposals, likelihood_fn, tf.constant(GRID)).numpy().astype(np.float64))
    weight *= np.exp(-0.5 * np.square(GRID.astype(np.float64)).sum(1))
    weight /= weight.sum()
    for power in (1, 2):
        expected, found = weight @ GRID.astype(np.float64) ** power, flat.numpy().astype(np.float64) ** power
        error = found.std(0) / np.sqrt(len(found))
        assert abs((found.mean(0) - expected) / error).max() < 4
        if power == 1:
            assert (expected / error).min() > 6, "prior draws have a mean of 0"


def test_a_run_learns_and_keeps_both_modes(truth: Truth) -> None:
    run, init = RunConfig(num_chains=NUM_CHAINS, seed=1), tf.constant(truth.draw(NUM_CHAINS, 0))
    draws, cost = sample_chains(POSTERIOR, "surrogate", CONFIG, Schedule(6, 2, 0), run, init)
    assert abs(truth.z_scores(statistics_of(draws.z, draws.class_prob).mean(0))).max() < 4
    np.testing.assert_allclose(draws.target_log_prob, POSTERIOR.unnormalized_log_prob(draws.z), rtol=1e-4, atol=1e-4)
    assert cost.num_gradients == 0
    found = surrogate_fit.learned(POSTERIOR, CONFIG, run)
    assert found.stats["proposals"] == "surrogate"
    assert found.stats["surrogate"]["effective_share"] > 1.2 * found.stats["prior"]["effective_share"]
    assert found.num_forward == 256, "the pool is that of the starts"
    few = surrogate_fit.learned(POSTERIOR, CONFIG, RunConfig(num_chains=2, seed=1))
    assert few.num_forward == 2048 - 2 * RunConfig.num_init_draws + 256


def test_a_discriminator_s_term_is_in_the_weights(truth: Truth) -> None:
    """Its log-odds decrease in z_1 and are unbounded."""
    posterior = ClassPosterior(
        Plane(), FiveClasses(), 2, discriminator=lambda image: -image[:, 0, 1, 0], discriminator_weight=0.7
    )
    weight = truth.weight * np.exp(-0.7 * GRID[:, 1].astype(np.float64))
    weight /= weight.sum()
    rng = np.random.default_rng(2)
    init = GRID[rng.choice(len(GRID), NUM_CHAINS, p=weight)] + CELL * rng.uniform(-0.5, 0.5, [NUM_CHAINS, 2])
    means = run_of(WRONG["another class"](), init.astype(np.float32), posterior)[:, 1:]
    prob = np.zeros(len(GRID))
    expected = (weight @ statistics_of(GRID, prob))[1:]
    error = means.std(0, ddof=1) / np.sqrt(NUM_CHAINS)
    assert abs((means.mean(0) - expected) / error).max() < 4
    assert abs((means.mean(0) - truth.means[1:]) / error).max() > 4, "without the term"


def three_classes() -> Classifier:
    return Classifier(lambda image: image[:, 0, 0, :1] * [0.0, 2.0, -1.0], tuple(map(Label, "abc")), (2, 2), (-1.0, 1.0))


@pytest.mark.parametrize(("label", "temperature"), [(1, 1.0), ("b", 0.5), ("a & !b", 1.0), ("a | 0.5*c", 2.0)])
def test_one_network_serves_labels_conditions_and_temperatures(label: Any, temperature: float) -> None:
    classifier, z = three_classes(), tf.random.stateless_normal([20, 6], [1, 2])
    posterior = ClassPosterior(ToyGenerator(), classifier, label, temperature=temperature)
    log_probs = posterior.asked[0].log_probs(ToyGenerator()(z))
    np.testing.assert_allclose(posterior.likelihood_of(log_probs), posterior.likelihood_log_prob(z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(posterior.likelihood_of(log_probs + 3.0), posterior.likelihood_of(log_probs), atol=1e-4)


def test_labels_and_conditions_share_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fit_network = surrogate_net.fit_network
    monkeypatch.setattr(surrogate_fit, "fit_network", lambda *given: calls.append(1) or fit_network(*given))
    generator, classifier, run = ToyGenerator(), three_classes(), RunConfig(num_chains=2)
    found = [
        surrogate_fit.learned(ClassPosterior(generator, classifier, label, temperature=temperature), CONFIG, run)
        for label, temperature in (("a", 1.0), ("b", 0.5), ("a & !b", 1.0))
    ]
    assert len(calls) == 3, "one that proposes, two that are judged"
    floors = {float(each.results["proposals"].log_floor) for each in found}
    assert len(floors) == 3, "each has proposals of its own"


@pytest.fixture
def useless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate_fit, "fit_network", lambda *given: surrogate_net.Fit(wrong_weights(), 1.0))


@pytest.mark.usefixtures("useless")
def test_prior_draws_take_the_place_of_a_useless_surrogate(truth: Truth) -> None:
    run = RunConfig(num_chains=4, seed=1)
    config = replace(CONFIG, power=0.5)  # at the lowest powers, even these proposals are nearly prior draws
    found = collect(SAMPLERS["surrogate"].chunks_fn(POSTERIOR, config, Schedule(3, 1, 0), run, None))
    (line,) = [line for line in found.stats["doubts"] if line.startswith("surrogate: ")]
    assert line.startswith(
        "surrogate: its proposals are no better than prior draws for this label, which take their place: of its proposals "
    )
    assert "\n" not in line
    assert found.stats["learned"]["proposals"] == "prior"
    proposals = surrogate_fit.learned(POSTERIOR, config, run).results["proposals"]
    z, log_g = surrogate.propose(proposals, POSTERIOR.likelihood_of, tf.zeros([500, 2]), 16, as_seed(5))
    assert len(np.unique(log_g)) == 1
    assert abs(np.square(z).mean() - 1) < 4 * np.sqrt(2 / z.numpy().size)
    assert abs(truth.z_scores(run_of(proposals, truth.draw(NUM_CHAINS, 1), num_steps=4))).max() < 4


def test_a_search_for_proposals_ends_though_none_is_ever_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """This can happen with a damaged checkpoint. A proposal that is not found has no weight in a move."""
    monkeypatch.setattr(surrogate, "MAX_BLOCKS", 3)
    proposals = WRONG["another class"]()._replace(log_floor=tf.constant(np.nan, tf.float32))
    _, log_g = surrogate.propose(proposals, POSTERIOR.likelihood_of, tf.zeros([2, 2]), 5, as_seed(5))
    assert np.isposinf(log_g).all()


def test_the_power_is_that_of_the_best_proposals() -> None:
    """Where the network says k times log p, it is 1 / k: all proposals but few from the prior are then draws of the target."""
    rng = np.random.default_rng(0)
    z, slope = rng.standard_normal([4000, 1]).astype(np.float32), np.array([-1.5, 0.0])
    log_probs = np.asarray(tf.nn.log_softmax(z * slope), np.float32)

    class Two:
        num_classes = 2

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return image[:, 0, 0, :1] * slope.astype(np.float32)

    posterior, weights, config = ClassPosterior(Plane(), Two(), 0), wrong_weights(), replace(CONFIG, prior_share=1e-6)
    for factor, power in ((1.0, 1.0), (2.0, 0.5), (5.0, 0.2)):
        said = factor * log_probs
        said[:, 1] = np.log(-np.expm1(said[:, 0]))  # normalized, as the softmax of any outputs is
        fit = surrogate_fit.Fitted(weights, surrogate_fit.Rows(z, log_probs), said)
        assert surrogate_fit.power_of(fit, posterior, config) == power
        assert surrogate_fit.power_of(fit, posterior, replace(config, power=0.7)) == 0.7
    own, wide = (surrogate_fit.expected_share(k * log_probs[:, 0], log_probs[:, 0], 1e-6) for k in (1.0, 0.1))
    assert own > 0.99 > wide


def test_where_nothing_is_finite_nothing_is_learned() -> None:
    class Never(FiveClasses):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) * np.nan

    found = surrogate_fit.learned(ClassPosterior(Plane(), Never(), 2), CONFIG, RunConfig())
    assert found.stats == {
        "proposals": "prior",
        "prior": {"effective_share": 0.0, "largest_share": 1.0, "pareto_k": None},
    }
    assert found.warnings[0].endswith(": too few prior draws have finite log-probabilities")


@pytest.mark.parametrize("k", [0.3, 0.9])
def test_quality_knows_the_tail_of_weights(k: float) -> None:
    """exp(k X) with an exponential X has a Pareto tail with shape k."""
    log_weight = k * np.random.default_rng(1).exponential(size=20_000)
    found = surrogate_fit.quality(np.append(log_weight, [np.nan, -np.inf]))
    assert abs(found.pareto_k - k) < 0.2
    weight = np.exp(log_weight)
    assert found.effective_share == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / 20_002)
    assert found.largest_share == pytest.approx(weight.max() / weight.sum())
    good, bad = surrogate_fit.Quality(0.2, 0.1, 0.3), surrogate_fit.Quality(0.1, 0.1, 0.3)
    assert surrogate_fit.is_better(good, bad)
    assert not surrogate_fit.is_better(bad, good)
    assert not surrogate_fit.is_better(good._replace(pareto_k=0.9), bad)
    assert surrogate_fit.is_better(good._replace(effective_share=0.95, pareto_k=0.9), bad)


def whole_run(resume_after: int | None = None) -> SamplerResult:
    """Return a run, from the checkpoint after this number of chunks if it is given."""
    run, method = RunConfig(num_chains=3, seed=2), SAMPLERS["surrogate"]
    schedule = Schedule(6, 2, 0)
    if resume_after is None:
        return collect(method.chunks_fn(POSTERIOR, CONFIG, schedule, run, None))
    chunks: Iterator[Any] = method.chunks_fn(POSTERIOR, CONFIG, schedule, run, None)
    begun = [next(chunks) for _ in range(resume_after)]
    forget()
    rest = method.chunks_fn(POSTERIOR, CONFIG, schedule, run, Resume(begun[-1].state, begun[-1].stats))
    return collect([*begun, *rest])


def test_a_run_is_the_same_again_and_from_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is fitted again for the first, and comes from the checkpoint in the second."""
    first = whole_run()
    forget()
    again = whole_run()
    monkeypatch.setattr(surrogate_fit, "fit_network", lambda *given: pytest.fail("fitted again"))
    for other in (again, whole_run(2)):
        for one, two in zip(first.draws, other.draws, strict=True):
            np.testing.assert_array_equal(one, two)
        assert (first.cost, first.stats) == (other.cost, other.stats)
    assert first.stats["start_cost"][1] >= 2048 + 256


def test_a_vector_of_labels_is_refused() -> None:
    posterior = ClassPosterior(ToyGenerator(), ToyClassifier(), [0, 1])
    with pytest.raises(UserError, match="label: expected one label for surrogate, got a vector of 2 labels; run it for each"):
        collect(SAMPLERS["surrogate"].chunks_fn(posterior, CONFIG, Schedule(2, 1, 0), RunConfig(num_chains=2), None))
