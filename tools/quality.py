"""Distances between sets of pictures, and sheets of them."""

import numpy as np
from PIL import Image


def kid(features, others):
    """Kernel Inception Distance (Binkowski et al. 2018), here on whatever features are given: unbiased squared MMD.

    `features [N, D]`, `others [M, D]`; kernel (x.y / D + 1)^3. May be slightly negative for equal laws.
    """
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1.0) ** 3  # noqa: E731
    n, m = len(features), len(others)
    within = lambda k, size: (k.sum() - np.trace(k)) / (size * (size - 1))  # noqa: E731
    x, y = features.astype("float64"), others.astype("float64")
    return float(within(kernel(x, x), n) + within(kernel(y, y), m) - 2 * kernel(x, y).mean())


def expected_calibration_error(probs, labels, num_bins=15):
    """Mean absolute gap between confidence and accuracy over equal-width confidence bins (Guo et al. 2017)."""
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = [abs(confidence[bins == b].mean() - correct[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins)]
    return float(sum(gaps))


def save_sheet(path, image, columns, scale=2):
    """Writes images [N, H, W, 3] in [-1, 1] as one PNG, `columns` to a row."""
    image = np.clip((np.asarray(image) + 1) * 127.5 + 0.5, 0, 255).astype("uint8")
    n, height, width, _ = image.shape
    rows = n // columns
    sheet = image[: rows * columns].reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC).save(path)
