"""Models that would write, move or read files are refused, wherever that operation is; the user's files do not change."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.support import toy
from tests.support.hostile import SHAPE, check_ops, edit, save_v1, v1
from tfgradgen.cli.commands import main
from tfgradgen.core._tf_private import op_def_registry
from tfgradgen.core.checks import UserError
from tfgradgen.models.loading.allowed_ops import RESTORE_OPS, SAVE_OPS
from tfgradgen.models.loading.saved_model import open_saved_model

PlaceFn = Callable[[Any, str], None]


def constant(meta: Any, name: str, value: Any) -> str:
    node = meta.graph_def.node.add(name=name, op="Const")
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    node.attr["dtype"].type = node.attr["value"].tensor.dtype
    return name


def add_save(meta: Any, outside: Path) -> str:
    """Add an operation that writes a checkpoint outside of the model."""
    inputs = [str(outside / "loot"), ["v"], [""], 1.0]
    names = [constant(meta, f"x/{k}", value) for k, value in enumerate(inputs)]
    meta.graph_def.node.add(name="x/evil", op="SaveV2", input=names).attr["dtypes"].list.type.append(1)
    return "SaveV2"


def add_merge(meta: Any, outside: Path) -> str:
    """Add an operation that moves the user's checkpoint away."""
    names = [constant(meta, "x/0", [str(outside / "mine")]), constant(meta, "x/1", str(outside / "loot"))]
    meta.graph_def.node.add(name="x/evil", op="MergeV2Checkpoints", input=names).attr["delete_old_dirs"].b = True
    return "MergeV2Checkpoints"


def add_restore(meta: Any, outside: Path) -> str:
    """Add an operation that reads the user's checkpoint."""
    names = [constant(meta, f"x/{k}", value) for k, value in enumerate([str(outside / "mine"), ["w"], [""]])]
    meta.graph_def.node.add(name="x/evil", op="RestoreV2", input=names).attr["dtypes"].list.type.append(1)
    return "RestoreV2"


def named(meta: Any, name: str) -> Any:
    return next(node for node in meta.graph_def.node if node.name == name)


def where_variables_are_read_by_name(meta: Any, evil: str) -> None:
    named(meta, "w/Read/ReadVariableOp").input.append(f"^{evil}")


def where_nothing_leads(meta: Any, evil: str) -> None:
    pass


def at_a_second_variable(meta: Any, evil: str) -> None:
    for name in ("w", "w/Read/ReadVariableOp"):
        twin = meta.graph_def.node.add()
        twin.CopyFrom(named(meta, name))
        twin.name = name.replace("w", "second", 1)
    twin.input[:] = ["second", f"^{evil}"]
    meta.graph_def.node.add(name="more", op="AddN", input=["image", "plain"])
    plain = meta.graph_def.node.add(name="plain", op="ReadVariableOp", input=["second"])
    plain.attr["dtype"].type = 1
    named(meta, "more").attr["N"].i, named(meta, "more").attr["T"].type = 2, 1
    meta.signature_def["default"].outputs["default"].name = "more:0"


def at_the_init_op(meta: Any, evil: str) -> None:
    (init,) = meta.collection_def["saved_model_main_op"].node_list.value
    named(meta, init).input.append(f"^{evil}")


def at_the_restore_op(meta: Any, evil: str) -> None:
    named(meta, meta.saver_def.restore_op_name).input.append(f"^{evil}")


def at_the_file_name(meta: Any, evil: str) -> None:
    meta.saver_def.filename_tensor_name = f"{evil}:0"


def at_the_output(meta: Any, evil: str) -> None:
    named(meta, "image").input.append(f"^{evil}")


def in_a_function(meta: Any, evil: str) -> None:
    body = [node for node in meta.graph_def.node if node.name.startswith("x/")]
    function = meta.graph_def.library.function.add()
    function.signature.name = "innocent"
    function.node_def.extend(body)
    for node in body:
        meta.graph_def.node.remove(node)


PLACES = [
    where_variables_are_read_by_name,
    where_nothing_leads,
    at_a_second_variable,
    at_the_init_op,
    at_the_restore_op,
    at_the_file_name,
    at_the_output,
    in_a_function,
]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """The user's files, including a checkpoint. After the test they must be unchanged, and there must be no others."""
    folder = tmp_path / "outside"
    folder.mkdir()
    tf.raw_ops.SaveV2(prefix=str(folder / "mine"), tensor_names=["w"], shape_and_slices=[""], tensors=[tf.ones([4, 4])])
    (folder / "notes").write_text("mine")
    before = state(folder)
    yield folder
    assert state(folder) == before


def state(folder: Path) -> dict[str, Any]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_v1(tmp_path_factory.mktemp("honest") / "model", use_resource=True)


def hostile_copy(honest: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    for path in honest.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(honest)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(honest)).write_bytes(path.read_bytes())
    edit(folder, change)
    return folder


def attack(handle: Path, tags: tuple[str, ...] = ()) -> str:
    """Return the one line with which `handle` is refused, when it is opened or when its function is made."""
    with pytest.raises(UserError) as error:
        open_saved_model(handle, tags).function("default")
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("add", [add_save, add_merge, add_restore])
@pytest.mark.parametrize("place_fn", PLACES)
def test_no_operation_of_a_saver_runs_on_its_own(
    place_fn: PlaceFn, add: Callable[[Any, Path], str], clears: bool, honest: Path, outside: Path, tmp_path: Path
) -> None:
    found = []

    def change(proto: Any) -> None:
        (meta,) = proto.meta_graphs
        found.append(add(meta, outside))
        place_fn(meta, "x/evil")
        if clears and place_fn is not at_the_init_op:
            meta.collection_def.clear()

    line = attack(hostile_copy(honest, tmp_path / "model", change))
    assert f"expected only ops that compute, got '{found[0]}' (node 'x/evil' in the " in line


def test_the_attack_by_a_variables_name_works_on_tensorflow_itself(honest: Path, tmp_path: Path) -> None:
    """The control: TensorFlow's loader and its freezing run operations that no signature leads to."""

    def change(proto: Any) -> None:
        (meta,) = proto.meta_graphs
        add_save(meta, tmp_path)
        where_variables_are_read_by_name(meta, "x/evil")

    folder = hostile_copy(honest, tmp_path / "model", change)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        v1.saved_model.loader.load(session, [], str(folder))
        v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["image"])
    assert list(tmp_path.glob("loot*"))


def test_another_meta_graph_than_the_one_in_use_is_refused(honest: Path, outside: Path, tmp_path: Path) -> None:
    def change(proto: Any) -> None:
        second = proto.meta_graphs.add()
        second.CopyFrom(proto.meta_graphs[0])
        second.meta_info_def.tags[:] = ["other"]
        add_save(second, outside)
        where_variables_are_read_by_name(second, "x/evil")

    folder = hostile_copy(honest, tmp_path / "model", change)
    for tags in ((), ("other",)):
        assert "'SaveV2' (node 'x/evil' in the graph tagged 'other'" in attack(folder, tags)


def test_two_graphs_of_objects_are_not_loaded_as_tf1(outside: Path, tmp_path: Path) -> None:
    """With two meta graphs, TensorFlow treats a TF2 model as a TF1 model, and runs its saver by name."""
    folder = toy.save(tmp_path / "model", tf.tanh, SHAPE, signature=True)

    def change(proto: Any) -> None:
        second = proto.meta_graphs.add()
        second.CopyFrom(proto.meta_graphs[0])
        second.meta_info_def.tags[:] = ["other"]

    edit(folder, change)
    opened = open_saved_model(folder, ("other",))
    assert not opened.is_tf1
    np.testing.assert_allclose(opened.function("serving_default")({"input": tf.ones([1, 4])})["out"], np.tanh(np.ones([1, 4])))


def test_an_archive_and_the_command_line(
    honest: Path, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFGRADGEN_CACHE_DIR", str(tmp_path / "cache"))

    def change(proto: Any) -> None:
        add_save(proto.meta_graphs[0], outside)
        where_variables_are_read_by_name(proto.meta_graphs[0], "x/evil")
        proto.meta_graphs[0].collection_def.clear()

    folder = hostile_copy(honest, tmp_path / "model", change)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(folder, "model")
    assert "'SaveV2' (node 'x/evil'" in attack(tmp_path / "model.tar.gz")
    for command in (["check"], ["sample", "--label=1", f"--out={tmp_path / 'run'}"]):
        with pytest.raises(SystemExit) as exit_info:
            main([*command, f"--generator={tmp_path / 'model.tar.gz'}"])
        assert exit_info.value.code
        said = "".join(capsys.readouterr())
        assert "'SaveV2' (node 'x/evil'" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_what_is_named_like_a_saver_is_not_loaded(honest: Path, outside: Path, tmp_path: Path) -> None:
    """The second saver of a training script is not loaded, whatever it would do."""

    def change(proto: Any) -> None:
        (meta,) = proto.meta_graphs
        add_save(meta, outside)
        named(meta, "x/evil").name = "x/control_dependency"
        meta.graph_def.node.add(name="x/restore_all", op="NoOp")
        constant(meta, "x/Const", "model")

    folder = hostile_copy(honest, tmp_path / "model", change)
    (safe,) = check_ops(folder)
    assert {"x/control_dependency", "save/SaveV2"}.isdisjoint(node.name for node in safe.graph_def.node)
    z = tf.random.stateless_normal([2, 4], [1, 2])
    results = [open_saved_model(path, ()).function("default")({"z": z})["default"] for path in (honest, folder)]
    np.testing.assert_array_equal(*results)


def ops_of(meta: Any) -> set[str]:
    bodies = [meta.graph_def.node, *(function.node_def for function in meta.graph_def.library.function)]
    return {node.op for nodes in bodies for node in nodes}


def test_what_is_loaded_holds_no_saver(tmp_path: Path, root: Path) -> None:
    for folder in (save_v1(tmp_path / "v1"), root / "saved_models" / "generator"):
        for safe in check_ops(folder):
            assert not ops_of(safe) & {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename", "StringJoin"}
            assert not safe.HasField("saver_def")


def renamed_and_partitioned(folder: Path) -> tuple[Path, Any]:
    """Return a model whose checkpoint has other names than its graph and one variable in parts, and its image of ones."""
    with v1.Graph().as_default(), v1.Session() as session:
        z = v1.placeholder(tf.float32, SHAPE, name="z")
        w = v1.get_variable("w", [4, 4], use_resource=True)
        v = v1.get_variable("v", [4, 4], use_resource=False)
        parts = v1.get_variable("p", [4, 4], partitioner=v1.fixed_size_partitioner(2), use_resource=True)
        image = z @ w + tf.tanh(z @ v) + tf.concat(list(parts), 0)[0]
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.build_signature_def(
            {"z": v1.saved_model.build_tensor_info(z)}, {"default": v1.saved_model.build_tensor_info(image)}
        )
        saver = v1.train.Saver({"v": w, "other/name": v, "p": list(parts)}, sharded=True)
        builder.add_meta_graph_and_variables(session, [], {"default": signature}, saver=saver)
        builder.save()
        return folder, session.run(image, {z: np.ones([1, 4], np.float32)})


@pytest.mark.parametrize("keeps_saver", [True, False])
def test_variables_have_the_values_that_their_own_saver_gives(keeps_saver: bool, tmp_path: Path) -> None:
    if keeps_saver:
        folder, expected = renamed_and_partitioned(tmp_path / "model")
    else:  # then the name of a variable is its key
        folder = save_v1(tmp_path / "model", use_resource=True)
        expected = open_saved_model(folder, ()).function("default")({"z": tf.ones([1, 4])})["default"]
        edit(folder, lambda proto: proto.meta_graphs[0].ClearField("saver_def"))
    image = open_saved_model(folder, ()).function("default")({"z": tf.ones([1, 4])})["default"]
    np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_local_variables_have_the_values_that_the_init_op_gives(tmp_path: Path) -> None:
    def finish(z: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        three = v1.constant_initializer(3.0)
        shift = v1.get_variable("shift", [4], initializer=three, collections=[v1.GraphKeys.LOCAL_VARIABLES], use_resource=True)
        return image + shift

    folder = save_v1(tmp_path / "model", v1.local_variables_initializer, finish=finish)
    image = open_saved_model(folder, ()).function("default")({"z": tf.zeros([1, 4])})["default"]
    np.testing.assert_allclose(image, np.full([1, 4], 3.0))


# Operations that read, write, move or list files, or reach Python, a device, the network or another process.
FORBIDDEN = """WriteFile ReadFile MatchingFiles SaveV2 Save SaveSlices RestoreV2 Restore RestoreSlice MergeV2Checkpoints
    ShardedFilename ShardedFilespec InitializeTableFromTextFile InitializeTableFromTextFileV2 PrintV2 Print DebugIdentity
    DebugIdentityV2 DebugNanCount DebugNumericSummary DumpGraph SummaryWriter CreateSummaryFileWriter CreateSummaryDbWriter
    WriteSummary WriteScalarSummary WriteGraphSummary WriteRawProtoSummary FlushSummaryWriter CloseSummaryWriter
    ImportEvent TextLineReaderV2 FixedLengthRecordReaderV2 TFRecordReaderV2 WholeFileReaderV2 LMDBReader ReaderReadV2
    TextLineDataset TFRecordDataset TFRecordDatasetV2 FixedLengthRecordDataset FixedLengthRecordDatasetV2 CSVDataset
    SqlDataset LMDBDataset CacheDataset CacheDatasetV2 SnapshotDataset SnapshotDatasetV2 SaveDataset SaveDatasetV2
    LoadDataset DatasetFromGraph DatasetToTFRecord GeneratorDataset PyFunc PyFuncStateless EagerPyFunc LoadDataset
    ImmutableConst LoadAndRemapMatrix GenerateVocabRemapping ReadVariableXlaSplitND XlaLaunch RemoteCall RpcCall
    DecodeProtoV2 EncodeProto CollectiveReduce StringJoin StaticRegexFullMatch DisableCopyOnRead CheckpointHasKey
    TPUExecute ConfigureDistributedTPU FileSystemSetConfiguration NoSuchOperation _Send _Recv _HostSend _Arg _Retval"""


def in_the_graph(meta: Any, random: Random, op: str) -> None:
    nodes = meta.graph_def.node
    inputs = [random.choice(nodes).name] if random.random() < 0.5 else []
    nodes.add(name=f"new{random.random()}", op=op, input=inputs)


def before_a_node(meta: Any, random: Random, op: str) -> None:
    random.choice(meta.graph_def.node).input.append("^new")
    meta.graph_def.node.add(name="new", op=op)


def instead_of_a_node(meta: Any, random: Random, op: str) -> None:
    random.choice(meta.graph_def.node).op = op


def in_some_function(meta: Any, random: Random, op: str) -> None:
    functions = meta.graph_def.library.function
    function = random.choice(functions) if functions else functions.add()
    function.signature.name = function.signature.name or "f"
    if "traced_save" in function.signature.name or "traced_restore" in function.signature.name:
        function = functions.add()
        function.signature.name = "g"
    function.node_def.add(name="new", op=op)


def as_a_function(meta: Any, random: Random, op: str) -> None:
    """Return a call of an operation by its name, as if it were a function."""
    call = meta.graph_def.node.add(name="new", op=random.choice(["PartitionedCall", "If", "While"]))
    if random.random() < 0.5:
        call.attr["f"].func.name = op
    else:
        call.attr["branches"].list.func.add().attr["g"].func.name = op


def under_its_name(meta: Any, random: Random, op: str) -> None:
    meta.graph_def.library.function.add().signature.name = op
    meta.graph_def.node.add(name="new", op=op)


def in_a_new_meta_graph(meta: Any, random: Random, op: str) -> None:
    meta.graph_def.node.add(name="new", op=op)
    meta.meta_info_def.tags[:] = ["new"]


WAYS = [in_the_graph, before_a_node, instead_of_a_node, in_some_function, as_a_function, under_its_name, in_a_new_meta_graph]


@pytest.mark.parametrize("way", WAYS)
def test_no_file_operation_passes_anywhere(way: Callable[[Any, Random, str], None], honest: Path, tmp_path: Path) -> None:
    module = tf.Module()
    module.w = tf.Variable(1.0)
    module.__call__ = tf.function(lambda x: tf.tanh(x * module.w), [tf.TensorSpec(SHAPE, tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "v2"))
    programs = [SavedModel.FromString((folder / "saved_model.pb").read_bytes()) for folder in (honest, tmp_path / "v2")]
    random, num_refused = Random(0), 0
    for op in FORBIDDEN.split():
        if way is under_its_name and op_def_registry.get(op) is None:
            continue  # an ordinary function of the model
        program = SavedModel()
        program.CopyFrom(random.choice(programs))
        if way is in_a_new_meta_graph:
            program.meta_graphs.add().CopyFrom(program.meta_graphs[0])
        way(program.meta_graphs[-1], random, op)
        (tmp_path / "saved_model.pb").write_bytes(program.SerializeToString())
        try:
            loaded = check_ops(tmp_path)
        except UserError:
            num_refused += 1
        else:  # a usual part of a saver, which is not loaded
            assert op in SAVE_OPS | RESTORE_OPS
            assert all(op not in ops_of(meta) for meta in loaded)
    assert num_refused > 0.7 * len(FORBIDDEN.split())
