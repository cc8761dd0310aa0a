"""Structural similarity of images."""

import numpy as np

FILTER_SIZE = 11  # side of the window of SSIM, in pixels
POWER_FACTORS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest scale first (Wang et al. 2003)
BATCH_VALUES = 2**21  # pixel values on each side of a batch of pairs


def ms_ssim_pairs(image: np.ndarray) -> np.ndarray | None:
    """Return the multi-scale structural similarity (Wang et al. 2003) of all pairs of `image` uint8 [N, H, W, C].

    The number of scales is at most 5, and such that the smaller side keeps the 11 pixels of the window. The exponents of these
    scales are normalized to sum to 1. Similarities below 0 count as 0.

    Returns:
      [N, N] in 0..1, with 1 on the diagonal; None if the images are smaller than the window.
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
    """Return the number of scales, each half of the last and rounded up, with at least the side of the window: 0..5."""
    scales = 0
    while side >= FILTER_SIZE and scales < len(POWER_FACTORS):
        scales, side = scales + 1, -(-side // 2)
    return scales
