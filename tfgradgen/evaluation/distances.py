"""Distances between the distributions of two sets of feature rows, and two-sample tests. Uses NumPy and SciPy only."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit

MIN_ROWS = 4  # in a set; in tests also per class
NUM_FOLDS = 5
ROUNDING = 1e-12  # rounding error of a mean of kernel values in 0..1


def as_rows(features: np.ndarray, least: int = MIN_ROWS) -> np.ndarray:
    """Return `features` [N, D] in float64; raise ValueError unless it is a finite matrix with at least `least` rows."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or len(rows) < least or not np.isfinite(rows).all():
        raise ValueError(f"features: expected a finite matrix of at least {least} rows, got shape {rows.shape}")
    return rows


def _both(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_rows(features), as_rows(others)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features: expected as many columns in both sets, got {x.shape[1]} and {y.shape[1]}")
    return x, y


def kid(features: np.ndarray, others: np.ndarray) -> float:
    """Return the Kernel Inception Distance (Binkowski et al. 2018) on any features, an unbiased squared MMD.

    For `features [N, D]` and `others [M, D]` with the kernel (x.y / D + 1)^3. It can be slightly negative for equal
    distributions.
    """
    x, y = _both(features, others)
    kernels = [(a @ b.T / a.shape[1] + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    return _unbiased(*kernels)


def _unbiased(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    """Return the unbiased squared MMD from three kernel matrices; means within a set exclude the diagonal."""
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return float(sum(within) - 2 * xy.mean())


def fid(features: np.ndarray, others: np.ndarray) -> float:
    """Return the Frechet distance of Gaussians fitted to `features [N, D]` and `others [M, D]` (Heusel et al. 2017).

    It is |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)), on any features. It is biased upwards for few rows, so compare it only
    at equal numbers of rows.
    """
    x, y = _both(features, others)
    c, d = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (x, y))
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2).
    cross = np.linalg.svd(_root(c) @ _root(d), compute_uv=False).sum()
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def density_and_coverage(features: np.ndarray, others: np.ndarray, num_neighbours: int = 5) -> tuple[float, float]:
    """Return density and coverage (Naeem et al. 2020) of `features [N, D]` for `others [M, D]`.

    Each row of `others` has a ball with radius the distance to its k-th neighbour. Density is the mean number of balls that
    contain a row of `features`, divided by k. Coverage is the share of balls that contain a row. Both are about 1 for equal
    distributions.
    """
    x, y = _both(features, others)
    if not 0 < num_neighbours < len(y):
        raise ValueError(f"num_neighbours: expected a number in 1..{len(y) - 1}, fewer than the others, got {num_neighbours}")
    radii = np.sort(_distances(y, y), axis=1)[:, num_neighbours]  # column 0 is the distance to itself
    inside = _distances(x, y) < radii[None]
    return float(inside.sum() / (num_neighbours * len(x))), float(inside.any(axis=0).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None] - 2 * a @ b.T
    distances: np.ndarray = np.sqrt(np.maximum(squared, 0.0))
    return distances


def median_distance(features: np.ndarray) -> float:
    """Return the median Euclidean distance over pairs of different rows of `features [N, D]`; 0 if all rows are equal.

    This is the usual bandwidth of a Gaussian kernel (Gretton et al. 2012). Pairs of equal rows are excluded, so that the result
    is useful even if most rows are copies.
    """
    distances = pdist(as_rows(features))
    apart = distances[distances > 0]
    return float(np.median(apart)) if len(apart) else 0.0


def mmd(features: np.ndarray, others: np.ndarray, bandwidth: float) -> float:
    """Return the unbiased squared MMD of `features [N, D]` and `others [M, D]` (Gretton et al. 2012), at most 2.

    The kernel is exp(-d^2 / (2 bandwidth^2)), where d is the Euclidean distance. For equal distributions the result is about 0
    and can be slightly negative.
    """
    x, y = _both(features, others)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: expected a number above 0, got {bandwidth}")
    return _unbiased(*(_gaussian(a, b, bandwidth) for a, b in ((x, x), (y, y), (x, y))))


def _gaussian(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    kernel: np.ndarray = np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))
    return kernel


def mmd_test(
    groups: Sequence[tuple[np.ndarray, np.ndarray]], num_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Test whether the two sets of each group have the same distribution, by permutation.

    Permutations shuffle rows within a group, so that differences between classes do not matter. The p-value is (1 + number of
    permuted statistics that are at least as large) / (1 + number of permutations), in (0, 1] (Phipson and Smyth 2010). The
    bandwidth of a group is the median distance of all its rows: that of one set would change with the permutation, and the
    p-value would not be exact.

    Args:
      groups: A pair (features [N, D], others [M, D]) for each class.
      num_permutations: Number of permutations.
      rng: Source of random numbers.

    Returns:
      The mean over groups of the unbiased squared MMD, and its p-value.
    """
    if not groups or num_permutations < 1:
        raise ValueError(
            f"mmd_test: expected groups and permutations, got {len(groups)} groups and {num_permutations} permutations"
        )
    total = np.zeros(1 + num_permutations)
    for features, others in groups:
        total += _permuted_mmd(*_both(features, others), num_permutations, rng)
    statistics = total / len(groups)
    as_large = int(np.sum(statistics[1:] >= statistics[0] - ROUNDING))
    return float(statistics[0]), (1 + as_large) / (1 + num_permutations)


def _permuted_mmd(x: np.ndarray, y: np.ndarray, num_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Return the squared MMD of x and y, and of `num_permutations` random splits of their rows, [1 + num_permutations]."""
    rows, n, m = np.concatenate([x, y]), len(x), len(y)
    kernel = _gaussian(rows, rows, median_distance(rows) or 1.0)
    np.fill_diagonal(kernel, 0.0)
    order = rng.random((1 + num_permutations, n + m))
    order[0] = np.arange(n + m)
    chosen = (order.argsort(1) < n).astype(np.float64)  # 1 for the rows of the first set
    # Sums of the kernel over pairs within the first set, and over pairs of its rows with any row.
    xx, any_row = np.sum((chosen @ kernel) * chosen, 1), chosen @ kernel.sum(1)
    xy, yy = any_row - xx, kernel.sum() - 2 * any_row + xx
    distances: np.ndarray = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    return distances


def classifier_two_sample_test(
    features: np.ndarray,
    others: np.ndarray,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
    num_permutations: int = 199,
    penalty: float | None = None,
) -> tuple[float, float]:
    """Test whether a linear classifier can distinguish `features` from `others`, both [N, D] (Lopez-Paz and Oquab 2017).

    The p-value is by permutation, as in `mmd_test`. A binomial test rejects equal distributions up to twice as often as its
    level says, because the folds share training rows (Noirhomme et al. 2014).

    Args:
      features: One set.
      others: The other set, with as many rows.
      rng: Source of random numbers.
      groups: [N], the class of row k of both sets. Folds are then stratified by class, and the mean of the class over the
        training folds of both sets is subtracted from each row, so that differences between classes do not hide the difference
        between the sets.
      num_permutations: Number of permutations.
      penalty: Penalty of `fit_logistic`; D by default.

    Returns:
      The held-out accuracy over 5 folds, in 0..1 and 1/2 for equal distributions, and the p-value for an accuracy above 1/2.
    """
    x, y = _both(features, others)
    if len(x) != len(y) or num_permutations < 1:
        raise ValueError(
            f"others: expected as many rows as features and at least one permutation, got {len(y)} rows, {len(x)} of features "
            f"and {num_permutations} permutations"
        )
    classes = np.zeros(len(x), int) if groups is None else np.unique(groups, return_inverse=True)[1]
    if classes.shape != (len(x),) or np.bincount(classes).min() < MIN_ROWS:
        raise ValueError(f"groups: expected a class for each of {len(x)} rows, each at least {MIN_ROWS} times")
    rows, classes = np.concatenate([x, y]), np.tile(classes, 2)
    folds = np.concatenate([_folds(classes[: len(x)], rng) for _ in range(2)])
    labels = _permuted_labels(np.repeat([1.0, 0.0], len(x)), classes * NUM_FOLDS + folds, num_permutations, rng)
    right = np.zeros(1 + num_permutations, int)
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        scaled = _standardized(rows, classes, train)
        weights, intercept = fit_logistic(scaled[train], labels[train], rows.shape[1] if penalty is None else penalty)
        right += np.count_nonzero((scaled[test] @ weights + intercept > 0) == (labels[test] > 0), axis=0)
    as_many = int(np.sum(right[1:] >= right[0]))
    return float(right[0] / len(rows)), (1 + as_many) / (1 + num_permutations)


def _folds(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random fold for each row, [N] int, with classes and rows distributed as evenly as possible."""
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    folds = np.empty(len(classes), int)
    folds[order] = np.arange(len(classes)) % min(NUM_FOLDS, len(classes))
    return folds


def _permuted_labels(labels: np.ndarray, cells: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Return `labels [N]` and `num` shuffles of them within cells, [N, 1 + num]; `cells` [N] are integers."""
    by_cell = np.argsort(cells, kind="stable")
    shuffled = np.empty((1 + num, len(labels)))
    shuffled[:, by_cell] = labels[np.argsort(cells + rng.random(shuffled.shape), axis=1)]
    shuffled[0] = labels
    transposed: np.ndarray = shuffled.T
    return transposed


def _standardized(rows: np.ndarray, classes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract from `rows` the mean of their class and divide by the spread within classes, both from the rows `train`."""
    centred = rows - np.stack([rows[train & (classes == c)].mean(0) for c in range(classes.max() + 1)])[classes]
    spread = centred[train].std(0)
    scaled: np.ndarray = centred / np.where(spread > 0, spread, 1.0)
    return scaled


def fit_logistic(rows: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [D, P] and intercepts [P] of P logistic regressions of `labels [N, P]`, 0 or 1, on `rows [N, D]`.

    Each minimizes the sum of the negative log-likelihood and penalty / 2 |weights|^2. A penalty of D corresponds to a prior
    under which the log-odds of a standardized row have a variance of about 1 for any D.
    """
    shape = rows.shape[1] + 1, labels.shape[1]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = np.split(parameters.reshape(shape), [-1])
        logits = rows @ weights + intercepts
        residual = expit(logits) - labels
        value = np.sum(np.logaddexp(0, logits) - labels * logits) + penalty / 2 * np.sum(weights**2)
        return value, np.concatenate([rows.T @ residual + penalty * weights, residual.sum(0, keepdims=True)]).ravel()

    parameters = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)
    return parameters[:-1], parameters[-1]
