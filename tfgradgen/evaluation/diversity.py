"""Diversity of a set of images, in features or by the similarity of pairs."""

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.special import entr

from tfgradgen.evaluation.distances import as_rows


def vendi_score(features: np.ndarray) -> float:
    """Return the Vendi score of `features [N, D]` (Friedman and Dieng 2023), the effective number of different rows, in 1..N.

    It is exp(-sum of e log e) over the eigenvalues e of K / N, where K are the cosine similarities of the rows. A row of zeros
    has no direction; it counts as equal to other rows of zeros and as orthogonal to all other rows.
    """
    rows = as_rows(features, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.concatenate([rows / np.where(norms > 0, norms, 1.0), norms == 0], axis=1)
    # The nonzero eigenvalues of K = X X^T are the squared singular values of X.
    eigenvalues = np.linalg.svd(directions, compute_uv=False) ** 2 / len(rows)
    return float(np.exp(entr(eigenvalues).sum()))


def mean_distance(features: np.ndarray) -> float:
    """Return the mean Euclidean distance over all pairs of rows of `features [N, D]`, N >= 2."""
    return float(pdist(as_rows(features, 2)).mean())


def repeat_rate(features: np.ndarray, threshold: float) -> float:
    """Return the share of rows of `features [N, D]` with another row within Euclidean distance `threshold`, in 0..1."""
    distances = squareform(pdist(as_rows(features, 2)))
    np.fill_diagonal(distances, np.inf)
    return float(np.mean(distances.min(1) <= threshold))


def mean_similarity(pairs: np.ndarray) -> float:
    """Return the mean of `pairs` [N, N] (`Medium.distances`) over pairs of different images.

    Odena et al. 2017 use it, for structural similarity, as a measure of diversity. It is NaN for fewer than two images.
    """
    return float(pairs[np.triu_indices(len(pairs), 1)].mean()) if len(pairs) > 1 else float("nan")
