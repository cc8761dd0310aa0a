"""Models that must not be loaded without consent, and checks of their refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfgradgen.core.checks import UserError
from tfgradgen.models.loading.allowlist import check_ops

v1 = tf.compat.v1
SHAPE: list[int | None] = [None, 4]


def refused(folder: Path, *texts: str) -> None:
    """Check that `folder` is refused in one line that contains each of `texts`."""
    with pytest.raises(UserError) as error:
        check_ops(folder)
    (line,) = error.value.command_text.splitlines()
    assert line.startswith(f"model {folder}: expected ")
    assert "--allow_unknown_ops if you trust its author." in line
    for text in texts:
        assert text in line, line


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Rewrite saved_model.pb with the proto that `change` modifies, beyond what TensorFlow itself would export."""
    proto = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(proto)
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())


def function_with(proto: Any, op: str) -> Any:
    functions = proto.meta_graphs[0].graph_def.library.function
    return next(function for function in functions if op in {node.op for node in function.node_def})


def writes(loot: Path, x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file(str(loot), "mine")]):
        return tf.identity(x)


def save_v1(folder: Path, make_init: Callable[[], Any] = v1.tables_initializer, **settings: Any) -> Path:
    """Save a TF1 model of one variable in TF-Hub's old format, with a training run's saver left in its graph.

    settings: `use_resource` for the variable; `finish`, from z and tanh(w z) [?, 4] to the output; others for the builder.
    """
    finish = settings.pop("finish", lambda z, image: image)
    with v1.Graph().as_default(), v1.Session() as session:
        z = v1.placeholder(tf.float32, SHAPE, name="z")
        w = v1.get_variable("w", [4, 4], use_resource=settings.pop("use_resource", False))
        image = finish(z, tf.nn.tanh(tf.matmul(z, w), name="image"))
        session.run(v1.global_variables_initializer())
        v1.add_to_collection("savers", v1.train.Saver())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.build_signature_def(
            {"z": v1.saved_model.build_tensor_info(z)}, {"default": v1.saved_model.build_tensor_info(image)}
        )
        builder.add_meta_graph_and_variables(
            session, [], {"default": signature}, main_op=make_init(), saver=v1.train.Saver(sharded=True), **settings
        )
        builder.save()
    return folder
