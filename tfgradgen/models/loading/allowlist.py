"""Checks that a SavedModel is safe to load even if its author is not trusted: it may contain only ops that compute.

A SavedModel is a program (TensorFlow's SECURITY.md). Loading it runs the init op of a TF1 model, or the `_create_resource` and
`_initialize` functions of a TF2 model. Calling it runs a signature, and TensorFlow looks up further nodes by name. All of
these are nodes of its meta graphs or of the functions in their libraries. Therefore saved_model.pb is parsed, and every node
of every graph and function is checked, whether it is used or not. TensorFlow then loads a copy of the parsed program: one meta
graph without its savers (see `savers`), which contains only ops of `ALLOWED_OPS` and calls of its own functions. With a list of
allowed names there is no need to list attacks: it takes an op to run a graph in a string (`DatasetFromGraph`), to call Python
or to open a file.

Tables that are filled from a file are refused too, even from the model's own assets, because the file name is only known at
run time.

Files that `tf.saved_model.load` reads but does not run are not checked: variables/ (tensors) and assets/. It does not read
Keras' own files (keras_metadata.pb, .keras), which can contain Python code. A model that passes may still be slow or large, or
trigger a bug in TensorFlow's kernels.
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
    """Parse `folder`/saved_model.pb without running anything; errors name the model as `where`."""
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


def check_ops(folder: Path, source: Path | None = None, more_ops: Collection[str] = ()) -> list[Any]:
    """Return copies of all meta graphs of a SavedModel with allowed ops only, without running anything.

    Args:
      folder: A folder with saved_model.pb.
      source: The folder of which it is a copy, for errors.
      more_ops: Ops that are allowed besides `ALLOWED_OPS`.

    Raises:
      UserError: An op is not allowed, or an op of savers is used outside of one (see `savers.pruned`).
    """
    where, allowed = source or folder, ALLOWED_OPS | frozenset(more_ops)
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if is_inside(where, name):
            raise fail(f"model {where}", "a program in saved_model.pb only", f"also {name}", f"remove that, or {_TRUST}")
    result = []
    for meta in read_program(folder, where).meta_graphs:
        _check_meta_graph(meta, allowed | SAVER_OPS, where)
        safe = pruned(meta)
        if isinstance(safe, Misuse):
            raise _refusal(safe.node, safe.function, meta, where)
        _check_meta_graph(safe, allowed, where)  # without ops of savers
        result.append(safe)
    return result


def _check_meta_graph(meta: Any, allowed: Collection[str], where: Path) -> None:
    """Raise `UserError` for the first op that is neither `allowed` nor a function of the meta graph."""
    functions = {function.signature.name for function in meta.graph_def.library.function}
    for name in functions:
        if op_def_registry.get(name) is not None:
            raise fail(f"model {where}", "functions without the names of ops", f"a function {_shown(name)}", _TRUST)
    bodies = [(None, meta.graph_def.node), *((function, function.node_def) for function in meta.graph_def.library.function)]
    for function, nodes in bodies:
        for node in nodes:
            named = {name for attr in node.attr.values() for name in function_names(attr)}
            if not (node.op in allowed or node.op in functions) or not named <= functions:
                raise _refusal(node, function, meta, where)
        named = {name for attr in _attributes(function) for name in function_names(attr)}
        if not named <= functions:  # they could be functions of the process outside of the model
            got = f"{_shown(min(named - functions))} in an attribute of the function {_shown(function.signature.name)}"
            raise fail(f"model {where}", "only its own functions", got, _TRUST)


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
    return fail(f"model {where}", "only ops that compute", got, _TRUST)


def _shown(name: str) -> str:
    return f"'{printable(name, 40)}'"
