"""Whether a SavedModel may be loaded without trusting its author: only if each operation in it is one that computes.

A SavedModel is a program (TensorFlow's SECURITY.md). Loading it already runs a TF1 model's restore and init operations and a
TF2 model's `_create_resource` and `_initialize` functions; calling it runs a signature. All of that consists of nodes of its
meta graphs and of the functions in their libraries, so saved_model.pb is parsed, and every node of every graph and function is
looked at, in use or not, before TensorFlow sees the file. A list of allowed names needs no list of the ways around it: a graph
in a string takes an operation to run it (`DatasetFromGraph`), Python one to call it, a file one to open it.

Tables filled from a file are refused as well, even from the model's own assets: which file it is, is known only when it runs.

What `tf.saved_model.load` reads but does not run is not looked at: variables/ (tensors), assets/ and fingerprint.pb. Keras'
own files (keras_metadata.pb, .keras), which can hold Python code, it does not read. A model that passes may still be slow or
large, or meet a flaw in TensorFlow's kernels.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from tfgradgen.checks import UserError, fail
from tfgradgen.models.allowed_ops import ALLOWED_OPS, RESTORE_OPS, SAVE_OPS
from tfgradgen.text import printable

_Vertex = tuple[str, str]  # "node" or "function", and its name
_FILE_OPS = ("Const", "Placeholder", "PlaceholderWithDefault")  # of one output: what savers take the path of the variables from
_TRUST = "pass --trust if you trust its author"


def check_ops(folder: Path) -> None:
    """Raises `UserError` if the SavedModel in `folder` holds an operation that is not allowed; loads and runs nothing.

    Allowed are `ALLOWED_OPS`, calls of the model's own functions, and, where loading and signatures never get to, what savers
    write with. RestoreV2 may read the file that `saver_def` is given, the model's own variables, and no other.
    """
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if (folder / name).exists():
            raise fail(f"model {folder}", "its program in saved_model.pb alone", f"also {name}", f"remove that, or {_TRUST}")
    proto = SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "a damaged saved_model.pb"
        raise fail(f"model {folder}", "a SavedModel that loads", got, "export it again") from None
    for meta in proto.meta_graphs:
        _check_meta_graph(meta, folder)


def _check_meta_graph(meta: Any, folder: Path) -> None:
    graph = _Reach(meta)
    for node in meta.graph_def.node:
        if not graph.allows(node, ("node", node.name)):
            raise _refusal(folder, node, f"the graph tagged {_shown(', '.join(meta.meta_info_def.tags))}")
    for function in meta.graph_def.library.function:
        name = function.signature.name
        if op_def_registry.get(name) is not None:
            raise fail(f"model {folder}", "functions with names of their own", f"a function {_shown(name)}", _TRUST)
        for node in function.node_def:
            if not graph.allows(node, ("function", name), function):
                raise _refusal(folder, node, f"the function {_shown(name)}")


def _refusal(folder: Path, node: Any, place: str) -> UserError:
    got = f"{_shown(node.op)} (node {_shown(node.name)} in {place} of saved_model.pb)"
    return fail(f"model {folder}", "only operations that compute", got, _TRUST)


def _shown(name: str) -> str:
    return f"'{printable(name)}'"


class _Reach:
    """What the nodes and functions of one meta graph lead to.

    reads_own_file: nodes whose first input is the path that loading fills in: a RestoreV2, or a call that hands it on as the
    called function's first. run: what signatures, the init op, variables' initializers, objects and gradients lead to. restore:
    what loading runs to read the variables. saver: that, and what saving them again would run.
    """

    def __init__(self, meta: Any) -> None:
        self.functions = {function.signature.name for function in meta.graph_def.library.function}
        self.edges: dict[_Vertex, set[_Vertex]] = defaultdict(set)
        saver = meta.saver_def
        kind = {node.name: node.op for node in meta.graph_def.node}.get(_node_of(saver.filename_tensor_name))
        # Loading puts the path of the variables in place of this tensor alone, not of all that its node gives.
        file = saver.filename_tensor_name if kind in _FILE_OPS else None
        self.reads_own_file: set[_Vertex] = set()
        for node in meta.graph_def.node:
            vertex = ("node", node.name)
            self.edges[vertex] |= {("node", _node_of(name)) for name in node.input} | self._called(node)
            if (
                node.input
                and file in (node.input[0], f"{node.input[0]}:0")
                and (node.op in RESTORE_OPS or _is_plain_call(node))
            ):
                self.reads_own_file.add(vertex)
        for function in meta.graph_def.library.function:
            vertex = ("function", function.signature.name)
            # TensorFlow names a function's gradient in one of its text attributes.
            texts = (text for attr in function.attr.values() for text in _texts(attr))
            self.edges[vertex] |= {("function", text) for text in texts if text in self.functions}
            for node in function.node_def:
                self.edges[vertex] |= self._called(node)
        self.run = self._closure(_roots(meta))
        restore = [("node", _node_of(name)) for name in (saver.filename_tensor_name, saver.restore_op_name)]
        self.restore = self._closure(restore)
        self.saver = self._closure([*restore, ("node", _node_of(saver.save_tensor_name))])

    def _called(self, node: Any) -> set[_Vertex]:
        names = {node.op, *(text for attr in node.attr.values() for text in (*_texts(attr), *_function_names(attr)))}
        return {("function", name) for name in names & self.functions}

    def _closure(self, roots: Iterable[_Vertex]) -> set[_Vertex]:
        seen: set[_Vertex] = set()
        pending = list(roots)
        while pending:
            vertex = pending.pop()
            if vertex not in seen:
                seen.add(vertex)
                pending += self.edges.get(vertex, ())
        return seen

    def allows(self, node: Any, vertex: _Vertex, function: Any = None) -> bool:
        """Whether `node` may stand in `vertex`: itself in the graph, or the function whose body it is in."""
        if not {name for attr in node.attr.values() for name in _function_names(attr)} <= self.functions:
            return False  # a function from elsewhere in the process
        if node.op in ALLOWED_OPS or node.op in self.functions:
            return True
        if node.op not in SAVE_OPS | RESTORE_OPS or vertex in self.run:
            return False
        # A node that nothing leads to is left over from another saver; a function could still be called by its name, or put in
        # another's place by what it says to implement.
        if function is not None and (vertex not in self.saver or "api_implements" in function.attr):
            return False
        if vertex not in self.restore:
            return True
        if node.op in SAVE_OPS:
            return False
        if function is None:
            return vertex in self.reads_own_file
        takes_first = function.signature.input_arg and node.input[:1] == [function.signature.input_arg[0].name]
        return bool(takes_first) and {v for v, called in self.edges.items() if vertex in called} <= self.reads_own_file


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]


def _is_plain_call(node: Any) -> bool:
    """Whether `node` calls one function, with its own inputs in order; a branch or a loop would hand on others."""
    names = [name for attr in node.attr.values() for name in _function_names(attr)]
    return node.op in ("PartitionedCall", "StatefulPartitionedCall") and len(names) == 1


def _function_names(attr: Any) -> Iterator[str]:
    """The functions that an attribute of a node names, also as an attribute of another."""
    for function in (*([attr.func] if attr.HasField("func") else []), *attr.list.func):
        yield function.name
        for inner in function.attr.values():
            yield from _function_names(inner)


def _texts(attr: Any) -> Iterator[str]:
    for value in (attr.s, *attr.list.s):
        yield value.decode("utf-8", "replace")


def _roots(meta: Any) -> Iterator[_Vertex]:
    """What can be run by name other than by the saver."""
    for signature in meta.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            yield from (("node", _node_of(name)) for name in _tensor_names(info))
    for asset in meta.asset_file_def:
        yield "node", _node_of(asset.tensor_info.name)
    for key, collection in meta.collection_def.items():
        yield from (("node", _node_of(name)) for name in collection.node_list.value)
        if key != "savers":  # savers of training runs: kept in the file, run by nobody
            yield from (("node", _node_of(name)) for value in collection.bytes_list.value for name in _variable_names(value))
    library, objects = meta.graph_def.library, meta.object_graph_def
    names = [*objects.concrete_functions]
    for node in objects.nodes:
        names += [*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name]
    for gradient in (*library.gradient, *library.registered_gradients):
        names.append(gradient.gradient_func)
    yield from (("function", name) for name in names)


def _tensor_names(info: Any) -> Iterator[str]:
    sparse = info.coo_sparse
    yield from (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    for component in info.composite_tensor.components:
        yield from _tensor_names(component)


def _variable_names(serialized: bytes) -> list[str]:
    """The nodes that a TF1 variable in a collection names; none where it is something else."""
    try:
        variable = VariableDef.FromString(serialized)
    except DecodeError:
        return []
    return [variable.variable_name, variable.initializer_name, variable.initial_value_name, variable.snapshot_name]
