"""Opens a SavedModel folder and finds the one function in it that maps one tensor to one tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.checks import UserError, fail
from tfgradgen.models.metadata import fingerprint, read_metadata


class Opened(NamedTuple):
    """fn: one tensor -> one tensor. input_shape: list with None where unknown, or None. module: keeps variables alive."""

    fn: Callable[[Any], Any]
    input_shape: list[int | None] | None
    module: Any
    metadata: dict[str, Any]
    sha256: str


def open_saved_model(path: str | Path) -> Opened:
    """Loads `path`; raises `UserError` in one line where there is no SavedModel or no function of one tensor in it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise fail(f"model {path}", "a SavedModel folder", "no such folder", "check the path")
    if not (folder / "saved_model.pb").is_file():
        raise fail(f"model {path}", "a folder with saved_model.pb", "none in it", "give the folder that holds that file")
    metadata, sha256 = read_metadata(folder), fingerprint(folder)
    try:
        module = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises many kinds here; each means that the files cannot be used
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise fail(f"model {path}", "a SavedModel that loads", first_line[:200], "export it again") from None
    fn, spec = _find_function(module, str(path))
    shape = spec.shape.as_list() if spec is not None and spec.shape.rank is not None else None
    return Opened(fn, shape, module, metadata, sha256)


def _find_function(module: Any, where: str) -> tuple[Callable[[Any], Any], tf.TensorSpec | None]:
    if callable(module):
        return module, _spec_of_callable(module)
    signatures = getattr(module, "signatures", {})
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    if name is None:
        raise fail(f"model {where}", "a callable or a signature", "neither", "export it with a serving_default signature")
    signature = signatures[name]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        got = f"inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        raise fail(f"model {where} signature {name}", "one input and one output", got, "export it with one of each")
    (key, spec), output = next(iter(inputs.items())), next(iter(outputs))
    return lambda x: signature(**{key: x})[output], spec


def _spec_of_callable(module: Any) -> tf.TensorSpec | None:
    for concrete in getattr(module.__call__, "concrete_functions", []):
        specs = [s for s in tf.nest.flatten(concrete.structured_input_signature) if isinstance(s, tf.TensorSpec)]
        if len(specs) == 1:
            return specs[0]
    return None


def try_call(fn: Callable[[Any], Any], example: tf.Tensor, rank: int, where: str) -> tf.Tensor:
    """Runs `fn` once and checks that a floating-point tensor of `rank` dimensions with the example's batch comes back."""
    try:
        output = fn(example)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        first_line = " ".join(str(error).split())[:200]
        raise fail(
            f"model {where}",
            f"a function of a float32 tensor {example.shape}",
            first_line,
            "give the right latent_dim or input size, or export it again",
        ) from None
    if not isinstance(output, tf.Tensor | tf.Variable):
        raise fail(f"model {where}", "one tensor as output", type(output).__name__, "export it with one output")
    if output.shape.rank != rank or output.shape[0] != example.shape[0] or not output.dtype.is_floating:
        raise UserError(
            f"model {where}: expected a floating-point output of {rank} dimensions with batch "
            f"{example.shape[0]}, got {output.dtype.name} {output.shape}; export it without casts or reshapes."
        )
    return output
