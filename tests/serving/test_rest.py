"""JSON of requests and replies as in TensorFlow Serving; everything else is refused in one short line."""

import base64
import json
import random
import time
from typing import Any

import numpy as np
import pytest

from tests.support.fuzzing import VALUES, changed, damaged
from tfgradgen.serving.rest import MAX_DEPTH, Refusal, Request, Spec, parse_request, reply_of

ROW = {"label": Spec("string", ()), "seed": Spec("int64", ())}
SIGNATURES = {
    "serving_default": ROW,
    "continue": ROW | {"num_steps": Spec("int32", ()), "z": Spec("float32", (3,))},
    "one": {"x": Spec("float32", ())},
}
WHOLE = {"label": "alp", "seed": 1, "num_steps": 2, "z": [0, -0.5, 1e3]}


def asked(request: Any, max_rows: int = 4) -> Any:
    return parse_request(json.dumps(request).encode(), SIGNATURES, max_rows)


def refusal(request: Any) -> str:
    with pytest.raises(Refusal) as error:
        asked(request)
    assert error.value.status == 400
    assert error.value.text.isprintable()
    assert len(error.value.text) <= 1000
    return error.value.text


def test_both_formats_are_the_same_arrays() -> None:
    rows = [WHOLE, WHOLE | {"label": {"b64": base64.b64encode(b"\xff\0").decode()}, "seed": -(2**63)}]
    by_row = asked({"signature_name": "continue", "instances": rows})
    by_column = asked({"signature_name": "continue", "inputs": {name: [row[name] for row in rows] for name in WHOLE}})
    assert (by_row.is_rows, by_column.is_rows, by_row.num_rows, by_column.num_rows) == (True, False, 2, 2)
    for found in (by_row.inputs, by_column.inputs):
        assert found["label"].tolist() == [b"alp", b"\xff\0"]
        assert (found["seed"].dtype, found["seed"].tolist()) == (np.int64, [1, -(2**63)])
        assert (found["num_steps"].dtype, found["num_steps"].tolist()) == (np.int32, [2, 2])
        assert (found["z"].dtype, found["z"].tolist()) == (np.float32, [[0, -0.5, 1e3]] * 2)


def test_the_default_signature_and_a_single_input_need_no_name() -> None:
    assert asked({"instances": [{"label": "alp", "seed": 1}]}).signature == "serving_default"
    for name in ("", None):
        assert asked({"signature_name": name, "instances": [{"label": "alp", "seed": 1}]}).signature == "serving_default"
    for form in ("instances", "inputs"):
        assert asked({"signature_name": "one", form: [1, 2.5]}).inputs["x"].tolist() == [1, 2.5]
    assert asked({"signature_name": "one", "instances": [{"x": 3}]}).inputs["x"].tolist() == [3]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ([], "expected to be a JSON object, got []"),
        ({}, "expected either instances or inputs, got neither"),
        ({"instances": [], "inputs": {}}, "got both"),
        ({"instances": []}, "expected a list of 1 to 4 rows, got 0"),
        ({"instances": [WHOLE] * 5}, "expected a list of 1 to 4 rows, got 5"),
        ({"instances": "x"}, "instances: expected a list"),
        ({"instances": [3]}, "expected an object in row 0, got 3"),
        ({"instances": [{"label": "a"}]}, "seed: missing in row 0; expected label, seed"),
        ({"instances": [{"label": "a", "seed": 1, "sede": 1}]}, '"sede": no such input in row 0'),
        ({"instances": [{"label": "a", "seed": 1.5}]}, "seed: expected a whole number, got 1.5"),
        ({"instances": [{"label": "a", "seed": True}]}, "seed: expected a whole number, got true"),
        ({"instances": [{"label": "a", "seed": 2**63}]}, "seed: expected a number that int64 can hold"),
        ({"instances": [{"label": "a", "seed": 10**400}]}, "seed: expected a number that int64 can hold"),
        ({"instances": [{"label": "a", "seed": None}]}, "seed: expected a whole number, got null"),
        ({"instances": [{"label": "a", "seed": "it's"}]}, 'seed: expected a whole number, got "it\'s"'),
        ({"instances": [{"label": "a", "seed": {"x": [True, None]}}]}, 'got {"x": [true, null]}'),
        ({"instances": [{"label": "a", "seed": list(range(9))}]}, "got [0, 1, 2, 3, ...]"),
        ({"instances": [{"label": "a", "seed": [10**999]}]}, "got [an integer of 3319 bits]"),
        ({"instances": [{"label": "a", "seed": float("inf")}]}, "seed: expected a whole number, got Infinity"),
        ({"instances": [{"label": 3, "seed": 1}]}, "label: expected text"),
        ({"instances": [{"label": {"b64": "!"}, "seed": 1}]}, "label: expected text"),
        ({"instances": [{"label": "\ud800", "seed": 1}]}, "label: expected text"),
        ({"instances": [{"label": ["a"], "seed": 1}]}, "label: expected text"),
        ({"inputs": [1]}, "inputs: expected an object with label, seed"),
        ({"inputs": {"label": "a", "seed": [1]}}, "label: expected a list with one value per row"),
        ({"inputs": {"label": ["a", "b"], "seed": [1]}}, "expected one value of each input per row"),
        ({"inputs": {"label": [], "seed": []}}, "in 1 to 4 rows"),
        ({"signature_name": "nope", "instances": [WHOLE]}, "signature_name: expected one of serving_default, continue, one"),
        *(
            ({"signature_name": name, "instances": [{"label": "a", "seed": 1}]}, "signature_name: expected one of")
            for name in (["x"], 0, 0.0, {}, [], False, True)
        ),
        ({"signature_name": "continue", "instances": [WHOLE | {"z": [1, 2]}]}, "z: expected a list of 3, got a list of 2"),
        ({"signature_name": "continue", "instances": [WHOLE | {"z": [1, 2, "\x1b[2J"]}]}, "z: expected a number, got"),
        ({"signature_name": "continue", "instances": [WHOLE | {"z": [1, 2, 1e39]}]}, "z: expected a number that float32 can"),
        (
            {"signature_name": "continue", "instances": [WHOLE | {"z": [1, 2, float("nan")]}]},
            "z: expected a number that float32",
        ),
        (
            {"signature_name": "continue", "instances": [WHOLE | {"num_steps": 2**31}]},
            "num_steps: expected a number that int32",
        ),
        ({"instances": [{"label": "\x1b[2J" * 9999, "seed": "x" * 9999}]}, "seed: expected a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(request_: Any, text: str) -> None:
    assert text in refusal(request_)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff", b"nope", b"[" * 10**6, b'{"a":' * 10**5, b'"' + b"[" * 100, b"9" * 10**5),
        *(b'{"instances": 1, "instances": 2}', b'{"instances": [1e999]}', b'{"a": "' + b"\\" * 10**6),
    ],
)
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as error:
        parse_request(body, SIGNATURES, 4)
    assert error.value.text.isprintable()
    assert len(error.value.text) <= 300


def test_depth_counts_brackets_outside_of_text() -> None:
    assert asked({"instances": [{"label": '\\"' + "[" * 50, "seed": 1}]}).inputs["label"].tolist() == [b'\\"' + b"[" * 50]
    deep: Any = 0
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert "inputs: expected an object" in refusal({"inputs": deep})
    assert "nest at most 8 deep" in refusal({"inputs": [deep]})


HOSTILE = (b'\\"', b'"', b"\\", b'"\\', b'"\\"', b"[]", b'["', b'"[', b'\\"[', b"]", b'"a",', b'{"a":[]},')


def seconds(body: bytes) -> float:
    """Return the CPU time to refuse `body`: the minimum of three, because other threads may interfere."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        assert isinstance(parsed(body), Refusal)
        times.append(time.thread_time() - start)
    return min(times)


def test_no_body_takes_more_time_than_its_length_does() -> None:
    """The time is linear, since the interpreter is blocked meanwhile.

    The small size comes first: quadratic time would take hours.
    """
    for size in (1 << 14, 1 << 20):
        usual = seconds(b'{"instances": [' + b"0," * (size // 2) + b"0]}")
        for start in (b"", b'"', b'{"instances": ["'):
            for part in HOSTILE:
                assert seconds(start + part * (size // len(part))) < 5 * usual + 1e-3, (start, part, size)


def parsed(body: bytes) -> Request | Refusal:
    try:
        return parse_request(body, SIGNATURES, 4)
    except Refusal as refused:
        return refused


def test_no_damage_is_worse_than_a_refusal() -> None:
    request = {"signature_name": "continue", "instances": [WHOLE, WHOLE]}
    rng = random.Random(0)
    bodies = [damaged(json.dumps(request).encode(), rng) for _ in range(300)]
    bodies += [json.dumps(changed(request, rng)).encode() for _ in range(300)]
    bodies += [json.dumps(request | {"instances": [WHOLE | {name: value}]}).encode() for value in VALUES for name in WHOLE]
    found = [parsed(body) for body in bodies]
    assert all(each.text.isprintable() if isinstance(each, Refusal) else 1 <= each.num_rows <= 4 for each in found)
    assert {type(each) for each in found} == {Refusal, Request}


def test_replies_are_those_of_tensorflow_serving() -> None:
    outputs = {
        "image_bytes": np.array([b"\x89PNG", b""], object),
        "p": np.array([0.1, np.nan], np.float32),
        "z": np.array([[1, 1e-8], [3e38, -2.5]], np.float32),
        "name": np.array([b"a", "ä".encode()], object),
        "count": np.array([1, -(2**63)]),
    }
    rows = reply_of(outputs, is_rows=True)["predictions"]
    assert rows[0] == {"image_bytes": {"b64": "iVBORw=="}, "p": 0.1, "z": [1.0, 1e-8], "name": "a", "count": 1}
    assert np.isnan(rows[1].pop("p"))
    assert rows[1] == {"image_bytes": {"b64": ""}, "z": [3e38, -2.5], "name": "ä", "count": -(2**63)}
    columns = reply_of(outputs, is_rows=False)["outputs"]
    assert columns["z"] == [[1.0, 1e-8], [3e38, -2.5]]
    assert columns["image_bytes"] == [{"b64": "iVBORw=="}, {"b64": ""}]
    one = {"image_bytes": outputs["image_bytes"]}
    assert reply_of(one, is_rows=True) == {"predictions": columns["image_bytes"]}
    assert reply_of(one, is_rows=False) == {"outputs": columns["image_bytes"]}
