"""Functions of the TF1 format, TF-Hub's first: a meta graph's signature with its variables frozen.

Reference variables, which XLA and gradients through a tf.Variable stumble over, are gone then: a large one is a tensor that all
functions of the graph share, a small one a constant within it. Values stay as they are, but for the last places: TensorFlow
fuses more of what is constant.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1

SHARED_BYTES = 1 << 14  # of a constant; of a smaller one each graph, and each step in preparing one, has its own copy

# TF1's control flow inside a graph: TF2 cannot differentiate it (tensorflow/hub#416), a v1 session's tf.gradients can.
CONTROL_FLOW = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "LoopCond"}


def frozen_function(folder: Path, tags: Sequence[str], inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """A concrete function of the tensors named by `inputs`, in that order, to those named by `outputs`, as a list.

    Args:
      folder: of the SavedModel. tags: those of the meta graph.
      inputs, outputs: name in the signature -> name of the tensor in the graph.

    Returns:
      (function, graph): of the frozen graph, and the graph for who wants to look into it. Where an operation has no gradient,
      whoever takes that of the function meets TensorFlow's LookupError; its values are there.
    """
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        v1.saved_model.loader.load(session, list(tags), str(folder), clear_devices=True)
        feeds = [graph.get_tensor_by_name(name) for name in inputs.values()]
        fetches = [graph.get_tensor_by_name(name) for name in outputs.values()]
        definition = _freeze(session, fetches)
        has_flow = bool({node.op for node in definition.node} & CONTROL_FLOW)
        smooth = [k for k, t in enumerate(feeds) if t.dtype.is_floating]
        slopes = [k for k, t in enumerate(fetches) if t.dtype.is_floating]
        backward = _gradient(session, feeds, fetches, smooth, slopes) if has_flow else None
    forward = _wrap(definition, feeds, fetches)
    if backward is None:
        return lambda *x: _as_list(forward(*x)), forward.graph
    pull_back = _raiser(backward) if isinstance(backward, LookupError) else _wrap(*backward)

    @tf.custom_gradient
    def with_gradient(*x: tf.Tensor) -> Any:
        def gradient_fn(*slope: tf.Tensor) -> list[tf.Tensor | None]:
            by_input = dict(zip(smooth, _as_list(pull_back(*x, *(slope[k] for k in slopes))), strict=True))
            return [by_input.get(k) for k in range(len(x))]

        return _as_list(forward(*x)), gradient_fn

    return lambda *x: _as_list(with_gradient(*x)), forward.graph


def _gradient(
    session: Any, feeds: Sequence[Any], fetches: Sequence[Any], smooth: Sequence[int], slopes: Sequence[int]
) -> tuple[Any, list[Any], list[Any]] | LookupError:
    """What `_wrap` takes of a function of `feeds` and the slopes of the outputs `slopes` to those of the inputs `smooth`; the
    error where an operation has no gradient, which a run without gradients need not mind."""
    upstream = [v1.placeholder(fetches[k].dtype, fetches[k].shape) for k in slopes]
    try:
        found = tf.gradients([fetches[k] for k in slopes], [feeds[k] for k in smooth], upstream)
    except LookupError as error:
        return error
    gradients = [tf.zeros_like(feeds[k]) if g is None else tf.identity(g) for k, g in zip(smooth, found, strict=True)]
    return _freeze(session, gradients), [*feeds, *upstream], gradients


def _freeze(session: Any, fetches: Sequence[Any]) -> Any:
    """The graph that `fetches` need, as a GraphDef without variables."""
    names = sorted({tensor.op.name for tensor in fetches})
    return v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), names)


def _wrap(definition: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    names = {node.name for node in definition.node}
    unused = [tensor for tensor in feeds if tensor.op.name not in names]
    shared = _lift(definition, {tensor.op.name for tensor in fetches})

    def load() -> None:
        graph = v1.get_default_graph()
        tf.import_graph_def(definition, {name: graph.capture(value) for name, value in shared.items()}, name="")
        for tensor in unused:  # no output needs it, but a caller gives it
            v1.placeholder(tensor.dtype, tensor.shape, tensor.op.name)

    imported = v1.wrap_function(load, [])
    found = [[imported.graph.as_graph_element(tensor.name) for tensor in tensors] for tensors in (feeds, fetches)]
    return imported.prune(*found)


def _lift(definition: Any, kept: Collection[str]) -> dict[str, tf.Tensor]:
    """Takes the values of large constants out of `definition`, whose nodes are placeholders then: tensor name -> value."""
    shared = {}
    for node in definition.node:
        if node.op == "Const" and node.name not in kept and node.attr["value"].tensor.ByteSize() >= SHARED_BYTES:
            value = tf.make_ndarray(node.attr["value"].tensor)
            node.op = "Placeholder"
            del node.attr["value"]
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
            shared[f"{node.name}:0"] = tf.constant(value)
    return shared


def _raiser(error: Exception) -> Callable[..., Any]:
    def fn(*x: tf.Tensor) -> Any:
        raise error

    return fn


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
