"""Removal of savers, the parts of a SavedModel that write and read checkpoints.

TensorFlow exports them with every model. tfgradgen reads the variables itself and never saves a loaded model, so it loads a
copy of the model without the ops of savers.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.saver_pb2 import SaverDef

from tfgradgen.models.loading.allowed_ops import RESTORE_OPS, SAVE_OPS, SAVER_PARTS

SAVER_OPS = SAVE_OPS | RESTORE_OPS
VARIABLE_OPS = ("VarHandleOp", "VariableV2", "Variable")

T = TypeVar("T")
Vertex = tuple[str, str]  # "node" or "function", and its name
_FILE_OPS = ("Const", "Placeholder", "PlaceholderWithDefault")  # ops with one output, from which savers take a path
_PARTS = SAVER_OPS | SAVER_PARTS
_LOOSE_OPS = ("DisableCopyOnRead",)  # savers add it to a variable; it uses no file, and no other node of the saver leads to it
# Needed for gradients through TF1 control flow, and for ops that run after the variables have been restored.
_KEPT_COLLECTIONS = ("cond_context", "while_context", "saved_model_main_op", "legacy_init_op", "saved_model_assets")


class Misuse(NamedTuple):
    """An op of savers that is outside of a saver, or that other nodes depend on; `function` contains it, or is None."""

    node: Any
    function: Any


class Slice(NamedTuple):
    """Place of a variable in the checkpoint: its key, and the slice in `RestoreV2`'s notation ('' for all)."""

    key: str
    part: str


def pruned(meta: Any) -> Any | Misuse:
    """Return a copy of the meta graph without savers, or `Misuse` if an op of savers is not part of a proper saver.

    Savers are named by `saver_def` or the collection `savers`, or have the names that `tf.train.Saver` gives. A proper saver
    consists of the ops that `tf.train.Saver` creates, restores only from the file that it is given, and does not save while
    restoring. Nothing else may depend on its ops: no other node or function, signature, asset, collection, object or gradient.
    """
    graph = _Graph(meta)
    misuse = graph.misuse()
    return without_collections(graph.without_savers()) if misuse is None else misuse


def without_collections(meta: Any) -> Any:
    """Return a copy of the meta graph without `saver_def` and the collections from which TensorFlow builds savers."""
    result = type(meta)()
    result.CopyFrom(meta)
    result.ClearField("saver_def")
    for key in [key for key in result.collection_def if key not in _KEPT_COLLECTIONS]:
        del result.collection_def[key]
    return result


def saved_variables(meta: Any) -> dict[str, Slice]:
    """Return variable -> place in the checkpoint, from the nodes of the saver; {} if there is none.

    Raises:
      ValueError: The restore op of the saver does not exist.
    """
    nodes = {node.name: node for node in meta.graph_def.node}
    restore = node_of(meta.saver_def.restore_op_name)
    if restore and restore not in nodes:
        raise ValueError(f"no node {restore}, the restore op of its saver")
    found: dict[str, Slice] = {}
    for name in upstream(meta.graph_def, [restore]):
        node = nodes[name]
        if node.op in ("Assign", "AssignVariableOp") and len(node.input) > 1:
            where = _source(nodes, node.input[1])
            if where is not None:
                found[node_of(node.input[0])] = where
    return found


def upstream(graph_def: Any, names: Iterable[str]) -> set[str]:
    """Return the nodes of the graph on which the tensors or nodes `names` depend, these included."""
    inputs = {node.name: [node_of(name) for name in node.input] for node in graph_def.node}
    return closure(map(node_of, names), inputs) & inputs.keys()


def closure(roots: Iterable[T], edges: Mapping[T, Iterable[T]]) -> set[T]:
    """Return `roots` and all vertices that are reachable from them along `edges`."""
    seen: set[T] = set()
    pending = list(roots)
    while pending:
        vertex = pending.pop()
        if vertex not in seen:
            seen.add(vertex)
            pending += edges.get(vertex, ())
    return seen


def named_variables(meta: Any) -> dict[str, Slice]:
    """Return variable -> place in the checkpoint, from names; slices of partitioned variables are in collections."""
    found = {node.name: Slice(node.name, "") for node in meta.graph_def.node if node.op in VARIABLE_OPS}
    for collection in meta.collection_def.values():
        for value in collection.bytes_list.value:
            variable = _parsed(VariableDef, value)
            part = variable.save_slice_info_def
            name = node_of(variable.variable_name)
            if name in found and part.full_name and part.full_shape:
                ranges = (f"{start},{size}" for start, size in zip(part.var_offset, part.var_shape, strict=False))
                found[name] = Slice(part.full_name, " ".join([*map(str, part.full_shape), ":".join(ranges)]))
    return found


def _source(nodes: Mapping[str, Any], tensor: str) -> Slice | None:
    for _ in nodes:  # bounds the length of the chain
        node, output = nodes.get(node_of(tensor)), tensor.partition(":")[2] or "0"
        if node is None or not node.input:
            return None
        if node.op == "RestoreV2" and len(node.input) == 3:
            keys, parts = (_texts_of(nodes.get(node_of(name))) for name in node.input[1:])
            k = int(output)
            return Slice(keys[k], parts[k]) if k < min(len(keys), len(parts)) else None
        if node.op != "Identity":
            return None
        tensor = node.input[0]
    return None


def _texts_of(node: Any) -> list[str]:
    if node is None or node.op != "Const":
        return []
    return [bytes(value).decode("utf-8", "replace") for value in tf.make_ndarray(node.attr["value"].tensor).ravel()]


def node_of(tensor: str) -> str:
    """Return the name of the node of `tensor` or of a control input `^name`."""
    return tensor.removeprefix("^").split(":")[0]


def function_names(attr: Any) -> Iterator[str]:
    """Yield the names of functions in an attribute of a node, including nested attributes."""
    for function in (*([attr.func] if attr.HasField("func") else []), *attr.list.func):
        yield function.name
        for inner in function.attr.values():
            yield from function_names(inner)


class _Graph:
    """Dependencies between the nodes and functions of one meta graph.

    Attributes:
      edges: Vertex -> vertices that may run with it: the inputs of a node, and functions that it names.
      users: The reverse of `edges`.
      files: Tensors from which savers take their path.
      handed_on: Calls that pass one of these to a function as its first input.
      restoring: Vertices on which the restore ops of savers depend.
      members: These, and the vertices on which their save ops depend.
      own: Nodes and functions that contain an op of savers -> the first such op.
      tainted: Vertices that depend on one of these.
    """

    def __init__(self, meta: Any) -> None:
        self.meta = meta
        self.functions = {function.signature.name for function in meta.graph_def.library.function}
        self.edges: dict[Vertex, set[Vertex]] = defaultdict(set)
        for node in meta.graph_def.node:
            self.edges["node", node.name] |= {("node", node_of(name)) for name in node.input} | self._called(node)
        for function in meta.graph_def.library.function:
            called = self.edges["function", function.signature.name]
            # TensorFlow stores the name of a function's gradient in a string attribute.
            texts = (text for attr in function.attr.values() for text in _texts(attr))
            called |= {("function", text) for text in texts if text in self.functions}
            called |= {vertex for node in function.node_def for vertex in self._called(node)}
        kinds = {node.name: node.op for node in meta.graph_def.node}
        savers = list(_savers(meta, kinds))
        # Loading feeds the path of the variables to this tensor only, not to other outputs of its node.
        self.files = {name for name, _, _ in savers if kinds.get(node_of(name)) in _FILE_OPS}
        restoring = [("node", node_of(name)) for file, _, restore in savers for name in (file, restore)]
        self.restoring = closure(restoring, self.edges)
        self.members = closure([*restoring, *(("node", node_of(save)) for _, save, _ in savers)], self.edges)
        self.own: dict[Vertex, Misuse] = {}
        for vertex, node, function in self._saver_ops():
            self.own.setdefault(vertex, Misuse(node, function))
        self.users: dict[Vertex, list[Vertex]] = defaultdict(list)
        for vertex, led in self.edges.items():
            for other in led:
                self.users[other].append(vertex)
        self.handed_on = {("node", node.name) for node in meta.graph_def.node if self._is_file(node) and _is_plain_call(node)}
        self.tainted = closure(self.own, self.users)

    def _saver_ops(self) -> Iterator[tuple[Vertex, Any, Any]]:
        for node in self.meta.graph_def.node:
            if node.op in SAVER_OPS:
                yield ("node", node.name), node, None
        for function in self.meta.graph_def.library.function:
            for node in function.node_def:
                if node.op in SAVER_OPS:
                    yield ("function", function.signature.name), node, function

    def _called(self, node: Any) -> set[Vertex]:
        names = {node.op, *(text for attr in node.attr.values() for text in (*_texts(attr), *function_names(attr)))}
        return {("function", name) for name in names & self.functions}

    def misuse(self) -> Misuse | None:
        """Return the first op of savers that is in the wrong place."""
        own = {("node", node.name) for node in self.meta.graph_def.node if node.op not in _PARTS}
        loose = {("node", node.name) for node in self.meta.graph_def.node if node.op in _LOOSE_OPS}
        saver = (self.members - own) | loose
        wrong = [vertex for vertex in self.edges if vertex in self.tainted and vertex not in saver]
        wrong += [root for root in _roots(self.meta) if root in self.tainted]
        if wrong:
            led = closure(wrong[:1], self.edges)
            return next(misuse for vertex, misuse in self.own.items() if vertex in led)
        for vertex, node, function in self._saver_ops():
            if function is not None and "api_implements" in function.attr:  # TensorFlow may swap it for another function
                return Misuse(node, function)
            if vertex in self.restoring and not self._reads_own_file(vertex, node, function):
                return Misuse(node, function)
        return None

    def _reads_own_file(self, vertex: Vertex, node: Any, function: Any) -> bool:
        """Return whether `node`, which runs during a restore, reads the file of the saver and uses no other file."""
        if node.op in SAVE_OPS:
            return False
        if function is None:
            return self._is_file(node)
        takes_first = function.signature.input_arg and node.input[:1] == [function.signature.input_arg[0].name]
        return bool(takes_first) and self.handed_on.issuperset(self.users.get(vertex, ()))

    def _is_file(self, node: Any) -> bool:
        return bool(node.input) and bool(self.files & {node.input[0], f"{node.input[0]}:0"})

    def without_savers(self) -> Any:
        """Return a copy of the meta graph without the vertices that depend on an op of savers."""
        result = type(self.meta)()
        result.CopyFrom(self.meta)
        graph = result.graph_def
        _keep(graph.node, [node for node in graph.node if ("node", node.name) not in self.tainted])
        functions = graph.library.function
        _keep(functions, [f for f in functions if ("function", f.signature.name) not in self.tainted])
        return result


def _keep(field: Any, kept: list[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del field[:]
    field.extend(copies)


def _savers(meta: Any, kinds: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the names of the file tensor, the save tensor and the restore op of each saver."""
    recorded = (value for key, some in meta.collection_def.items() if key == "savers" for value in some.bytes_list.value)
    for saver in (meta.saver_def, *(_parsed(SaverDef, value) for value in recorded)):
        if saver.filename_tensor_name:
            yield saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name
    for name, op in kinds.items():  # further savers, created by a training script
        scope, _, last = name.rpartition("/")
        if last == "restore_all" and op == "NoOp":
            for save in ("control_dependency", "Identity"):
                yield f"{scope}/Const:0", f"{scope}/{save}:0", name


def _is_plain_call(node: Any) -> bool:
    """Return whether `node` calls a single function with its inputs in order, unlike a branch or a loop."""
    names = [name for attr in node.attr.values() for name in function_names(attr)]
    return node.op in ("PartitionedCall", "StatefulPartitionedCall") and len(names) == 1


def _texts(attr: Any) -> Iterator[str]:
    for value in (attr.s, *attr.list.s):
        yield value.decode("utf-8", "replace")


def _roots(meta: Any) -> Iterator[Vertex]:
    """Yield all vertices that can be run by name, except those of savers."""
    for signature in meta.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            yield from (("node", node_of(name)) for name in _tensor_names(info))
    for asset in meta.asset_file_def:
        yield "node", node_of(asset.tensor_info.name)
    for key, collection in meta.collection_def.items():
        yield from (("node", node_of(name)) for name in collection.node_list.value)
        if key != "savers":
            for value in collection.bytes_list.value:
                variable = _parsed(VariableDef, value)
                yield ("node", node_of(variable.variable_name))
                yield ("node", node_of(variable.initializer_name))
                yield ("node", node_of(variable.initial_value_name))
                yield ("node", node_of(variable.snapshot_name))
    library, objects = meta.graph_def.library, meta.object_graph_def
    names = [*objects.concrete_functions]
    for node in objects.nodes:
        names += [*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name]
        names.append(node.captured_tensor.concrete_function)
    for gradient in (*library.gradient, *library.registered_gradients):
        names.append(gradient.gradient_func)
    yield from (("function", name) for name in names)


def _tensor_names(info: Any) -> Iterator[str]:
    sparse = info.coo_sparse
    yield from (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    for component in info.composite_tensor.components:
        yield from _tensor_names(component)


def _parsed(kind: type[Message], serialized: bytes) -> Any:
    """Parse a message of `kind`; return an empty one if `serialized` is something else."""
    try:
        return kind.FromString(serialized)
    except DecodeError:
        return kind()
