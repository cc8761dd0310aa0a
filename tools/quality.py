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


def fid(features, others):
    """Frechet distance of Gaussians fitted to `features [N, D]` and `others [M, D]` (Heusel et al. 2017), on any features.

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)). Biased upwards by few rows: compare at equal numbers.
    """
    x, y = (np.asarray(a, "float64") for a in (features, others))
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2).
    cross = np.linalg.svd(_root(c) @ _root(d), compute_uv=False).sum()
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * cross)


def _root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def density_and_coverage(features, others, num_neighbours=5):
    """How `features [N, D]` fill the neighbourhoods of `others [M, D]` (Naeem et al. 2020); about (1, 1) for equal laws.

    Density: the mean number of balls around `others` (radius: distance to the k-th neighbour) that a row lies in, over k.
    Coverage: the share of those balls with a row in them.
    """
    radii = np.sort(_distances(others, others), axis=1)[:, num_neighbours]  # column 0 is the point itself
    inside = _distances(features, others) < radii[None]
    return float(inside.sum() / (num_neighbours * len(features))), float(inside.any(axis=0).mean())


def _distances(a, b):
    squared = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))


def reliability(probs, labels, num_bins=10):
    """Rows (mean confidence, share that is right, number) of the bins of confidence that are not empty."""
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return [(confidence[bins == b].mean(), correct[bins == b].mean(), int(np.sum(bins == b))) for b in np.unique(bins)]


def expected_calibration_error(probs, labels, num_bins=10):
    """Mean absolute gap between confidence and accuracy over equal-width confidence bins (Guo et al. 2017)."""
    return float(sum(abs(sure - right) * n for sure, right, n in reliability(probs, labels, num_bins)) / len(labels))


def chance_calibration_error(probs, num_bins=10, repeats=200):
    """The mean error that `probs` would show if they were calibrated: with labels drawn from them."""
    rng = np.random.default_rng(0)
    drawn = [(np.cumsum(probs, 1) > rng.random((len(probs), 1))).argmax(1) for _ in range(repeats)]
    return float(np.mean([expected_calibration_error(probs, labels, num_bins) for labels in drawn]))


def save_sheet(path, image, columns, scale=2):
    """Writes images [N, H, W, 3] in [-1, 1] as one PNG, `columns` to a row."""
    image = np.clip((np.asarray(image) + 1) * 127.5 + 0.5, 0, 255).astype("uint8")
    n, height, width, _ = image.shape
    rows = n // columns
    sheet = image[: rows * columns].reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC).save(path)
