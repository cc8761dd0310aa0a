"""What speaks against a run, chain by chain, and what to do about each: as Stan's `diagnose` does."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Draws, SamplerKind, accept_prob
from tfgradgen.diagnostics.convergence import MIN_RESULTS, Convergence

MIN_ESS, MAX_RHAT = 100.0, 1.01
MAX_ACCEPT_GAP = 0.1
STUCK_ACCEPT_RATE = 0.02  # a chain that takes fewer proposals than this hardly moves
MAX_ENERGY_ERROR = 1000.0  # nats; beyond it the integrator has left the level set for good (Stan's bound)
STILL_SHARE = 0.2  # of a chain's draws in one place: it is then worth few draws, whatever the others do
STILL_CHANCE = 1e-3  # of so long a standstill in any chain, were proposals refused independently
MODE_SHARE = 0.5  # of a statistic's variance between chains: more than within them
FEW = 6  # chains that a sentence lists


def diverged(log_accept_ratio: np.ndarray) -> np.ndarray:
    """Whether each proposal's energy error is above `MAX_ENERGY_ERROR`, in the shape of its `log_accept_ratio`, in nats."""
    is_diverged: np.ndarray = np.isfinite(log_accept_ratio) & (log_accept_ratio < -MAX_ENERGY_ERROR)
    return is_diverged


def chain_table(draws: Draws) -> dict[str, list[Any]]:
    """Per chain, over the kept draws: what a healthy chain has little of.

    accept_rate, the mean acceptance probability; step_size (the last; None where there is none); mean_class_prob, of the finite
    ones; num_distinct, places that it was at; standstill, the most proposals in a row that it refused;
    num_divergent: proposals with an energy error above `MAX_ENERGY_ERROR`; num_invalid: proposals whose density or gradient
    was not finite (they are refused); num_not_finite: states whose density is not finite.
    """
    ratio = np.asarray(draws.log_accept_ratio)
    step_size = np.asarray(draws.step_size[-1], float)
    prob = np.asarray(draws.class_prob, np.float64)
    refused = ~np.asarray(draws.is_accepted, bool)[1:]
    return {
        "accept_rate": accept_prob(draws).mean(0).tolist(),
        "step_size": [float(s) if np.isfinite(s) else None for s in step_size],
        "mean_class_prob": [finite_mean(column) for column in prob.T],
        "num_distinct": (1 + (~refused).sum(0)).tolist(),
        "standstill": [longest_run(column) for column in refused.T],
        "num_divergent": diverged(ratio).sum(0).tolist(),
        "num_invalid": (~np.isfinite(ratio)).sum(0).tolist(),
        "num_not_finite": (~np.isfinite(np.asarray(draws.target_log_prob))).sum(0).tolist(),
    }


def finite_mean(values: np.ndarray) -> float | None:
    """The mean of those that are finite, None where none is."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def longest_run(flags: np.ndarray) -> int:
    """The most true entries in a row of `flags` [num]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def never_moved(chains: Mapping[str, list[Any]], num_results: int) -> str:
    """`chains 0 to 3` where none of them moved in all its draws, more than one; else ''."""
    is_still = num_results > 1 and max(chains["num_distinct"]) == 1
    return _chains(chains["num_distinct"]) if is_still else ""


def prior_problems(num_not_finite: int | None, num_scored: int | None) -> list[str]:
    """What is to be said of `num_scored` prior draws of which `num_not_finite` have no finite p(class); None where a method
    scores none."""
    if not num_not_finite or not num_scored:
        return []
    return [
        f"{num_not_finite} of {num_scored} prior draws ({100 * num_not_finite / num_scored:.2g} %) had no finite p(class): a "
        "model returns NaN or inf for that part of z, and the draws leave it out; check the models' weights and ranges"
    ]


def problems(
    chains: Mapping[str, list[Any]],
    found: Mapping[str, Convergence],
    num_results: int,
    kind: SamplerKind,
    target: float | None,
) -> list[str]:
    """What speaks against trusting a run, as `what: what to do`, the gravest first; [] where nothing was found.

    Args:
      chains: `chain_table` of the run. found: its `statistics`. num_results: draws of each chain.
      kind: 'chain', 'exact', which nothing but the models can spoil, 'particles' or 'ascent' (see `mcmc.sampler.Sampler`).
      target: acceptance that was tuned for, None where nothing was.
    """
    lines = [*_broken(chains, num_results)]
    if kind == "ascent":
        lines.append("these are points on the way to modes, no draws of the posterior: take a kernel that samples for those")
    if kind == "chain":
        moving = [*_moving(chains, num_results)]
        # Where something says that the step is too large somewhere, nothing else is to say that it is too small.
        lines += [*moving, *off_target(float(np.mean(chains["accept_rate"])), target, is_too_large=bool(moving))]
    if kind in ("chain", "particles"):
        lines += _mixing(found)
    return lines


def faults(chains: Mapping[str, list[Any]], num_results: int) -> list[str]:
    """Those of `problems` that one run shows for sure, and that no further draws would mend: densities that are not finite,
    divergences, stuck chains. Arguments as there."""
    return [*_broken(chains, num_results), *_failing(chains, num_results)]


def _broken(chains: Mapping[str, list[Any]], num_results: int) -> Iterable[str]:
    total = num_results * len(chains["accept_rate"])
    bad = chains["num_not_finite"]
    if sum(bad):
        yield (
            f"the density is not finite in {sum(bad)} of {total} draws ({_chains(bad)}): a model returns NaN or inf there; "
            "check its image_range and its weights, and leave these chains out"
        )
    bad = chains["num_invalid"]
    if sum(bad):
        yield (
            f"{sum(bad)} of {total} proposals had no finite density or gradient ({_chains(bad)}): a model returns NaN or inf "
            "for part of z, and the draws leave that part out; check the models there"
        )


def off_target(accept_rate: float, target: float | None, is_too_large: bool = False) -> Iterable[str]:
    """What is to be said of a mean acceptance, where it was tuned for `target`. is_too_large: the step size is too large
    somewhere, so that raising it is no remedy."""
    if target is not None and abs(accept_rate - target) > MAX_ACCEPT_GAP:
        remedy = "lower --step_size or raise" if accept_rate < target else "raise --step_size,"
        remedy = "raise" if accept_rate > target and is_too_large else remedy
        found = f"acceptance {accept_rate:.2f} is off its target {target:.2f}"
        yield f"{found}: {remedy} --num_adaptation_steps and --num_burnin_steps"


def _moving(chains: Mapping[str, list[Any]], num_results: int) -> Iterable[str]:
    yield from _failing(chains, num_results)
    yield from _still(chains, num_results)


def _still(chains: Mapping[str, list[Any]], num_results: int) -> Iterable[str]:
    """Chains that stood still for long: for a fifth of their draws, and longer than chance explains.

    Were proposals refused independently, with the rate of the typical chain, a standstill of k has a chance of rate ** k to
    begin at any proposal of any chain.
    """
    rates, longest = np.asarray(chains["accept_rate"]), np.asarray(chains["standstill"])
    goes = rates >= STUCK_ACCEPT_RATE  # of the others `_failing` speaks
    never = (np.asarray(chains["num_distinct"]) == 1) & (num_results >= MIN_RESULTS) & goes
    if never.any():
        yield f"{_chains(never)} never moved in {num_results} draws: the step is too large there; lower --step_size"
    refused = 1 - np.median(rates)
    usual = np.log(STILL_CHANCE / (len(rates) * num_results)) / np.log(refused) if 0 < refused < 1 else np.inf
    still = (longest > max(usual, STILL_SHARE * num_results)) & ~never & goes
    if still.any():
        order = [int(k) for k in np.argsort(-longest, kind="stable") if still[k]]
        named = [
            f"chain {k} did not move in {longest[k]} of {num_results} draws ({longest[k] / num_results:.0%})" for k in order
        ]
        more = f", and {len(order) - FEW} more chains stood still as long" if len(order) > FEW else ""
        yield f"{', '.join(named[:FEW])}{more}: the step is too large there; lower --step_size, or run more chains"


def _failing(chains: Mapping[str, list[Any]], num_results: int) -> Iterable[str]:
    rates = np.asarray(chains["accept_rate"])
    stuck = rates < STUCK_ACCEPT_RATE
    bad = chains["num_divergent"]
    if sum(bad):
        yield (
            f"{sum(bad)} of {num_results * len(rates)} transitions diverged, energy error above {MAX_ENERGY_ERROR:.0f} nats "
            f"({_chains(bad)}; of nuts also those that met no finite density): lower --step_size, raise "
            "--target_accept_prob or --num_adaptation_steps"
        )
    if stuck.any():
        yield (
            f"{_chains(stuck)} stuck, acceptance below {STUCK_ACCEPT_RATE}: the step is too large there; lower --step_size, or "
            "raise --num_adaptation_steps"
        )


def _mixing(found: Mapping[str, Convergence]) -> Iterable[str]:
    rhats = {name: c.rhat for name, c in found.items() if c.rhat is not None}
    name = max(rhats, key=lambda key: rhats[key], default="")
    if name and rhats[name] > MAX_RHAT:
        yield f"chains disagree (R-hat of {name} {rhats[name]:.2f} > {MAX_RHAT}): raise --num_burnin_steps and --num_results"
    shares = {name: c.between for name, c in found.items() if c.between is not None}
    name = max(shares, key=lambda key: shares[key], default="")
    if name and shares[name] > MODE_SHARE:
        yield (
            f"chains stay in different modes ({shares[name]:.0%} of the variance of {name} lies between them): their starts "
            "decide, so run more chains, or --kernel=rejection for exact draws"
        )
    sizes = {f"bulk of {name}": c.ess_bulk for name, c in found.items()}
    sizes |= {f"tail of {name}": c.ess_tail for name, c in found.items()}
    sizes |= {f"mean of {name}": c.ess for name, c in found.items() if c.ess is not None}
    least = min(sizes, key=lambda key: sizes[key] or 0.0)
    size = sizes[least]
    if size is None or size < MIN_ESS:
        shown = "unknown" if size is None else f"{size:.0f}"
        yield f"small effective sample size ({shown} for the {least} < {MIN_ESS:.0f}): raise --num_results"


def _chains(flags: Iterable[Any]) -> str:
    """`chain 3`, `chains 0 to 3, 5` or `12 of 16 chains`: those with a true entry."""
    entries = [bool(flag) for flag in flags]
    which = np.flatnonzero(entries)
    parts = []
    for run in np.split(which, np.flatnonzero(np.diff(which) > 1) + 1):
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(k) for k in run]
    if len(parts) > FEW:
        return f"{len(which)} of {len(entries)} chains"
    return f"chain{'s' * (len(which) > 1)} {', '.join(parts)}"
