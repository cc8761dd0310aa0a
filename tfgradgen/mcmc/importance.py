"""Diagnostics of a fit from the weights of independent paths: its bound on the target's mass, that mass, and Pareto k."""

from typing import Any

import numpy as np

FIT_FIGURES = ("bound", "bound_error", "log_mass", "log_mass_error", "pareto_k", "prior_log_mass", "prior_log_mass_error")
MIN_FOR_TAIL = 25  # weights; with fewer, the shape of the tail is not estimated
MAX_PARETO_K = 0.7  # above it, estimates from the weights are unreliable (Vehtari et al. 2024)


def of_weights(log_weight: np.ndarray) -> dict[str, Any]:
    """Return the diagnostics of a fit, JSON-serializable; None for those that too few finite weights leave undefined.

    If some of the paths end without a finite likelihood, the bound is that of the other paths, whose distribution is q given
    that it is finite: the mean of their log weights plus the log of their share.

    Args:
      log_weight: [num_paths], log weights of independent paths; not finite where a path has none.

    Returns:
      `bound`, on the log of the target's mass, in nats, and `bound_error`, its standard error; `log_mass`, the log of the mean
        weight, and `log_mass_error`; `pareto_k`, of the tail of the weights (Vehtari et al. 2024); and `num_paths`.
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
    """Return the log of the mean weight, in nats, and its standard error by the delta method.

    Weights that are not finite count as 0.
    """
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf).astype(np.float64)
    top = log_weight.max()
    weight = np.exp(log_weight - top)
    error = weight.std(ddof=1) / np.sqrt(len(weight)) / weight.mean() if len(weight) > 1 else np.inf
    return float(top + np.log(weight.mean())), float(error)


def _pareto_k(log_weight: np.ndarray) -> float | None:
    """Return Pareto k of finite log weights; None if they are few or all equal."""
    if len(log_weight) < MIN_FOR_TAIL or not np.ptp(log_weight):
        return None
    shape = tail_shape(log_weight)
    return shape if np.isfinite(shape) else None


def tail_shape(log_weight: np.ndarray) -> float:
    """Return Pareto k of the tail of finite log weights (Vehtari et al. 2024)."""
    from arviz_stats.base import array_stats

    return float(array_stats.psislw(-log_weight)[1])  # psislw takes log-likelihoods, whose weights are their inverse
