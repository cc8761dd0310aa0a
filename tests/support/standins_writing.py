"""Writing folders in the TF1-Hub format, and the seeded weights of the stand-ins.

The format is that of tensorflow_hub's exporter for `hub.Module`: a meta graph for each set of tags without default
attributes, a saver or an init op, one checkpoint that all of them share, and `tfhub_module.pb`.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

TFHUB_MODULE = b"\x08\x03"  # field 1 (type) = 3: the SavedModel-based hub format


class Signature(NamedTuple):
    """Tensors of the graph under construction, by their names in the signature."""

    inputs: dict[str, tf.Tensor]
    outputs: dict[str, tf.Tensor]


class Weights:
    """Seeded weights as graph variables; each value depends only on the seed and the name.

    resource: False makes `VariableV2` nodes (ref variables), as in most TF1 modules.
    """

    def __init__(self, seed: int, resource: bool) -> None:
        self.seed, self.resource = seed, resource
        self.values: dict[str, np.ndarray] = {}

    def put(self, name: str, value: np.ndarray) -> tf.Variable:
        """Return a variable of the current graph, which the checkpoint will contain with `value`."""
        self.values[name] = np.asarray(value, np.float32)
        zeros = tf.compat.v1.zeros_initializer()
        return tf.compat.v1.get_variable(name, self.values[name].shape, initializer=zeros, use_resource=self.resource)

    def draw(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """Return standard normal float32 values of `shape`, the same for the same seed and name."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)

    def normal(self, name: str, shape: Sequence[int], scale: float) -> tf.Variable:
        return self.put(name, scale * self.draw(name, shape))

    def dense(self, name: str, x: tf.Tensor, width: int, scale: float = 1.0) -> tf.Tensor:
        """x [B, n] -> [B, width]; inputs of unit variance give outputs of standard deviation `scale`."""
        inputs = int(x.shape[-1])
        return tf.matmul(x, self.normal(f"{name}/w", [inputs, width], scale / inputs**0.5))


Graph = Callable[[Weights], dict[str, Signature]]


def write_hub_module(folder: Path, graphs: Sequence[tuple[Sequence[str], Graph]], weights: Weights) -> Path:
    """Write one meta graph for each (tags, function that builds it and returns its signatures); return `folder`."""
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    for tags, build in graphs:
        with tf.Graph().as_default():
            signatures = {name: _definition(signature) for name, signature in build(weights).items()}
            meta = tf.compat.v1.train.export_meta_graph(strip_default_attrs=True)
        meta.meta_info_def.tags.extend(tags)
        for name, definition in signatures.items():
            meta.signature_def[name].CopyFrom(definition)
        saved.meta_graphs.append(meta)
    (folder / "variables").mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "variables" / "variables"),
        tensor_names=list(weights.values),
        shape_and_slices=[""] * len(weights.values),
        tensors=list(weights.values.values()),
    )
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString(deterministic=True))
    (folder / "tfhub_module.pb").write_bytes(TFHUB_MODULE)
    return folder


def _definition(signature: Signature) -> meta_graph_pb2.SignatureDef:
    info = tf.compat.v1.saved_model.build_tensor_info
    inputs = {key: info(tensor) for key, tensor in signature.inputs.items()}
    return tf.compat.v1.saved_model.build_signature_def(inputs, {key: info(t) for key, t in signature.outputs.items()})


def placeholder(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.Tensor:
    return tf.compat.v1.placeholder(dtype, list(shape), name)


def cosines(size: int, count: int) -> np.ndarray:
    """Return the first `count` cosines of the DCT-II as float32 columns [size, count]: orthogonal, with unit mean square."""
    waves = np.cos(np.pi * (np.arange(size)[:, None] + 0.5) * np.arange(count) / size) * 2**0.5
    waves[:, 0] = 1.0
    return waves.astype(np.float32)
