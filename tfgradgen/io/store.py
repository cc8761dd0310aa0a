"""An unfinished run on disk: draws as they come, and a checkpoint that says how far they hold.

Each field of `Draws` is a raw file that only grows. The checkpoint, written beside and renamed, names the number of bytes and
the CRC-32 of each file; what lies beyond was being written when the run was killed, and is cut off. It ends in a digest of
itself: the checksums within an npz leave out its own headers.
"""

import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.arrays import read_npz
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.contracts import Draws
from tfgradgen.core.files import json_text, open_own
from tfgradgen.core.parsing import parsing, read_bytes, whole_number

CHECKPOINT, FORMAT = "checkpoint.npz", 3
FILES = {CHECKPOINT, f"{CHECKPOINT}.new", *(f"{name}.raw" for name in Draws._fields)}
DIGEST_BYTES = 32
_DTYPES = ("<f4", "|b1")  # of the fields of `Draws`
_LISTS: dict[str, list[Any]] = {"start_cost": [0, 0], "doubts": [], "evidence": []}  # facts, and where they are not there
MAX_CHECKPOINT = 1 << 30  # bytes
BLOCK = 1 << 22  # bytes read at a time


class RunStore:
    """Draws and state of a run under way in `folder`.

    Args:
      folder: exists.
      identity: everything that decides the bits of the run, JSON-able.

    Attributes:
      state: that of the last checkpoint, None where there is none.
      facts: what the run noted on the way, JSON-able, kept in the checkpoint.

    Raises:
      UserError: the folder's checkpoint is of another run, or damaged.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity
        self.state: dict[str, np.ndarray] | None = None
        self.facts: dict[str, Any] = {}
        self._files: dict[str, dict[str, Any]] = {}
        if (folder / CHECKPOINT).exists():
            self._restore()

    def append(self, draws: Draws, state: Mapping[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Adds `draws` and moves the checkpoint to `state`. After an OSError the earlier checkpoint stands."""
        files = {}
        for name, rows in draws._asdict().items():
            file = self._files.get(name, {"num_bytes": 0, "crc": 0})
            data = np.ascontiguousarray(rows).tobytes()
            path = self.folder / f"{name}.raw"
            with open_own(path, "r+b" if file["num_bytes"] else "w+b") as stream:
                stream.truncate(file["num_bytes"])
                stream.seek(file["num_bytes"])
                stream.write(data)
            files[name] = {
                "num_bytes": file["num_bytes"] + len(data),
                "crc": zlib.crc32(data, file["crc"]),
                "dtype": rows.dtype.str,
                "row_shape": list(rows.shape[1:]),
            }
        header = {"format": FORMAT, "identity": self.identity, "facts": facts, "files": files}
        arrays = {f"state_{name}": value for name, value in state.items()}
        beside = self.folder / f"{CHECKPOINT}.new"
        archive = io.BytesIO()
        np.savez(archive, header=np.frombuffer(json_text(header).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        with open_own(beside, "w+b") as stream:
            stream.write(archive.getvalue() + digest(archive.getvalue()))
        os.replace(beside, self.folder / CHECKPOINT)
        self.state, self.facts, self._files = dict(state), dict(facts), files

    def draws(self) -> Draws:
        """Everything that was added, as read-only maps of the files: it takes no memory until it is read."""
        return Draws(*(self._mapped(name) for name in Draws._fields))

    def _mapped(self, name: str) -> np.ndarray:
        dtype, row_shape, num_rows = layout(self._files[name])
        if not num_rows:
            return np.empty((0, *row_shape), dtype)
        with open_own(self.folder / f"{name}.raw", "rb") as stream:
            return np.memmap(stream, dtype, "r", shape=(num_rows, *row_shape))

    def _restore(self) -> None:
        found = read_checkpoint(self.folder)
        check_same(self.identity, found.identity, self.folder)
        is_even = len({layout(file)[2] for file in found.files.values()}) == 1
        for name, file in found.files.items():
            path = self.folder / f"{name}.raw"
            if not is_even or not path.exists() or crc32(path, file["num_bytes"]) != file["crc"]:
                raise self.damaged(f"{path.name} is not what was written")
        self.state, self.facts, self._files = found.state, found.facts, found.files

    def damaged(self, what: str) -> UserError:
        """The error of a run that cannot be gone on with; `what` names the file and what is wrong with it."""
        return fail("resume", f"an interrupted run in {self.folder}", f"a damaged one: {what}", "start anew with --overwrite")


class Checkpoint(NamedTuple):
    """What a checkpoint holds: see `RunStore`. files: of each raw file the number of bytes that hold, their CRC-32, the dtype
    and the shape of a row."""

    identity: dict[str, Any]
    state: dict[str, np.ndarray]
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`.

    Raises:
      UserError: it is missing, damaged or of another version.
    """
    expected = f"an interrupted run, with its {CHECKPOINT} as it was written"
    with parsing(f"resume {folder}", expected, "start anew with --overwrite"):
        data = read_bytes(folder / CHECKPOINT, MAX_CHECKPOINT, folder)
        data, kept = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if digest(data) != kept:
            raise ValueError("a damaged one")
        arrays = read_npz(io.BytesIO(data))
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT or set(header["files"]) != set(Draws._fields):
            raise ValueError("one of another version of tfgradgen")
        identity, facts, files = header["identity"], _checked_facts(header["facts"]), header["files"]
        if not isinstance(identity, dict):
            raise TypeError("one without its settings")
        for file in files.values():
            layout(file)
            whole_number(file["crc"])
        state = {name.removeprefix("state_"): array for name, array in arrays.items()}
    return Checkpoint(identity, state, facts, files)


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, `DIGEST_BYTES` of them."""
    return hashlib.sha256(data).digest()


def layout(file: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int]:
    """dtype, shape of a row and number of rows of a raw file."""
    if file["dtype"] not in _DTYPES:
        raise ValueError("a file of another type of numbers")
    dtype = np.dtype(file["dtype"])
    row_shape = tuple(whole_number(size, 1) for size in file["row_shape"])
    num_bytes, row_bytes = whole_number(file["num_bytes"]), dtype.itemsize * math.prod(row_shape)
    if num_bytes % row_bytes:
        raise ValueError("a file that ends within a row")
    return dtype, row_shape, num_bytes // row_bytes


def _checked_facts(facts: Any) -> dict[str, Any]:
    """The facts of a checkpoint; raises what `parsing` turns into one line where they are none."""
    known = dict(facts)
    for name in ("num_gradients", "num_forward"):
        whole_number(known.get(name, 0))
    whole_number(known.get("num_results", 1), 1)
    for name in ("prior_draws", "exact_starts", "num_not_finite", "num_scored"):
        whole_number(known.get(name) or 0)
    if not 0 <= known.get("seconds", 0.0) < math.inf:
        raise ValueError("a time that is none")
    start_cost, doubts, evidence = (known.get(name, default) for name, default in _LISTS.items())
    if not all(isinstance(value, list) for value in (start_cost, doubts, evidence)):
        raise TypeError("facts of another type")
    if len([whole_number(value) for value in start_cost]) != 2 or not all(isinstance(doubt, str) for doubt in doubts):
        raise ValueError("facts of another form")
    fit = known.get("fit", {})
    if not isinstance(fit, dict):
        raise TypeError("facts of another type")
    numbers = [
        *evidence,
        *fit.values(),
        *(known.get(name) for name in ("accept_rate", "prior_class_prob", "prior_class_prob_error")),
    ]
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers):
        raise TypeError("figures that are no numbers")
    if not isinstance(known.get("overwrite", False), bool) or not isinstance(known.get("labels", []), list):
        raise TypeError("facts of another type")
    for of_label in known.get("labels", []):
        _checked_facts(of_label)
    return known


def crc32(path: Path, num_bytes: int) -> int | None:
    """The CRC-32 of the first `num_bytes` of a file, None where it has fewer."""
    crc = 0
    with open_own(path, "rb") as stream:
        while num_bytes:
            block = stream.read(min(BLOCK, num_bytes))
            if not block:
                return None
            crc, num_bytes = zlib.crc32(block, crc), num_bytes - len(block)
    return crc


def check_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Raises `UserError` that names the first entry in which this run differs from the one in `folder`."""
    found = difference(json.loads(json_text(ours)), theirs)
    if found:
        name, our_value, their_value = found
        raise fail(
            "resume",
            f"{as_flag(name, their_value)} as in {folder}",
            as_flag(name, our_value),
            "give the same again, or start anew with --overwrite",
        )


def as_flag(name: str, value: Any) -> str:
    """An entry of an identity as the user gave it: `arguments.schedule.num_results` is --num_results, others are words."""
    first, *others = name.split(".")
    if first == "arguments" and others:
        return f"--{others[-1]}={value}"
    if name == "kernel":
        return f"--{name}={value}"
    return f"{' '.join([first, *others])} {value}"


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first entry in which two nested dictionaries differ, as (name, ours, theirs); None where they are equal."""
    for name in sorted({*ours, *theirs}):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found = difference(a, b, f"{prefix}{name}.")
            if found:
                return found
        elif a != b:
            return f"{prefix}{name}", a, b
    return None
