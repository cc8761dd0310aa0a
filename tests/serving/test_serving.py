"""Replies of an export: from labels, seeds and steps to images and chains, the same in any batch; and its clients."""

import base64
import http.server
import importlib.util
import json
import runpy
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from tfgradgen.io.images import decode
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.models.loading.allowed_ops import ALLOWED_OPS, RESTORE_OPS, SAVE_OPS
from tfgradgen.posterior import ClassPosterior

OUTPUTS = {"image_bytes", "class_prob", "target_log_prob", "accept_rate", "z"}
NAMES = ["goldfish", "king_penguin", "alp"]
ENDS = ("", "_batched")
Ask = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def signatures(served: Path) -> Any:
    module = tf.saved_model.load(str(served))
    module.signatures.kept = module  # a signature does not keep its variables alive
    return module.signatures


@pytest.fixture(scope="module")
def ask(signatures: Any) -> Ask:
    def ask(name: str, labels: list[str], seeds: list[int], steps: Any = None, z: Any = None) -> dict[str, np.ndarray]:
        more = {} if steps is None else {"num_steps": tf.constant(steps, tf.int32, [len(labels)])}
        more |= {} if z is None else {"z": tf.constant(z, tf.float32)}
        found = signatures[name](label=tf.constant(labels), seed=tf.constant(seeds, tf.int64), **more)
        return {key: value.numpy() for key, value in found.items()}

    return ask


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def taken(rows: dict[str, np.ndarray], which: Any) -> dict[str, np.ndarray]:
    return {key: value[which] for key, value in rows.items()}


def pixels(png: bytes) -> np.ndarray:
    return tf.io.decode_png(png).numpy()


def test_signatures_take_and_give_rows(signatures: Any) -> None:
    label, seed = ("label", "string", (None,)), ("seed", "int64", (None,))
    steps, z = ("num_steps", "int32", (None,)), ("z", "float32", (None, 6))
    takes = {
        **{"serving_default": {label, seed}, "serving_batched": {label, seed}, "serving_xla": {label, seed}},
        **{f"sample{end}": {label, seed, steps} for end in ENDS},
        **{f"grid{end}": {label, seed, steps} for end in ENDS},
        **{f"continue{end}": {label, seed, steps, z} for end in ENDS},
    }
    shown = lambda specs: {(name, spec.dtype.name, tuple(spec.shape)) for name, spec in specs.items()}  # noqa: E731
    for name, specs in takes.items():
        assert shown(signatures[name].structured_input_signature[1]) == specs
        assert set(signatures[name].structured_outputs) == ({"image_bytes"} if name.startswith("grid") else OUTPUTS)
    assert len(signatures) == len(takes)


@pytest.mark.parametrize("end", ENDS)
def test_a_row_is_the_same_bits_in_any_batch(end: str, ask: Ask) -> None:
    labels, seeds, steps = [NAMES[k % 3] for k in range(7)], [3, 1, 4, 1, 5, 9, -2], [5, 0, 12, 7, 5, 3, 12]
    z = np.random.default_rng(0).normal(size=(7, 6))
    for kind in ("serving", "sample", "continue", "grid"):
        name, more = kind + (end or "_default" * (kind == "serving")), kind != "serving"
        given = lambda k: (  # noqa: E731
            [labels[i] for i in k],
            [seeds[i] for i in k],
            [steps[i] for i in k] if more else None,  # noqa: B023
            z[k] if kind == "continue" else None,  # noqa: B023
        )
        whole = ask(name, *given(range(7)))
        assert len(set(whole["image_bytes"].tolist())) == 7, "rows differ"
        order = [6, 2, 0, 5, 1, 3, 4]
        assert same(ask(name, *given(order)), taken(whole, order))
        for part in ([0], [1, 2], [3, 4, 5, 6]):
            assert same(ask(name, *given(part)), taken(whole, part))


def test_what_comes_back_belongs_to_the_chain(ask: Ask, toy_pair: tuple[Path, Path]) -> None:
    found = ask("serving_default", NAMES, [1, 2, 3])
    generator, classifier = load_generator(toy_pair[0]), load_classifier(toy_pair[1])
    for k in range(3):
        posterior, z = ClassPosterior(generator, classifier, k), tf.constant(found["z"][k : k + 1])
        np.testing.assert_allclose(found["class_prob"][k], tf.exp(posterior.class_log_prob(z))[0], rtol=1e-5)
        np.testing.assert_allclose(found["target_log_prob"][k], posterior.unnormalized_log_prob(z)[0], rtol=1e-5)
        assert np.array_equal(pixels(found["image_bytes"][k]), decode(generator, z)[0])
    assert ((found["accept_rate"] > 0) & (found["accept_rate"] <= 1)).all()


def test_a_label_goes_by_name_wordnet_id_or_index(ask: Ask) -> None:
    spellings = {
        "goldfish": [" Goldfish ", "n01443537", "0"],
        "king_penguin": ["King-Penguin", "king penguin", "1"],
        "alp": ["2"],
    }
    for name, others in spellings.items():
        first = ask("sample", [name], [5], 3)
        for other in others:
            assert same(ask("sample", [other], [5], 3), first), other


@pytest.mark.parametrize("name", ["serving_default", "continue", "grid", "sample_batched", "serving_xla"])
def test_an_unknown_label_is_an_invalid_argument(name: str, ask: Ask) -> None:
    more = {"steps": 1} if name in ("continue", "grid", "sample_batched") else {}
    more |= {"z": np.zeros([2, 6])} if name == "continue" else {}
    for wrong in ("whale", "", "3", "-1"):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            ask(name, ["alp", wrong], [0, 1], **more)
        got = wrong or "an empty text"
        assert f"expected a name, WordNet id or index of goldfish, king_penguin, alp; got {got}]" in error.value.message


def test_steps_are_counted(ask: Ask) -> None:
    names, seeds = ["alp", "goldfish"], [8, 9]
    assert same(ask("sample", names, seeds, 5), ask("serving_default", names, seeds))
    longest = ask("sample", names, seeds, 12)
    assert not np.array_equal(ask("sample", names, seeds, 11)["accept_rate"], longest["accept_rate"])
    start = ask("sample", names, seeds, 0)
    for wrong in (-7, 13, 2_000_000_000):
        with pytest.raises(tf.errors.InvalidArgumentError, match="num_steps: expected 0 to 12"):
            ask("sample", names, seeds, wrong)
    assert (start["accept_rate"] == 0).all()


def test_a_chain_goes_on_from_where_it_was(ask: Ask) -> None:
    names, seeds = NAMES * 4, list(range(12))
    before = ask("sample", names, seeds, 5)
    still = ask("continue", names, seeds, 0, before["z"])
    for key in OUTPUTS - {"accept_rate"}:
        assert np.array_equal(still[key], before[key]), key
    after = ask("continue", names, seeds, 12, before["z"])
    assert (after["z"] != before["z"]).any(1).mean() > 0.5, "a few refuse each of 12 proposals"
    start = ask("sample", names, seeds, 0)["z"]
    noise = [ask(name, names, seeds, 1, z)["accept_rate"] for name, z in (("sample", None), ("continue", start))]
    assert (noise[0] != noise[1]).mean() > 0.5, "not the noise that was used before"


@pytest.mark.parametrize("end", ENDS)
def test_a_grid_is_a_sheet_of_neighbouring_seeds(end: str, ask: Ask) -> None:
    sheets = ask(f"grid{end}", ["alp", "goldfish"], [100, 7], [3, 2])["image_bytes"]
    for sheet, label, first, steps in zip(sheets, ("alp", "goldfish"), (100, 7), (3, 2), strict=True):
        tiles = [pixels(png) for png in ask(f"sample{end}", [label] * 16, [first + k for k in range(16)], steps)["image_bytes"]]
        rows = [np.concatenate(tiles[k : k + 4], 1) for k in range(0, 16, 4)]
        assert np.array_equal(pixels(sheet), np.concatenate(rows, 0))


def test_xla_is_in_its_own_signature_alone(served: Path, ask: Ask) -> None:
    (meta,) = SavedModel.FromString((served / "saved_model.pb").read_bytes()).meta_graphs
    library = {function.signature.name: function for function in meta.graph_def.library.function}

    def reached(nodes: Any, seen: set[str]) -> bool:
        """Return whether XLA compiles anything that `nodes` lead to."""
        found = False
        for node in nodes:
            found |= node.attr["_XlaMustCompile"].b
            for value in node.attr.values():
                for function in [value.func, *value.list.func]:
                    if function.name and function.name not in seen:
                        seen.add(function.name)
                        called = library[function.name]
                        found |= called.attr["_XlaMustCompile"].b or reached(called.node_def, seen)
        return found

    operations = {node.name: node for node in meta.graph_def.node}
    for name, signature in meta.signature_def.items():
        if name != "__saved_model_init_op":
            (node,) = {info.name.split(":")[0] for info in signature.outputs.values()}
            assert reached([operations[node]], set()) == (name == "serving_xla"), name
    found = ask("serving_xla", NAMES, [1, 2, 3])
    assert np.isfinite(found["z"]).all()
    assert [pixels(png).shape for png in found["image_bytes"]] == [(8, 8, 3)] * 3
    assert found["z"].std() > 0.1


def test_the_graph_only_computes_and_draws_from_its_seeds(served: Path) -> None:
    (meta,) = SavedModel.FromString((served / "saved_model.pb").read_bytes()).meta_graphs
    functions = meta.graph_def.library.function
    ops = {node.op for nodes in (meta.graph_def.node, *(each.node_def for each in functions)) for node in nodes}
    further = ops - ALLOWED_OPS - SAVE_OPS - RESTORE_OPS - {each.signature.name for each in functions}
    texts = {
        "StringLower",
        "StringStrip",
        "StringLength",
        "StaticRegexReplace",
        "RegexFullMatch",
        "UnicodeTranscode",
        "ReduceJoin",
    }
    assert further - {"PlaceholderWithDefault"} == {"EncodePng", *texts}, "images out, labels in"
    drawing = {op for op in ops if "Random" in op or "Multinomial" in op or "Normal" in op or "Rng" in op}
    assert {"StatelessRandomNormalV2", "StatelessRandomUniformV2"} <= drawing
    assert all(op.startswith("Stateless") for op in drawing), drawing


def test_the_step_size_that_was_found_is_the_one_that_is_served(served: Path, signatures: Any) -> None:
    """The length of a proposal of mala from the state of a chain reveals the step size."""
    label = json.loads((served / "export.json").read_text())["labels"][0]
    z = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    given = dict(label=tf.fill([200], "goldfish"), seed=tf.range(200, dtype=tf.int64), num_steps=tf.fill([200], 1))
    moved = signatures["continue"](z=z, **given)["z"].numpy() - z
    moved = moved[(moved != 0).any(1)]
    assert len(moved) > 50
    # Its noise has standard deviation step_size; the drift adds to the length, and the Metropolis test reduces it.
    assert moved.std() == pytest.approx(label["step_size"], rel=0.3)


def test_warmup_has_every_signature_and_batch_size(served: Path, signatures: Any) -> None:
    records = tf.data.TFRecordDataset(str(served / "assets.extra" / "tf_serving_warmup_requests")).as_numpy_iterator()
    requests = [PredictionLog.FromString(each).predict_log.request for each in records]
    found = {}
    for request in requests:
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert request.model_spec.name == "toys"
        signature, size = request.model_spec.signature_name, len(inputs["label"])
        check_inputs(signatures[signature], request)
        if signature != "serving_xla":  # compiles again for each size, which takes long
            outputs = signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
            assert {len(value) for value in outputs.values()} == {size}
        found[signature, size] = inputs
    names = {"serving_default", "sample", "continue", "grid", "serving_xla"}
    batched = {"serving_batched", "sample_batched", "continue_batched", "grid_batched"}
    assert found.keys() == {(name, size) for name in names for size in (1, 3)} | {(name, 1) for name in batched}
    assert len(requests) == len(found)
    assert found["sample", 3]["label"].tolist() == [b"goldfish", b"king_penguin", b"alp"]
    assert (found["grid", 3]["num_steps"] == 1).all()


def check_inputs(signature: Any, request: PredictRequest) -> None:
    """Check names, types and shapes of the signature, as the server does."""
    specs = signature.structured_input_signature[1]
    assert specs.keys() == request.inputs.keys()
    for name, tensor in request.inputs.items():
        assert tensor.dtype == specs[name].dtype.as_datatype_enum
        assert specs[name].shape.is_compatible_with(tf.TensorShape(tensor.tensor_shape))


def client(base: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"its_{name}", base / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["rest_client", "grpc_client"])
def test_a_client_without_a_server_or_a_label_is_one_line(
    name: str, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = served.parent / f"{name}.py"
    for words, code, said in (
        (["alp", "0", "127.0.0.1:9"], 1, "no image from 127.0.0.1:9: "),
        (["alp", "seven"], 1, "SEED: expected a whole number, got seven"),
        (["--help"], 0, f"python {name}.py LABEL"),
        ([], 1, f"python {name}.py LABEL"),
        (["alp", "--grd"], 1, f"python {name}.py LABEL"),
        (["alp", "--out"], 1, f"python {name}.py LABEL"),
        (["alp", "--num_steps=x"], 1, "--num_steps: expected a whole number, got x"),
        (["alp", "--scale=x"], 1, "--scale: expected a whole number, got x"),
        (["alp", str(2**70), "127.0.0.1:9"], 1, "no image from 127.0.0.1:9: "),
        (["a", "0", "b", "c"], 1, f"python {name}.py LABEL"),
    ):
        monkeypatch.setattr("sys.argv", [str(path), *words])
        try:
            runpy.run_path(str(path), run_name="__main__")
            out = capsys.readouterr().out
            assert code == 0
        except SystemExit as error:
            out = str(error.code)
            assert code == 1
        assert said in out
        assert len(out.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "reply", ["[]", "{", '{"predictions": []}', '{"error": "\x1b[2J\\n"}', '{"predictions": [{"image_bytes": 3}]}']
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_server_that_answers_otherwise_is_one_line(
    reply: str, status: int, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(SystemExit) as error:
            client(served.parent, "rest_client").main("alp", "0", f"127.0.0.1:{server.server_port}")
    assert str(error.value.code).isprintable()
    assert not list(tmp_path.iterdir())


def test_clients_speak_as_the_signature_does(served: Path, signatures: Any) -> None:
    labels, seeds, signature = ["alp", "goldfish"], [5, 2**40], signatures["serving_default"]
    expected = signature(label=tf.constant(labels), seed=tf.constant(seeds, tf.int64))
    rest, grpc = client(served.parent, "rest_client"), client(served.parent, "grpc_client")

    request = grpc.request_of(labels, seeds)
    assert (request.model_spec.name, request.model_spec.signature_name) == ("toys", ""), "empty is serving_default"
    check_inputs(signature, PredictRequest.FromString(request.SerializeToString()))
    given = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    assert (given["label"].tolist(), given["seed"].tolist()) == ([b"alp", b"goldfish"], seeds)
    reply = PredictResponse()
    for name, value in expected.items():
        reply.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
    by_grpc = grpc.rows_of(reply)

    instances = json.loads(rest.request_of(labels, seeds))["instances"]
    assert all(row.keys() == signature.structured_input_signature[1].keys() for row in instances)
    assert [(row["label"], row["seed"]) for row in instances] == list(zip(labels, seeds, strict=True))
    # The server returns outputs whose names end in _bytes as {"b64": ...}, and others as numbers.
    rows = [{name: value[k].numpy() for name, value in expected.items()} for k in range(2)]
    shown = lambda name, v: {"b64": base64.b64encode(v).decode()} if name == "image_bytes" else v.tolist()  # noqa: E731
    by_rest = rest.rows_of(json.dumps({"predictions": [{name: shown(name, v) for name, v in row.items()} for row in rows]}))

    for found in (by_grpc, by_rest):
        for row, truth in zip(found, rows, strict=True):
            assert row.keys() == truth.keys()
            assert row["image_bytes"] == truth["image_bytes"]
            for name in row.keys() - {"image_bytes"}:
                assert np.array_equal(np.asarray(row[name], np.float32), truth[name])
    for name in ("rest_client.py", "grpc_client.py"):
        assert len((served.parent / name).read_text().splitlines()) <= 70
