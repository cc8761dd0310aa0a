"""How well a run mixed: rank-normalized R-hat, effective sample sizes, Monte Carlo error, of scalars of a state."""

from typing import Any, NamedTuple

import numpy as np
from arviz_stats.base import array_stats

from tfgradgen.core.contracts import Draws

NUM_PROJECTIONS, PROJECTION_SEED = 4, 0
BLOCK_DRAWS = 1000  # read from disk, and held in memory, at a time
TAILS = (0.05, 0.95)
MIN_RESULTS = 4  # draws of a chain, of which halves have a variance


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
            rhat = _finite(array_stats.rhat(by_chain, method="rank")) if num_chains > 1 else None
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
