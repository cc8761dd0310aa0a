"""How far apart the laws of two sets of pictures are, from the features of their pictures. NumPy and SciPy only."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.stats import binomtest

NUM_FOLDS = 5
PENALTY = 10.0  # of the squared weights in the two-sample test, whose features are standardised


def kid(features: np.ndarray, others: np.ndarray) -> float:
    """Kernel Inception Distance (Binkowski et al. 2018), here on whatever features are given: unbiased squared MMD.

    `features [N, D]`, `others [M, D]`; kernel (x.y / D + 1)^3. May be slightly negative for equal laws.
    """
    joint = np.concatenate([features, others]).astype("float64")
    return unbiased((joint @ joint.T / joint.shape[1] + 1.0) ** 3, len(features))


def unbiased(kernel: np.ndarray, num: int) -> float:
    """The unbiased squared MMD (Gretton et al. 2012, equation 3) from the kernel matrix of all rows, the first `num` against
    the others: the mean over pairs of different rows of either, less twice the mean over pairs of one of each."""
    if min(num, len(kernel) - num) < 2:
        raise ValueError(f"two-sample distance: expected two rows of either set, got {num} and {len(kernel) - num}.")
    x, y = kernel[:num, :num], kernel[num:, num:]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (x, y)]
    return float(sum(within) - 2 * kernel[:num, num:].mean())


def gaussian(joint: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 bandwidth^2)) of all pairs of rows; 1 for all where the rows are all the same."""
    squared = cdist(joint, joint, "sqeuclidean")
    return np.exp(-squared / (2 * bandwidth**2)) if bandwidth > 0 else np.ones_like(squared)


def median_distance(features: np.ndarray) -> float:
    """The median distance of two rows, the usual bandwidth (Gretton et al. 2012, section 8)."""
    return float(np.median(pdist(features)))


def mmd(features: np.ndarray, others: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared MMD with a Gaussian kernel (Gretton et al. 2012) of `features [N, D]` and `others [M, D]`.

    0 on average for equal laws, at most 2; it may be slightly negative.
    """
    return unbiased(gaussian(np.concatenate([features, others]), bandwidth), len(features))


def mmd_test(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Whether two sets have one law within every class: (mean over the classes of `mmd`, its permutation p-value).

    pairs: of each class (features [N, D], others [M, D]). The bandwidth is the median distance among all rows of the class,
    which no permutation changes. Rows change places within their class only. p = (1 + number of permutations that reach the
    observed one) / (1 + num_permutations) (Phipson and Smyth 2010).
    """
    observed, permuted = 0.0, np.zeros(num_permutations)
    for features, others in pairs:
        joint, num = np.concatenate([features, others]), len(features)
        kernel = gaussian(joint, median_distance(joint))
        observed += unbiased(kernel, num) / len(pairs)
        # Of each permutation which rows are the first `num`; all three means are sums over a quadratic form of that.
        is_first = np.argsort(rng.random((num_permutations, len(joint))), axis=1) < num
        first, rest = is_first.astype(float), (~is_first).astype(float)
        n, m, diagonal = num, len(others), np.diag(kernel)
        sums = [np.einsum("pi,pi->p", a @ kernel, b) for a, b in ((first, first), (rest, rest), (first, rest))]
        within = (sums[0] - first @ diagonal) / (n * (n - 1)) + (sums[1] - rest @ diagonal) / (m * (m - 1))
        permuted += (within - 2 * sums[2] / (n * m)) / len(pairs)
    # Rounding must not decide between equal sets of rows.
    reached = int(np.sum(permuted >= observed - 1e-12))
    return observed, (1 + reached) / (1 + num_permutations)


def classifier_two_sample_test(
    features: np.ndarray, others: np.ndarray, rng: np.random.Generator, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Lopez-Paz and Oquab (2017): how often a classifier tells held-out rows of `features [N, D]` from those of
    `others [N, D]`, 0..1 and about 1/2 for equal laws, and the binomial p-value that it is above 1/2.

    The classifier is a logistic regression with squared weights penalised, on standardised features, trained on four of five
    folds and asked about the fifth. groups: [N], the class of row k of either; the folds hold each class evenly, and its mean
    over the training rows is taken off, so that differences between classes do not drown those between the sets.
    """
    num = len(features)
    if num != len(others) or num < NUM_FOLDS:
        raise ValueError(
            f"two-sample test: expected as many rows of either set, {NUM_FOLDS} or more, got {num}, {len(others)}."
        )
    rows, is_ours = np.concatenate([features, others]).astype("float64"), np.arange(2 * num) < num
    group = np.tile(np.zeros(num, int) if groups is None else groups, 2)
    fold = _even_folds(group, is_ours, rng)
    num_right = 0
    for held_out in range(NUM_FOLDS):
        train = fold != held_out
        x = rows.copy()
        for k in np.unique(group):
            x[group == k] -= x[train & (group == k)].mean(0)
        scale = x[train].std(0)
        x /= np.where(scale > 0, scale, 1.0)
        weights, bias = logistic_regression(x[train], is_ours[train])
        num_right += int(np.sum((x[~train] @ weights + bias > 0) == is_ours[~train]))
    return num_right / (2 * num), float(binomtest(num_right, 2 * num, 0.5, "greater").pvalue)


def _even_folds(group: np.ndarray, is_ours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A fold for each row, so that each class has as many of either set in each fold, to one row."""
    fold, start = np.empty(len(group), int), 0
    for k in np.unique(group):
        for side in (True, False):
            members = rng.permutation(np.flatnonzero((group == k) & (is_ours == side)))
            fold[members] = (start + np.arange(len(members))) % NUM_FOLDS
        start += np.sum(group == k) // 2  # the odd row out goes to another fold in each class
    return fold


def logistic_regression(x: np.ndarray, is_one: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights [D] and bias that minimise sum(log(1 + exp(-y (x.w + b)))) + PENALTY / 2 |w|^2, y = 1 where `is_one`, else -1."""
    sign = np.where(is_one, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (x @ weights + bias)
        pull = -sign * np.exp(-np.logaddexp(0.0, margin))
        gradient = np.append(x.T @ pull + PENALTY * weights, pull.sum())
        return float(np.logaddexp(0.0, -margin).sum() + PENALTY / 2 * weights @ weights), gradient

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])


def fid(features: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to `features [N, D]` and `others [M, D]` (Heusel et al. 2017), on any features.

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)). Biased upwards by few rows: compare at equal numbers.
    """
    x, y = (np.asarray(a, "float64") for a in (features, others))
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2).
    cross = np.linalg.svd(_root(c) @ _root(d), compute_uv=False).sum()
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def density_and_coverage(features: np.ndarray, others: np.ndarray, num_neighbours: int = 5) -> tuple[float, float]:
    """How `features [N, D]` fill the neighbourhoods of `others [M, D]` (Naeem et al. 2020); about (1, 1) for equal laws.

    Density: the mean number of balls around `others` (radius: distance to the k-th neighbour) that a row lies in, over k.
    Coverage: the share of those balls with a row in them.
    """
    radii = np.sort(cdist(others, others), axis=1)[:, num_neighbours]  # column 0 is the point itself
    inside = cdist(features, others) < radii[None]
    return float(inside.sum() / (num_neighbours * len(features))), float(inside.any(axis=0).mean())
