"""This package's kernels in TFP's drivers: without a seed, with float64 states, and with states in parts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.core.backend import as_seed
from tfgradgen.core.checks import UserError
from tfgradgen.mcmc.kernel import INNERMOST, Pooled
from tfgradgen.mcmc.mala import Mala
from tfgradgen.mcmc.registry import kernel_samplers
from tfgradgen.posterior import ClassPosterior

POSTERIOR = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
START = tf.random.stateless_normal([3, 6], [0, 1])


def of_registry(name: str) -> Callable[[], Any]:
    family = kernel_samplers()[name]
    return lambda: family.make_fn(POSTERIOR, family.defaults, 0.3, 0)


OWN = {name: of_registry(name) for name in ("mala", "split_hmc", "local_global", "elliptical_slice")} | {
    "pooled": lambda: Pooled(Mala(POSTERIOR.unnormalized_log_prob, tf.fill([1, 1], 0.3)), INNERMOST, 0)
}


@pytest.fixture(params=OWN)
def kernel(request: pytest.FixtureRequest) -> Any:
    return OWN[request.param]()


def draw(kernel: Any, z: Any, **seed: Any) -> Any:
    def run() -> Any:
        return tfp.mcmc.sample_chain(2, z, kernel=kernel, trace_fn=None, **seed)

    return tf.function(run, autograph=False)()


def test_a_seed_may_be_left_out_or_a_number(kernel: Any) -> None:
    found = draw(kernel, START)
    assert found.shape == (2, 3, 6)
    assert np.isfinite(found).all()
    tf.random.set_seed(1)
    again = kernel.one_step(START, kernel.bootstrap_results(START), seed=3)[0]
    tf.random.set_seed(1)
    np.testing.assert_array_equal(again, kernel.one_step(START, kernel.bootstrap_results(START), seed=3)[0])


def test_a_state_in_parts_is_refused_in_one_line(kernel: Any) -> None:
    for state, kind in (([START], "a list of 1 parts"), ({"z": START}, "a dict of 1 parts")):
        with pytest.raises(
            UserError, match=rf"current_state: expected one tensor \[num_chains, latent_dim\], got {kind}; pass"
        ):
            kernel.bootstrap_results(state)


@pytest.mark.parametrize("name", ["mala", "split_hmc", "local_global", "elliptical_slice"])
def test_a_state_may_be_float64(name: str) -> None:
    kernel = OWN[name]()
    wide, narrow = (draw(kernel, tf.cast(START, dtype), seed=as_seed(1)) for dtype in (tf.float64, tf.float32))
    assert wide.dtype == tf.float64
    assert np.isfinite(wide).all()
    assert not np.array_equal(wide, narrow), "other random numbers"
