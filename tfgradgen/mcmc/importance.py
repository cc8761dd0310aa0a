"""What the weights of independent paths say of a fit: its bound on the target's mass, that mass, and how far to trust them."""

from typing import Any

import numpy as np

FIT_FIGURES = ("bound", "bound_error", "log_mass", "log_mass_error", "pareto_k", "prior_log_mass", "prior_log_mass_error")
MIN_FOR_TAIL = 25  # weights; of fewer the tail's shape is not told
MAX_PARETO_K = 0.7  # beyond it estimates from the weights are not to be trusted (Vehtari et al. 2024)


def of_weights(log_weight: np.ndarray) -> dict[str, Any]:
    """The facts of paths, JSON-able, None where there are too few finite weights to tell.

    `bound` on the log of the target's mass, in nats, and `bound_error`, its standard error. Where a share of the paths ends
    without a finite likelihood, the bound is that of the others, whose law is q given that it is finite: their mean log weight
    plus the log of their share. `log_mass`, the log of the mean weight, with `log_mass_error`; `pareto_k` of the weights' tail
    (Vehtari et al. 2024); `num_paths`.

    log_weight: [num_paths], of independent paths, not finite where they have none.
    """
    finite = log_weight[np.isfinite(log_weight)].astype(np.float64)
    num, total = len(finite), len(log_weight)
    found: dict[str, Any] = dict.fromkeys(FIT_FIGURES[:5])
    found["num_paths"] = total
    if num < 2:
        return found
    share = num / total
    error = np.sqrt(finite.var(ddof=1) / num + (1 - share) / num)
    log_mass, log_mass_error = log_mean(log_weight)
    return found | {
        "bound": float(finite.mean() + np.log(share)),
        "bound_error": float(error),
        "log_mass": log_mass,
        "log_mass_error": log_mass_error,
        "pareto_k": _pareto_k(finite),
    }


def log_mean(log_weight: np.ndarray) -> tuple[float, float]:
    """log of the mean weight, in nats, and its standard error by the delta method; a weight that is not finite counts as 0."""
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf).astype(np.float64)
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    error = weight.std(ddof=1) / np.sqrt(len(weight)) / weight.mean() if len(weight) > 1 else np.inf
    return float(top + np.log(weight.mean())), float(error)


def _pareto_k(log_weight: np.ndarray) -> float | None:
    """Of finite log weights; None where they are few, or all the same."""
    if len(log_weight) < MIN_FOR_TAIL or not np.ptp(log_weight):
        return None
    shape = tail_shape(log_weight)
    return shape if np.isfinite(shape) else None


def tail_shape(log_weight: np.ndarray) -> float:
    """Pareto k of the tail of finite log weights (Vehtari et al. 2024)."""
    from arviz_stats.base import array_stats

    return float(array_stats.psislw(-log_weight)[1])  # it takes log-likelihoods, whose weights are their inverse
