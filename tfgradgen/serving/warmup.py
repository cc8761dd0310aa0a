"""Warm-up requests: a server runs them first, so that the first real request does not wait for the graph to be prepared."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tfgradgen.serving.module import BATCHED

FILE = Path("assets.extra") / "tf_serving_warmup_requests"  # path that TF Serving expects
NUM_STEPS = 1  # steps of a warm-up request; enough to run every part of the graph


def requests(
    signatures: Mapping[str, Any], labels: Sequence[str], batch_sizes: Sequence[int]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield a request for each signature and batch size, one for each `*_batched`: name of the signature, and its inputs.

    Args:
      signatures: The result of `Serving.signatures`.
      labels: Names of labels, used in turn.
      batch_sizes: Batch sizes.
    """
    for name, function in signatures.items():
        # Those with a batch of their own compute with the same shapes whatever is asked.
        for size in batch_sizes[:1] if name.endswith(BATCHED) else batch_sizes:
            specs = tf.nest.flatten(function.structured_input_signature)
            yield name, {spec.name: example(spec, labels, size) for spec in specs}


def example(spec: tf.TensorSpec, labels: Sequence[str], size: int) -> np.ndarray:
    """Return example values [size, ...] for an input of a signature."""
    shape = (size, *spec.shape[1:])
    if spec.dtype == tf.string:
        return np.resize(np.array(list(labels), object), shape)
    if spec.name == "num_steps":
        return np.full(shape, NUM_STEPS, np.int32)
    return np.arange(size, dtype=np.int64) if spec.name == "seed" else np.zeros(shape, np.float32)


def write_warmup(folder: Path, model: str, asked: Iterator[tuple[str, dict[str, np.ndarray]]]) -> int:
    """Write `asked` as PredictionLog records to the SavedModel `folder`, and return their number.

    `model` is the name of the model on the server.
    """
    (folder / FILE).parent.mkdir(exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for name, inputs in asked:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model, name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))
            count += 1
    return count
