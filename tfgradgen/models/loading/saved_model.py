"""Opening SavedModels in TF2 or TF1-hub format; their functions map named tensors to named tensors."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.parsing import PARSER_ERRORS
from tfgradgen.core.text import printable
from tfgradgen.models.loading.allowlist import check_ops, read_program
from tfgradgen.models.loading.handles import resolve_handle, version_of
from tfgradgen.models.loading.inputs import listed
from tfgradgen.models.loading.inside import Copy
from tfgradgen.models.loading.metadata import read_metadata
from tfgradgen.models.loading.savers import named_variables, saved_variables, without_collections
from tfgradgen.models.loading.tf1 import frozen_function

# Errors that TensorFlow raises on damaged files of a model, its assertions included.
LOAD_ERRORS = (*PARSER_ERRORS, tf.errors.OpError, DecodeError, AssertionError)
CALL = "__call__"  # stands for a call of a TF2 module itself, as a signature


class Signature(NamedTuple):
    """Inputs and outputs of a function: name -> TensorSpec. Outputs are {} if only a call can tell them."""

    inputs: Mapping[str, tf.TensorSpec]
    outputs: Mapping[str, tf.TensorSpec]

    def __str__(self) -> str:
        return f"({listed(self.inputs)}) -> ({listed(self.outputs) or '?'})"


@dataclass
class Opened:
    """An open SavedModel. Its functions are created on demand.

    Attributes:
      handle: The handle that the user gave.
      folder: The folder of the model, which may hold other files too.
      metadata: Content of its model.json.
      sha256: Digest of its files.
      tags: Tags of the meta graph in use.
      is_tf1: Whether it is in the TF1 format.
      signatures: Signatures by name; a call of the module itself is `CALL`.
      module: The loaded module.
      version: The numbered folder in use if the handle is its parent folder, otherwise ''.
    """

    handle: str
    folder: Path
    metadata: dict[str, Any]
    sha256: str
    tags: tuple[str, ...]
    is_tf1: bool
    signatures: dict[str, Signature]
    module: Any
    version: str = ""
    _graph: Any = None  # for the TF1 format: the meta graph, the keys of its variables in the checkpoint, and the files
    _variables: Mapping[str, Any] = field(default_factory=dict)
    _files: Copy | None = None

    def function(self, name: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the function of the signature `name`: {input: tensor} -> {output: tensor}."""
        if not self.is_tf1:
            function = self.module.signatures.get(name)
            return lambda inputs: _by_name(self.module(*inputs.values()) if name == CALL else function(**inputs))
        assert self._files is not None
        proto = self._graph.signature_def[name]
        inputs, outputs = ({key: info.name for key, info in sorted(side.items())} for side in (proto.inputs, proto.outputs))
        try:
            fn, graph = frozen_function(self._graph, self._files.folder, self._variables, inputs, outputs)
        except LOAD_ERRORS as error:
            raise _no_load(self.handle, error) from error
        self.module.graphs.append(graph)
        return lambda given: dict(zip(outputs, fn(*(given[key] for key in inputs)), strict=True))

    def listed(self) -> tuple[str, ...]:
        """Return all signatures as printable text."""
        return tuple(f"{printable(name)} {signature}" for name, signature in self.signatures.items())


class FrozenModule:
    """A stand-in for a TF1 module, with the graphs that were created from it."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []


def open_saved_model(
    handle: str | Path,
    tags: Sequence[str] | None = None,
    prefer: str = "",
    allow_unknown_ops: bool = False,
    more_ops: Collection[str] = (),
) -> Opened:
    """Find and open the SavedModel `handle`.

    Args:
      handle: A folder, an archive, a TF-Hub URL or a Kaggle Models handle.
      tags: Tags of the meta graph; ('none',) or () for the one without tags. By default the only meta graph, the one without
        tags, or the one tagged 'serve'.
      prefer: A tag that is preferred if there are several meta graphs, such as 'gen'.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.
      more_ops: Ops that are allowed besides those on the list.

    Raises:
      UserError: The model or meta graph does not exist, an op is not allowed, or the model does not load.
    """
    folder = resolve_handle(str(handle))
    version = version_of(folder, str(handle))
    metadata, files = read_metadata(folder), Copy(folder)
    program = read_program(files.folder, folder)
    known = [tuple(sorted(meta.meta_info_def.tags)) for meta in program.meta_graphs]
    chosen = _choose_tags(list(dict.fromkeys(known)), tags, prefer, str(handle))
    loadable = (
        [without_collections(meta) for meta in program.meta_graphs]
        if allow_unknown_ops
        else check_ops(files.folder, folder, more_ops)
    )
    k = max(k for k, found in enumerate(known) if found == chosen)
    original, meta = program.meta_graphs[k], loadable[k]
    if not meta.object_graph_def.nodes:
        protos = {name: proto for name, proto in sorted(meta.signature_def.items()) if proto.outputs}
        try:
            signatures = {name: Signature(_specs(proto.inputs), _specs(proto.outputs)) for name, proto in protos.items()}
            variables = saved_variables(original) or named_variables(original)
        except (TypeError, ValueError) as error:  # an invalid dtype or shape
            raise _no_load(str(handle), error) from error
        module = FrozenModule()
        return Opened(
            str(handle), folder, metadata, files.sha256, chosen, True, signatures, module, version, meta, variables, files
        )
    module = _loaded(program, meta, files, str(handle))
    try:
        found = dict(_signatures(module))
    except LOAD_ERRORS as error:
        raise _no_load(str(handle), error) from error
    if not allow_unknown_ops:  # ops that passed the check read no files
        files.remove()
    return Opened(str(handle), folder, metadata, files.sha256, chosen, False, found, module, version, _files=files)


def _loaded(program: Any, meta: Any, files: Copy, where: str) -> Any:
    """Load the TF2 module of the meta graph `meta`, after the copy on disk was reduced to this meta graph."""
    del program.meta_graphs[:]
    program.meta_graphs.append(meta)
    (files.folder / "saved_model.pb").write_bytes(program.SerializeToString())
    try:
        return tf.saved_model.load(str(files.folder), list(meta.meta_info_def.tags))
    except Exception as error:  # on damaged files the loader raises many kinds of errors
        raise _no_load(where, error) from error


def _choose_tags(known: list[tuple[str, ...]], wanted: Sequence[str] | None, prefer: str, where: str) -> tuple[str, ...]:
    if wanted is not None:
        chosen = tuple(sorted(wanted))
        if chosen == ("none",) and chosen not in known:
            chosen = ()  # listed as 'none' below
        if chosen in known:
            return chosen
        names = " or ".join(printable(",".join(tags)) or "none" for tags in known)
        raise fail(f"model {where} tags", names, ",".join(wanted) or "none", "give one of these, as a,b")
    suiting = [tags for tags in known if prefer in tags] or known
    free = [tags for tags in suiting if "bsNone" in tags]
    for tags in ((), ("serve",)):
        if tags in known and suiting is known:
            return tags
    return (free or suiting)[0]


def _specs(infos: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name)
        for name, info in sorted(infos.items())
    }


def _signatures(module: Any) -> Iterable[tuple[str, Signature]]:
    named = getattr(module, "signatures", {})
    called = _signature_of_callable(module, bool(named)) if callable(module) else None
    if called:
        yield CALL, called
    for name, function in named.items():
        yield name, Signature(dict(function.structured_input_signature[1]), _as_specs(_by_name(function.structured_outputs)))


def _signature_of_callable(module: Any, has_others: bool) -> Signature | None:
    """Return the signature of a callable module.

    It is that of a trace with exactly one tensor, or else of a trace with only tensors as positional arguments. Without either
    it has one input of unknown shape, or it is None if the model has other signatures (as Keras models of several inputs do).
    """
    several = None
    for concrete in getattr(module.__call__, "concrete_functions", []):
        args, _ = concrete.structured_input_signature
        specs = [s for s in tf.nest.flatten(concrete.structured_input_signature) if isinstance(s, tf.TensorSpec)]
        if len(specs) == 1:
            return Signature({"input": specs[0]}, _as_specs(_by_name(concrete.structured_outputs)))
        if several is None and specs and all(isinstance(arg, tf.TensorSpec) for arg in args) and len(args) == len(specs):
            inputs = {spec.name or f"input_{k}": spec for k, spec in enumerate(specs)}
            several = Signature(inputs, _as_specs(_by_name(concrete.structured_outputs)))
    if several and not has_others:
        return several
    return None if has_others else Signature({"input": tf.TensorSpec(None, tf.float32)}, {})


def _by_name(output: Any) -> dict[str, Any]:
    """Name the outputs of a function: by key for a dictionary, by position for a tuple, 'output' for a single tensor."""
    if isinstance(output, Mapping):
        return dict(output)
    return {str(k): t for k, t in enumerate(output)} if isinstance(output, list | tuple) else {"output": output}


def _as_specs(outputs: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(t.shape, t.dtype, name) for name, t in sorted(outputs.items()) if hasattr(t, "dtype")}


def try_call(fn: Callable[[Any], Any], example: tf.Tensor, ranks: int | tuple[int, ...], where: str) -> tf.Tensor:
    """Call `fn` on `example` and check that it returns a floating-point tensor of the same batch, with one of `ranks`."""
    ranks = (ranks,) if isinstance(ranks, int) else ranks
    try:
        output = fn(example)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if isinstance(error, UserError):
            raise
        raise fail(
            f"model {where}",
            f"a function of a float32 tensor {example.shape}",
            reason_of(error),
            "give the right latent_dim or input size, or export it again",
        ) from error
    if not isinstance(output, tf.Tensor | tf.Variable):
        raise fail(f"model {where}", "one tensor as output", type(output).__name__, "export it with one output")
    if 0 in output.shape:
        raise fail(f"model {where}", "at least one pixel or score", f"an output of shape {output.shape}", "export it again")
    if output.shape.rank not in ranks or output.shape[0] != example.shape[0] or not output.dtype.is_floating:
        raise UserError(
            f"model {where}: expected a floating-point output of {ranks[0]} dimensions with batch "
            f"{example.shape[0]}, got {output.dtype.name} {output.shape}; export it without casts or reshapes."
        )
    return output


def reason_of(error: Exception) -> str:
    """Return the message of an error without the Python locations that TensorFlow puts first."""
    lines = (line.strip() for line in str(error).splitlines())
    places = ("Graph execution error", "Detected at node", "File ", "<stack traces", "Node:")
    return printable(" ".join(" ".join(line for line in lines if not line.startswith(places)).split()), 200)


def _no_load(where: str, error: Exception) -> UserError:
    """Return the error for a model that TensorFlow cannot load."""
    reason = reason_of(error) or type(error).__name__
    return fail(f"model {where}", "a SavedModel that loads", reason, "export it again")
