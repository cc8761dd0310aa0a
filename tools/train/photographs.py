"""Labelled photographs from `train/<name>/*`, `val/<name>/*` in a folder or a .tar, and differentiable augmentation."""

import atexit
import functools
import json
import tarfile
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfgradgen.io.images import read_pictures

SIZE = 64
# Photographs of other things come without a held-out part; the last five of each class are kept from every training.
TRAINING, HELD_OUT = slice(None, -5), slice(-5, None)
ENDINGS = (".jpeg", ".jpg", ".png")


@functools.cache
def as_folder(data):
    """The folder that holds train/: `data` itself, or what is in the .tar `data`, unpacked for as long as the process runs."""
    folder = Path(data)
    if folder.is_file():
        unpacked = tempfile.TemporaryDirectory(prefix="photographs-")
        atexit.register(unpacked.cleanup)
        if not tarfile.is_tarfile(folder):
            raise SystemExit(f"{data}: expected a folder or .tar of photographs, got another file; give one of those.")
        with tarfile.open(folder) as archive:
            archive.extractall(unpacked.name, filter="data")
        folder = next((path.parent for path in Path(unpacked.name).rglob("train")), Path(unpacked.name))
    if not (folder / "train").is_dir():
        raise SystemExit(f"{data}: expected a folder or .tar with train/<name>/*.JPEG, got none; give labelled photographs.")
    return folder


def class_names(data, labels=()):
    """The classes of `data`, in the order of `labels` (entries with a name) where there are any."""
    names = sorted(path.name for path in (as_folder(data) / "train").iterdir() if path.is_dir())
    return [entry["name"] for entry in labels if entry["name"] in names] or names


def read_labels(path):
    """The entries {name, wnid, synset} of a labels.json, or [] where none is given."""
    return json.loads(Path(path).read_text()) if path else []


def as_names(value):
    """What Fire makes of `a` or `a,b` -> a list of names."""
    return [value] if isinstance(value, str) else list(value or ())


def load(data, split, names, files=slice(None)):
    """Returns (`image` uint8 [N, 64, 64, 3], `label` int32 [N]) of the classes `names`, resized where they need it.

    `files` takes a part of each class's files, in the order of their names.
    """
    images, labels = [], []
    for index, name in enumerate(names):
        folder = as_folder(data) / split / name
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            raise SystemExit(f"{data}: expected JPEG or PNG files in {split}/{name}/, found none; give labelled photographs.")
        if paths[files]:
            images.append(read_pictures(paths[files], SIZE, SIZE))
            labels += [index] * len(images[-1])
    if not images:
        raise SystemExit(f"{data}: expected photographs of {len(names)} classes in {split}/, found none to take; give more.")
    return np.concatenate(images), np.asarray(labels, "int32")


def to_range(image):
    """uint8 -> float32 in [-1, 1]."""
    return ops.cast(image, "float32") / 127.5 - 1.0


def in_batches(fn, image, size=100):
    """`fn` on uint8 images [N, ...], shown in [-1, 1] `size` at a time, as one float32 array."""
    return np.concatenate([np.asarray(fn(to_range(image[i : i + size]))) for i in range(0, len(image), size)])


def load_weights(network, path):
    """Loads what a training tool left at `path`."""
    if not Path(path).exists():
        raise SystemExit(f"{path}: expected weights of an earlier run, got nothing; train first, with the same --work.")
    network.load_weights(path)


def uniform(seed, shape):
    return keras.random.uniform(shape, seed=seed)


def _at(u, i):
    return u[:, i][:, None, None, None]


def jitter_colour(image, u, brightness, saturation, contrast):
    """Brightness shifted by up to +-brightness / 2, saturation and contrast scaled by 1 +- their argument; u [B, >= 3]."""
    x = image + (_at(u, 0) - 0.5) * brightness
    grey = ops.mean(x, axis=-1, keepdims=True)
    x = (x - grey) * (1 + (_at(u, 1) * 2 - 1) * saturation) + grey
    mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
    return (x - mean) * (1 + (_at(u, 2) * 2 - 1) * contrast) + mean


def cut_out(image, u, half):
    """Greys a square of half-width `half` [B, 1] around a uniform centre; u [B, 2]."""
    size = image.shape[1]
    i = ops.arange(size, dtype="float32")[None]
    hidden_y = ops.abs(i - u[:, 0:1] * size) < half
    hidden_x = ops.abs(i - u[:, 1:2] * size) < half
    hidden = ops.logical_and(hidden_y[:, :, None], hidden_x[:, None, :])
    return image * (1 - ops.cast(hidden, "float32"))[..., None]


def crop_matrix(size, out_size, zoom, offset, flip=None):
    """Linear interpolation matrices [B, out_size, size] that look at a window of width `zoom` (1 is all) around `offset`."""
    i = ((ops.arange(out_size, dtype="float32") + 0.5) / out_size * 2 - 1)[None]
    if flip is not None:
        i = i * flip
    source = ops.clip((i * zoom + offset) * size / 2 + (size - 1) / 2, 0.0, size - 1.0)
    return ops.relu(1 - ops.abs(source[:, :, None] - ops.arange(size, dtype="float32")))


def resample(image, rows, columns):
    """Applies one interpolation matrix to the rows and one to the columns of each image."""
    return ops.einsum("bjx,bixc->bijc", columns, ops.einsum("biy,byxc->bixc", rows, image))
