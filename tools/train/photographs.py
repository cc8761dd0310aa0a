"""Labelled photographs from `train/<name>/*` and `val/<name>/*` in a folder or .tar, and differentiable augmentation."""

import atexit
import functools
import tarfile
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfgradgen.core.parsing import parsing, read_json
from tfgradgen.io.images import read_images

SIZE = 64
# Photographs of other things have no held-out part, so the last five of each class are never used in training.
TRAINING, HELD_OUT = slice(None, -5), slice(-5, None)
ENDINGS = (".jpeg", ".jpg", ".png")


@functools.cache
def as_folder(data):
    """Return the folder with train/: `data` itself, or the .tar `data` unpacked for the lifetime of the process."""
    folder = Path(data)
    if folder.is_file():
        unpacked = tempfile.TemporaryDirectory(prefix="photographs-")
        atexit.register(unpacked.cleanup)
        with parsing(str(data), "a folder or .tar of photographs", "give a folder or .tar"), tarfile.open(folder) as archive:
            archive.extractall(unpacked.name, filter="data")
        folder = next((path.parent for path in Path(unpacked.name).rglob("train")), Path(unpacked.name))
    if not (folder / "train").is_dir():
        raise SystemExit(f"{data}: expected a folder or .tar with train/<name>/*.JPEG, got none; give labelled photographs.")
    return folder


def class_names(data, labels=()):
    """Return the classes of `data`, in the order of `labels` (entries with a name) if given."""
    names = sorted(path.name for path in (as_folder(data) / "train").iterdir() if path.is_dir())
    return [entry["name"] for entry in labels if entry["name"] in names] or names


def read_labels(path):
    """Return the entries {name, wnid, synset} of a labels.json; [] if none is given."""
    if not path:
        return []
    with parsing(str(path), "a list of {name, wnid, synset}", "give such a list, or leave it out"):
        entries = read_json(Path(path))
        if not isinstance(entries, list) or not all(isinstance(entry["name"], str) for entry in entries):
            raise ValueError("other entries")
    return entries


def as_names(value):
    """Return a list of names from what Fire makes of `a` or `a,b`: a text, or if both are words, a tuple."""
    return value.split(",") if isinstance(value, str) else list(value or ())


def load(data, split, names, files=slice(None)):
    """Return (`image` uint8 [N, 64, 64, 3], `label` int32 [N]) of the classes `names`, resized if needed.

    `files` selects a part of the files of each class, in the order of their names.
    """
    images, labels = [], []
    for index, name in enumerate(names):
        folder = as_folder(data) / split / name
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            raise SystemExit(f"{data}: expected JPEG or PNG files in {split}/{name}/, got none; give labelled photographs.")
        if paths[files]:
            images.append(read_images(paths[files], SIZE, SIZE))
            labels += [index] * len(images[-1])
    if not images:
        raise SystemExit(f"{data}: expected photographs of {len(names)} classes in {split}/, got too few; give more.")
    return np.concatenate(images), np.asarray(labels, "int32")


def to_range(image):
    """Convert uint8 to float32 in [-1, 1]."""
    return ops.cast(image, "float32") / 127.5 - 1.0


def in_batches(fn, image, size=100):
    """Return `fn` of uint8 images [N, ...], which gets them in [-1, 1] and `size` at a time, as one float32 array."""
    return np.concatenate([np.asarray(fn(to_range(image[i : i + size]))) for i in range(0, len(image), size)])


def load_weights(network, path):
    """Load the weights that a training tool wrote to `path`."""
    if not Path(path).exists():
        raise SystemExit(f"{path}: expected weights of an earlier run, got nothing; train first, with the same --work.")
    network.load_weights(path)


def uniform(seed, shape):
    """Return uniform numbers in [0, 1) of the given shape."""
    return keras.random.uniform(shape, seed=seed)


def _at(u, i):
    return u[:, i][:, None, None, None]


def jitter_colour(image, u, brightness, saturation, contrast):
    """Shift brightness by up to +-brightness / 2, and scale saturation and contrast by 1 +- their argument; u [B, >= 3]."""
    x = image + (_at(u, 0) - 0.5) * brightness
    grey = ops.mean(x, axis=-1, keepdims=True)
    x = (x - grey) * (1 + (_at(u, 1) * 2 - 1) * saturation) + grey
    mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
    return (x - mean) * (1 + (_at(u, 2) * 2 - 1) * contrast) + mean


def cut_out(image, u, half):
    """Set a square with half-width `half` [B, 1] around a uniform centre to grey; u [B, 2]."""
    size = image.shape[1]
    i = ops.arange(size, dtype="float32")[None]
    hidden_y = ops.abs(i - u[:, 0:1] * size) < half
    hidden_x = ops.abs(i - u[:, 1:2] * size) < half
    hidden = ops.logical_and(hidden_y[:, :, None], hidden_x[:, None, :])
    return image * (1 - ops.cast(hidden, "float32"))[..., None]


def crop_matrix(size, out_size, zoom, offset, flip=None):
    """Return linear interpolation matrices [B, out_size, size] for a window of width `zoom` (1 is all) around `offset`."""
    i = ((ops.arange(out_size, dtype="float32") + 0.5) / out_size * 2 - 1)[None]
    if flip is not None:
        i = i * flip
    source = ops.clip((i * zoom + offset) * size / 2 + (size - 1) / 2, 0.0, size - 1.0)
    return ops.relu(1 - ops.abs(source[:, :, None] - ops.arange(size, dtype="float32")))


def resample(image, rows, columns):
    """Apply one interpolation matrix to the rows and one to the columns of each image."""
    return ops.einsum("bjx,bixc->bijc", columns, ops.einsum("biy,byxc->bixc", rows, image))
