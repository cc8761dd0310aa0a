"""How different the pictures of one set are from one another."""

import numpy as np
from scipy.spatial.distance import cdist, pdist

# Weights of the five scales (Wang et al. 2003) and the side of the window.
POWER_FACTORS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
PAIRS_AT_ONCE = 500


def vendi_score(features: np.ndarray) -> float:
    """Effective number of different rows of `features [N, D]`, 1..N: exp of the Shannon entropy of the eigenvalues of K / N, K
    their cosine similarities (Friedman and Dieng 2023). Compare at equal N."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.asarray(features, "float64") / np.where(norms > 0, norms, 1.0)
    values = np.linalg.eigvalsh(rows @ rows.T / len(rows))
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def mean_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance of two different rows of `features [N, D]`, N >= 2."""
    return float(pdist(features).mean())


def repeat_rate(features: np.ndarray, threshold: float) -> float:
    """Share of the rows of `features [N, D]` with another row no further than `threshold`."""
    apart = cdist(features, features)
    np.fill_diagonal(apart, np.inf)
    return float((apart.min(1) <= threshold).mean())


def ms_ssim_pairs(image: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of each pair of uint8 `image` [N, height, width, channels]: [N, N], 1 for the same.

    TensorFlow's, after Wang et al. (2003), as a measure of diversity after Odena et al. (2017); with as many of the five scales
    as leave room for its window of 11 pixels, their weights rescaled to sum 1. NaN where there is room for none.
    """
    import tensorflow as tf

    num, side = len(image), min(image.shape[1:3])
    num_scales = sum(side // 2**k >= WINDOW for k in range(len(POWER_FACTORS)))
    if not num_scales:
        return np.full((num, num), np.nan)
    weights = np.asarray(POWER_FACTORS[:num_scales]) / sum(POWER_FACTORS[:num_scales])
    first, second = np.triu_indices(num, 1)
    found = np.eye(num)
    for k in range(0, len(first), PAIRS_AT_ONCE):
        a, b = first[k : k + PAIRS_AT_ONCE], second[k : k + PAIRS_AT_ONCE]
        values = tf.image.ssim_multiscale(tf.constant(image[a]), tf.constant(image[b]), 255, tuple(weights.tolist()))
        found[a, b] = found[b, a] = values.numpy()
    return found
