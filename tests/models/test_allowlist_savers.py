"""The file operations of a SavedModel's saver are allowed only within it, and only for the model's own variables."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework.variable_pb2 import VariableDef

from tests.support.hostile import SHAPE, edit, function_with, refused, save_v1
from tfgradgen.models.loading.allowlist import check_ops


def node_of(proto: Any, op: str) -> Any:
    return next(node for node in proto.meta_graphs[0].graph_def.node if node.op == op)


def in_signature(proto: Any) -> None:
    proto.meta_graphs[0].signature_def["default"].outputs["default"].name = node_of(proto, "RestoreV2").name + ":0"


def in_component(proto: Any) -> None:
    info = proto.meta_graphs[0].signature_def["default"].outputs["other"]
    info.composite_tensor.components.add().name = node_of(proto, "MergeV2Checkpoints").name + ":0"


def in_sparse(proto: Any) -> None:
    info = proto.meta_graphs[0].signature_def["default"].outputs["other"]
    info.coo_sparse.values_tensor_name = node_of(proto, "ShardedFilename").name + ":0"


def in_init_op(proto: Any) -> None:
    proto.meta_graphs[0].collection_def["saved_model_main_op"].node_list.value[:] = [node_of(proto, "SaveV2").name]


def in_image(proto: Any) -> None:
    next(node for node in proto.meta_graphs[0].graph_def.node if node.name == "image").input.append(
        f"^{node_of(proto, 'SaveV2').name}"
    )


def in_initializer(proto: Any) -> None:
    variable = VariableDef(variable_name="v:0", initializer_name=node_of(proto, "SaveV2").name)
    proto.meta_graphs[0].collection_def["local_variables"].bytes_list.value.append(variable.SerializeToString())


def in_asset(proto: Any) -> None:
    proto.meta_graphs[0].asset_file_def.add().tensor_info.name = node_of(proto, "StringJoin").name + ":0"


def in_restore(proto: Any) -> None:
    """Loading restores the variables, and would save others meanwhile."""
    meta = proto.meta_graphs[0]
    (restore,) = (node for node in meta.graph_def.node if node.name == meta.saver_def.restore_op_name)
    restore.input.append(f"^{node_of(proto, 'SaveV2').name}")


def from_elsewhere(proto: Any) -> None:
    meta = proto.meta_graphs[0]
    other = meta.graph_def.node.add(name="other", op="Const")
    other.attr["value"].tensor.string_val.append(b"/secret/checkpoint")
    for node in meta.graph_def.node:
        if node.op == "RestoreV2":
            node.input[0] = other.name


def from_the_other_output(proto: Any) -> None:
    """Loading feeds `both:1`; `both:0` keeps its value."""
    meta = proto.meta_graphs[0]
    paths = meta.graph_def.node.add(name="paths", op="Const")
    paths.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(["/secret/checkpoint", "own"]))
    paths.attr["dtype"].type = tf.string.as_datatype_enum
    axis = meta.graph_def.node.add(name="axis", op="Const")
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0))
    axis.attr["dtype"].type = tf.int32.as_datatype_enum
    both = meta.graph_def.node.add(name="both", op="Split", input=["axis", "paths"])
    both.attr["T"].type, both.attr["num_split"].i = tf.string.as_datatype_enum, 2
    for node in meta.graph_def.node:
        if node.op == "RestoreV2":
            node.input[0] = "both"
    meta.saver_def.filename_tensor_name = "both:1"


def from_a_computation(proto: Any) -> None:
    from_the_other_output(proto)
    proto.meta_graphs[0].saver_def.filename_tensor_name = "both:0"


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize(
    ("change", "op"),
    [
        (in_signature, "RestoreV2"),
        (in_component, "StaticRegexFullMatch"),
        (in_sparse, "StaticRegexFullMatch"),
        (in_init_op, "SaveV2"),
        (in_image, "SaveV2"),
        (in_initializer, "SaveV2"),
        (in_asset, "StaticRegexFullMatch"),
        (in_restore, "SaveV2"),
        (from_elsewhere, "RestoreV2"),
        (from_the_other_output, "RestoreV2"),
        (from_a_computation, "RestoreV2"),
    ],
)
def test_a_tf1_saver_is_for_its_own_variables(change: Any, op: str, use_resource: bool, tmp_path: Path) -> None:
    folder = save_v1(tmp_path / "model", use_resource=use_resource)
    check_ops(folder)
    tf.saved_model.load(str(folder), tags=[])
    edit(folder, change)
    refused(folder, f"'{op}' (node 'save")


def test_the_restore_of_a_tf1_model_could_write(tmp_path: Path) -> None:
    """The control of `in_restore`: without the check, it writes."""

    def change(proto: Any) -> None:
        in_restore(proto)
        save = node_of(proto, "SaveV2")
        # Not the variable, which has no value yet if saving comes first.
        for position, value in ((0, str(tmp_path / "loot")), (3, 1.0)):
            constant = proto.meta_graphs[0].graph_def.node.add(name=f"constant{position}", op="Const")
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
            constant.attr["dtype"].type = constant.attr["value"].tensor.dtype
            save.input[position] = constant.name

    folder = save_v1(tmp_path / "model")
    edit(folder, change)
    refused(folder)
    tf.saved_model.load(str(folder), tags=[])
    assert list(tmp_path.glob("loot*"))


def saver_of(proto: Any) -> tuple[Any, Any]:
    return function_with(proto, "SaveV2"), function_with(proto, "RestoreV2")


def as_object(proto: Any) -> None:
    objects = proto.meta_graphs[0].object_graph_def
    objects.nodes.add().function.concrete_functions.append(saver_of(proto)[0].signature.name)


def as_bare_object(proto: Any) -> None:
    objects = proto.meta_graphs[0].object_graph_def
    objects.nodes.add().bare_concrete_function.concrete_function_name = saver_of(proto)[1].signature.name


def as_concrete(proto: Any) -> None:
    proto.meta_graphs[0].object_graph_def.concrete_functions[saver_of(proto)[0].signature.name].SetInParent()


def as_gradient(proto: Any) -> None:
    library = proto.meta_graphs[0].graph_def.library
    library.gradient.add(function_name="f", gradient_func=saver_of(proto)[0].signature.name)


def as_registered_gradient(proto: Any) -> None:
    library = proto.meta_graphs[0].graph_def.library
    library.registered_gradients.add(gradient_func=saver_of(proto)[0].signature.name, registered_op_type="CustomGradient-1")


def called(proto: Any) -> Any:
    return function_with(proto, "Tanh")


def as_backward(proto: Any) -> None:
    called(proto).attr["backward_function_name"].s = saver_of(proto)[0].signature.name.encode()


def as_twin(proto: Any) -> None:
    for function in (called(proto), saver_of(proto)[0]):
        function.attr["api_implements"].s = b"the same"


def as_call(proto: Any) -> None:
    called(proto).node_def.add(name="x", op=saver_of(proto)[0].signature.name)


def as_attribute(proto: Any) -> None:
    node = called(proto).node_def.add(name="x", op="Case")
    inner = node.attr["branches"].list.func.add(name=called(proto).signature.name)
    inner.attr["f"].func.name = saver_of(proto)[0].signature.name


def as_leftover(proto: Any) -> None:
    proto.meta_graphs[0].saver_def.save_tensor_name = "saver_filename:0"


def restores_elsewhere(proto: Any) -> None:
    next(node for node in saver_of(proto)[1].node_def if node.op == "RestoreV2").input[0] = "RestoreV2/tensor_names:output:0"


def is_handed_another_file(proto: Any) -> None:
    meta = proto.meta_graphs[0]
    next(node for node in meta.graph_def.node if node.name == meta.saver_def.restore_op_name).input[0] = "Const"


def restore_of(proto: Any) -> Any:
    meta = proto.meta_graphs[0]
    return next(node for node in meta.graph_def.node if node.name == meta.saver_def.restore_op_name)


def is_a_branch(proto: Any) -> None:
    """`If(path, secret)` passes on what follows the condition."""
    restore = restore_of(proto)
    restore.op = "If"
    for branch in ("then_branch", "else_branch"):
        restore.attr[branch].func.name = restore.attr["f"].func.name
    del restore.attr["f"]


def is_called_by_another(proto: Any) -> None:
    """The called function gets the function as an attribute, and may call it with another file."""
    function = restore_of(proto).attr["f"].func
    function.attr["f"].func.name, function.name = function.name, called(proto).signature.name


@pytest.mark.parametrize(
    "change",
    [
        as_object,
        as_bare_object,
        as_concrete,
        as_gradient,
        as_registered_gradient,
        as_backward,
        as_twin,
        as_call,
        as_attribute,
        as_leftover,
        restores_elsewhere,
        is_handed_another_file,
        is_a_branch,
        is_called_by_another,
    ],
)
def test_a_tf2_saver_is_for_its_own_variables(change: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(1.0)
    module.__call__ = tf.function(lambda x: tf.tanh(x * module.w), [tf.TensorSpec(SHAPE, tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "model"))
    check_ops(tmp_path / "model")
    edit(tmp_path / "model", change)
    refused(tmp_path / "model", "in the function '__inference__traced_")
