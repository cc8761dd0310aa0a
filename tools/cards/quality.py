"""Calibration of a classifier, and sheets of images."""

import numpy as np
from PIL import Image


def reliability(probs, labels, num_bins=10):
    """Return rows (mean confidence, accuracy, number) of the nonempty confidence bins."""
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return [(confidence[bins == b].mean(), correct[bins == b].mean(), int(np.sum(bins == b))) for b in np.unique(bins)]


def expected_calibration_error(probs, labels, num_bins=10):
    """Return the mean absolute gap between confidence and accuracy over equal-width bins (Guo et al. 2017)."""
    return float(sum(abs(sure - right) * n for sure, right, n in reliability(probs, labels, num_bins)) / len(labels))


def chance_calibration_error(probs, num_bins=10, repeats=200):
    """Return the mean calibration error of a calibrated classifier with these `probs`, with labels drawn from them."""
    rng = np.random.default_rng(0)
    drawn = [(np.cumsum(probs, 1) > rng.random((len(probs), 1))).argmax(1) for _ in range(repeats)]
    return float(np.mean([expected_calibration_error(probs, labels, num_bins) for labels in drawn]))


def save_sheet(path, image, columns, scale=2):
    """Write images [N, H, W, 3] in [-1, 1] as one PNG with `columns` images per row."""
    image = np.clip((np.asarray(image) + 1) * 127.5 + 0.5, 0, 255).astype("uint8")
    n, height, width, _ = image.shape
    rows = n // columns
    sheet = image[: rows * columns].reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    sheet_image = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    sheet_image.resize((sheet_image.width * scale, sheet_image.height * scale), Image.Resampling.BICUBIC).save(path)
