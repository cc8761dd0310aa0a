"""Gradients of a loaded model's convolutions in bfloat16, its values in float32.

A chain is exact with any deterministic drift: the Metropolis test sees the float32 values only, and both the leapfrog map and
the MALA proposal may use any vector field of z. (A leapfrog step shears: whatever the field, it keeps volume and is undone by
running it back, which is all that Neal 2011, section 5.2.3, asks of it.) So the forward pass is left as it is, bit for bit,
and in the backward pass the convolutions, most of its work, take bfloat16 operands. TFP's kernels need no change, and no
network runs twice.
"""

from contextlib import suppress
from typing import Any

import tensorflow as tf

from tfgradgen.core._tf_private import nested_graphs, override_gradient

PREFIX = "TfgradgenLow"
_SETTINGS = ("strides", "padding", "explicit_paddings", "dilations", "data_format")


def lower_gradients(module: Any) -> int:
    """Makes every later gradient through `module` by its input take its convolutions in bfloat16; the number of them.

    In place, so `module`, a loaded SavedModel, must be this caller's own and have had no gradient taken yet. Gradients by
    the filters become None. 2-D convolutions and transposed convolutions, also those inside nested functions; 0 where there
    is none, as in a model of matrix products only, and gradients then stay as they were. Faster where the CPU multiplies
    bfloat16 matrices in hardware (Intel AMX), slower where it does not.
    """
    for kind, gradient_fn in _GRADIENTS.items():
        with suppress(KeyError):  # registered already: the registry is the process's, and takes a name once
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
    """Inputs x, filter."""
    x, filters = op.inputs
    gradient = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x), filter=_low(filters), out_backprop=_low(upstream), **_settings(op)
    )
    return [tf.cast(gradient, tf.float32), None]


def _transposed_gradient(op: tf.Operation, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Inputs sizes, filter, x."""
    gradient = tf.raw_ops.Conv2D(input=_low(upstream), filter=_low(op.inputs[1]), **_settings(op))
    return [None, None, tf.cast(gradient, tf.float32)]


_GRADIENTS = {"Conv2D": _conv2d_gradient, "Conv2DBackpropInput": _transposed_gradient}
