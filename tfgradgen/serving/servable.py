"""An export, loaded to answer requests in this process, as TensorFlow Serving would: its status, metadata and predictions."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import full_float32
from tfgradgen.models.loading.saved_model import open_saved_model
from tfgradgen.serving.rest import Refusal, Request, Spec, Specs

# Ops of an export besides those of any model: labels in, PNG, WAV or GIF out. They compute, too.
SERVED_OPS = frozenset(
    {"EncodePng", "EncodeWav", "ReduceJoin"}
    | {"StringLower", "StringStrip", "StringLength", "StaticRegexReplace", "RegexFullMatch", "UnicodeTranscode"}
)
# HTTP status by the code of a TensorFlow error; others are 500.
_STATUS = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.NOT_FOUND: 404,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
}
_TYPES = {"string": "DT_STRING", "int32": "DT_INT32", "int64": "DT_INT64", "float32": "DT_FLOAT"}
_ESCAPED = re.compile(r"""\\(['"\\])""")
_KNOWN = {"string", "int32", "int64", "float32"}  # dtypes of inputs that JSON is converted to


class Servable:
    """A loaded export.

    Attributes:
      name: Name of the model in URLs.
      version: Its version.
      specs: The inputs of each signature, by names.
    """

    def __init__(self, folder: Path, name: str, version: int, allow_unknown_ops: bool = False):
        """Load the export in `folder`, which may contain only ops that compute unless `allow_unknown_ops`.

        Raises:
          UserError: It does not load, or has an op that no export has.
        """
        full_float32()
        self.name, self.version = name, version
        self._opened = open_saved_model(folder, allow_unknown_ops=allow_unknown_ops, more_ops=SERVED_OPS)
        self._functions = dict(self._opened.module.signatures)
        self.specs: dict[str, Specs] = {}
        for signature, function in self._functions.items():
            inputs = function.structured_input_signature[1]
            if all(spec.dtype.name in _KNOWN and spec.shape.rank for spec in inputs.values()):
                self.specs[signature] = {key: Spec(spec.dtype.name, tuple(spec.shape)[1:]) for key, spec in inputs.items()}

    def predict(self, request: Request) -> dict[str, np.ndarray]:
        """Return the outputs of `request`, arrays [rows, ...] by name.

        Raises:
          Refusal: The model refuses the request; the text is its own.
        """
        specs = self.specs[request.signature]
        inputs = {name: tf.constant(value, specs[name].dtype) for name, value in request.inputs.items()}
        try:
            outputs = self._functions[request.signature](**inputs)
        except tf.errors.OpError as error:
            raise Refusal(_STATUS.get(error.error_code, 500), _first_line(error.message)) from error
        return {name: value.numpy() for name, value in outputs.items()}

    def status(self) -> dict[str, Any]:
        """Return the reply to GET /v1/models/NAME."""
        state = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [{"version": str(self.version), **state}]}

    def metadata(self) -> dict[str, Any]:
        """Return the reply to GET /v1/models/NAME/metadata: inputs and outputs of the signatures."""
        signatures = {
            name: {
                "inputs": _infos(function.structured_input_signature[1]),
                "outputs": _infos(function.structured_outputs),
                "method_name": "tensorflow/serving/predict",
                "defaults": {},
            }
            for name, function in self._functions.items()
            if name in self.specs
        }
        model_spec = {"name": self.name, "signature_name": "", "version": str(self.version)}
        return {"model_spec": model_spec, "metadata": {"signature_def": {"signature_def": signatures}}}


def _infos(specs: Any) -> dict[str, Any]:
    """Return tensors by name, as JSON of the protocol buffer TensorInfo."""
    return {
        name: {
            "dtype": _TYPES.get(spec.dtype.name, "DT_INVALID"),
            "tensor_shape": {
                "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape.as_list()]
                if spec.shape.rank is not None
                else [],
                "unknown_rank": spec.shape.rank is None,
            },
            "name": name,
        }
        for name, spec in specs.items()
    }


def _first_line(message: str) -> str:
    """Return what the model itself says in an error of TensorFlow, without the list of nodes below it."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "[[{{" not in line]
    said = next((line for line in lines if "assertion failed: " in line), lines[0] if lines else "the model failed")
    said = said.rpartition("assertion failed: ")[2]
    # TensorFlow puts each value in brackets, and a backslash before quotes.
    said = said[1:-1] if said.startswith("[") and said.endswith("]") else said
    return _ESCAPED.sub(r"\1", said)
