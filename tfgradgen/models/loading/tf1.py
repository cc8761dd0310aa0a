"""Functions of models in the TF1 format (the first format of TF-Hub): signatures with frozen variables.

The values of the variables are read from the checkpoint by ops of this module, not by those of the model; see `savers`.

Freezing removes reference variables, which XLA and gradients through a tf.Variable do not support. A large variable becomes a
tensor that all functions of the graph share, a small one a constant. Results agree up to rounding, because TensorFlow fuses
more ops on constants.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

from tfgradgen.core._tf_private import capture
from tfgradgen.models.loading.savers import VARIABLE_OPS, Slice, upstream

v1 = tf.compat.v1

SHARED_BYTES = 1 << 14  # size from which graphs share a constant; each graph has its own copy of a smaller one

# TF1 control flow. TF2 cannot differentiate it (tensorflow/hub#416); tf.gradients in a v1 session can.
CONTROL_FLOW = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "LoopCond"}


def frozen_function(
    meta: Any, folder: Path, variables: Mapping[str, Slice], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Any:
    """Return a function from the tensors named by `inputs`, in that order, to a list of those named by `outputs`.

    Args:
      meta: The meta graph without savers. Its ops are run, so they must have been checked.
      folder: The folder with its checkpoint variables/ and its assets/.
      variables: Variable of the graph -> its place in the checkpoint. Other variables keep the value from the init op.
      inputs: Name in the signature -> name of the tensor in the graph.
      outputs: The same for outputs.

    Returns:
      (function, graph): the function and its frozen graph. If an op has no gradient, calling the function works, and
      differentiating it raises LookupError.
    """
    values = _values(meta, folder, variables, outputs.values())
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        v1.train.import_meta_graph(meta, clear_devices=True)
        reads = _load(session, meta, folder, values)
        feeds = [graph.get_tensor_by_name(name) for name in inputs.values()]
        fetches = [graph.get_tensor_by_name(name) for name in outputs.values()]
        definition = _freeze(reads, fetches)
        has_flow = bool({node.op for node in definition.node} & CONTROL_FLOW)
        smooth = [k for k, t in enumerate(feeds) if t.dtype.is_floating]
        slopes = [k for k, t in enumerate(fetches) if t.dtype.is_floating]
        backward = _gradient(reads, feeds, fetches, smooth, slopes) if has_flow else None
    forward = _wrap(definition, feeds, fetches)
    if backward is None:
        return lambda *x: _as_list(forward(*x)), forward.graph
    pull_back = _raiser(backward) if isinstance(backward, LookupError) else _wrap(*backward)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def with_gradient(*x: tf.Tensor) -> Any:
        def gradient_fn(*slope: tf.Tensor) -> list[tf.Tensor | None]:
            by_input = dict(zip(smooth, _as_list(pull_back(*x, *(slope[k] for k in slopes))), strict=True))
            return [by_input.get(k) for k in range(len(x))]

        return _as_list(forward(*x)), gradient_fn

    return lambda *x: _as_list(with_gradient(*x)), forward.graph


class _Reads:
    """A session that only returns values of variables.

    TensorFlow reads a resource variable `w` by the name of a node, `w/Read/ReadVariableOp`, which in a hostile model may be any
    other node.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.tensors: dict[str, Any] = {}

    def add(self, variable: Any) -> None:
        """Add the op `variable`."""
        (tensor,) = variable.outputs
        if variable.type == "VarHandleOp":
            dtype = tf.as_dtype(variable.get_attr("dtype"))
            self.tensors[f"{variable.name}/Read/ReadVariableOp:0"] = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype)
        else:
            self.tensors[tensor.name] = tensor

    def run(self, names: Sequence[str]) -> Any:
        """Return the values of the tensors `names`."""
        return self.session.run([self.tensors[name] for name in names])


def _values(meta: Any, folder: Path, variables: Mapping[str, Slice], outputs: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the checkpoint values, by node, of the variables that `outputs` and the init op need."""
    needed = upstream(meta.graph_def, (*outputs, _init_of(meta)[0]))
    values = {}
    for node in meta.graph_def.node:
        if node.op in VARIABLE_OPS and node.name in needed and node.name in variables:
            key, part = variables[node.name]
            with tf.device("CPU"):
                (value,) = tf.raw_ops.RestoreV2(
                    prefix=str(folder / "variables" / "variables"),
                    tensor_names=[key],
                    shape_and_slices=[part],
                    dtypes=[tf.as_dtype(node.attr["dtype"].type).base_dtype],
                )
            values[node.name] = value.numpy()
    return values


def _load(session: Any, meta: Any, folder: Path, values: dict[str, np.ndarray]) -> _Reads:
    """Assign `values` to the variables of the session's graph, then run the init op, as TensorFlow's loader does."""
    graph, reads = session.graph, _Reads(session)
    for variable in [op for op in graph.get_operations() if op.type in VARIABLE_OPS]:
        reads.add(variable)
        if variable.name in values:
            value = values.pop(variable.name)
            fed = v1.placeholder(value.dtype)
            session.run(_assign(variable, fed), {fed: value})
    init, assets = _init_of(meta)
    if init:
        given = {graph.get_tensor_by_name(name): str(folder / "assets" / file) for name, file in assets.items()}
        session.run(graph.as_graph_element(init, allow_tensor=True, allow_operation=True), given)
    return reads


def _init_of(meta: Any) -> tuple[str, dict[str, str]]:
    """Return the name of the init op, or '', and the tensors that take paths: name -> file in assets/."""
    collections, signatures = dict(meta.collection_def), dict(meta.signature_def)
    named = []
    if "__saved_model_init_op" in signatures:
        named += [info.name for info in signatures["__saved_model_init_op"].outputs.values()]
    for key in ("saved_model_main_op", "legacy_init_op"):
        named += collections[key].node_list.value if key in collections else []
    assets = list(meta.asset_file_def)
    if not assets and "saved_model_assets" in collections:
        for packed in collections["saved_model_assets"].any_list.value:
            assets.append(AssetFileDef())
            packed.Unpack(assets[-1])
    return next(iter(named), ""), {asset.tensor_info.name: asset.filename for asset in assets}


def _assign(variable: Any, value: Any) -> Any:
    (tensor,) = variable.outputs
    if variable.type == "VarHandleOp":
        return tf.raw_ops.AssignVariableOp(resource=tensor, value=value)
    return tf.raw_ops.Assign(ref=tensor, value=value, validate_shape=False).op


def _gradient(
    reads: _Reads, feeds: Sequence[Any], fetches: Sequence[Any], smooth: Sequence[int], slopes: Sequence[int]
) -> tuple[Any, list[Any], list[Any]] | LookupError:
    """Return the arguments of `_wrap` for the vector-Jacobian product from outputs `slopes` to inputs `smooth`.

    If an op has no gradient, return the error, which only matters if gradients are used.
    """
    upstream = [v1.placeholder(fetches[k].dtype, fetches[k].shape) for k in slopes]
    try:
        found = tf.gradients([fetches[k] for k in slopes], [feeds[k] for k in smooth], upstream)
    except LookupError as error:
        return error
    gradients = [tf.zeros_like(feeds[k]) if g is None else tf.identity(g) for k, g in zip(smooth, found, strict=True)]
    return _freeze(reads, gradients), [*feeds, *upstream], gradients


def _freeze(reads: _Reads, fetches: Sequence[Any]) -> Any:
    """Return the graph that `fetches` need, as a GraphDef without variables."""
    names = sorted({tensor.op.name for tensor in fetches})
    return v1.graph_util.convert_variables_to_constants(reads, reads.session.graph.as_graph_def(), names)


def _wrap(definition: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    names = {node.name for node in definition.node}
    unused = [tensor for tensor in feeds if tensor.op.name not in names]
    shared = _lift(definition, {tensor.op.name for tensor in fetches})

    def load() -> None:
        graph = v1.get_default_graph()
        tf.import_graph_def(definition, {name: capture(graph, value) for name, value in shared.items()}, name="")
        for tensor in unused:  # no output needs it, but callers pass it
            v1.placeholder(tensor.dtype, tensor.shape, tensor.op.name)

    imported = v1.wrap_function(load, [])
    found = [[imported.graph.as_graph_element(tensor.name) for tensor in tensors] for tensors in (feeds, fetches)]
    return imported.prune(*found)


def _lift(definition: Any, kept: Collection[str]) -> dict[str, tf.Tensor]:
    """Replace large constants in `definition` by placeholders; return tensor name -> value."""
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
