"""How different the pictures of one set are from one another, in features or in pixels."""

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.special import entr

from tfgradgen.evaluation.distances import as_rows

FILTER_SIZE = 11  # pixels a side, of the window of SSIM
POWER_FACTORS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM, the finest first (Wang et al. 2003)
BATCH_VALUES = 2**21  # of one side of the pairs compared at a time


def vendi_score(features: np.ndarray) -> float:
    """Effective number of different rows of `features [N, D]` (Friedman and Dieng 2023): 1 where all point one way, at most N.

    exp(-sum of e log e) over the eigenvalues e of K / N, with K the cosine similarities of the rows. A row of zeros, which has
    no direction, counts as like other rows of zeros and as at right angles to all else.
    """
    rows = as_rows(features, 1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.concatenate([rows / np.where(norms > 0, norms, 1.0), norms == 0], axis=1)
    # The eigenvalues of K = X X^T are the squared singular values of X; those that are left out are 0.
    eigenvalues = np.linalg.svd(directions, compute_uv=False) ** 2 / len(rows)
    return float(np.exp(entr(eigenvalues).sum()))


def mean_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance over the pairs of rows of `features [N, D]`, N of at least 2."""
    return float(pdist(as_rows(features, 2)).mean())


def repeat_rate(features: np.ndarray, threshold: float) -> float:
    """Share of the rows of `features [N, D]` that have another row within a Euclidean distance of `threshold`, 0..1."""
    distances = squareform(pdist(as_rows(features, 2)))
    np.fill_diagonal(distances, np.inf)
    return float(np.mean(distances.min(1) <= threshold))


def mean_similarity(pairs: np.ndarray) -> float:
    """Mean over the pairs of different pictures of `pairs` [N, N] (`ms_ssim_pairs`): 0..1, low for diverse pictures.

    As a measure of diversity: Odena et al. 2017. NaN where there are no two pictures.
    """
    return float(pairs[np.triu_indices(len(pairs), 1)].mean()) if len(pairs) > 1 else float("nan")


def ms_ssim_pairs(image: np.ndarray) -> np.ndarray | None:
    """The multi-scale structural similarity of each two of `image` uint8 [N, H, W, C], [N, N] in 0..1, 1 on the diagonal.

    With as many scales, at most 5, as leave the smaller side the 11 pixels of the window (Wang et al. 2003); the exponents of
    those scales are scaled to sum to 1. None where the images are smaller than the window. Similarities below 0 count as 0.
    """
    if image.ndim != 4 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 [N, H, W, C], got {image.dtype} {list(image.shape)}")
    scales = num_scales(min(image.shape[1:3]))
    if not scales:
        return None
    import tensorflow as tf

    powers = np.array(POWER_FACTORS[:scales]) / sum(POWER_FACTORS[:scales])
    one, other = np.triu_indices(len(image), 1)
    pairs = np.eye(len(image))
    at_a_time = max(1, BATCH_VALUES // image[0].size) if len(image) else 1
    for k in range(0, len(one), at_a_time):
        i, j = one[k : k + at_a_time], other[k : k + at_a_time]
        pairs[i, j] = tf.image.ssim_multiscale(image[i], image[j], 255, powers.tolist(), FILTER_SIZE).numpy()
    symmetric: np.ndarray = np.maximum(pairs, pairs.T)
    return symmetric


def num_scales(side: int) -> int:
    """How many scales, each half of the one before and rounded up, have a side of at least the window: 0..5."""
    scales = 0
    while side >= FILTER_SIZE and scales < len(POWER_FACTORS):
        scales, side = scales + 1, -(-side // 2)
    return scales
