"""Effective sample size of a run per gradient, and standard errors by the jackknife over chains."""

from collections.abc import Callable

import numpy as np

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.convergence import convergence, projections
from tfgradgen.evaluation.report.catalogue import Value


def jackknife(statistic_fn: Callable[[np.ndarray], float], num_chains: int) -> Value:
    """Return `statistic_fn` of all chains with its standard error by the delete-one jackknife (Efron and Stein 1981).

    The error is exact for means, and approximate for smooth functions of them. It is None for a single chain, or if it is not
    finite.

    Args:
      statistic_fn: Indices of chains -> statistic. It is called num_chains + 1 times.
      num_chains: Number of chains.
    """
    return jackknife_all(lambda chains: {"": statistic_fn(chains)}, num_chains)[""]


def jackknife_all(statistics_fn: Callable[[np.ndarray], dict[str, float]], num_chains: int) -> dict[str, Value]:
    """Return the `jackknife` of several statistics that are computed together, by name."""
    chains = np.arange(num_chains)
    values = statistics_fn(chains)
    if num_chains < 2:
        return {name: Value(float(value), None) for name, value in values.items()}
    left_out = [statistics_fn(np.delete(chains, k)) for k in chains]
    found = {}
    for name, value in values.items():
        column = np.asarray([statistics[name] for statistics in left_out])
        error = float(np.sqrt((num_chains - 1) * np.mean((column - column.mean()) ** 2)))
        found[name] = Value(float(value), error if np.isfinite(error) else None)
    return found


def mean_ess(draws: Draws) -> float:
    """Return (standard deviation / standard error)^2, averaged over p(class) and four projections of z.

    The standard error is the larger of the one from autocorrelation and the one from the means of the chains (see
    `diagnostics.convergence`).
    """
    columns = [draws.class_prob, *projections(draws.z)]
    pairs = [(np.var(column), convergence(column).standard_error) for column in columns]
    return float(np.mean([variance / error**2 if error else 0.0 for variance, error in pairs]))


def ess_per_1000(draws: Draws, work: float) -> Value:
    """Return the ESS per 1000 gradients; `work` is the cost of the draws, of all chains together, in gradients."""
    num_chains = draws.class_prob.shape[1]

    def of(chains: np.ndarray) -> float:
        part = draws._replace(z=draws.z[:, chains], class_prob=draws.class_prob[:, chains])
        return 1000 * mean_ess(part) / float(work * len(chains) / num_chains)

    return jackknife(of, num_chains)
