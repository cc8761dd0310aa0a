"""Labelled photographs from a folder `train/<name>/*`, `val/<name>/*`, and differentiable augmentation."""

from pathlib import Path

import keras
import numpy as np
from keras import ops
from PIL import Image

SIZE = 64


def class_names(folder, split="train"):
    return sorted(p.name for p in (Path(folder) / split).iterdir() if p.is_dir())


def as_names(value):
    """What Fire makes of `a` or `a,b` -> a list of names."""
    return [value] if isinstance(value, str) else list(value or ())


def load(folder, split, names):
    """Returns (`image` uint8 [N, 64, 64, 3], `label` int32 [N]) of the classes `names`, resized where they need it."""
    images, labels = [], []
    for index, name in enumerate(names):
        files = sorted(p for p in (Path(folder) / split / name).iterdir() if p.suffix.lower() in (".jpeg", ".jpg", ".png"))
        if not files:
            raise SystemExit(f"{folder}/{split}/{name}: expected JPEG or PNG files, found none; give labelled folders.")
        for file in files:
            with Image.open(file) as photograph:
                rgb = photograph.convert("RGB")
                images.append(
                    np.asarray(rgb if rgb.size == (SIZE, SIZE) else rgb.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
                )
            labels.append(index)
    return np.stack(images), np.asarray(labels, "int32")


def to_range(image):
    """uint8 -> float32 in [-1, 1]."""
    return ops.cast(image, "float32") / 127.5 - 1.0


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
