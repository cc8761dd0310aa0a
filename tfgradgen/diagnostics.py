"""How well a run mixed: rank-normalized R-hat, effective sample sizes, Monte Carlo error, of scalars of a state."""

from typing import Any, NamedTuple

import numpy as np
from arviz_stats.base import array_stats

from tfgradgen.contracts import Draws

NUM_PROJECTIONS, PROJECTION_SEED = 4, 0
BLOCK_DRAWS = 1000  # read from disk at a time
TAILS = (0.05, 0.95)


class Convergence(NamedTuple):
    """Of one scalar statistic over all chains.

    mean: over all draws. standard_error: of that mean, the larger of what the effective sample size and what the spread of
    the chains' means say: chains are independent, so the latter holds even where they do not mix. ess_bulk, ess_tail:
    effective sample sizes over all chains, of the middle and of the 5 % and 95 % quantiles. rhat: rank-normalized split R-hat,
    1 where chains agree (Vehtari et al. 2021). between: share of the variance that lies between the chains' means, 0..1.
    None where it cannot be computed: too few draws, one chain, or a statistic that is constant or not finite.
    """

    mean: float | None = None
    standard_error: float | None = None
    ess_bulk: float | None = None
    ess_tail: float | None = None
    rhat: float | None = None
    between: float | None = None


def convergence(statistic: np.ndarray, independent: bool = False) -> Convergence:
    """Diagnoses `statistic` [num_results, num_chains]; draws that are independent by construction count in full."""
    values = np.asarray(statistic, np.float64)
    num_results, num_chains = values.shape
    if not np.isfinite(values).all():
        return Convergence()
    mean, deviation = float(values.mean()), float(values.std())
    if independent:
        size = float(values.size)
        return Convergence(mean, deviation / np.sqrt(size), size, size)
    if num_results < 4 or np.ptp(values) == 0.0:
        return Convergence(mean)
    by_chain = values.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a chain that never moves has no variance
        ess = {
            method: _finite(array_stats.ess(by_chain, method=method, prob=TAILS if method == "tail" else None))
            for method in ("mean", "bulk", "tail")
        }
        rhat = _finite(array_stats.rhat(by_chain, method="rank")) if num_chains > 1 else None
    errors = [deviation / np.sqrt(ess["mean"])] if ess["mean"] else []
    between = None
    if num_chains > 1:
        errors.append(float(values.mean(0).std(ddof=1) / np.sqrt(num_chains)))
        between = float(values.mean(0).var() / values.var())
    return Convergence(mean, max(errors, default=None), ess["bulk"], ess["tail"], rhat, between)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def projections(z: np.ndarray) -> np.ndarray:
    """`z [num_results, num_chains, latent_dim]` along a few fixed random directions, [directions, num_results, num_chains].

    What no density shows: chains that lie in different places of the same height.
    """
    directions = np.random.default_rng(PROJECTION_SEED).standard_normal((z.shape[-1], NUM_PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    blocks = [z[k : k + BLOCK_DRAWS] @ directions for k in range(0, len(z), BLOCK_DRAWS)]
    return np.moveaxis(np.concatenate(blocks), -1, 0)


def scalars(draws: Draws) -> dict[str, np.ndarray]:
    """p(class), the target density and random projections of z, [num_results, num_chains] each, by name."""
    columns = {"class_prob": draws.class_prob, "target_log_prob": draws.target_log_prob}
    return columns | {f"z_projection_{k}": column for k, column in enumerate(projections(draws.z))}


def statistics(draws: Draws, independent: bool = False) -> dict[str, Convergence]:
    """`Convergence` of the `scalars`, by name."""
    return {name: convergence(column, independent) for name, column in scalars(draws).items()}
