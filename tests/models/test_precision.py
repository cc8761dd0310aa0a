"""Lower precision in the gradient alone: the same values, nearly the same gradient, and exactly the same distribution."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests.support import toy
from tests.support.command import FAST_MALA, refused
from tfgradgen.cli.commands import main
from tfgradgen.core.backend import as_seed
from tfgradgen.diagnostics.preflight import value_and_gradient
from tfgradgen.mcmc.kernel import KernelSampler, adaptive_kernel
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.models import precision
from tfgradgen.models.generator import load_generator
from tfgradgen.models.precision import lower_gradients
from tfgradgen.posterior import ClassPosterior


@pytest.fixture(params=[False, True], ids=["callable", "signature"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Save a generator with a matrix product, a transposed convolution, and a convolution in its own function."""
    normal = lambda shape, k: tf.random.stateless_normal(shape, [3, k]) / 4  # noqa: E731
    dense, up, filters = normal([6, 64], 0), normal([3, 3, 8, 4], 1), normal([3, 3, 8, 3], 2)
    last = tf.function(lambda x: tf.tanh(tf.nn.conv2d(x, filters, 1, "SAME")))

    def generate(z: tf.Tensor) -> tf.Tensor:
        x = tf.nn.leaky_relu(tf.reshape(z @ dense, [-1, 4, 4, 4]))
        return last(tf.nn.leaky_relu(tf.nn.conv2d_transpose(x, up, [tf.shape(z)[0], 8, 8, 8], 2)))

    return toy.save(tmp_path, generate, [None, 6], {"latent_dim": 6}, signature=request.param)


def evaluate(generator: Any) -> Any:
    """Return the mean square of each image's upper half [B] and its gradient [B, 6] at z [B, 6], compiled."""
    return tf.function(lambda z: value_and_gradient(lambda x: tf.reduce_mean(generator(x)[:, :4] ** 2, [1, 2, 3]), z))


def low_convolutions(fn: Any, z: tf.Tensor) -> list[str]:
    """Return the kinds of the convolutions in bfloat16 in the compiled `fn` and the functions that it calls."""
    graph = fn.get_concrete_function(z).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    low = tf.bfloat16.as_datatype_enum
    return sorted({node.op for node in nodes if node.op.startswith("Conv2D") and node.attr["T"].type == low})


def test_the_module_can_be_loaded_again(folder: Path) -> None:
    assert lower_gradients(load_generator(folder).module) >= 2
    again = importlib.reload(precision)
    low = load_generator(folder)
    assert again.lower_gradients(low.module) >= 2
    assert low_convolutions(evaluate(low), tf.zeros([2, 6]))


def test_values_keep_their_bits_and_gradients_their_direction(folder: Path) -> None:
    plain, low = load_generator(folder), load_generator(folder)
    assert lower_gradients(low.module) >= 2
    z = tf.random.stateless_normal([5, 6], [0, 1])
    plain_fn, low_fn = evaluate(plain), evaluate(low)
    value, gradient = plain_fn(z)
    low_value, low_gradient = low_fn(z)
    np.testing.assert_array_equal(value, low_value)
    np.testing.assert_array_equal(low_gradient, low_fn(z)[1])  # deterministic, as the exactness of the chains requires
    error = np.linalg.norm(gradient - low_gradient, axis=-1) / np.linalg.norm(gradient, axis=-1)
    assert error.max() < 2**-5  # bfloat16's unit round-off is 2 ** -9
    assert low_convolutions(low_fn, z) == ["Conv2D", "Conv2DBackpropInput"]
    assert low_convolutions(plain_fn, z) == []


def test_a_model_without_convolutions_is_left_alone(toy_pair: tuple[Path, Path]) -> None:
    assert lower_gradients(load_generator(toy_pair[0]).module) == 0


class Coarse(ClassPosterior):
    """A posterior with its likelihood's gradient rounded to whole numbers; `shift` is added to the density at z_0 > 1."""

    shift: Any = 0.0

    def likelihood_log_prob(self, z: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def density(z: tf.Tensor) -> Any:
            value, gradient = value_and_gradient(super(Coarse, self).likelihood_log_prob, z)
            shifted = value + self.shift * tf.cast(z[:, 0] > 1.0, tf.float32)
            return shifted, lambda upstream: upstream[:, None] * tf.round(gradient)

        return density(z)


def z_scores(family: KernelSampler, *shifts: float) -> list[np.ndarray]:
    """Return, for each shift, z-scores of the mean and the variance of z_0 against quadrature, by one compiled function.

    The spread of the chains gives the error.
    """
    num_chains, num_adaptation, num_results = 256, 200, 600

    @tf.function(autograph=False)
    def draw(shift: tf.Tensor) -> tf.Tensor:
        posterior = Coarse(toy.ToyGenerator(), toy.ToyClassifier(), 1)
        posterior.shift = shift
        kernel = adaptive_kernel(family, posterior, family.defaults, num_adaptation)
        start = tf.random.stateless_normal([num_chains, 6], [1, 2])
        return tfp.mcmc.sample_chain(
            num_results, start, num_burnin_steps=num_adaptation, kernel=kernel, trace_fn=None, seed=as_seed(7)
        )

    mean, std, _ = toy.exact_moments()

    def score(first: np.ndarray) -> np.ndarray:
        per_chain = np.stack([first.mean(0) - mean, np.square(first - mean).mean(0) - std**2])
        return np.abs(per_chain.mean(1) / (per_chain.std(1, ddof=1) / np.sqrt(num_chains)))

    return [score(draw(tf.constant(shift))[:, :, 0].numpy()) for shift in shifts]


@pytest.mark.parametrize("name", ["mala", "hmc", "split_hmc"])
def test_a_coarse_gradient_keeps_the_distribution(name: str) -> None:
    right, off = z_scores(kernel_sampler(name), 0.0, 0.15)
    assert right.max() < 4
    assert off.max() > 4, "a density that is off by 0.15 nats on one side, as bfloat16 values can be"


@pytest.mark.usefixtures("sketched_plots")
def test_the_command_lowers_its_own_models_only_where_that_changes_something(
    folder: Path, toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--label=goldfish", "--gradient_precision=bfloat16", *FAST_MALA]
    assert "gradient_precision: expected a convolution" in refused([*command, *toy_flags], capsys)
    assert "gradient_precision: expected one of float32" in refused([*command[:2], "--gradient_precision=half"], capsys)
    main([*command, f"--generator={folder}", toy_flags[1], "--out=low"])
    main([*command[:2], *FAST_MALA, f"--generator={folder}", toy_flags[1], "--out=full"])
    low, full = (json.loads(Path(name, "run.json").read_text()) for name in ("low", "full"))
    assert (low["arguments"]["gradient_precision"], full["arguments"]["gradient_precision"]) == ("bfloat16", "float32")
    assert low["final_class_prob"] != full["final_class_prob"]
