"""An unfinished run on disk: draws as they come, and a checkpoint that says how far they hold.

Each field of `Draws` is a raw file that only grows. The checkpoint, written beside and renamed, names the number of bytes and
the CRC-32 of each file; what lies beyond was being written when the run was killed, and is cut off. It ends in a digest of
itself: the checksums within an npz leave out its own headers.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.checks import UserError, fail
from tfgradgen.contracts import Draws

CHECKPOINT, FORMAT = "checkpoint.npz", 3
FILES = {CHECKPOINT, f"{CHECKPOINT}.new", *(f"{name}.raw" for name in Draws._fields)}
DIGEST_BYTES = 32
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
            with path.open("r+b" if file["num_bytes"] else "w+b") as stream:
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
        np.savez(archive, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
        beside.write_bytes(archive.getvalue() + digest(archive.getvalue()))
        os.replace(beside, self.folder / CHECKPOINT)
        self.state, self.facts, self._files = dict(state), dict(facts), files

    def draws(self) -> Draws:
        """Everything that was added, as read-only maps of the files: it takes no memory until it is read."""
        return Draws(*(self._mapped(name) for name in Draws._fields))

    def _mapped(self, name: str) -> np.ndarray:
        dtype, row_shape, num_rows = layout(self._files[name])
        if not num_rows:
            return np.empty((0, *row_shape), dtype)
        return np.memmap(self.folder / f"{name}.raw", dtype, "r", shape=(num_rows, *row_shape))

    def _restore(self) -> None:
        try:
            data = (self.folder / CHECKPOINT).read_bytes()
            data, kept = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
            if digest(data) != kept:
                raise ValueError("checksum")
            with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
            header = json.loads(arrays.pop("header").tobytes())
            theirs, facts, files = header["identity"], dict(header["facts"]), dict(header["files"])
            is_ours = header["format"] == FORMAT and set(files) == set(Draws._fields)
            is_even = len({layout(file)[2] for file in files.values()}) == 1
        except Exception as error:  # whatever a damaged file makes of its readers
            raise self._damaged(f"{CHECKPOINT} cannot be read ({type(error).__name__})") from None
        if not is_ours:
            raise self._damaged(f"{CHECKPOINT} is of another version of tfgradgen")
        check_same(self.identity, theirs, self.folder)
        for name, file in files.items():
            path = self.folder / f"{name}.raw"
            if not is_even or not path.exists() or crc32(path, file["num_bytes"]) != file["crc"]:
                raise self._damaged(f"{path.name} is not what was written")
        self.state = {name.removeprefix("state_"): array for name, array in arrays.items()}
        self.facts, self._files = facts, files

    def _damaged(self, what: str) -> UserError:
        return fail("resume", f"an interrupted run in {self.folder}", f"a damaged one: {what}", "start anew with --overwrite")


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`, `DIGEST_BYTES` of them."""
    return hashlib.sha256(data).digest()


def layout(file: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int]:
    """dtype, shape of a row and number of rows of a raw file."""
    dtype, row_shape = np.dtype(file["dtype"]), tuple(file["row_shape"])
    return dtype, row_shape, file["num_bytes"] // (dtype.itemsize * int(np.prod(row_shape, dtype=int)))


def crc32(path: Path, num_bytes: int) -> int | None:
    """The CRC-32 of the first `num_bytes` of a file, None where it has fewer."""
    crc = 0
    with path.open("rb") as stream:
        while num_bytes:
            block = stream.read(min(BLOCK, num_bytes))
            if not block:
                return None
            crc, num_bytes = zlib.crc32(block, crc), num_bytes - len(block)
    return crc


def check_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Raises `UserError` that names the first entry in which this run differs from the one in `folder`."""
    found = difference(json.loads(json.dumps(ours)), theirs)
    if found:
        name, our_value, their_value = found
        raise fail(
            "resume",
            f"{name} {their_value} as in {folder}",
            our_value,
            "give the same again, or start anew with --overwrite",
        )


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
