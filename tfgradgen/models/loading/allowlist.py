"""Whether a SavedModel may be loaded without trusting its author: only if each operation in it is one that computes.

A SavedModel is a program (TensorFlow's SECURITY.md). Loading it runs a TF1 model's init operation and a TF2 model's
`_create_resource` and `_initialize` functions; calling it runs a signature, and TensorFlow finds further nodes by their
names. All of that consists of nodes of its meta graphs and of the functions in their libraries. So saved_model.pb is parsed,
every node of every graph and function is checked, in use or not, and TensorFlow loads a copy of what was parsed: one meta
graph without its savers (see `savers`), in which only operations of `ALLOWED_OPS` and calls of its own functions are left. A
list of allowed names needs no list of the ways around it: a graph in a string takes an operation to run it
(`DatasetFromGraph`), Python one to call it, a file one to open it.

Tables filled from a file are refused as well, even from the model's own assets: which file it is, is known only when it runs.

What `tf.saved_model.load` reads but does not run is not checked: variables/ (tensors) and assets/. Keras' own files
(keras_metadata.pb, .keras), which can hold Python code, it does not read. A model that passes may still be slow or large, or
trigger a flaw in TensorFlow's kernels.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfgradgen.core._tf_private import op_def_registry
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.text import printable
from tfgradgen.models.loading.allowed_ops import ALLOWED_OPS
from tfgradgen.models.loading.inside import is_inside
from tfgradgen.models.loading.savers import SAVER_OPS, Misuse, function_names, pruned

_TRUST = "pass --allow_unknown_ops if you trust its author"


def read_program(folder: Path, where: Path) -> Any:
    """The `SavedModel` in `folder`/saved_model.pb, parsed and nothing more; errors name the model as `where`."""
    proto = SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        got = error.strerror if isinstance(error, OSError) else "a damaged saved_model.pb"
        raise fail(f"model {where}", "a SavedModel that loads", got, "export it again") from error
    if not proto.meta_graphs:
        raise fail(f"model {where}", "a SavedModel that loads", "one without a graph", "export it again")
    proto.DiscardUnknownFields()  # a later parser may know them
    return proto


def check_ops(folder: Path, source: Path | None = None) -> list[Any]:
    """Copies of the meta graphs of the SavedModel in `folder` that hold nothing but operations that compute; runs nothing.

    Args:
      folder: with saved_model.pb. source: what it is a copy of, for errors.

    Raises:
      UserError: an operation that is not allowed, or one of a saver that is not a saver's own; see `savers.pruned`.
    """
    where = source or folder
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if is_inside(where, name):
            raise fail(f"model {where}", "its program in saved_model.pb alone", f"also {name}", f"remove that, or {_TRUST}")
    result = []
    for meta in read_program(folder, where).meta_graphs:
        _check_meta_graph(meta, ALLOWED_OPS | SAVER_OPS, where)
        safe = pruned(meta)
        if isinstance(safe, Misuse):
            raise _refusal(safe.node, safe.function, meta, where)
        _check_meta_graph(safe, ALLOWED_OPS, where)  # whatever the savers were
        result.append(safe)
    return result


def _check_meta_graph(meta: Any, allowed: Collection[str], where: Path) -> None:
    """Raises `UserError` at the first operation that is neither `allowed` nor a function of the meta graph's own."""
    functions = {function.signature.name for function in meta.graph_def.library.function}
    for name in functions:
        if op_def_registry.get(name) is not None:
            raise fail(f"model {where}", "functions with names of their own", f"a function {_shown(name)}", _TRUST)
    bodies = [(None, meta.graph_def.node), *((function, function.node_def) for function in meta.graph_def.library.function)]
    for function, nodes in bodies:
        for node in nodes:
            named = {name for attr in node.attr.values() for name in function_names(attr)}
            if not (node.op in allowed or node.op in functions) or not named <= functions:
                raise _refusal(node, function, meta, where)
        named = {name for attr in _attributes(function) for name in function_names(attr)}
        if not named <= functions:  # functions from elsewhere in the process
            got = f"{_shown(min(named - functions))} in an attribute of the function {_shown(function.signature.name)}"
            raise fail(f"model {where}", "only functions of its own", got, _TRUST)


def _attributes(function: Any) -> list[Any]:
    if function is None:
        return []
    of_arguments = (attr for argument in function.arg_attr.values() for attr in argument.attr.values())
    return [*function.attr.values(), *of_arguments, *(attr.default_value for attr in function.signature.attr)]


def _refusal(node: Any, function: Any, meta: Any, where: Path) -> UserError:
    place = f"graph tagged {_shown(', '.join(meta.meta_info_def.tags))}"
    if function is not None:
        place = f"function {_shown(function.signature.name)}"
    got = f"{_shown(node.op)} (node {_shown(node.name)} in the {place} of saved_model.pb)"
    return fail(f"model {where}", "only operations that compute", got, _TRUST)


def _shown(name: str) -> str:
    return f"'{printable(name, 40)}'"
