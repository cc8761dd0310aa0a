"""`serve` end to end: an export of the toy pair over HTTP, with requests from the exported clients."""

import errno
import json
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.command import refused
from tfgradgen.cli.serve import bind, limits_of, listening
from tfgradgen.cli.serve_options import find_export, not_bound, parse_serve
from tfgradgen.serving.http_server import RestServer
from tfgradgen.serving.servable import Servable


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[RestServer]:
    options = parse_serve({"export": str(served.parent), "port": 0})
    export = find_export(options)
    with bind(options, limits_of(export)) as server:
        server.model = Servable(export.folder, export.name, export.version)
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def get(server: RestServer, path: str, request: Any = None) -> Any:
    data = None if request is None else json.dumps(request).encode()
    with urllib.request.urlopen(f"{server.url}/v1/models/toys{path}", data, timeout=60) as reply:
        return json.loads(reply.read())


def run_client(server: RestServer, served: Path, *words: str) -> str:
    """Return the one line that the exported client prints, or with which it exits."""
    place = f"127.0.0.1:{server.server_address[1]}"
    words = tuple(place if word == "HERE" else word for word in words)
    path = served.parent / "rest_client.py"
    done = subprocess.run([sys.executable, "-I", str(path), *words], capture_output=True, text=True, check=False)
    (line,) = (done.stdout + done.stderr).splitlines()
    return f"{done.returncode} {line}"


def test_the_clients_of_an_export_get_its_images(
    server: RestServer, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tf.saved_model.load(str(served))
    expected = module.signatures["serving_default"](label=tf.constant(["alp"]), seed=tf.constant([2**40], tf.int64))
    said = run_client(server, served, "alp", str(2**40), "HERE")
    assert said == f"0 alp-{2**40}.png: p(class) {expected['class_prob'][0]:.2f}, acceptance {expected['accept_rate'][0]:.2f}"
    assert Path(f"alp-{2**40}.png").read_bytes() == expected["image_bytes"].numpy()[0]

    assert run_client(server, served, "alp", "3", "HERE", "--num_steps=0", "--out=start.png").startswith(
        "0 start.png: p(class)"
    )
    start = module.signatures["sample"](
        label=tf.constant(["alp"]), seed=tf.constant([3], tf.int64), num_steps=tf.constant([0], tf.int32)
    )
    assert Path("start.png").read_bytes() == start["image_bytes"].numpy()[0]
    assert run_client(server, served, "alp", "3", "HERE", "--num_steps=0", "--out=large.png", "--scale=4")[0] == "0"
    with Image.open("start.png") as small, Image.open("large.png") as large:
        assert large.size == (32, 32)
        assert np.array_equal(np.asarray(large)[::4, ::4], np.asarray(small))
    # Its name is not that of the image of the same seed.
    assert run_client(server, served, "goldfish", "1", "HERE", "--grid") == "0 goldfish-1-grid.png: a grid"
    with Image.open("goldfish-1-grid.png") as grid:
        assert grid.size == (32, 32), "sixteen images of 8 x 8"
    names = {path.name for path in tmp_path.iterdir()}
    said = run_client(server, served, "whale", "1", "HERE")
    assert said.startswith(f"1 the server at 127.0.0.1:{server.server_address[1]} refused: ")
    assert "expected a name, WordNet id or index of goldfish, king_penguin, alp; got" in said
    assert "refused: " in run_client(server, served, "alp", "1", "HERE", "--num_steps=13")
    assert {path.name for path in tmp_path.iterdir()} == names


def test_both_formats_give_the_bits_of_the_signature(server: RestServer, served: Path) -> None:
    module = tf.saved_model.load(str(served))
    z = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    labels, seeds, steps = ["alp", "n01443537"], [1, -2], [3, 0]
    expected = module.signatures["continue"](
        label=tf.constant(labels), seed=tf.constant(seeds, tf.int64), num_steps=tf.constant(steps), z=tf.constant(z)
    )
    columns = {"label": labels, "seed": seeds, "num_steps": steps, "z": z.tolist()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_column = get(server, ":predict", {"signature_name": "continue", "inputs": columns})["outputs"]
    by_row = get(server, ":predict", {"signature_name": "continue", "instances": rows})["predictions"]
    for name in ("z", "class_prob", "target_log_prob", "accept_rate"):
        truth = expected[name].numpy()
        assert np.array_equal(np.asarray(by_column[name], np.float32), truth)
        assert np.array_equal(np.asarray([row[name] for row in by_row], np.float32), truth)
    assert by_column["image_bytes"] == [row["image_bytes"] for row in by_row]


def test_status_and_metadata_are_those_of_tensorflow_serving(server: RestServer) -> None:
    (status,) = get(server, "")["model_version_status"]
    assert status == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert get(server, "/versions/1") == get(server, "")
    found = get(server, "/metadata")
    assert found["model_spec"] == {"name": "toys", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {
        *("serving_default", "sample", "continue", "grid", "serving_xla"),
        *("serving_batched", "sample_batched", "continue_batched", "grid_batched"),
    }
    z = signatures["continue"]["inputs"]["z"]
    assert z["dtype"] == "DT_FLOAT"
    assert z["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}, {"size": "6", "name": ""}], "unknown_rank": False}


def test_requests_that_the_model_refuses_are_bad_requests(server: RestServer) -> None:
    cases = ({"label": "\x1b[2J" * 1000, "seed": 1}, {"label": {"b64": "//8="}, "seed": 1}, {"label": "", "seed": 0})
    for row in cases:
        with pytest.raises(urllib.error.HTTPError) as error:
            get(server, ":predict", {"instances": [row]})
        with error.value as reply:
            said = json.loads(reply.read())["error"]
        assert error.value.code == 400
        assert said.isprintable()
        assert said.startswith("label: expected a name, WordNet id or index of goldfish, king_penguin, alp; got ")
        assert "[" not in said
        assert len(said) < 400


def test_a_point_too_far_to_go_on_from_is_a_bad_request(server: RestServer) -> None:
    row = {"label": "alp", "seed": 1, "num_steps": 0, "z": [1e38] * 6}
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, ":predict", {"signature_name": "continue", "instances": [row]})
    with error.value as reply:
        said = json.loads(reply.read())["error"]
    assert (error.value.code, said) == (400, "z: expected 6 finite numbers per row, in -1000..1000")


@pytest.fixture
def process(served: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `serve` as a process, which ends with the test."""
    command = [sys.executable, "-m", "tfgradgen", "serve", f"--export={served.parent}", "--port=0"]
    # In the background of a shell the signal is ignored, and child processes inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_listens_says_how_to_ask_and_ends_in_one_line(
    process: subprocess.Popen[str], served: Path, tmp_path: Path
) -> None:
    """It runs as a process, with the health check of the compose file; Ctrl-C ends it."""
    assert process.stdout
    assert process.stderr
    first, ask, client = (process.stdout.readline() for _ in range(3))
    found = re.fullmatch(rf"listening http://127\.0\.0\.1:(\d+)/v1/models/toys \(version 1 of {served.parent}\); .*\n", first)
    assert found
    done = subprocess.run(ask.removeprefix("ask      "), shell=True, capture_output=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["predictions"][0]["class_prob"] > 0
    words = client.removeprefix("or       python ")
    done = subprocess.run(f"{sys.executable} {words}", shell=True, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("goldfish-7.png: p(class) ")
    compose = (served.parent / "docker-compose.yml").read_text()
    check = " ".join(re.findall(r"^ {10}(\S.*)$", compose.partition("- >-\n")[2], re.M)).replace("8501", found[1])
    subprocess.run(["bash", "-c", check], check=True, timeout=10)
    assert subprocess.run(["bash", "-c", check.replace("toys", "other")], check=False, timeout=10).returncode == 1
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    *notes, last = err.splitlines()
    assert last == "tfgradgen: interrupted; the server has ended."
    assert all(line.startswith(("doing ", "answered ")) for line in notes)


def test_what_the_export_does_not_say_is_found_otherwise(served: Path, tmp_path: Path) -> None:
    base = tmp_path / "renamed"
    for version in ("2", "10", "007", "x"):
        (base / version).mkdir(parents=True)
        (base / version / "saved_model.pb").write_bytes(b"")
    (base / "11").mkdir()
    found = find_export(parse_serve({"export": str(base)}))
    assert (found.version, found.name, found.label, found.max_batch_size) == (10, "renamed", "", 1)
    assert find_export(parse_serve({"export": str(base / "2")})).version == 2
    (base / "models.config").write_text((served.parent / "models.config").read_text())
    (base / "10" / "export.json").write_text('{"labels": [{"name": "a\'b"}], "arguments": {"batch_sizes": [1, 8]}}')
    found = find_export(parse_serve({"export": str(base)}))
    assert (found.name, found.label, found.max_batch_size) == ("toys", "a'b", 8)
    with bind(parse_serve({"export": str(base), "port": 0}), limits_of(found)) as server:
        curl = listening(found, server)[1]
    assert """'{"instances": [{"label": "a'"'"'b", "seed": 7}]}'""" in curl


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "export: expected a folder that `export` wrote, got none; give it, for example: --export=out/served"),
        (["--export=nowhere"], "export: expected a folder with versions of a model at nowhere, got No such file or directory"),
        (["--export=assets"], "export: expected a folder with versions of a model, got assets, which has none"),
        (["--export=SERVED", "--version=9"], "version: expected one that is in SERVED: 1, got 9"),
        (["--export=SERVED", "--version=0"], "version: expected an integer"),
        (["--export=SERVED", "--port=70000"], "port: expected an integer in 0..65535"),
        (["--export=SERVED", "--host=example.com"], "host: expected an IP address, got 'example.com'"),
        (["--export=SERVED", "--host=203.0.113.1"], "host: expected an address of this machine, got 203.0.113.1: "),
        (["--export=SERVED", "--host=fe80::1"], "host: expected an address of this machine, got fe80::1: "),
        (["--export=SERVED", "--host=fe80::1%none0"], "host: expected an address of this machine, got fe80::1%none0: "),
        (["--export=SERVED", "--prot=1"], "unknown flag --prot; did you mean --port?"),
    ],
)
def test_errors_are_one_line(
    flags: list[str],
    text: str,
    served: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    base = str(served.parent)
    assert text.replace("SERVED", base) in refused(["serve", *(flag.replace("SERVED", base) for flag in flags)], capsys)


def test_a_port_that_is_taken_and_an_export_that_computes_otherwise_are_refused(
    server: RestServer, served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.server_address[1]
    said = refused(["serve", f"--export={served.parent}", f"--port={port}"], capsys)
    assert f"port: expected a free port at 127.0.0.1, got {port}: Address already in use; give another --port" in said
    module = tf.Module()
    module.serve = tf.function(lambda x: {"y": tf.io.read_file(x)}, [tf.TensorSpec([], tf.string, "x")])
    tf.saved_model.save(module, str(tmp_path / "evil" / "1"), signatures={"serving_default": module.serve})
    said = refused(["serve", f"--export={tmp_path / 'evil'}", "--port=0"], capsys)
    assert "expected only ops that compute, got 'ReadFile'" in said


@pytest.mark.parametrize(
    ("error", "name"),
    [
        *((OSError(number, "no"), "host") for number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV)),
        (socket.gaierror(socket.EAI_NONAME, "no"), "host"),
        *((OSError(number, "no"), "port") for number in (errno.EADDRINUSE, errno.EACCES, errno.EMFILE)),
    ],
)
def test_an_address_that_cannot_be_bound_names_the_flag_that_is_wrong(error: OSError, name: str) -> None:
    expected, got = ("an address of this machine", "::1: no") if name == "host" else ("a free port at ::1", "80: no")
    assert str(not_bound("::1", 80, error)).startswith(f"{name}: expected {expected}, got {got}; give ")


def test_clients_tell_wrong_flags(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rest_client.py", "alp", "--grib"])
    with pytest.raises(SystemExit, match="LABEL"):
        runpy.run_path(str(served.parent / "rest_client.py"), run_name="__main__")
