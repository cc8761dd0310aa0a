"""How many independent draws the draws of a run are worth, and what they cost."""

from collections.abc import Callable

import numpy as np

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.convergence import convergence, projections
from tfgradgen.evaluation.report.catalogue import Value


def jackknife(statistic_fn: Callable[[np.ndarray], float], num_chains: int) -> Value:
    """`statistic_fn` of all chains, and its standard error over them: that of the delete-one jackknife (Efron and Stein 1981).

    statistic_fn: indices of chains -> statistic; it is called num_chains + 1 times. Exact for means, near for smooth functions
    of them. Without an error where there is one chain only, or a figure that is not finite.
    """
    return jackknife_all(lambda chains: {"": statistic_fn(chains)}, num_chains)[""]


def jackknife_all(statistics_fn: Callable[[np.ndarray], dict[str, float]], num_chains: int) -> dict[str, Value]:
    """`jackknife` of several statistics that are computed together, by name."""
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


def effective_draws(draws: Draws) -> float:
    """(deviation / standard error)^2, the error the larger of that of the autocorrelation and that of the chains' means
    (`diagnostics.convergence`), on average over p(class) and four projections of z."""
    columns = [draws.class_prob, *projections(draws.z)]
    pairs = [(np.var(column), convergence(column).standard_error) for column in columns]
    return float(np.mean([variance / error**2 if error else 0.0 for variance, error in pairs]))


def draws_per_1000(draws: Draws, work: float) -> Value:
    """Effective draws of 1000 gradients; `work` is what the draws cost, of all chains together, in gradients."""
    num_chains = draws.class_prob.shape[1]

    def of(chains: np.ndarray) -> float:
        part = draws._replace(z=draws.z[:, chains], class_prob=draws.class_prob[:, chains])
        return 1000 * effective_draws(part) / float(work * len(chains) / num_chains)

    return jackknife(of, num_chains)
