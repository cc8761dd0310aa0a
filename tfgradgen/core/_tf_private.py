"""The private API of TensorFlow and TFP that this package uses. A new version of either can only break this file.

`tests/core/test_tf_private.py` states what each entry must do, and with which versions that was checked. Importing this module
imports neither library; a private module is imported when its name is first accessed here.
"""

import importlib
from typing import Any

# Name here -> private module. The comments say what it is needed for.
MODULES = {
    "unnest": "tensorflow_probability.python.internal.unnest",  # fields of nested kernel results
    "leapfrog_integrator": "tensorflow_probability.python.mcmc.internal.leapfrog_integrator",  # the integrator of TFP's HMC
    "op_def_registry": "tensorflow.python.framework.op_def_registry",  # whether TensorFlow has an op of a given name
    "convert_to_constants": "tensorflow.python.framework.convert_to_constants",  # freezes variables for the profiler
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(MODULES[name])


def nested_graphs(graph: Any) -> list[Any]:
    """Return the graphs of all functions that ops of `graph` (a tf.Graph) call."""
    return [function.graph for function in graph._functions.values() if getattr(function, "graph", None) is not None]


def override_gradient(op: Any, name: str) -> None:
    """Give `op`, in place, the gradient that `tf.RegisterGradient` registered as `name`.

    `tf.Graph.gradient_override_map` does this only for ops that are created later.
    """
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    op._set_attr("_gradient_op_type", AttrValue(s=name.encode()))


def capture(graph: Any, tensor: Any) -> Any:
    """Return the placeholder in `graph` (a function under construction) that stands for the outer `tensor`."""
    return graph.capture(tensor)
