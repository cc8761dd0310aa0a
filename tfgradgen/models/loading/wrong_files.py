"""Errors for paths that are not a SavedModel: what the path is, and how to get a SavedModel from it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tfgradgen.core.checks import UserError, did_you_mean, fail

MODEL = "saved_model.pb"
MOST_FOUND = 3  # folders listed in an error
MOST_SEEN = 1000  # entries of a folder that are read
LFS = b"version https://git-lfs.github.com/spec/"

_KERAS = 'run keras.models.load_model("{}").export("FOLDER") and give FOLDER'
_ONNX = "run onnx2tf -i {} -o FOLDER and give FOLDER"
_TORCH = "write it with torch.onnx.export, convert that with onnx2tf -i MODEL.onnx -o FOLDER, and give FOLDER"
_GRAPH = (
    "import it with tf.graph_util.import_graph_def, write it with tf.compat.v1.saved_model.simple_save, and give that folder"
)

# File extension -> what the file is, and how to get a SavedModel; {} stands for its path.
_KINDS = {
    ".keras": ("a Keras file", _KERAS),
    ".h5": ("a Keras file in HDF5", _KERAS),
    ".hdf5": ("a Keras file in HDF5", _KERAS),
    ".onnx": ("an ONNX file", _ONNX),
    ".pt": ("a PyTorch file", _TORCH),
    ".pth": ("a PyTorch file", _TORCH),
    ".safetensors": ("weights without a program", _TORCH),
    ".bin": ("weights without a program", _TORCH),
    ".tflite": ("a TFLite file, which has no gradients", "give the SavedModel that it was converted from"),
    ".pbtxt": ("a graph as text", "export the model again, with a saved_model.pb"),
    ".pb": ("a frozen graph", _GRAPH),
    ".zip": ("a ZIP archive", "unpack it and give the folder that holds saved_model.pb"),
    ".7z": ("an archive", "unpack it and give the folder that holds saved_model.pb"),
    ".rar": ("an archive", "unpack it and give the folder that holds saved_model.pb"),
    ".index": ("a checkpoint, which holds weights without a program", "give a SavedModel, as model.export(FOLDER) writes it"),
    ".ckpt": ("a checkpoint, which holds weights without a program", "give a SavedModel, as model.export(FOLDER) writes it"),
}


def model_folder(folder: Path, handle: str) -> Path:
    """Return `folder` if it is a SavedModel, or the highest numbered version in it, as in TF Serving.

    Raises:
      UserError: It is neither, or the model is incomplete. The error says what there is instead and what to do.
    """
    where = f"model {handle}"
    if os.path.lexists(folder / MODEL):
        check_whole(folder, where)
        return folder
    inner = sorted(_inner(folder))
    versions = [path for path in inner if path.name.isdecimal() and path.parent == folder]
    if versions and len(versions) == len(inner):
        newest = max(versions, key=lambda path: int(path.name))
        check_whole(newest, where)
        return newest
    raise _not_here(folder, inner, where)


def _not_here(folder: Path, inner: list[Path], where: str) -> UserError:
    expected = f"a folder with {MODEL}"
    if inner:
        names = " or ".join(str(path) for path in inner[:MOST_FOUND])
        got = f"a folder that contains {len(inner)} model{'s' if len(inner) > 1 else ''}"
        return fail(where, expected, got, f"did you mean {names}?")
    above = next((path for path in list(folder.absolute().parents)[:2] if (path / MODEL).is_file()), None)
    if above and folder.name in ("variables", "assets", "assets.extra"):
        return fail(where, expected, "a part of a model", f"did you mean {above}?")
    for path in _entries(folder):
        kind = _kind(path) if path.is_file() else None
        if kind:
            return fail(where, expected, f"{kind[0]}, {path.name}", kind[1].format(path))
    got = "an empty folder" if not any(_entries(folder)) else "one without it"
    return fail(where, expected, got, "give the folder that holds that file")


def check_whole(folder: Path, where: str) -> None:
    """Raise `UserError` if files of a SavedModel are Git LFS pointers, or if some of its variables are missing."""
    parts = [path for path in _entries(folder / "variables") if path.is_file()]
    for path in (folder / MODEL, *parts):
        if is_lfs_pointer(path):
            got = f"a Git LFS pointer, {path}"
            raise fail(where, "the content of its files", got, f"run git lfs pull in {folder}")
    names = {path.name for path in parts}
    has_data = any(name.startswith("variables.data-") for name in names)
    if ("variables.index" in names) != has_data:
        missing = "variables.data" if not has_data else "variables.index"
        got = f"one without variables/{missing}"
        raise fail(where, "a complete SavedModel", got, "copy or download the whole folder again")


def file_error(path: Path, handle: str, expected: str) -> UserError:
    """Return the error for a file that is not an archive of a SavedModel."""
    where = f"model {handle}"
    if is_lfs_pointer(path):
        return fail(where, expected, "a Git LFS pointer", f"run git lfs pull in {path.absolute().parent}")
    if path.name == MODEL:
        return fail(where, "the folder of a SavedModel", f"its file {MODEL}", f"give {path.parent}")
    kind = _kind(path)
    if kind is None:
        return fail(where, expected, "another file", f"give the folder that holds {MODEL}")
    return fail(where, expected, kind[0], kind[1].format(path))


def missing_error(path: Path, handle: str, expected: str) -> UserError:
    """Return the error for a path that does not exist, with the most similar names."""
    near = did_you_mean(path.name, [entry.name for entry in _entries(path.parent)]) if path.name else ""
    return fail(f"model {handle}", expected, "no such folder", near or "check the path")


def half_cached(folder: Path, where: str) -> UserError | None:
    """Return the error for a folder of a download cache with missing files; None if the model is there."""
    if not folder.is_dir() or (folder / MODEL).is_file() or any(_inner(folder)):
        return None
    return fail(
        where,
        f"{MODEL} in its cached copy",
        "a folder without it, perhaps after a cleanup of temporary files",
        f"remove {folder}, so that the model is downloaded again",
    )


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer, which Git leaves in place of a file that was not fetched."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size < 1024:
            with path.open("rb") as stream:
                return stream.read(len(LFS)) == LFS
    return False


def _kind(path: Path) -> tuple[str, str] | None:
    if ".data-" in path.name:
        return _KINDS[".ckpt"]
    return _KINDS.get(path.suffix.lower())


def _inner(folder: Path) -> Iterator[Path]:
    """Yield the folders with a SavedModel up to two levels below `folder`."""
    for path in _entries(folder):
        if path.is_dir() and (path / MODEL).is_file():
            yield path
        elif path.is_dir():
            yield from (below for below in _entries(path) if below.is_dir() and (below / MODEL).is_file())


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry, _ in zip(found, range(MOST_SEEN), strict=False)]
    except (OSError, ValueError):
        return []
    return [folder / name for name in sorted(names)]
