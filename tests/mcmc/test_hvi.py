"""Hamiltonian variational inference: its bound, weights and exact chains, on targets with known values."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support.command import refused
from tests.support.toy import ToyClassifier, ToyGenerator
from tests.support.two_modes import CELL, GRID, NUM_CHAINS, FiveClasses, Plane, Truth, statistics_of
from tfgradgen.cli.commands import main
from tfgradgen.core.arrays import StateError
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, collect
from tfgradgen.mcmc import hvi, hvi_path
from tfgradgen.mcmc.hvi import SAMPLER, HviConfig
from tfgradgen.mcmc.importance import log_mean, of_weights
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.posterior import ClassPosterior

NUM_PATHS, NUM_FEW_PATHS, NUM_MOVES = 4000, 1000, 6
# The first target has light-tailed weights, so their spread gives the error of their mean.
WIDE = hvi_path.first_rows(np.zeros(2), np.full(2, 1.3), 2, 0.2)
UNLEARNED = hvi_path.first_rows(np.array([0.3, -0.2]), np.array([0.8, 1.1]), 2, 0.4)


class Gaussian:
    """A classifier whose log p(class 0) is a parabola, so that the posterior of z is normal."""

    num_classes, middle, width = 2, np.array([1.0, -0.5]), np.array([0.5, 0.8])

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        z = image[:, 0, :, 0]
        log_prob = -0.5 * tf.reduce_sum(tf.square((z - self.middle) / self.width), -1)
        return tf.stack([log_prob, tf.math.log(-tf.math.expm1(tf.minimum(log_prob, -1e-6)))], -1)


GAUSSIAN = ClassPosterior(Plane(), Gaussian(), 0)


def evidence_of_gaussian() -> float:
    variance = 1 + Gaussian.width**2
    return float((np.log(Gaussian.width) - 0.5 * np.log(variance) - 0.5 * Gaussian.middle**2 / variance).sum())


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth.of(ClassPosterior(Plane(), FiveClasses(), 2))


@pytest.fixture(scope="module")
def evidence(truth: Truth) -> float:
    """Return log p(class), by quadrature."""
    prob = np.exp(truth.posterior.class_log_prob(tf.constant(GRID)).numpy().astype(np.float64))
    prior = np.exp(-0.5 * np.square(GRID.astype(np.float64)).sum(-1)) / (2 * np.pi)
    return float(np.log((prob * prior).sum() * CELL**2))


def learned(posterior: ClassPosterior, **settings: Any) -> np.ndarray:
    """Return the parameters after a short run."""
    found = [
        *hvi.hvi_chunks(
            posterior,
            HviConfig(num_leapfrog_steps=2, num_start_draws=2048, first_step=0.1, **settings),
            1,
            RunConfig(num_chains=8),
        )
    ]
    return found[-1].state["rows"]


@pytest.fixture(scope="module")
def learned_rows(truth: Truth) -> np.ndarray:
    return learned(truth.posterior, num_optimization_steps=100, learning_rate=0.05)


def new_weights_fn(posterior: ClassPosterior, num: int) -> Any:
    """Return a function with a graph of its own: rows -> the log weights [num] of paths."""

    def draw(rows: tf.Tensor) -> tf.Tensor:
        return hvi_path.draw_paths(posterior, hvi_path.Parameters.of(rows), num, as_seed(3)).log_weight

    return tf.function(draw, autograph=False)


weights_fn = functools.cache(new_weights_fn)


def weights_of(posterior: ClassPosterior, rows: np.ndarray, num: int = NUM_PATHS) -> np.ndarray:
    return weights_fn(posterior, num)(tf.constant(rows)).numpy()


def above(log_weight: np.ndarray, evidence: float) -> float:
    """Return by how many standard errors the bound exceeds the true value."""
    found = of_weights(log_weight)
    return float((found["bound"] - evidence) / found["bound_error"])


def errors_off(log_weight: np.ndarray, evidence: float) -> float:
    """Return the error of the mean weight, whose expectation is the mass of the target, in standard errors."""
    weight = np.exp(log_weight.astype(np.float64) - evidence)
    return float((weight.mean() - 1) / weight.std(ddof=1) * np.sqrt(len(weight)))


def test_the_bound_is_below_the_truth_and_the_mean_weight_is_the_truth(
    truth: Truth, evidence: float, learned_rows: np.ndarray
) -> None:
    weights = {name: weights_of(truth.posterior, rows) for name, rows in {"wide": WIDE, "learned": learned_rows}.items()}
    for log_weight in weights.values():
        assert above(log_weight, evidence) < 4
    assert abs(errors_off(weights["wide"], evidence)) < 4
    found = {name: of_weights(log_weight) for name, log_weight in weights.items()}
    gained = found["learned"]["bound"] - found["wide"]["bound"]
    assert gained > 4 * np.hypot(found["learned"]["bound_error"], found["wide"]["bound_error"]), "learning raises it"


WRONG: dict[str, Callable[[hvi_path.Walk], hvi_path.Walk]] = {
    "without the reverse model": lambda end: end._replace(log_to=tf.zeros_like(end.log_to)),
    "without the entropy of the momenta": lambda end: end._replace(log_from=tf.zeros_like(end.log_from)),
    "without a Jacobian": lambda end: end._replace(z=1.1 * end.z),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_weight_is_found_out(wrong: str, truth: Truth, evidence: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control. Without r, the "bound" exceeds the true value, and the mean weight is unbounded; any other error
    moves the mean weight."""
    walk = hvi_path.walk
    monkeypatch.setattr(hvi_path, "walk", lambda *given: WRONG[wrong](walk(*given)))
    log_weight = new_weights_fn(truth.posterior, NUM_PATHS)(tf.constant(WIDE)).numpy()
    if wrong == "without the reverse model":
        assert above(log_weight, evidence) > 4
    else:
        assert abs(errors_off(log_weight, evidence)) > 4


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_it_is_tight_on_a_normal_target(second_derivatives: bool) -> None:
    rows = learned(GAUSSIAN, num_optimization_steps=400, learning_rate=0.03, second_derivatives=second_derivatives)
    log_weight = weights_of(GAUSSIAN, rows, NUM_FEW_PATHS)
    assert abs(above(log_weight, evidence_of_gaussian())) < 4
    assert of_weights(log_weight)["bound_error"] < 0.01, "so wide an error would agree with anything"


def test_without_learning_it_is_not_tight() -> None:
    """The negative control of the test above."""
    assert above(weights_of(GAUSSIAN, UNLEARNED, NUM_FEW_PATHS), evidence_of_gaussian()) < -4


@functools.cache
def _moves(prior_share: float) -> Any:
    posterior = ClassPosterior(Plane(), FiveClasses(), 2)
    config = HviConfig(exact=True, num_leapfrog_steps=2, num_proposals=1, prior_share=prior_share)
    return posterior, hvi._compiled(posterior.networks, 1.0, config, NUM_CHAINS, False).move_fn


def moved(truth: Truth, rows: np.ndarray, seed: int, prior_share: float = 0.1) -> np.ndarray:
    """Return z-scores of `statistics_of` after a few transitions of chains that start at exact draws."""
    posterior, move_fn = _moves(prior_share)
    z, has_jumped = tf.constant(truth.draw(NUM_CHAINS, seed)), np.zeros(NUM_CHAINS)
    for k in range(NUM_MOVES):
        z, class_log_prob, _, jumps = move_fn(posterior.label, tf.constant(rows), fold_in(as_seed(seed), k), z)
        has_jumped = np.maximum(has_jumped, jumps)
    assert has_jumped.mean() > 0.3
    return truth.z_scores(statistics_of(z.numpy(), np.exp(class_log_prob)))


def test_exact_chains_keep_both_modes_whatever_was_learned(truth: Truth, learned_rows: np.ndarray) -> None:
    """One of twelve z-scores exceeds 4 with probability 0.1 %."""
    for seed, rows in enumerate((UNLEARNED, learned_rows)):
        assert abs(moved(truth, rows, seed)).max() < 4


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Return weights without the reverse model's density of the momenta."""
    log_prob = hvi_path.Momentum.log_prob
    _moves.cache_clear()
    hvi._compiled.cache_clear()

    def half(self: hvi_path.Momentum, *given: Any) -> Any:
        return 0.5 * log_prob(self, *given)

    monkeypatch.setattr(hvi_path.Momentum, "log_prob", half)
    yield
    _moves.cache_clear()
    hvi._compiled.cache_clear()


def test_exact_chains_with_wrong_densities_do_not(truth: Truth, forgetful: None) -> None:
    """The negative control."""
    assert abs(moved(truth, UNLEARNED, 0)).max() > 4


TOY = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
SMALL = {"num_start_draws": 1024, "num_leapfrog_steps": 2, "num_optimization_steps": 24, "batch_size": 8}


def chunks_of(num_results: int, exact: bool, resume: Resume | None = None, seed: int = 0) -> Iterator[Chunk]:
    run = RunConfig(num_chains=4, seed=seed)
    return SAMPLER.chunks_fn(TOY, HviConfig(exact=exact, **SMALL), Schedule(num_results, 0, 0), run, resume)  # type: ignore[arg-type]


@pytest.mark.parametrize("exact", [False, True])
def test_a_seed_has_its_bits_wherever_a_run_stops(exact: bool) -> None:
    whole = collect(chunks_of(60, exact))
    again, other = collect(chunks_of(60, exact)), collect(chunks_of(60, exact, seed=1))
    np.testing.assert_array_equal(whole.draws.z, again.draws.z)
    assert not np.isin(other.draws.z[..., 0], whole.draws.z[..., 0]).any()
    resume, parts, count = None, [], 0
    while not parts or sum(map(len, parts)) < 60:
        # The first part is a shorter run, which is then extended.
        chunk = next(chunks_of(60 if count else 20, exact, resume))
        resume, count = Resume(chunk.state, (resume.stats if resume else {}) | chunk.stats), count + 1
        parts.append(chunk.draws.z)
    assert count > 3
    np.testing.assert_array_equal(np.concatenate(parts), whole.draws.z)
    assert chunk.stats == whole.stats
    assert chunk.cost == whole.cost


def test_a_checkpoint_with_half_a_fit_is_refused() -> None:
    *_, last = chunks_of(20, False)
    assert not [*chunks_of(20, False, Resume(last.state, last.stats))], "it is at its end"
    for fit in ({}, {"bound": 1.0, "num_paths": 3}):
        with pytest.raises(StateError, match="a fit without all its figures"):
            [*chunks_of(20, False, Resume(last.state, last.stats | {"fit": fit}))]


def test_cost_and_progress_are_counted() -> None:
    chunks = [*chunks_of(60, True)]
    paths = 4 * 3  # the paths of one row, in gradients
    learning, judging, moving = 24 * 8 * 3, 64 * paths, 60 * 3 * paths
    started = chunks[0].stats["start_cost"]
    assert chunks[-1].cost == (started[0] + learning + judging + moving, started[1] + 4 * 256)
    assert [chunks[-1].progress.num_done, chunks[-1].progress.num_total] == [24 + 64 + 60] * 2
    assert "accept" not in chunks[0].progress.shown
    assert {"accept", "bound"} <= {*chunks[-1].progress.shown}
    assert 0 < chunks[-1].stats["accept_rate"] < 1
    assert chunks[-1].stats["fit"]["num_paths"] == 256


def test_a_part_without_likelihood_is_left_out_of_the_bound() -> None:
    class Half(ToyGenerator):
        """A model that gives NaN if the last coordinate, on which the class does not depend, is positive."""

        def __call__(self, z: tf.Tensor) -> tf.Tensor:
            return super().__call__(z) + tf.where(z[:, 5] > 0.0, np.nan, 0.0)[:, None, None, None]

    config = HviConfig(num_leapfrog_steps=1, num_optimization_steps=10)
    found = collect(hvi.hvi_chunks(ClassPosterior(Half(), ToyClassifier(), 1), config, 50, RunConfig(num_chains=16)))
    fit = found.stats["fit"]
    assert fit["bound"] < np.log(0.25) + 4 * fit["bound_error"], "half of the class's half"
    assert abs(fit["log_mass"] - np.log(0.25)) < 4 * fit["log_mass_error"]
    assert np.isfinite(found.draws.z).all()


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="one label for hvi, got a vector of 2"):
        next(SAMPLER.chunks_fn(TOY.copy(label=[0, 1]), HviConfig(), Schedule(1, 0, 0), RunConfig(num_chains=2), None))
    with pytest.raises(UserError, match="num_proposals: expected a setting that exact uses, got 3"):
        HviConfig(num_proposals=3)
    with pytest.raises(UserError, match="config: expected settings of class HviConfig, as hvi takes"):
        next(SAMPLER.chunks_fn(TOY, None, Schedule(1, 0, 0), RunConfig(num_chains=2), None))


def test_stats_of_weights() -> None:
    rng = np.random.default_rng(0)
    tail = of_weights(-1.5 * np.log(rng.random(4000)))
    assert tail["pareto_k"] == pytest.approx(1.5, abs=0.15), "a Pareto distribution of that shape"
    assert of_weights(rng.normal(size=4000))["pareto_k"] < 0.7
    flat = of_weights(np.full(100, -2.0))
    assert (flat["bound"], flat["log_mass"], flat["bound_error"]) == (-2.0, -2.0, 0.0)
    assert of_weights(np.array([-1.0]))["bound"] is None
    halved = of_weights(np.repeat([-2.0, -np.inf], 50))
    assert halved["bound"] == pytest.approx(-2.0 + np.log(0.5))
    assert log_mean(np.array([-np.inf, np.nan, 0.0, 0.0]))[0] == pytest.approx(np.log(0.5))


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("exact", [False, True])
def test_a_run_says_what_its_draws_are(exact: bool, toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--num_optimization_steps=6", "--num_results=12", "--num_chains=3", "--temperature=0.5"]
    main(["sample", "--label=goldfish", "--kernel=hvi", *settings, "--out=run", *toy_flags, *(["--exact"] if exact else [])])
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()}
    record = json.loads(Path("run/run.json").read_text())
    fit, name = record["fit"], "bound    log of the mean of p(class) ** (1 / temperature)"
    assert lines["bound"].startswith(
        f"{name} is at least {fit['bound']:.2f} +- {fit['bound_error']:.3f} by {fit['num_paths']} "
    )
    assert f"{fit['prior_log_mass']:.2f} +- {fit['prior_log_mass_error']:.3f} by the prior draws" in lines["bound"]
    assert f"Pareto k {fit['pareto_k']:.2f}" in lines["bound"] if fit["pareto_k"] is not None else "unknown" in lines["bound"]
    is_marked = any("the draws are of a fitted approximation" in line for line in record["problems"])
    is_printed = "the draws are of a fitted approximation" in out
    assert is_marked == is_printed == ("an approximation" in lines["moved"]) == (not exact)
    assert ("mixing" in lines) == exact == ("acceptance" in lines["moved"])
    main(["diagnose", "run"])
    assert ("of a fitted approximation" in capsys.readouterr().out) == (not exact)
    for mass, errors in ((-2.6, None), (-3.0, "4.5")):
        record["fit"] |= {"pareto_k": 0.3, "log_mass": mass, "log_mass_error": 0.1}
        record["fit"] |= {"prior_log_mass": -2.0, "prior_log_mass_error": 0.2}
        Path("run/run.json").write_text(json.dumps(record))
        doubt = f", but {errors} standard errors from the prior draws: not to be trusted" if errors else ""
        assert f"by the weights of the paths (Pareto k 0.30{doubt})" in tg.load_run("run").summary()
    record["fit"]["bound"] = "low"
    Path("run/run.json").write_text(json.dumps(record))
    assert "whose fit is not a number" in refused(["diagnose", "run"], capsys)
