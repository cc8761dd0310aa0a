"""Models that a worker cannot read from its own disk, sent as bytes and checked by their digest."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.files import open_inside
from tfgradgen.models.loading.handles import resolve_handle
from tfgradgen.models.loading.inside import MAX_DEPTH, MAX_FILES, parts
from tfgradgen.models.loading.metadata import fingerprint

MAX_BESIDE = 1 << 20  # bytes of a file beside the program, such as model.json or labels.txt


class Packed(NamedTuple):
    """The files of a model.

    Attributes:
      sha256: Its `fingerprint`.
      files: Content by name, with / between folders. model.json and names of classes are among them.
    """

    sha256: str
    files: dict[str, bytes]


def pack(handle: str) -> Packed:
    """Return the files of the model `handle`; raise `UserError` if one cannot be read."""
    folder = resolve_handle(handle)
    files = {part.name.as_posix(): b"".join(part.blocks) for part in parts(folder)}
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.is_file() and path.stat().st_size <= MAX_BESIDE:
            try:
                with open_inside(folder, path.name) as stream:
                    files[path.name] = stream.read(MAX_BESIDE)
            except OSError:  # a link out of the folder, which no loader follows either
                continue
    return Packed(fingerprint(folder), files)


def is_here(handle: str, sha256: str) -> bool:
    """Return whether `handle` is a folder on this machine with that model in it."""
    try:
        return os.path.isdir(os.path.expanduser(handle)) and fingerprint(resolve_handle(handle)) == sha256
    except UserError:
        return False


class Sent(NamedTuple):
    """Models for workers that may not have them.

    Attributes:
      sha256: Digest by handle; {} if workers are on this machine.
      files: A shared `Packed` by handle (`schedule.Fleet.share`).
    """

    sha256: Mapping[str, str] = {}
    files: Mapping[str, Any] = {}

    @contextmanager
    def folders(self) -> Iterator[dict[str, str]]:
        """Yield, in a worker, the folder of each model that this machine lacks, by its handle; see `unpacked`."""
        with unpacked({k: self.files[k].get() for k, sha256 in self.sha256.items() if not is_here(k, sha256)}) as folders:
            yield folders


NONE_SENT = Sent()


def send(handles: Iterable[str], share_fn: Callable[[Packed], Any]) -> Sent:
    """Return the models `handles` for workers on other machines; `share_fn` is that of their fleet."""
    packed = {handle: pack(handle) for handle in dict.fromkeys(handles)}
    files = {handle: share_fn(model) for handle, model in packed.items()}
    return Sent({handle: model.sha256 for handle, model in packed.items()}, files)


@contextmanager
def unpacked(packed: Mapping[str, Packed]) -> Iterator[dict[str, str]]:
    """Write models to a private temporary folder, which is removed after the block.

    Args:
      packed: Models by name.

    Yields:
      The folder of each model by name.

    Raises:
      UserError: A name leads out of its folder, or the files do not have the digest.
    """
    with tempfile.TemporaryDirectory(prefix="tfgradgen-engine-") as root:
        folders = {}
        for number, (name, model) in enumerate(packed.items()):
            folder = Path(root) / str(number)
            _write(folder, model.files)
            if fingerprint(folder) != model.sha256:
                raise fail("engine", "a model with the digest of the command's", "other bytes", "start the command again")
            folders[name] = str(folder)
        yield folders


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    if len(files) > MAX_FILES:
        raise fail("engine", f"a model of at most {MAX_FILES} files", len(files), "start the command again")
    folder.mkdir()
    for name, content in files.items():
        inner = PurePosixPath(name)
        is_safe = not inner.is_absolute() and inner.parts and ".." not in inner.parts and "\\" not in name and "\0" not in name
        if not is_safe or len(inner.parts) > MAX_DEPTH:
            raise fail("engine", "a model whose files are in its folder", name, "start the command again")
        target = folder.joinpath(*inner.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as stream:
            stream.write(content)
