"""Is a run to be trusted: effective sample size, split R-hat, Monte Carlo error."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow_probability as tfp


class Convergence(NamedTuple):
    """Of one scalar statistic over all chains.

    mean: over all draws. standard_error: of that mean, the larger of what the effective sample size and what the spread of
    the chains' means say: chains are independent, so the latter holds even where they do not mix. ess: effective sample size
    over all chains. rhat: split R-hat (Gelman et al. 2013), 1 where chains agree. None where it cannot be computed: too few
    draws, or a statistic that is constant or not finite.
    """

    mean: float | None
    standard_error: float | None
    ess: float | None
    rhat: float | None


def convergence(statistic: np.ndarray, independent: bool = False) -> Convergence:
    """Diagnoses `statistic` [num_results, num_chains]; draws that are independent by construction count in full."""
    values = np.asarray(statistic, np.float64)
    num_results, num_chains = values.shape
    if not np.isfinite(values).all():
        return Convergence(None, None, None, None)
    mean, deviation = float(values.mean()), float(values.std())
    if independent:
        return Convergence(mean, deviation / np.sqrt(values.size), float(values.size), None)
    if num_results < 4 or deviation == 0.0:
        return Convergence(mean, None, None, None)
    # Without several chains only the autocorrelation within the chain can be seen.
    across = dict(cross_chain_dims=1) if num_chains > 1 else {}
    ess = float(np.sum(tfp.mcmc.effective_sample_size(values, filter_beyond_positive_pairs=True, **across).numpy()))
    error = deviation / np.sqrt(ess) if ess > 0 else None
    rhat = None
    if num_chains > 1:
        between = float(values.mean(0).std(ddof=1) / np.sqrt(num_chains))
        error = between if error is None else max(error, between)
        even = values[: num_results // 2 * 2]
        rhat = float(tfp.mcmc.potential_scale_reduction(even, split_chains=True).numpy())
    return Convergence(mean, error, _finite(ess), _finite(rhat))


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


MIN_ESS, MAX_RHAT, MAX_ACCEPT_GAP = 100.0, 1.05, 0.1


def problems(class_prob: Convergence, accept_rate: float, target_accept_prob: float | None) -> list[str]:
    """What speaks against trusting a run, and what to do about each, in words; [] where nothing was found.

    `target_accept_prob` is None for exact draws, whose acceptance has no target.
    """
    found = []
    if class_prob.mean is None:
        found.append("p(class) is not finite in some draws: check the models")
    if target_accept_prob is None:
        return found
    if abs(accept_rate - target_accept_prob) > MAX_ACCEPT_GAP:
        found.append(f"acceptance {accept_rate:.2f} is off its target {target_accept_prob:.2f}: raise --num_adaptation_steps")
    if class_prob.rhat is not None and class_prob.rhat > MAX_RHAT:
        found.append(f"chains disagree (R-hat {class_prob.rhat:.2f} > {MAX_RHAT}): raise --num_burnin_steps and --num_results")
    if class_prob.ess is None or class_prob.ess < MIN_ESS:
        shown = "unknown" if class_prob.ess is None else f"{class_prob.ess:.0f}"
        found.append(f"few effective draws ({shown} < {MIN_ESS:.0f}): raise --num_results")
    return found
