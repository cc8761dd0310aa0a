"""Functions of the TF1 format, TF-Hub's first: a meta graph's signature with its variables frozen.

The variables' values are read from the checkpoint by operations of our own, not by the model's; see `savers`.

Reference variables, which XLA and gradients through a tf.Variable stumble over, are gone then: a large one is a tensor that all
functions of the graph share, a small one a constant within it. Values stay as they are, but for the last places: TensorFlow
fuses more of what is constant.
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

SHARED_BYTES = 1 << 14  # of a constant; of a smaller one each graph, and each step in preparing one, has its own copy

# TF1's control flow inside a graph: TF2 cannot differentiate it (tensorflow/hub#416), a v1 session's tf.gradients can.
CONTROL_FLOW = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "LoopCond"}


def frozen_function(
    meta: Any, folder: Path, variables: Mapping[str, Slice], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Any:
    """A concrete function of the tensors named by `inputs`, in that order, to those named by `outputs`, as a list.

    Args:
      meta: the meta graph without savers; its operations are run, so they must have been checked.
      folder: of its checkpoint variables/ and its assets/.
      variables: variable of the graph -> where the checkpoint holds it. Others keep what the init operation gives them.
      inputs, outputs: name in the signature -> name of the tensor in the graph.

    Returns:
      (function, graph): of the frozen graph, and the graph for who wants to look into it. Where an operation has no gradient,
      whoever takes that of the function meets TensorFlow's LookupError; its values are there.
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
    """A session that gives values of variables and runs nothing else.

    TensorFlow asks for that of a resource variable `w` by the name of a node, `w/Read/ReadVariableOp`, whatever the model has
    there.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.tensors: dict[str, Any] = {}

    def add(self, variable: Any) -> None:
        """Takes in the operation `variable`."""
        (tensor,) = variable.outputs
        if variable.type == "VarHandleOp":
            dtype = tf.as_dtype(variable.get_attr("dtype"))
            self.tensors[f"{variable.name}/Read/ReadVariableOp:0"] = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype)
        else:
            self.tensors[tensor.name] = tensor

    def run(self, names: Sequence[str]) -> Any:
        """The values of what TensorFlow asks for by `names`."""
        return self.session.run([self.tensors[name] for name in names])


def _values(meta: Any, folder: Path, variables: Mapping[str, Slice], outputs: Iterable[str]) -> dict[str, np.ndarray]:
    """The values in the checkpoint of the variables that `outputs` and the init operation need, by node."""
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
    """Gives the variables in the session's graph `values` and then, as TensorFlow's loader does, runs the init operation."""
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
    """The name of what runs once the variables are there, or '', and the tensors that take paths: name -> file of assets/."""
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
    """What `_wrap` takes of a function of `feeds` and the slopes of the outputs `slopes` to those of the inputs `smooth`; the
    error where an operation has no gradient, which a run without gradients need not mind."""
    upstream = [v1.placeholder(fetches[k].dtype, fetches[k].shape) for k in slopes]
    try:
        found = tf.gradients([fetches[k] for k in slopes], [feeds[k] for k in smooth], upstream)
    except LookupError as error:
        return error
    gradients = [tf.zeros_like(feeds[k]) if g is None else tf.identity(g) for k, g in zip(smooth, found, strict=True)]
    return _freeze(reads, gradients), [*feeds, *upstream], gradients


def _freeze(reads: _Reads, fetches: Sequence[Any]) -> Any:
    """The graph that `fetches` need, as a GraphDef without variables."""
    names = sorted({tensor.op.name for tensor in fetches})
    return v1.graph_util.convert_variables_to_constants(reads, reads.session.graph.as_graph_def(), names)


def _wrap(definition: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Any:
    names = {node.name for node in definition.node}
    unused = [tensor for tensor in feeds if tensor.op.name not in names]
    shared = _lift(definition, {tensor.op.name for tensor in fetches})

    def load() -> None:
        graph = v1.get_default_graph()
        tf.import_graph_def(definition, {name: capture(graph, value) for name, value in shared.items()}, name="")
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
