"""The JSON of TensorFlow Serving's REST interface: requests to arrays, and arrays to replies. Does not import TensorFlow.

A request is `{"signature_name": ..., "instances": [row, ...]}` with one object per row, or has `"inputs": {name: column}`. The
reply has `predictions` or `outputs`, in the same form. Bytes are `{"b64": ...}`: in a request for any string, in a reply for
outputs whose names end in `_bytes`. Requests come from anyone, so each check names what it expected and repeats at most a
short, printable part of what it got.
"""

import base64
import binascii
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.text import CUT, printable, value_text

DEFAULT_SIGNATURE = "serving_default"
MAX_DEPTH = 8  # nested lists and objects in a request; a valid one has at most five
MAX_SHOWN = 60  # characters of a value from a request that an error repeats
MOST_SHOWN = 4  # entries of a list or object that an error repeats
MAX_ERROR = 1000  # characters of an error in a reply; the list of labels is the longest part
# What a byte outside of a text adds to the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
      status: The HTTP status.
      text: The reason, one line.
    """

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, printable(" ".join(text.split()), MAX_ERROR)


class Spec(NamedTuple):
    """An input of a signature.

    Attributes:
      dtype: 'string', 'int32', 'int64' or 'float32'.
      inner: Its shape without the first dimension, which is that of the rows; None for a dimension of any size.
    """

    dtype: str
    inner: tuple[int | None, ...]


Specs = Mapping[str, Spec]


class Request(NamedTuple):
    """A request to predict.

    Attributes:
      signature: Name of the signature.
      inputs: Arrays [rows, ...] by name, of dtype object (bytes), int32, int64 or float32.
      is_rows: Whether it is in the row format, as the reply should be.
      num_rows: Number of rows, >= 1.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    is_rows: bool
    num_rows: int


def parse_request(body: bytes, signatures: Mapping[str, Specs], max_rows: int) -> Request:
    """Return the request in `body`, as arrays that fit its signature.

    Args:
      body: JSON.
      signatures: The inputs of each signature, by names.
      max_rows: Largest number of rows.

    Raises:
      Refusal: It is invalid (400).
    """
    request = _json(body)
    if not isinstance(request, dict):
        raise Refusal(400, f"a request is expected to be a JSON object, got {_shown(request)}")
    name = request.get("signature_name")
    if name is None or name == "":
        name = DEFAULT_SIGNATURE
    if not isinstance(name, str) or name not in signatures:
        raise Refusal(400, f"signature_name: expected one of {', '.join(signatures)}, got {_shown(name)}")
    forms = [form for form in ("instances", "inputs") if form in request]
    if len(forms) != 1:
        raise Refusal(400, f"expected either instances or inputs, got {'both' if forms else 'neither'}")
    specs, is_rows = signatures[name], forms == ["instances"]
    columns = _columns_of_rows(request["instances"], specs, max_rows) if is_rows else _columns(request["inputs"], specs)
    sizes = {len(column) for column in columns.values()}
    if len(sizes) != 1 or not 1 <= (num_rows := sizes.pop()) <= max_rows:
        raise Refusal(400, f"expected one value of each input per row, in 1 to {max_rows} rows")
    inputs = {key: _array(columns[key], spec, key) for key, spec in specs.items()}
    return Request(name, inputs, is_rows, num_rows)


def _json(body: bytes) -> Any:
    """Return the JSON value of `body`, which may nest `MAX_DEPTH` deep and has no name twice in one object."""
    if _depth(body) > MAX_DEPTH:
        raise Refusal(400, f"JSON is expected to nest at most {MAX_DEPTH} deep")
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError as error:
        raise Refusal(400, f"JSON is expected to nest at most {MAX_DEPTH} deep") from error
    except ValueError as error:  # also a number of too many digits, and bytes that are not UTF-8
        raise Refusal(400, f"JSON parse error: {printable(str(error))}") from error


def _depth(body: bytes) -> int:
    """Return how deep JSON nests, brackets in texts aside. The time is linear in the length, whatever the bytes are.

    Of bytes that are no JSON, it is right up to the first backslash outside of a text, where the parser ends.
    """
    plain = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)  # each quote left begins or ends a text
    is_text = np.cumsum(plain == ord('"'), dtype=np.int32) % 2 == 1
    return int(np.cumsum(np.where(is_text, 0, _STEPS[plain]), dtype=np.int32).max(initial=0))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refusal(400, "expected each name once in an object")
    return found


def _columns_of_rows(rows: Any, specs: Specs, max_rows: int) -> dict[str, list[Any]]:
    """Return the values of each input from the row format; a signature with one input takes bare values as rows."""
    if not isinstance(rows, list) or not 1 <= len(rows) <= max_rows:
        got = f"{len(rows)}" if isinstance(rows, list) else _shown(rows)
        raise Refusal(400, f"instances: expected a list of 1 to {max_rows} rows, got {got}")
    if len(specs) == 1 and not any(isinstance(row, dict) and row.keys() == specs.keys() for row in rows):
        return dict.fromkeys(specs, rows)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refusal(400, f"instances: expected an object in row {number}, got {_shown(row)}")
        _check_names(row, specs, f" in row {number}")
    return {name: [row[name] for row in rows] for name in specs}


def _columns(inputs: Any, specs: Specs) -> dict[str, list[Any]]:
    """Return the values of each input from the columnar format; a signature with one input takes its list alone."""
    if isinstance(inputs, list) and len(specs) == 1:
        return dict.fromkeys(specs, inputs)
    if not isinstance(inputs, dict):
        raise Refusal(400, f"inputs: expected an object with {', '.join(specs)}, got {_shown(inputs)}")
    _check_names(inputs, specs, "")
    for name, column in inputs.items():
        if not isinstance(column, list):
            raise Refusal(400, f"{name}: expected a list with one value per row, got {_shown(column)}")
    return dict(inputs)


def _check_names(given: Mapping[str, Any], specs: Specs, where: str) -> None:
    for name in specs:
        if name not in given:
            raise Refusal(400, f"{name}: missing{where}; expected {', '.join(specs)}")
    for name in given:
        if name not in specs:
            raise Refusal(400, f"{_shown(name)}: no such input{where}; expected {', '.join(specs)}")


def _array(column: list[Any], spec: Spec, name: str) -> np.ndarray:
    values = _nested(column, (None, *spec.inner), spec.dtype, name)
    if spec.dtype != "string":
        return np.array(values, spec.dtype)
    array = np.empty(len(values), object)  # np.array would cut bytes at a trailing NUL
    array[:] = values
    return array


def _nested(value: Any, shape: Sequence[int | None], dtype: str, name: str) -> Any:
    """Return nested lists of the given shape with valid scalars."""
    if not shape:
        return _scalar(value, dtype, name)
    if not isinstance(value, list) or shape[0] not in (None, len(value)):
        got = f"a list of {len(value)}" if isinstance(value, list) else _shown(value)
        raise Refusal(400, f"{name}: expected a list of {'values' if shape[0] is None else shape[0]}, got {got}")
    return [_nested(each, shape[1:], dtype, name) for each in value]


def _scalar(value: Any, dtype: str, name: str) -> Any:
    if dtype == "string":
        return _bytes(value, name)
    kinds = (int, float) if dtype == "float32" else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise Refusal(400, f"{name}: expected {'a number' if dtype == 'float32' else 'a whole number'}, got {_shown(value)}")
    limits: Any = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    low, high = (float(limits.min), float(limits.max)) if dtype == "float32" else (int(limits.min), int(limits.max))
    if not low <= value <= high:  # NaN neither
        raise Refusal(400, f"{name}: expected a number that {dtype} can hold, got {_shown(value)}")
    return value


def _bytes(value: Any, name: str) -> bytes:
    """Return the bytes of a text or of `{"b64": text}`."""
    try:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
            return base64.b64decode(value["b64"], validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        pass  # half of a surrogate pair, or no base64
    raise Refusal(400, f'{name}: expected text, or {{"b64": text}} in base64, got {_shown(value)}')


def reply_of(outputs: Mapping[str, np.ndarray], is_rows: bool) -> dict[str, Any]:
    """Return the reply with `outputs` [rows, ...] by name, in the row format or the columnar one."""
    columns = {name: _as_json(name, value) for name, value in outputs.items()}
    if not is_rows:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len(columns) == 1:  # as TensorFlow Serving does: the only output stands without its name
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _as_json(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        return [_as_json(name, each) for each in value]
    if isinstance(value, np.ndarray):
        value = value[()]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode(errors="replace")
    if isinstance(value, np.floating):
        return float(str(value))  # the shortest digits that give the same float32
    return value.item() if isinstance(value, np.generic) else value


def _shown(value: Any) -> str:
    """Return a value of a request as JSON, shortened; long lists, objects and numbers only in part."""
    if isinstance(value, list):
        shown = [_shown(each) for each in value[:MOST_SHOWN]]
        text = f"[{', '.join(shown + [CUT] * (len(value) > MOST_SHOWN))}]"
    elif isinstance(value, dict):
        shown = [f"{_shown(name)}: {_shown(each)}" for name, each in itertools.islice(value.items(), MOST_SHOWN)]
        text = f"{{{', '.join(shown + [CUT] * (len(value) > MOST_SHOWN))}}}"
    elif isinstance(value, str):
        text = json.dumps(value[: MAX_SHOWN + 1], ensure_ascii=False)
    else:
        text = value_text(value, MAX_SHOWN) if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)
    return printable(text, MAX_SHOWN)
