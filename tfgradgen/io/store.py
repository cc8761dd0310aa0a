"""An unfinished run on disk: its draws so far, and a checkpoint that records how many of them are valid.

Each field of `Draws` is a raw file that only grows. The checkpoint, written atomically, holds the number of valid bytes and the
CRC-32 of each file. Bytes beyond that number come from an interrupted write and are cut off. The checkpoint ends with a digest
of itself, because the checksums in an npz do not cover its headers.
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
_DTYPES = ("<f4", "|b1")  # dtypes of the fields of `Draws`
_LISTS: dict[str, list[Any]] = {"start_cost": [0, 0], "doubts": [], "evidence": []}  # statistics that are lists, with defaults
MAX_CHECKPOINT = 1 << 30  # bytes
BLOCK = 1 << 22  # bytes read at a time


class RunStore:
    """Draws and state of an unfinished run in `folder`.

    Args:
      folder: An existing folder.
      identity: Everything that determines the bits of the run, JSON-serializable.

    Attributes:
      state: State of the last checkpoint; None if there is none.
      stats: Statistics of the run so far, JSON-serializable, as of the last checkpoint.

    Raises:
      UserError: The checkpoint in the folder belongs to another run, or is damaged.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity
        self.state: dict[str, np.ndarray] | None = None
        self.stats: dict[str, Any] = {}
        self._files: dict[str, dict[str, Any]] = {}
        if (folder / CHECKPOINT).exists():
            self._restore()

    def append(self, draws: Draws, state: Mapping[str, np.ndarray], stats: dict[str, Any]) -> None:
        """Append `draws` and write a checkpoint with `state`. After an OSError the earlier checkpoint remains valid."""
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
        header = {"format": FORMAT, "identity": self.identity, "facts": stats, "files": files}
        arrays = {f"state_{name}": value for name, value in state.items()}
        beside = self.folder / f"{CHECKPOINT}.new"
        archive = io.BytesIO()
        np.savez(archive, header=np.frombuffer(json_text(header).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        with open_own(beside, "w+b") as stream:
            stream.write(archive.getvalue() + digest(archive.getvalue()))
        os.replace(beside, self.folder / CHECKPOINT)
        self.state, self.stats, self._files = dict(state), dict(stats), files

    def draws(self) -> Draws:
        """Return all draws as read-only memory maps of the files."""
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
                raise self.damaged(f"{path.name} does not match its checksum")
        self.state, self.stats, self._files = found.state, found.stats, found.files

    def damaged(self, what: str) -> UserError:
        """Return the error of a run that cannot be resumed; `what` names the file and what is wrong with it."""
        return fail("resume", f"an interrupted run in {self.folder}", f"a damaged one: {what}", "start over with --overwrite")


class Checkpoint(NamedTuple):
    """The content of a checkpoint (see `RunStore`).

    Attributes:
      identity: Everything that determines the bits of the run.
      state: State of the sampler, as named arrays.
      stats: Statistics of the run so far.
      files: For each raw file the number of valid bytes, their CRC-32, the dtype and the shape of a row.
    """

    identity: dict[str, Any]
    state: dict[str, np.ndarray]
    stats: dict[str, Any]
    files: dict[str, dict[str, Any]]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`.

    Raises:
      UserError: It is missing, damaged or from another version.
    """
    expected = f"a run with an intact {CHECKPOINT}"
    with parsing(f"resume {folder}", expected, "start over with --overwrite"):
        data = read_bytes(folder / CHECKPOINT, MAX_CHECKPOINT, folder)
        data, kept = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if digest(data) != kept:
            raise ValueError("a damaged one")
        arrays = read_npz(io.BytesIO(data))
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT or set(header["files"]) != set(Draws._fields):
            raise ValueError("one from another version of tfgradgen")
        identity, stats, files = header["identity"], _checked_stats(header["facts"]), header["files"]
        if not isinstance(identity, dict):
            raise TypeError("one without its settings")
        for file in files.values():
            layout(file)
            whole_number(file["crc"])
        state = {name.removeprefix("state_"): array for name, array in arrays.items()}
    return Checkpoint(identity, state, stats, files)


def digest(data: bytes) -> bytes:
    """Return the SHA-256 of `data`, `DIGEST_BYTES` long."""
    return hashlib.sha256(data).digest()


def layout(file: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return the dtype, shape of a row and number of rows of a raw file.

    Raises:
      KeyError, TypeError, ValueError: The entry of the checkpoint is invalid.
    """
    if file["dtype"] not in _DTYPES:
        raise ValueError("a file with an unknown dtype")
    dtype = np.dtype(file["dtype"])
    row_shape = tuple(whole_number(size, 1) for size in file["row_shape"])
    num_bytes, row_bytes = whole_number(file["num_bytes"]), dtype.itemsize * math.prod(row_shape)
    if num_bytes % row_bytes:
        raise ValueError("a file that ends within a row")
    return dtype, row_shape, num_bytes // row_bytes


def _checked_stats(stats: Any) -> dict[str, Any]:
    """Return the statistics of a checkpoint; raise an error that `parsing` turns into one line if they are invalid."""
    known = dict(stats)
    for name in ("num_gradients", "num_forward"):
        whole_number(known.get(name, 0))
    whole_number(known.get("num_results", 1), 1)
    for name in ("prior_draws", "exact_starts", "num_not_finite", "num_scored"):
        whole_number(known.get(name) or 0)
    if not 0 <= known.get("seconds", 0.0) < math.inf:
        raise ValueError("an invalid duration")
    start_cost, warnings, evidence = (known.get(name, default) for name, default in _LISTS.items())
    if not all(isinstance(value, list) for value in (start_cost, warnings, evidence)):
        raise TypeError("statistics of the wrong type")
    if len([whole_number(value) for value in start_cost]) != 2 or not all(isinstance(line, str) for line in warnings):
        raise ValueError("statistics of the wrong form")
    fit = known.get("fit", {})
    if not isinstance(fit, dict):
        raise TypeError("statistics of the wrong type")
    numbers = [
        *evidence,
        *fit.values(),
        *(known.get(name) for name in ("accept_rate", "prior_class_prob", "prior_class_prob_error")),
    ]
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers):
        raise TypeError("statistics that are not numbers")
    _check_learned(known.get("learned", {}))
    if not isinstance(known.get("overwrite", False), bool):
        raise TypeError("statistics of the wrong type")
    for name in ("labels", "blocks"):
        if not isinstance(known.get(name, []), list):
            raise TypeError("statistics of the wrong type")
        for part in known.get(name, []):
            _checked_stats(part)
    return known


def _check_learned(learned: Any) -> None:
    """Raise an error unless `learned` names the proposals and maps each kind to numbers."""
    for name, value in learned.items():
        if name == "proposals":
            if value not in ("surrogate", "prior"):
                raise ValueError("unknown proposals")
        elif not all(number is None or isinstance(number, int | float) for number in value.values()):
            raise TypeError("statistics that are not numbers")


def crc32(path: Path, num_bytes: int) -> int | None:
    """Return the CRC-32 of the first `num_bytes` of a file; None if it is shorter."""
    crc = 0
    with open_own(path, "rb") as stream:
        while num_bytes:
            block = stream.read(min(BLOCK, num_bytes))
            if not block:
                return None
            crc, num_bytes = zlib.crc32(block, crc), num_bytes - len(block)
    return crc


def check_same(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: Path, remedy: str = "start over with --overwrite"
) -> None:
    """Raise `UserError` if this run differs from the one in `folder`; the error names the first entry that differs.

    Args:
      ours: What says which run this is.
      theirs: The same of the run in `folder`.
      folder: Where it is.
      remedy: What the user can do instead of giving the same values.
    """
    found = difference(json.loads(json_text(ours)), theirs)
    if found:
        name, our_value, their_value = found
        if name == "arguments.init_z":
            expected, got = f"the photograph of --init at which {folder} starts", "another start"
            raise fail("resume", expected, got, f"give the same photograph, or {remedy}")
        expected = f"{as_flag(name, their_value)} as in {folder}"
        raise fail("resume", expected, as_flag(name, our_value), f"give the same value, or {remedy}")


def as_flag(name: str, value: Any) -> str:
    """Return an entry of an identity as the user gave it: `arguments.schedule.num_results` is --num_results."""
    first, *others = name.split(".")
    if first == "arguments" and others:
        return f"--{others[-1]}={value}"
    if name == "kernel":
        return f"--{name}={value}"
    return f"{' '.join([first, *others])} {value}"


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """Return the first entry in which two nested mappings differ, as (name, ours, theirs); None if they are equal."""
    for name in sorted({*ours, *theirs}):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found = difference(a, b, f"{prefix}{name}.")
            if found:
                return found
        elif a != b:
            return f"{prefix}{name}", a, b
    return None
