"""How step sizes are tuned and coordinates scaled: the law stays, an ill-scaled target gains, one graph serves all settings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.test_kernels import Bare, starts, target, worst_z_score
from tests.test_kernels import run as run_kernel
from tests.toy import ToyClassifier, ToyGenerator, exact_moments
from tfgradgen import sampling
from tfgradgen.config import AdaptedConfig, HmcConfig, KernelConfig, MalaConfig, RunConfig, Schedule, changed_config
from tfgradgen.contracts import Draws
from tfgradgen.diagnostics import convergence
from tfgradgen.kernels import KERNELS
from tfgradgen.kernels import base as base_module
from tfgradgen.kernels.base import KernelFamily, Scaled, adaptive_kernel
from tfgradgen.kernels.windows import step_scale
from tfgradgen.posterior import ClassPosterior
from tfgradgen.sampling import sample_chains
from tfgradgen.starts import initial_points
from tfgradgen.trust import MAX_ACCEPT_GAP

UNEVEN = tf.constant(np.exp(np.linspace(-1, 1, 16) * np.resize([1, -1], 16)), tf.float32)  # neither that of the target nor 1
HALF_WIDTHS = np.geomspace(0.05, 1.0, 6)


class Uneven(KernelFamily):
    """A family whose steps have been scaled already."""

    def dials(self, *settings: Any) -> Any:
        dials = super().dials(*settings)
        return dials and dials._replace(step_scale=UNEVEN)


def uneven(name: str) -> KernelFamily:
    return Uneven(**{field: getattr(KERNELS[name], field) for field in KernelFamily.__dataclass_fields__})


MALA, HMC = MalaConfig(0.4, 0.4), HmcConfig(0.3, 0.6, num_leapfrog_steps=3)
WINDOWED = [name for name, family in KERNELS.items() if "num_windows" in family.defaults.to_dict()]


@pytest.mark.parametrize("name", WINDOWED)
def test_scaled_steps_leave_the_law_as_it_is(name: str) -> None:
    """From exact draws, with scales that fit nothing: 16 z-scores, of which 4 has p < 1e-3 in all."""
    family = uneven(name)
    z, _, step_size, is_accepted = run_kernel(family, replace(family.defaults, num_windows=1))
    assert worst_z_score(z) < 4
    assert 0.05 < is_accepted.mean() < 1
    assert step_size.shape == z.shape[:2]


def test_scales_that_follow_the_state_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a scale that looks at where the chain is leaves another law."""

    class Chasing(Scaled):
        def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
            here = self.copy(step_scale=0.2 + tf.abs(current_state))
            return Scaled.one_step(here, current_state, previous_kernel_results, seed=seed)

    monkeypatch.setattr(base_module, "Scaled", Chasing)
    family = uneven("mala")
    assert worst_z_score(run_kernel(family, replace(MALA, num_windows=1))[0]) > 4


def test_a_scale_of_one_is_no_scale() -> None:
    family = KERNELS["hmc"]
    plain, scaled = (run_kernel(family, replace(family.defaults, num_windows=k), num_steps=20)[0] for k in (0, 1))
    np.testing.assert_allclose(plain[:3], scaled[:3], rtol=1e-4, atol=1e-5)


def test_simple_adaptation_reaches_its_target_and_is_frozen_after() -> None:
    """Within what a run is not blamed for: the last step size is one of a walk in steps of a tenth."""
    for name in ("mala", "hmc"):
        family = KERNELS[name]
        config = changed_config(family.defaults, {"adaptation": "simple"})
        z, accept, step_size, _ = run_kernel(family, config)
        assert abs(np.median(accept) - family.defaults.to_dict()["target_accept_prob"]) < MAX_ACCEPT_GAP
        assert worst_z_score(z) < 4
        np.testing.assert_array_equal(step_size, np.broadcast_to(step_size[0], step_size.shape))


def test_a_chain_of_nan_moves_no_other_in_simple_adaptation() -> None:
    fn = lambda z: tf.where(tf.reduce_any(z > 90.0, -1), np.nan, target(z))  # noqa: E731
    family = KERNELS["hmc"]
    config = changed_config(family.defaults, {"adaptation": "simple"})
    good, bad = starts(4), starts(4) + 100.0 * tf.one_hot(3, 4)[:, None]
    pair = [run_kernel(family, config, fn, init, 20) for init in (good, bad)]
    for with_good, with_bad in zip(*pair, strict=True):
        np.testing.assert_array_equal(with_good[:, :3], with_bad[:, :3])


class Narrow(ToyClassifier):
    """log p(class 1) is that of a normal likelihood, but for a constant: the posterior is normal with `HALF_WIDTHS`."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        z = tf.reshape(image, [-1, 6])
        first = -30.0 - 0.5 * tf.reduce_sum(tf.square(z) * tf.constant(1 / HALF_WIDTHS**2 - 1, tf.float32), -1)
        return tf.stack([tf.zeros_like(first), first], -1)


class All(ToyGenerator):
    def __call__(self, z: Any) -> tf.Tensor:
        return tf.reshape(z, [-1, 6, 1, 1])


NARROW = ClassPosterior(All(), Narrow(), 1)


def narrow_draws(num_windows: int, bad: int = 0) -> Draws:
    config = replace(HMC, num_windows=num_windows, target_accept_prob=0.7)
    init = tf.constant(HALF_WIDTHS, tf.float32) * tf.random.stateless_normal([16, 6], [3, 4])
    init = tf.where(tf.range(16)[:, None] < bad, np.nan, init)
    return sample_chains(NARROW, "hmc", config, Schedule(200, 150, 120), RunConfig(num_chains=16, seed=2), init)[0]


def sizes(draws: Draws) -> list[float]:
    return [convergence(draws.z[..., k]).ess_bulk or 0.0 for k in range(6)]


def test_windows_pay_where_coordinates_differ_in_width() -> None:
    plain, windowed = (narrow_draws(num_windows) for num_windows in (0, 2))
    assert min(sizes(windowed)) > 3 * min(sizes(plain))
    square = np.square(windowed.z).mean(0) / HALF_WIDTHS**2  # [16 chains, 6], each 1 on average
    assert (abs(square.mean(0) - 1) < 4 * square.std(0, ddof=1) / 4).all()
    assert (windowed.step_size == windowed.step_size[0]).all()


def test_chains_that_are_not_finite_take_no_part_in_the_scale() -> None:
    draws = narrow_draws(2, bad=2)
    good = Draws(*(column[:, 2:] for column in draws))
    assert min(sizes(good)) > 3 * min(sizes(narrow_draws(0)))


@pytest.mark.parametrize("name", ["mala", "local_global"])
def test_with_windows_chains_reach_the_known_law(name: str) -> None:
    posterior, run = ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(num_chains=64, seed=3)
    config: KernelConfig = replace(KERNELS[name].defaults, num_windows=3)
    draws, cost = sample_chains(posterior, name, config, Schedule(200, 120, 100), run, initial_points(posterior, run)[0])
    mean, deviation, prob = exact_moments()
    for values, expected in (
        (draws.z[..., 0], mean),
        ((draws.z[..., 0] - mean) ** 2, deviation**2),
        (draws.class_prob, prob),
        (draws.z[..., 5] ** 2, 1.0),
    ):
        per_chain = values.mean(0)
        assert abs(per_chain.mean() - expected) < 4 * per_chain.std(ddof=1) / 8
    per_step = KERNELS[name].cost_fn(config).num_gradients
    assert cost.num_gradients == 64 * (4 + 320 * per_step), "each of four parts begins with a gradient"


def test_a_scale_is_of_geometric_mean_one_and_shrinks_to_it() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500_000, 4)) * [0.1, 1.0, 1.0, 10.0] + 3.0
    scale = step_scale(len(z), z.sum(0), np.square(z).sum(0))
    assert scale is not None
    np.testing.assert_allclose(scale, [0.1, 1.0, 1.0, 10.0], rtol=0.02)
    assert abs(np.log(scale).sum()) < 1e-5
    few = step_scale(4, z[:4].sum(0), np.square(z[:4]).sum(0))
    assert few is not None
    assert np.ptp(np.log(few)) < 0.6 * np.ptp(np.log(scale))
    assert step_scale(3, 3 * z[0], 3 * z[0] ** 2 - 1e-9) is None, "nothing moved"


def test_one_graph_serves_all_settings_that_are_numbers() -> None:
    posterior, run = ClassPosterior(ToyGenerator(), ToyClassifier(), 1), RunConfig(num_chains=4)
    init = initial_points(posterior, run)[0]
    sampling.compiled.cache_clear()
    default = HMC
    changes = [{}, {"step_size": 0.1, "num_leapfrog_steps": 1}, {"decay_rate": 0.6, "target_accept_prob": 0.9}]
    seen = [
        sample_chains(posterior, "hmc", replace(default, **change), Schedule(5, 20, 16), run, init)[0] for change in changes
    ]
    assert sampling.compiled.cache_info().currsize == 1
    assert not np.array_equal(seen[0].z, seen[1].z)
    assert not np.array_equal(seen[0].step_size, seen[2].step_size)
    for change, draws in zip(changes, seen, strict=True):
        kernel = adaptive_kernel(KERNELS["hmc"], Bare(), replace(default, **change), 4, 16)
        assert kernel.is_calibrated
        sampling.compiled.cache_clear()  # the same bits from a graph of its own
        again = sample_chains(posterior, "hmc", replace(default, **change), Schedule(5, 20, 16), run, init)[0]
        np.testing.assert_array_equal(draws.z, again.z)


def test_every_way_to_adapt_says_what_it_has_no_use_for() -> None:
    names = {name for names in AdaptedConfig.idle.values() for name in names}
    assert set(AdaptedConfig.idle) == set(base_module.ADAPTATIONS)
    assert names <= set(base_module.ADAPTATION_NUMBERS)
