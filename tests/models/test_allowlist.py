"""Models that would write or read files are refused before they are loaded; ordinary networks pass."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.support import toy
from tests.support.hostile import SHAPE, edit, function_with, refused, save_v1, v1, writes
from tfgradgen.core._tf_private import op_def_registry
from tfgradgen.core.checks import UserError
from tfgradgen.models.loading.allowed_ops import ALLOWED_OPS, RESTORE_OPS, SAVE_OPS
from tfgradgen.models.loading.allowlist import check_ops


@pytest.fixture
def loot(tmp_path: Path) -> Path:
    """The file that a hostile model writes."""
    return tmp_path / "loot"


class WritingTable(tf.lookup.KeyValueTensorInitializer):
    """A module that fills a table, and writes a file whenever it is loaded."""

    def __init__(self, loot: Path) -> None:
        self.loot = loot
        super().__init__([0], [1], tf.int64, tf.int64)

    def initialize(self, table: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(str(self.loot), "mine")]):
            return super().initialize(table)


def save_table(folder: Path, initializer: Any) -> Path:
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    module.__call__ = tf.function(
        lambda x: x + tf.cast(module.table.lookup(tf.zeros([], tf.int64)), tf.float32), [tf.TensorSpec(SHAPE, tf.float32)]
    )
    tf.saved_model.save(module, str(folder))
    return folder


@pytest.mark.parametrize("kind", ["main_op", "table_initializer", "resource"])
def test_what_writes_when_loaded_is_refused_before(kind: str, tmp_path: Path, loot: Path) -> None:
    folder = tmp_path / "model"
    if kind == "main_op":
        save_v1(folder, lambda: tf.io.write_file(str(loot), "mine"))
    elif kind == "table_initializer":
        save_v1(folder, lambda: v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, tf.io.write_file(str(loot), "mine")))
    else:
        save_table(folder, WritingTable(loot))
    loot.unlink(missing_ok=True)
    refused(folder, "'WriteFile'")
    assert not loot.exists()
    tf.saved_model.load(str(folder))  # the control: the model is really hostile
    assert loot.read_text() == "mine"


def nested(x: tf.Tensor, loot: Path) -> tf.Tensor:
    return tf.function(lambda y: tf.function(writes)(loot, y))(x)


def in_while(x: tf.Tensor, loot: Path) -> tf.Tensor:
    return tf.while_loop(lambda k, y: k < 3, lambda k, y: (k + 1, writes(loot, y)), (0, x))[1]


def in_cond(x: tf.Tensor, loot: Path) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: writes(loot, x), lambda: x)


def in_case(x: tf.Tensor, loot: Path) -> tf.Tensor:
    return tf.switch_case(tf.shape(x)[0], [lambda: x, lambda: writes(loot, x)])


def from_graph(x: tf.Tensor, loot: Path) -> tf.Tensor:
    """The program that writes the file is a text in a constant."""
    with tf.init_scope():
        dataset = tf.data.Dataset.range(1).map(lambda k: writes(loot, k))
        text = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor).numpy()
    text = tf.gather([text], tf.cast(tf.math.is_nan(x[0, 0]), tf.int32))  # known only at run time
    variant = tf.raw_ops.DatasetFromGraph(graph_def=text)
    (k,) = tf.raw_ops.DatasetToSingleElement(dataset=variant, output_types=[tf.int64], output_shapes=[[]])
    return x + tf.cast(k, tf.float32)


def printed(x: tf.Tensor, loot: Path) -> tf.Tensor:
    with tf.control_dependencies([tf.raw_ops.PrintV2(input="mine", output_stream=f"file://{loot}")]):
        return tf.identity(x)


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (lambda x, loot: writes(loot, x), "WriteFile"),
        (nested, "WriteFile"),
        (in_while, "WriteFile"),
        (in_cond, "WriteFile"),
        (in_case, "WriteFile"),
        (from_graph, "DatasetFromGraph"),
        (printed, "PrintV2"),
    ],
    ids=["call", "function", "while", "cond", "case", "graph in a constant", "print"],
)
def test_what_writes_when_called_is_refused(fn: Any, op: str, tmp_path: Path, loot: Path) -> None:
    folder = toy.save(tmp_path / "model", lambda x: fn(x, loot), SHAPE)
    refused(folder, f"'{op}' (node '", "in the function '", "of saved_model.pb);")
    assert not loot.exists()
    tf.saved_model.load(str(folder))(tf.ones([1, 4]))
    assert loot.read_text().strip() == "mine"


GROUP = {"group_size": 1, "group_key": 1, "instance_key": 1, "ordering_token": []}


def restored(x: tf.Tensor) -> tf.Tensor:
    (value,) = tf.raw_ops.RestoreV2(prefix="secret", tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32])
    return x + tf.reshape(value, [])


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32), "ReadFile"),
        (lambda x: x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32), "MatchingFiles"),
        (restored, "RestoreV2"),
        (lambda x: tf.numpy_function(lambda y: y, [x], tf.float32), "PyFunc"),
        (lambda x: tf.py_function(lambda y: y, [x], tf.float32), "EagerPyFunc"),
        (lambda x: tf.raw_ops.DebugIdentityV2(input=x, debug_urls=["file:///tmp/x"]), "DebugIdentityV2"),
        (lambda x: tf.raw_ops.CollectiveReduceV2(**GROUP, input=x, merge_op="Add", final_op="Id"), "CollectiveReduceV2"),
    ],
)
def test_other_ways_out_are_refused(fn: Any, op: str, tmp_path: Path) -> None:
    refused(toy.save(tmp_path / "model", fn, SHAPE), op)


def test_a_table_filled_from_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("0\n1\n")
    whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    table = tf.lookup.TextFileInitializer(str(tmp_path / "words"), tf.int64, whole, tf.int64, line)
    refused(save_table(tmp_path / "model", table), "InitializeTableFromTextFileV2")


def test_every_meta_graph_is_checked(tmp_path: Path, loot: Path) -> None:
    first = save_v1(tmp_path / "first")
    second = save_v1(tmp_path / "second", lambda: tf.io.write_file(str(loot), "mine"))
    check_ops(first)
    hostile = SavedModel.FromString((second / "saved_model.pb").read_bytes()).meta_graphs[0]
    hostile.meta_info_def.tags[:] = ["gpu", "bs8"]
    edit(first, lambda proto: proto.meta_graphs.add().CopyFrom(hostile))
    refused(first, "'WriteFile' (node '", "in the graph tagged 'gpu, bs8' of saved_model.pb)")


def test_functions_from_elsewhere_or_in_disguise_are_refused(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "model", tf.nn.tanh, SHAPE)

    def call_unknown(proto: Any) -> None:
        function_with(proto, "Tanh").node_def.add(name="x", op="StatefulPartitionedCall").attr["f"].func.name = "unknown"

    edit(folder, call_unknown)
    refused(folder, "'StatefulPartitionedCall' (node 'x' in the function")

    def shadow(proto: Any) -> None:
        del function_with(proto, "Tanh").node_def[-1]
        proto.meta_graphs[0].graph_def.library.function.add().signature.name = "WriteFile"
        function_with(proto, "Tanh").node_def.add(name="x", op="WriteFile")

    edit(folder, shadow)
    refused(folder, "expected functions without the names of ops, got a function 'WriteFile'")


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "model", tf.nn.tanh, SHAPE)
    edit(folder, lambda proto: function_with(proto, "Tanh").node_def.add(name="x\x1b[2J\n\u202e" + "y" * 9000, op="Nope\r\x07"))
    refused(folder, r"'Nope\r\x07' (node 'x\x1b[2J\n\u202eyyy")
    with pytest.raises(UserError) as error:
        check_ops(folder)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_other_files_that_may_hold_a_program_are_refused(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "model", tf.nn.tanh, SHAPE)
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        (folder / name).touch()
        refused(folder, f"expected a program in saved_model.pb only, got also {name}")
        (folder / name).unlink()
    check_ops(folder)


def test_what_cannot_be_parsed_is_said(tmp_path: Path) -> None:
    for text in ("No such file", "a damaged saved_model.pb"):
        with pytest.raises(UserError, match=f"expected a SavedModel that loads, got {text}"):
            check_ops(tmp_path)
        (tmp_path / "saved_model.pb").write_bytes(b"not a protobuf")


@pytest.mark.parametrize(
    "name",
    ["generator", "classifier", "discriminator", "judge", "speech/generator", "speech/classifier", "speech/judge"],
)
def test_the_shipped_models_pass(name: str, root: Path) -> None:
    check_ops(root / "saved_models" / name)


def noise(x: tf.Tensor) -> tf.Tensor:
    """A loop like a sampler's: random numbers from split seeds, a gradient, a list of states."""
    states = tf.TensorArray(tf.float32, 3)
    seed = tf.constant([1, 2])
    for k in tf.range(3):
        seed, now = tf.unstack(tf.random.split(seed, 2))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.log_softmax(x)
        x += tape.gradient(y, x) + tf.random.stateless_normal(tf.shape(x), now)
        states = states.write(k, x)
    return tf.reduce_mean(states.stack(), 0)


def network(x: tf.Tensor) -> tf.Tensor:
    image = tf.reshape(x, [-1, 2, 2, 1])
    image = tf.image.resize(tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"), [8, 8])
    image = tf.nn.conv2d(image, tf.ones([3, 3, 1, 4]), 1, "SAME")
    image = v1.nn.fused_batch_norm(image, tf.ones([4]), tf.zeros([4]), is_training=True)[0]
    image = tf.nn.depthwise_conv2d(tf.nn.swish(image), tf.ones([3, 3, 4, 1]), [1, 1, 1, 1], "SAME")
    image = tf.nn.depth_to_space(tf.nn.max_pool2d(tf.nn.gelu(image), 2, 2, "SAME"), 2)
    image = tf.image.resize(tf.image.resize(image, [6, 6], "nearest"), [5, 5], "bicubic")
    keys = tf.einsum("bhwc,bxyc->bhwxy", image, image)
    return tf.reduce_mean(keys, [1, 2, 3, 4]) + tf.math.real(tf.reduce_sum(tf.signal.stft(x, 2, 1)))


@pytest.mark.parametrize("fn", [noise, network])
def test_ordinary_networks_pass(fn: Any, tmp_path: Path) -> None:
    check_ops(toy.save(tmp_path / "model", fn, SHAPE, signature=True))


def test_a_table_of_constants_passes(tmp_path: Path) -> None:
    check_ops(save_table(tmp_path / "model", tf.lookup.KeyValueTensorInitializer([0], [1], tf.int64, tf.int64)))


def climb(y: tf.Tensor) -> tf.Tensor:
    return v1.cond(y[0, 0] > 0, lambda: y + 1, lambda: y)


def test_tf1_control_flow_and_simple_save_pass(tmp_path: Path) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        try:
            z = v1.placeholder(tf.float32, SHAPE)
            w = v1.get_variable("w", [4, 4], initializer=v1.truncated_normal_initializer(), use_resource=False)
            image = v1.while_loop(lambda y: tf.reduce_sum(y) < 9, climb, [z @ w])
        finally:
            v1.enable_control_flow_v2()
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"z": z}, {"image": image})
    nodes = SavedModel.FromString((tmp_path / "model" / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def.node
    assert {"LoopCond", "Switch", "VariableV2"} <= {node.op for node in nodes}
    check_ops(tmp_path / "model")


def test_the_list_holds_existing_operations_and_no_way_out() -> None:
    for op in ALLOWED_OPS | SAVE_OPS | RESTORE_OPS:
        assert op_def_registry.get(op) is not None, op
    assert not ALLOWED_OPS & (SAVE_OPS | RESTORE_OPS)
    words = """File Dataset Iterator Reader Record Writer WriteFile WriteS Print PyFunc Collective Nccl Rpc Debug Save Restore
        Decode Encode Send Recv TPU Session Barrier Queue Stage Remote Xla Proto Parse Serialize String Regex Abort Copy
        Checkpoint Immutable Symbolic BatchFunction Shard Memory Register"""
    for word in words.split():
        assert not {op for op in ALLOWED_OPS if word in op}, word
