"""The contract of the private API of TensorFlow and TFP that is used. A new version of either must keep it.

Checked with TensorFlow 2.20 and 2.21, and TFP 0.25, to which setup.cfg binds the package.
"""

import configparser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core import _tf_private
from tfgradgen.core._tf_private import (
    MODULES,
    capture,
    convert_to_constants,
    leapfrog_integrator,
    nested_graphs,
    op_def_registry,
    override_gradient,
    unnest,
)

CHECKED = {"tensorflow": (tf, ["2.20", "2.21"]), "tensorflow-probability": (tfp, ["0.25"])}


def log_prob(z: tf.Tensor) -> tf.Tensor:
    return -0.5 * tf.reduce_sum(tf.square(z), -1)


@pytest.mark.parametrize("name", CHECKED)
def test_the_versions_are_those_that_were_checked(name: str, root: Path) -> None:
    module, versions = CHECKED[name]
    assert ".".join(module.__version__.split(".")[:2]) in versions
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    (needed,) = (line for line in setup["options"]["install_requires"].splitlines() if line.split("[")[0].split(" ")[0] == name)
    low, high = needed.split(" ")[1].split(",")
    assert low == f">={versions[0]}"
    assert high == f"<0.{int(versions[-1].split('.')[1]) + 1}" if name != "tensorflow" else f"<2.{int(versions[-1][2:]) + 1}"


def test_it_imports_nothing_until_it_is_asked(tmp_path: Path, root: Path) -> None:
    """Empty modules stand for those of TensorFlow and TFP, because importing these takes seconds."""
    for name in MODULES.values():
        file = (tmp_path / name.replace(".", "/")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for package in ("tensorflow", "tensorflow_probability"):
        for folder in (tmp_path / package, *filter(Path.is_dir, (tmp_path / package).rglob("*"))):
            (folder / "__init__.py").touch()
    code = (
        "import sys; from tfgradgen.core import _tf_private as p; assert 'tensorflow' not in sys.modules; "
        "p.op_def_registry; assert 'tensorflow_probability' not in sys.modules; "
        "assert sys.modules['tensorflow.python.framework.op_def_registry'] is p.op_def_registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path, env={"PYTHONPATH": str(root)})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = _tf_private.nothing


def test_fields_of_nested_results_are_read_and_replaced() -> None:
    """Step size, acceptance and trajectory of every kernel are read through the adaptation and replica exchange around it."""
    inner = tfp.mcmc.HamiltonianMonteCarlo(log_prob, 0.3, 2)
    kernel = tfp.mcmc.SimpleStepSizeAdaptation(inner, 5)
    z = tf.ones([3, 2])
    _, results = kernel.one_step(z, kernel.bootstrap_results(z), seed=[1, 2])
    assert unnest.get_innermost(results, "is_accepted").shape == (3,)
    assert unnest.get_outermost(results, "target_accept_prob") is results.target_accept_prob
    changed = unnest.replace_innermost(results, step_size=tf.constant(0.7))
    assert float(unnest.get_innermost(changed, "step_size")) == np.float32(0.7)
    with pytest.raises(AttributeError):
        unnest.get_innermost(results, "nothing")


def test_the_leapfrog_integrator_keeps_the_energy_and_runs_back() -> None:
    """The HMC of a served chain uses it."""
    leapfrog = leapfrog_integrator.SimpleLeapfrogIntegrator(log_prob, step_sizes=[0.1], num_steps=5)
    start, momentum = tf.constant([[1.0, -0.5]]), tf.constant([[0.3, 0.8]])
    [p], [z], value, [gradient] = leapfrog([momentum], [start], log_prob(start), [-start])
    np.testing.assert_allclose(value, log_prob(z), rtol=1e-6)
    np.testing.assert_allclose(gradient, -z, rtol=1e-6)
    np.testing.assert_allclose(value + log_prob(p), log_prob(start) + log_prob(momentum), atol=1e-2)
    [p], [z], *_ = leapfrog([-p], [z], value, [gradient])
    np.testing.assert_allclose(z, start, atol=1e-6)
    np.testing.assert_allclose(p, -momentum, atol=1e-6)


def test_operations_are_known_by_name() -> None:
    """A function of a loaded model must not take the name of one."""
    assert op_def_registry.get("MatMul").name == "MatMul"
    assert op_def_registry.get("MatMulOfMine") is None


def test_a_frozen_function_has_no_variables_left() -> None:
    """The profiler counts the operations of a model on it, for its card."""
    w = tf.Variable([[2.0]])
    concrete = tf.function(lambda x: x @ w).get_concrete_function(tf.TensorSpec([1, 1]))
    frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)
    assert not {"ReadVariableOp", "VarHandleOp"} & {op.type for op in frozen.graph.get_operations()}
    assert float(tf.squeeze(frozen(tf.constant([[3.0]]))[0])) == 6.0


@tf.RegisterGradient("TfgradgenTestTenfold")
def _tenfold(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    return 10.0 * upstream


def test_the_gradient_of_an_operation_in_a_nested_function_is_replaced() -> None:
    """This is used for convolutions of a loaded model whose gradients are computed in bfloat16."""
    inner = tf.function(tf.sin, input_signature=[tf.TensorSpec([], tf.float32)], autograph=False)
    outer = tf.function(lambda x: inner(x), input_signature=[tf.TensorSpec([], tf.float32)], autograph=False)
    graph = outer.get_concrete_function().graph
    (nested,) = nested_graphs(graph)
    (op,) = (op for op in nested.get_operations() if op.type == "Sin")
    override_gradient(op, "TfgradgenTestTenfold")
    x = tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = outer(x)
    assert float(y) == pytest.approx(np.sin(0.5))
    assert float(tape.gradient(y, x)) == 10.0


def test_a_tensor_from_outside_is_captured_by_a_function() -> None:
    """A large frozen variable is a single tensor that all functions of a model share."""
    shared = tf.random.stateless_normal([64, 64], [1, 2])  # a small tensor becomes a constant
    taken = []

    def load(x: tf.Tensor) -> tf.Tensor:
        taken.append(capture(tf.compat.v1.get_default_graph(), shared))
        return x * taken[0]

    concrete = tf.function(load, autograph=False).get_concrete_function(tf.TensorSpec([]))
    assert taken[0].op.type == "Placeholder"
    np.testing.assert_array_equal(concrete(tf.constant(2.0)), 2.0 * shared)
