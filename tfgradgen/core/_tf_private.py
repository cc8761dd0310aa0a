"""What is used of TensorFlow and TFP beyond their public API: this file alone has to follow a new version of them.

`tests/core/test_tf_private.py` states what each entry must do, and with which versions that was checked. Importing this module
imports neither library: a private module is imported when its name is taken from here.
"""

import importlib
from typing import Any

# Name here -> the private module, and why the public API does not do.
MODULES = {
    "unnest": "tensorflow_probability.python.internal.unnest",  # fields of nested kernel results
    "leapfrog_integrator": "tensorflow_probability.python.mcmc.internal.leapfrog_integrator",  # what TFP's HMC moves by
    "op_def_registry": "tensorflow.python.framework.op_def_registry",  # whether TensorFlow has an operation of a given name
    "convert_to_constants": "tensorflow.python.framework.convert_to_constants",  # variables frozen, for the profiler to count
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(MODULES[name])


def nested_graphs(graph: Any) -> list[Any]:
    """Return the graphs of the functions that the operations of `graph`, a tf.Graph, call."""
    return [function.graph for function in graph._functions.values() if getattr(function, "graph", None) is not None]


def override_gradient(op: Any, name: str) -> None:
    """Make later gradients through `op`, in place, those registered as `name` by `tf.RegisterGradient`.

    `tf.Graph.gradient_override_map` does this only for operations that are still to be made.
    """
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    op._set_attr("_gradient_op_type", AttrValue(s=name.encode()))


def capture(graph: Any, tensor: Any) -> Any:
    """Return the placeholder in `graph`, the graph of a function under construction, that stands for `tensor` outside of it."""
    return graph.capture(tensor)
