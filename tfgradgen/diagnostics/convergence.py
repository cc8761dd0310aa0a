"""How well a run mixed: rank-normalized R-hat, effective sample sizes, Monte Carlo error, of scalars of a state."""

from typing import Any, NamedTuple

import numpy as np
from arviz_stats.base import array_stats
from scipy.special import ndtri
from scipy.stats import f as f_distribution
from scipy.stats import rankdata

from tfgradgen.core.contracts import Draws

NUM_PROJECTIONS, PROJECTION_SEED = 4, 0
BLOCK_DRAWS = 1000  # read from disk, and held in memory, at a time
TAILS = (0.05, 0.95)
MIN_RESULTS = 4  # draws of a chain, of which halves have a variance
MAX_SQUARED = 1e150  # values above are scaled: their squares would overflow
CLASS_PROB, LOG_DENSITY, LATENT = "class_prob", "target_log_prob", "z"  # the statistics of a run, by their names in run.json
NUM_RANKED = 1 << 14  # draws of all chains that R-hat of a coordinate is taken from: every k-th of a longer run
MIN_RANKED = 32  # of each chain, however many chains there are
BLOCK_COORDINATES = 8  # ranked at a time
RHAT_ESS, RHAT_ESS_OF_HALF = 400.0, 10.0  # effective draws, in all and of each half of a chain, that `rhat_limit` asks for
RHAT_CHANCE = 0.01  # of a run of chains that agree to be above the limit in any statistic


class Convergence(NamedTuple):
    """Of one scalar statistic over all chains.

    mean: over all draws where it is finite. standard_error: of that mean, the larger of what the effective sample size and
    what the spread of the chains' means say: chains are independent, so the latter holds even where they do not mix. ess: the
    effective sample size that this error amounts to, (standard deviation / standard_error) ** 2. ess_bulk, ess_tail: effective
    sample sizes over all chains, of the middle and of the 5 % and 95 % quantiles. None of the three is above the number of
    distinct draws. rhat: rank-normalized split R-hat, 1 where chains agree (Vehtari et al. 2021). between: share of the
    variance that lies between the chains' means, 0..1.
    None where it cannot be computed: too few draws, one chain, chains that never moved, or a statistic that is constant or not
    finite.
    """

    mean: float | None = None
    standard_error: float | None = None
    ess_bulk: float | None = None
    ess_tail: float | None = None
    rhat: float | None = None
    between: float | None = None
    ess: float | None = None


def convergence(statistic: np.ndarray, independent: bool = False) -> Convergence:
    """Diagnoses `statistic` [num_results, num_chains]; draws that are independent by construction count in full."""
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
    """`convergence` of chains: `values` [num_results, num_chains] are finite and not all the same."""
    num_results, num_chains = values.shape
    variance, by_chain = float(values.var()), values.T
    has_moved = values[1:] != values[:-1]
    num_distinct = float(num_chains + has_moved.sum())
    ess: dict[str, float | None] = dict.fromkeys(("mean", "bulk", "tail"))
    rhat = None
    if num_results >= MIN_RESULTS and has_moved.any():
        with np.errstate(divide="ignore", invalid="ignore"):  # a chain that never moves has no variance
            for method in ess:
                size = array_stats.ess(by_chain, method=method, prob=TAILS if method == "tail" else None)
                ess[method] = min(float(size), num_distinct) if np.isfinite(size) else None
        rhat = _finite(rank_rhat(values)) if num_chains > 1 else None
    errors = [np.sqrt(variance / ess["mean"])] if ess["mean"] else []
    between = None
    if num_chains > 1:
        errors.append(values.mean(0).std(ddof=1) / np.sqrt(num_chains))
        # Of fewer draws a chain's mean is hardly more than a draw: independent chains would seem to stay apart.
        between = float(values.mean(0).var() / variance) if num_results >= MIN_RESULTS else None
    error = float(max(errors, default=0.0)) or None
    amounts_to = min(variance / error**2, num_distinct) if error else None
    return Convergence(mean, error, ess["bulk"], ess["tail"], rhat, between, amounts_to)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def projections(z: np.ndarray) -> np.ndarray:
    """`z [num_results, num_chains, latent_dim]` along a few fixed random directions, [directions, num_results, num_chains].

    What no density shows: chains that lie in different places of the same height.
    """
    directions = np.random.default_rng(PROJECTION_SEED).standard_normal((z.shape[-1], NUM_PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    with np.errstate(invalid="ignore", over="ignore"):  # a draw that is not finite gives none
        blocks = [z[k : k + BLOCK_DRAWS] @ directions for k in range(0, len(z), BLOCK_DRAWS)]
    return np.moveaxis(np.concatenate(blocks), -1, 0)


def scalars(draws: Draws) -> dict[str, np.ndarray]:
    """p(class), the target density and random projections of z, [num_results, num_chains] each, by name."""
    columns = {"class_prob": draws.class_prob, "target_log_prob": draws.target_log_prob}
    return columns | {f"z_projection_{k}": column for k, column in enumerate(projections(draws.z))}


def statistics(draws: Draws, independent: bool = False) -> dict[str, Convergence]:
    """`Convergence` of the `scalars`, by name."""
    return {name: convergence(column, independent) for name, column in scalars(draws).items()}


def rank_rhat(values: np.ndarray) -> np.ndarray:
    """Rank-normalized split R-hat (Vehtari et al. 2021): the larger of that of the values, which sees chains of other means,
    and that of their distances from the median, which sees chains of other scales.

    Args:
      values: [..., num_results, num_chains], at least `MIN_RESULTS` and two.

    Returns:
      [...], NaN where a value is not finite or all are the same.
    """
    half = values.shape[-2] // 2
    split = np.concatenate([values[..., :half, :], values[..., values.shape[-2] - half :, :]], -1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        folded = np.abs(split - np.median(split, axis=(-2, -1), keepdims=True))
        found: np.ndarray = np.maximum(_rhat(_normal_scores(split)), _rhat(_normal_scores(folded)))
    return np.where(np.isfinite(split).all((-2, -1)), found, np.nan)


def _normal_scores(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(*values.shape[:-2], -1)
    ranks = rankdata(flat, axis=-1)
    scores: np.ndarray = ndtri((ranks - 0.375) / (flat.shape[-1] + 0.25)).reshape(values.shape)
    return scores


def _rhat(values: np.ndarray) -> np.ndarray:
    num = values.shape[-2]
    within, between = values.var(-2, ddof=1).mean(-1), values.mean(-2).var(-1, ddof=1)
    rhat: np.ndarray = np.sqrt((num - 1) / num + between / within)
    return rhat


def rhat_limit(num_results: int, num_chains: int, num_statistics: int) -> float:
    """The R-hat that says that chains disagree: in any of `num_statistics` a run of chains that agree is above it with a chance
    of at most `RHAT_CHANCE`, if it is worth enough draws: `RHAT_ESS` in all, and `RHAT_ESS_OF_HALF` in each half of a chain.

    Halves of n draws, worth s independent ones, have means with the variance F / s of a draw within a half, where F has the
    distribution of Fisher; so R-hat ** 2 is (n - 1) / n (1 + F / (s - 1)). Without the allowance for many statistics, F = 1, it
    is 1.01 for four chains, as of Vehtari et al. (2021). Of fewer draws than s it is the R-hat of independent draws.
    """
    half, num_halves = max(num_results // 2, 2), 2 * num_chains
    size = min(half, max(RHAT_ESS / num_halves, RHAT_ESS_OF_HALF))
    # Two tests a statistic, see `rank_rhat`.
    most = f_distribution.isf(RHAT_CHANCE / (2 * num_statistics), num_halves - 1, num_halves * (size - 1))
    return float(np.sqrt((half - 1) / half * (1 + most / (size - 1))))


def coordinate_rhats(z: np.ndarray) -> np.ndarray:
    """R-hat [latent_dim] of each coordinate of `z` [num_results, num_chains, latent_dim], NaN where there is none: of chains
    that never moved, of one chain, or of fewer than `MIN_RESULTS` draws. Of a long run it is that of every k-th draw."""
    num_results, num_chains, latent_dim = z.shape
    if num_chains < 2 or num_results < MIN_RESULTS:
        return np.full(latent_dim, np.nan)
    z = np.asarray(z[:: -(-num_results // max(NUM_RANKED // num_chains, MIN_RANKED))])
    blocks = [np.moveaxis(z[..., k : k + BLOCK_COORDINATES], -1, 0) for k in range(0, latent_dim, BLOCK_COORDINATES)]
    has_moved = (z[1:] != z[:-1]).any((0, 1))
    return np.where(has_moved, np.concatenate([rank_rhat(block) for block in blocks]), np.nan)


def worst_coordinate(z: np.ndarray) -> int:
    """The coordinate of `z` [num_results, num_chains, latent_dim] that mixed worst: of the largest R-hat; where none has one,
    of the smallest steps from draw to draw for its variance (von Neumann's ratio)."""
    badness = coordinate_rhats(z)
    if not np.isfinite(badness).any():
        first = np.asarray(z[: max(NUM_RANKED // z.shape[1], MIN_RANKED)], np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            badness = -np.square(np.diff(first, axis=0)).sum((0, 1)) / first.var((0, 1))
    return int(np.argmax(np.nan_to_num(badness, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))


def run_statistics(
    draws: Draws, independent: bool = False, labels: np.ndarray | None = None
) -> tuple[dict[str, Convergence], int]:
    """`Convergence` of p(class), of the target density and of the coordinate of z that mixed worst of all, by name, and the
    number of that coordinate.

    Args:
      labels: [num_chains] int, of chains that sample several posteriors, whose means differ. Each chain is then compared with
        those of its own label, and a label of one chain has no R-hat.
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
    """`values` [num_results, num_chains, ...] without the mean over the draws of each label."""
    centred = np.array(values, np.float64)
    with np.errstate(invalid="ignore"):
        for label in np.unique(labels):
            centred[:, labels == label] -= centred[:, labels == label].mean((0, 1))
    return centred


def shown_names(latent_dim: int) -> dict[str, str]:
    """How a person reads of the `run_statistics`, by name."""
    worst = f"worst of {latent_dim} coordinates" if latent_dim > 1 else "one coordinate"
    return {CLASS_PROB: "p(class)", LOG_DENSITY: "the log density", LATENT: f"the latent z ({worst})"}
