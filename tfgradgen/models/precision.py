"""Gradients of a loaded model's convolutions in bfloat16, with values in float32.

A chain is exact with any deterministic drift: the Metropolis test only uses the float32 values, and both the leapfrog map and
the MALA proposal may use any vector field of z. (A leapfrog step is a composition of shears. For any field it preserves volume
and is reversible, which is all that Neal 2011, section 5.2.3, requires.) So the forward pass stays the same, bit for bit, and
the convolutions of the backward pass, which are most of its work, take bfloat16 operands. TFP's kernels need no change, and
no network runs twice.
"""

from contextlib import suppress
from typing import Any

import tensorflow as tf

from tfgradgen.core._tf_private import nested_graphs, override_gradient

PREFIX = "TfgradgenLow"
_SETTINGS = ("strides", "padding", "explicit_paddings", "dilations", "data_format")


def lower_gradients(module: Any) -> int:
    """Compute the convolutions of all later gradients of `module` with respect to its input in bfloat16.

    This covers 2-D convolutions and transposed convolutions, also in nested functions. Gradients with respect to the filters
    become None. It is faster on CPUs with bfloat16 matrix products in hardware (Intel AMX), and slower on others.

    Args:
      module: A loaded SavedModel, changed in place. No other code may use it, and none of its gradients may exist yet.

    Returns:
      The number of convolutions. If it is 0, gradients are unchanged.
    """
    for kind, gradient_fn in _GRADIENTS.items():
        with suppress(KeyError):  # registered already: the registry is global and takes a name once
            tf.RegisterGradient(PREFIX + kind)(gradient_fn)
    pending, seen, count = _graphs_of(module), set(), 0
    while pending:
        graph = pending.pop()
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        pending += nested_graphs(graph)
        for op in graph.get_operations():
            if op.type in _GRADIENTS and op.outputs[0].dtype == tf.float32:
                override_gradient(op, PREFIX + op.type)
                count += 1
    return count


def _graphs_of(module: Any) -> list[Any]:
    callables = [*([module.__call__] if callable(module) else []), *getattr(module, "signatures", {}).values()]
    concrete = [c for fn in callables for c in getattr(fn, "concrete_functions", [fn] if hasattr(fn, "graph") else [])]
    return [*getattr(module, "graphs", []), *(function.graph for function in concrete)]


def _low(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.bfloat16)


def _settings(op: tf.Operation) -> dict[str, Any]:
    return {name: op.get_attr(name) for name in _SETTINGS}


def _conv2d_gradient(op: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Return the gradient of Conv2D, whose inputs are x and filter."""
    x, filters = op.inputs
    gradient = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x), filter=_low(filters), out_backprop=_low(upstream), **_settings(op)
    )
    return [tf.cast(gradient, tf.float32), None]


def _transposed_gradient(op: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Return the gradient of Conv2DBackpropInput, whose inputs are sizes, filter and x."""
    gradient = tf.raw_ops.Conv2D(input=_low(upstream), filter=_low(op.inputs[1]), **_settings(op))
    return [None, None, tf.cast(gradient, tf.float32)]


_GRADIENTS = {"Conv2D": _conv2d_gradient, "Conv2DBackpropInput": _transposed_gradient}
