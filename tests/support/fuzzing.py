"""Damage to files: random bytes, and wrong JSON values of every kind. The same seed gives the same damage."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

TOKENS = (
    *(b"\x1b[31m", b"\x00", b"\xff\xfe", b"\n", b'"', b"NaN", b"-Infinity", b"1e999", b"null", b"[" * 3000, b'{"a":' * 2000),
    *(b"9" * 400, b"9" * 5000, b"&a [*a, *a]", b"!!bool maybe", b"!!python/object:os.system", b"2026-01-01", b"\xe2\x80\xae"),
    *(b"{" * 50, b": ", b"- ", b"# ", b"\t", b"'", b"x" * 5000),
)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        0.5,
        10**400,
        -(2**63),
        2**63,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "a",
        "\x1b[2J\u202e\n",
    ),
    *(
        "x" * 10_000,
        "../../etc/passwd",
        [],
        [0],
        [None],
        ["\x1b]0;"],
        [1, 2],
        [float("nan"), 1],
        [[]],
        {},
        {"a": 1},
        {"": None},
    ),
    *(nested(50), "O", "<f8", "imagenet", "=1+1"),
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three random changes."""
    for _ in range(rng.randint(1, 3)):
        k, m = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(8)
        if kind == 0 and data:
            flipped = bytearray(data)
            for _ in range(rng.choice((1, 1, 8, 64))):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        elif kind == 1:
            data = data[:k]
        elif kind == 2:
            data = data[:k] + rng.choice(TOKENS) + data[k:]
        elif kind == 3:
            data = data[:k] + data[m:]
        elif kind == 4:
            data = data[:m] + data[k:]
        elif kind == 5:
            data = data[:k] + bytes(m - k) + data[m:]
        elif kind == 6:
            data = data[:k] + rng.randbytes(rng.randint(1, 40)) + data[m:]
        else:
            data = data[:k] + rng.choice(TOKENS) + data[m:]
    return data


def changed(value: Any, rng: random.Random) -> Any:
    """Return the JSON-serializable `value` with one or two of its parts replaced, removed or renamed."""
    result = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 2)):
        places = list(_places(result))
        if not places:
            return _any_value(rng)
        where, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0 and isinstance(where, dict):
            del where[key]
        elif kind == 1 and isinstance(where, list):
            where.append(_any_value(rng))
        elif kind == 2 and isinstance(where, dict):
            where[rng.choice(("", "\x1b[31m", "a", key.upper()))] = where.pop(key)
        else:
            where[key] = _any_value(rng)
    return result


def _any_value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))  # the next change may be inside this value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
