"""The shared step size is tuned to its target, whatever a bad chain does; one graph serves all settings."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.stats import kstest

from tests.support.distributions import FEW_STEPS, NUM_STEPS, Bare, compiled_run, is_tuned, starts, target, worst_z_score
from tests.support.distributions import run as run_kernel
from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.core.config import AdaptedConfig, KernelConfig, RunConfig, Schedule, changed_config
from tfgradgen.core.settings import settings_of
from tfgradgen.mcmc import chains as sampling
from tfgradgen.mcmc import kernel as base
from tfgradgen.mcmc.chains import sample_chains
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.kernel import (
    MANY_MOVES,
    KernelSampler,
    adaptive_kernel,
    dual_averaging,
    jitter,
    nan_to_neg_inf,
    pooled_log_accept_prob,
)
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior

NUM_RUNS, NUM_TUNED = 12, 60
# Kernels that take long run after run: here each run is a label of one batch, with a step size of its own.
IN_ONE_BATCH = {"nuts", "local_global", "replica_exchange"}
NAN_AT, STUCK_AT = 100.0, -100.0  # in every coordinate: where the bad chain starts


def with_bad_places(z: tf.Tensor) -> tf.Tensor:
    """Return `target` with NaN around one place, and with a point from which no proposal is ever accepted."""
    is_nan, is_stuck = tf.reduce_any(z > 90.0, -1), tf.reduce_all(tf.equal(z, STUCK_AT), -1)
    return tf.where(is_nan, np.nan, tf.where(is_stuck, 1e4, target(z)))


def plain_mean(log_accept_prob: tf.Tensor, is_fit: tf.Tensor, num_moves: tf.Tensor, labels: None) -> tf.Tensor:
    return tf.math.log(tf.reduce_mean(tf.exp(nan_to_neg_inf(log_accept_prob)), -1, keepdims=True))


def middle(log_accept_prob: tf.Tensor, is_fit: tf.Tensor, num_moves: tf.Tensor, labels: None) -> tf.Tensor:
    """Return the median: it is robust, but misses the target if there are two kinds of acceptance among the chains."""
    return tfp.stats.percentile(nan_to_neg_inf(log_accept_prob), 50.0, axis=-1, keepdims=True)


def tuned_steps(family: KernelSampler, inits: list[tf.Tensor]) -> np.ndarray:
    """Return the tuned step sizes [len(inits), NUM_RUNS] of runs of the four chains in each of `inits`."""
    posterior, in_one_batch = Bare(with_bad_places), family.name in IN_ONE_BATCH
    num_sets = len(inits) * NUM_RUNS if in_one_batch else 1
    params = family.tunable_params(family.defaults, NUM_TUNED, 4 * num_sets if in_one_batch else 1)
    labels = np.arange(num_sets, dtype=np.int32).repeat(4) if in_one_batch else None
    kernel = adaptive_kernel(family, posterior, family.defaults, NUM_TUNED, params, labels)

    @tf.function(autograph=False)
    def tuned(seed: tf.Tensor, init: tf.Tensor) -> tf.Tensor:
        trace = lambda z, results: family.info_fn(posterior, family.defaults, z, results).step_size[::4]  # noqa: E731
        return tfp.mcmc.sample_chain(1, init, num_burnin_steps=NUM_TUNED, kernel=kernel, trace_fn=trace, seed=seed).trace[0]

    if in_one_batch:
        together = tf.concat([init for init in inits for _ in range(NUM_RUNS)], 0)
        return tuned(as_seed(0), together).numpy().reshape(len(inits), NUM_RUNS)
    return np.array([[float(tuned(as_seed(k), init)[0]) for k in range(NUM_RUNS)] for init in inits])


def shifts(family: KernelSampler) -> list[float]:
    """Return z-scores of the effect of the last of four chains on the tuned log step size, if it starts at NaN or is stuck."""
    ends = (None, NAN_AT, STUCK_AT)
    inits = [tf.concat([starts(4)[:3], starts(4)[3:] if end is None else tf.fill([1, 16], end)], 0) for end in ends]
    steps = np.log(tuned_steps(family, inits))
    errors = steps.std(1, ddof=1) / np.sqrt(NUM_RUNS)
    return [float((steps[k] - steps[0]).mean() / np.hypot(errors[0], errors[k])) for k in (1, 2)]


@pytest.mark.slow
@is_tuned
def test_a_bad_chain_of_four_leaves_the_step_of_the_others(family: KernelSampler) -> None:
    assert max(abs(z) for z in shifts(family)) < 4


@pytest.mark.slow
def test_a_plain_mean_is_moved_by_a_bad_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: three of four chains must accept more, so that the mean of all four meets the target."""
    monkeypatch.setattr(base, "pooled_log_accept_prob", plain_mean)
    assert max(shifts(kernel_sampler("hmc"))) < -4


def test_the_mean_is_of_healthy_chains() -> None:
    accept = np.array([0.1, 0.9, 0.4, 0.0, np.nan], np.float32)

    def pooled(is_fit: list[bool], num_moves: list[int]) -> float:
        return float(np.exp(pooled_log_accept_prob(np.log(accept), np.array(is_fit), np.array(num_moves)))[0])

    fit, many = [True] * 5, MANY_MOVES
    with np.errstate(divide="ignore"):
        assert pooled(fit, [0] * 5) == pytest.approx(1.4 / 5), "at the start all count, and what is not a number is refused"
        assert pooled(fit, [many, 1, 1, 1, 1]) == pytest.approx(1.4 / 5)
        assert pooled([True, True, True, False, False], [0] * 5) == pytest.approx(1.4 / 3)
        assert pooled(fit, [many, many, many, 0, 0]) == pytest.approx(1.4 / 3), "two are stuck"
        assert pooled(fit, [many, many, 0, 0, 1]) == pytest.approx(1.4 / 5), "not most others move"
        assert pooled(fit, [many - 1, many - 1, many - 1, 0, 1]) == pytest.approx(1.4 / 5), "not long enough to tell"
        assert pooled([False] * 5, [many] * 5) == 0.0


def two_widths(narrow: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Two normals far apart, with widths 1 and `narrow`."""
    far = tf.abs(z[:, 0]) - 20.0
    width = tf.where(z[:, 0] > 0, 1.0, narrow)
    return -0.5 * (tf.square(far) + tf.reduce_sum(tf.square(z[:, 1:]), -1)) / tf.square(width) - 16 * tf.math.log(width)


def without_short_steps(shape: Any, seed: tf.Tensor, short_share: float, dtype: Any) -> tf.Tensor:
    return jitter(shape, seed, 0.0, dtype)


def without_jitter(shape: Any, seed: tf.Tensor, short_share: float, dtype: Any) -> tf.Tensor:
    return tf.ones(shape, dtype)


@functools.cache
def _two_widths_fn(config: KernelConfig, jitter_fn: Any, pool_fn: Any) -> Any:
    """Return a function with a graph of its own for the parts that are in place when it is first called."""
    return compiled_run(kernel_sampler("mala"), config, two_widths, NUM_STEPS)


def run_of_two_widths(
    config: KernelConfig, width: float, is_wide: Any, jitter_fn: Any, pool_fn: Any = pooled_log_accept_prob
) -> Any:
    """Return a run of mala from exact draws of `two_widths`, with these parts in place; `is_wide` gives each chain's mode."""
    in_wide = tf.cast(is_wide, tf.float32)[:, None]
    init = (in_wide + (1 - in_wide) * width) * tf.random.stateless_normal([len(is_wide), 16], [1, 2])
    init += 20.0 * (2 * in_wide - 1) * tf.one_hot(0, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "jitter", jitter_fn)
        patch.setattr(base, "pooled_log_accept_prob", pool_fn)
        return _two_widths_fn(config, jitter_fn, pool_fn)(init, width)


def gap_of_two_widths(pool_fn: Any = pooled_log_accept_prob) -> float:
    """Return how far mala's mean acceptance is off its target if half of the chains are in each mode."""
    config = replace(kernel_sampler("mala").defaults, target_accept_prob=0.6)
    accept = run_of_two_widths(config, 1 / 3, np.arange(64) % 2 == 0, without_short_steps, pool_fn)[1]
    return abs(float(accept.mean()) - 0.6)


@pytest.mark.slow
def test_the_mean_acceptance_meets_its_target_where_chains_differ() -> None:
    """64 chains x 300 draws, without the short steps, which are accepted more often.

    The negative control is a median, which half of the chains decide.
    """
    assert gap_of_two_widths() < 0.03
    assert gap_of_two_widths(middle) > 0.03


def moves_in_a_narrow_mode(width: float, jitter_fn: Any = jitter) -> np.ndarray:
    """Return the share of moves of each of four chains in a mode `width` times as wide as the one that the step is tuned to."""
    is_moved = run_of_two_widths(kernel_sampler("mala").defaults, width, np.arange(64) >= 4, jitter_fn)[3]
    share: np.ndarray = is_moved[:, :4].mean(0)
    return share


@pytest.mark.slow
def test_jitter_keeps_chains_in_narrow_modes_moving() -> None:
    """64 chains of 300 transitions. The negative controls use the shared step size in each transition, or no short steps."""
    assert moves_in_a_narrow_mode(0.6).mean() > 0.05
    assert (moves_in_a_narrow_mode(0.2) > 0.01).all()
    assert (moves_in_a_narrow_mode(0.2, without_short_steps) < 0.01).all()
    assert moves_in_a_narrow_mode(0.6, without_jitter).mean() < 0.02


class Shows:
    """A kernel that moves each chain to the step size that it was given."""

    def bootstrap_results(self, init_state: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"step": tf.constant([[0.2]]), "chain": tf.zeros(init_state.shape[0])}

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: dict[str, tf.Tensor], seed: Any = None) -> Any:
        return tf.broadcast_to(previous_kernel_results["step"], current_state.shape), previous_kernel_results


def test_all_chains_take_the_same_jittered_step_and_none_while_it_is_tuned() -> None:
    access = base.StepSizeAccess(
        get=lambda results: results["step"],
        put=lambda results, step_size: results | {"step": step_size},
        log_accept_prob=lambda results: results["chain"],
        is_accepted=lambda results: results["chain"] < 1,
        target_log_prob=lambda results: results["chain"],
    )
    kernel: Any = base.Pooled(Shows(), access, 1)  # type: ignore[arg-type]
    state, results, seen = tf.zeros([2, 1]), kernel.bootstrap_results(tf.zeros([2, 1])), []
    for k in range(41):
        state, results = kernel.one_step(state, results, seed=fold_in(as_seed(0), k))
        assert state[0, 0] == state[1, 0], "one factor for all chains"
        assert float(results.inner_results["step"][0, 0]) == pytest.approx(0.2), "the factor is not kept"
        seen.append(float(state[0, 0]) / 0.2)
    assert seen[0] == pytest.approx(1.0), "none while the step is tuned"
    assert len(set(seen)) > 30
    assert min(seen) >= 0.1 - 1e-6
    assert max(seen) <= 1.5 + 1e-6


@pytest.mark.parametrize("short_share", [0.0, 0.1, 0.5])
def test_some_steps_are_short_and_the_others_uniform_about_the_shared_one(short_share: float) -> None:
    factors = jitter([20_000, 1, 1], as_seed(3), short_share, tf.float32).numpy().ravel()
    is_short = factors < 0.4
    assert abs(is_short.mean() - short_share) < 4 * np.sqrt(short_share * (1 - short_share) / len(factors)) + 1e-9
    for part, (low, high) in ((factors[is_short], (0.1, 0.3)), (factors[~is_short], (0.5, 1.5))):
        if part.size:
            assert kstest(part, "uniform", (low, high - low)).pvalue > 1e-3
    wrong = kstest(factors, "uniform", (0.5, 1.0)).pvalue
    assert (wrong > 1e-3) == (short_share == 0.0), "without short steps, all are uniform; with them, that must fail"


@pytest.mark.slow
def test_simple_adaptation_ends_where_dual_averaging_does_and_is_frozen_after() -> None:
    """The step size walks around the right value in steps of a tenth, and the last one is frozen."""
    for name in ("mala", "hmc"):
        family = kernel_sampler(name)
        configs = [changed_config(family.defaults, {"adaptation": way}) for way in ("simple", "dual_averaging")]
        z, _, step_size, _ = run_kernel(family, configs[0])
        other = run_kernel(family, configs[1], num_steps=FEW_STEPS)[2]
        assert abs(np.log(step_size[0, 0] / other[0, 0])) < 1.5 * np.log(1.1)
        assert worst_z_score(z) < 4
        np.testing.assert_array_equal(step_size, np.broadcast_to(step_size[0, 0], step_size.shape))


def steps_of_a_short_adaptation(kernel: str) -> np.ndarray:
    posterior, run = ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(num_chains=16, seed=2)
    schedule = Schedule(10, 8, 8)
    init = choose_starts(posterior, run).z
    config = replace(kernel_sampler(kernel).defaults, step_size=0.4)
    discarded = [chunk.discarded for chunk in sampling.chain_chunks(posterior, kernel, config, schedule, run, init)]
    steps = np.concatenate([rows.step_size for rows in discarded if rows])
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_a_short_adaptation_does_not_leap_away_from_the_first_step(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dual averaging shrinks towards the first step size; the control, like TFP's default, towards ten times that."""
    steps = steps_of_a_short_adaptation(kernel)
    far = lambda inner, params, **access: dual_averaging(inner, params._replace(step_size=10 * params.step_size), **access)  # noqa: E731
    monkeypatch.setitem(base.ADAPTATIONS, "dual_averaging", far)
    assert 0.2 < steps.min() < 2 * steps.max() < steps_of_a_short_adaptation(kernel).max()


@pytest.mark.slow
def test_one_graph_serves_all_settings_that_are_numbers() -> None:
    posterior, run = ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(num_chains=4)
    init = choose_starts(posterior, run).z
    sampling.compiled.cache_clear()
    default = HmcConfig(0.3, 0.6, num_leapfrog_steps=3)
    changes = [{}, {"step_size": 0.1, "num_leapfrog_steps": 1}, {"decay_rate": 0.6, "target_accept_prob": 0.9}]
    seen = [
        sample_chains(posterior, "hmc", replace(default, **change), Schedule(5, 20, 16), run, init)[0] for change in changes
    ]
    assert sampling.compiled.cache_info().currsize == 1
    assert not np.array_equal(seen[0].z, seen[1].z)
    assert not np.array_equal(seen[0].step_size, seen[2].step_size)
    for change, draws in zip(changes, seen, strict=True):
        kernel = adaptive_kernel(kernel_sampler("hmc"), Bare(), replace(default, **change), 16)
        assert kernel.is_calibrated
        if not change:  # its graph was its own
            continue
        sampling.compiled.cache_clear()  # the same bits, from its own graph
        again = sample_chains(posterior, "hmc", replace(default, **change), Schedule(5, 20, 16), run, init)[0]
        np.testing.assert_array_equal(draws.z, again.z)


def test_every_way_to_adapt_says_what_it_has_no_use_for() -> None:
    names = {name for names in AdaptedConfig.idle.values() for name in names}
    assert set(AdaptedConfig.idle) == set(base.ADAPTATIONS)
    assert names <= {name for name, setting in settings_of(AdaptedConfig).items() if setting.held == "adaptation"}
