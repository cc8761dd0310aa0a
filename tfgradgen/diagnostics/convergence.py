"""Convergence diagnostics of scalars of a state: rank-normalized R-hat, effective sample sizes and Monte Carlo error.

Functions import ArviZ and scipy.stats where they use them: importing both takes longer than a command without draws.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from tfgradgen.core.contracts import Draws

NUM_PROJECTIONS, PROJECTION_SEED = 4, 0
BLOCK_DRAWS = 1000  # draws read from disk and held in memory at a time
TAILS = (0.05, 0.95)
MIN_RESULTS = 4  # draws per chain; with fewer, half a chain has no variance
MAX_SQUARED = 1e150  # larger values are scaled, because their squares would overflow
CLASS_PROB, LOG_DENSITY, LATENT = "class_prob", "target_log_prob", "z"  # statistics, as named in run.json
NUM_RANKED = 1 << 14  # draws over all chains for R-hat of a coordinate; longer runs are thinned to every k-th draw
MIN_RANKED = 32  # at least so many per chain, for any number of chains
BLOCK_COORDINATES = 8  # coordinates ranked at a time
RHAT_ESS, RHAT_ESS_OF_HALF = 400.0, 10.0  # ESS that `rhat_limit` assumes, in total and per half chain
RHAT_CHANCE = 0.01  # probability that any statistic exceeds the limit although the chains agree


class Convergence(NamedTuple):
    """Diagnostics of one scalar statistic over all chains.

    A value is None if it cannot be computed: there are too few draws, there is only one chain, the chains never moved, or the
    statistic is constant or not finite. No effective sample size exceeds the number of distinct draws.

    Attributes:
      mean: Mean over all finite draws.
      standard_error: Standard error of the mean: the larger of the estimates from the effective sample size and from the spread
        of the chains' means. Chains are independent, so the latter is valid even if they do not mix.
      ess_bulk: Bulk effective sample size over all chains.
      ess_tail: Tail effective sample size over all chains, for the 5 % and 95 % quantiles.
      rhat: Rank-normalized split R-hat (Vehtari et al. 2021); 1 if the chains agree.
      between: Share of the variance that lies between the chains' means, in 0..1.
      ess: The effective sample size that corresponds to `standard_error`: (standard deviation / standard_error) ** 2.
    """

    mean: float | None = None
    standard_error: float | None = None
    ess_bulk: float | None = None
    ess_tail: float | None = None
    rhat: float | None = None
    between: float | None = None
    ess: float | None = None


def convergence(statistic: np.ndarray, independent: bool = False) -> Convergence:
    """Diagnose `statistic` [num_results, num_chains]. With `independent`, every draw counts in full."""
    values = np.asarray(statistic, np.float64)
    finite = values[np.isfinite(values)]
    if finite.size < values.size or not values.size:
        return Convergence(float(finite.mean()) if finite.size else None)
    scale = float(np.abs(values).max())
    if scale > MAX_SQUARED:
        found = convergence(values / scale, independent)
        mean_of, error = (None if value is None else value * scale for value in (found.mean, found.standard_error))
        return found._replace(mean=mean_of, standard_error=error)
    mean = float(values.mean())
    if np.ptp(values) == 0.0:
        size = float(values.size) if independent else None
        return Convergence(mean, None, size, size, ess=size)
    if independent:
        size = float(values.size)
        return Convergence(mean, float(values.std(ddof=1) / np.sqrt(size)), size, size, ess=size)
    return _of_chains(values, mean)


def _of_chains(values: np.ndarray, mean: float) -> Convergence:
    """Return `convergence` for chains: `values` [num_results, num_chains] are finite and not all equal."""
    from arviz_stats.base import array_stats

    num_results, num_chains = values.shape
    variance, by_chain = float(values.var()), values.T
    has_moved = values[1:] != values[:-1]
    num_distinct = float(num_chains + has_moved.sum())
    ess: dict[str, float | None] = dict.fromkeys(("mean", "bulk", "tail"))
    rhat = None
    if num_results >= MIN_RESULTS and has_moved.any():
        with np.errstate(divide="ignore", invalid="ignore"):  # a chain that never moves has zero variance
            for method in ess:
                size = array_stats.ess(by_chain, method=method, prob=TAILS if method == "tail" else None)
                ess[method] = min(float(size), num_distinct) if np.isfinite(size) else None
        rhat = _finite(rank_rhat(values)) if num_chains > 1 else None
    errors = [np.sqrt(variance / ess["mean"])] if ess["mean"] else []
    between = None
    if num_chains > 1:
        errors.append(values.mean(0).std(ddof=1) / np.sqrt(num_chains))
        # With fewer draws, a chain's mean varies almost like a single draw: independent chains would seem to disagree.
        between = float(values.mean(0).var() / variance) if num_results >= MIN_RESULTS else None
    error = float(max(errors, default=0.0)) or None
    amounts_to = min(variance / error**2, num_distinct) if error else None
    return Convergence(mean, error, ess["bulk"], ess["tail"], rhat, between, amounts_to)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def projections(z: np.ndarray) -> np.ndarray:
    """Return projections of `z` [num_results, num_chains, latent_dim] on a few fixed random directions.

    They reveal chains in different modes of equal density, which the scalar densities cannot.

    Returns:
      [directions, num_results, num_chains].
    """
    directions = np.random.default_rng(PROJECTION_SEED).standard_normal((z.shape[-1], NUM_PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):  # a draw that is not finite has no finite projection
        blocks = [z[k : k + BLOCK_DRAWS] @ directions for k in range(0, len(z), BLOCK_DRAWS)]
    return np.moveaxis(np.concatenate(blocks), -1, 0)


def scalars(draws: Draws) -> dict[str, np.ndarray]:
    """Return p(class), the target density and random projections of z, by name.

    Returns:
      An array [num_results, num_chains] for each name.
    """
    columns = {"class_prob": draws.class_prob, "target_log_prob": draws.target_log_prob}
    return columns | {f"z_projection_{k}": column for k, column in enumerate(projections(draws.z))}


def statistics(draws: Draws, independent: bool = False) -> dict[str, Convergence]:
    """Return the `Convergence` of the `scalars`, by name."""
    return {name: convergence(column, independent) for name, column in scalars(draws).items()}


def rank_rhat(values: np.ndarray) -> np.ndarray:
    """Return the rank-normalized split R-hat (Vehtari et al. 2021).

    It is the larger of two: R-hat of the values detects chains with different means, and R-hat of their distances from the
    median detects chains with different scales.

    Args:
      values: [..., num_results, num_chains], with at least `MIN_RESULTS` draws and two chains.

    Returns:
      [...]; NaN if a value is not finite or all are equal.
    """
    half = values.shape[-2] // 2
    split = np.concatenate([values[..., :half, :], values[..., values.shape[-2] - half :, :]], -1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        folded = np.abs(split - np.median(split, axis=(-2, -1), keepdims=True))
        found: np.ndarray = np.maximum(_rhat(_normal_scores(split)), _rhat(_normal_scores(folded)))
    return np.where(np.isfinite(split).all((-2, -1)), found, np.nan)


def _normal_scores(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    flat = values.reshape(*values.shape[:-2], -1)
    ranks = rankdata(flat, axis=-1)
    scores: np.ndarray = special.ndtri((ranks - 0.375) / (flat.shape[-1] + 0.25)).reshape(values.shape)
    return scores


def _rhat(values: np.ndarray) -> np.ndarray:
    num = values.shape[-2]
    within, between = values.var(-2, ddof=1).mean(-1), values.mean(-2).var(-1, ddof=1)
    rhat: np.ndarray = np.sqrt((num - 1) / num + between / within)
    return rhat


def rhat_limit(num_results: int, num_chains: int, num_statistics: int) -> float:
    """Return the R-hat above which chains disagree.

    If the chains of a run agree, any of `num_statistics` exceeds the limit with probability at most `RHAT_CHANCE`, provided
    that the effective sample size is at least `RHAT_ESS` in total and `RHAT_ESS_OF_HALF` for each half of a chain.

    Half a chain has n draws and an effective sample size s. The variance of the halves' means is F / s times the variance
    within a half, where F follows Fisher's F distribution. Hence R-hat ** 2 = (n - 1) / n * (1 + F / (s - 1)). Without the
    correction for many statistics, F = 1, the limit is 1.01 for four chains, as in Vehtari et al. (2021). If a half has fewer
    than s draws, they count as independent, s = n.
    """
    half, num_halves = max(num_results // 2, 2), 2 * num_chains
    size = min(half, max(RHAT_ESS / num_halves, RHAT_ESS_OF_HALF))
    # Two tests per statistic, see `rank_rhat`.
    most = special.fdtri(num_halves - 1, num_halves * (size - 1), 1 - RHAT_CHANCE / (2 * num_statistics))
    return float(np.sqrt((half - 1) / half * (1 + most / (size - 1))))


def coordinate_rhats(z: np.ndarray) -> np.ndarray:
    """Return R-hat [latent_dim] of each coordinate of `z` [num_results, num_chains, latent_dim].

    It is NaN if the chains never moved, for a single chain, and for fewer than `MIN_RESULTS` draws. Long runs are thinned.
    """
    num_results, num_chains, latent_dim = z.shape
    if num_chains < 2 or num_results < MIN_RESULTS:
        return np.full(latent_dim, np.nan)
    z = np.asarray(z[:: -(-num_results // max(NUM_RANKED // num_chains, MIN_RANKED))])
    blocks = [np.moveaxis(z[..., k : k + BLOCK_COORDINATES], -1, 0) for k in range(0, latent_dim, BLOCK_COORDINATES)]
    has_moved = (z[1:] != z[:-1]).any((0, 1))
    return np.where(has_moved, np.concatenate([rank_rhat(block) for block in blocks]), np.nan)


def worst_coordinate(z: np.ndarray) -> int:
    """Return the index of the coordinate of `z` [num_results, num_chains, latent_dim] that mixed worst.

    It is the coordinate with the largest R-hat. If no coordinate has one, it is the one with the smallest squared steps between
    successive draws relative to its variance (von Neumann's ratio).
    """
    badness = coordinate_rhats(z)
    if not np.isfinite(badness).any():
        first = np.asarray(z[: max(NUM_RANKED // z.shape[1], MIN_RANKED)], np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            badness = -np.square(np.diff(first, axis=0)).sum((0, 1)) / first.var((0, 1))
    return int(np.argmax(np.nan_to_num(badness, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))


def run_statistics(
    draws: Draws, independent: bool = False, labels: np.ndarray | None = None
) -> tuple[dict[str, Convergence], int]:
    """Return the statistics of a run: p(class), the target density and the coordinate of z that mixed worst.

    Args:
      draws: The draws of the run.
      independent: Whether the draws are independent by construction.
      labels: [num_chains] int, for chains that sample several posteriors, whose means differ. Each chain is then compared with
        those of its own label; if every label has one chain, there is no R-hat.

    Returns:
      The `Convergence` of each statistic, by name, and the index of the coordinate.
    """
    z = draws.z if labels is None else _centred(draws.z, labels)
    coordinate = worst_coordinate(z)
    columns = {CLASS_PROB: draws.class_prob, LOG_DENSITY: draws.target_log_prob, LATENT: draws.z[..., coordinate]}
    if labels is None:
        return {name: convergence(column, independent) for name, column in columns.items()}, coordinate
    found = {}
    for name, column in columns.items():
        one = convergence(_centred(column, labels), independent)
        finite = np.asarray(column, np.float64)[np.isfinite(column)]
        one = one._replace(mean=float(finite.mean()) if finite.size else None)
        is_alone = len(np.unique(labels)) == len(labels)
        found[name] = one._replace(rhat=None, between=None) if is_alone else one
    return found, coordinate


def _centred(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return `values` [num_results, num_chains, ...] minus the mean over the draws of each label."""
    centred = np.array(values, np.float64)
    with np.errstate(invalid="ignore"):
        for label in np.unique(labels):
            centred[:, labels == label] -= centred[:, labels == label].mean((0, 1))
    return centred


def shown_names(latent_dim: int) -> dict[str, str]:
    """Return the display names of the `run_statistics`, by name."""
    worst = f"worst of {latent_dim} coordinates" if latent_dim > 1 else "one coordinate"
    return {CLASS_PROB: "p(class)", LOG_DENSITY: "the log density", LATENT: f"the latent z ({worst})"}
