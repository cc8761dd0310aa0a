"""Diagnosis of a run: whether its images are draws of the posterior, and whether its means are as good as their errors say.

Like CmdStan's `diagnose`, it states what was checked, and lists each problem with its remedy.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from tfgradgen.core.contracts import Draws, accept_prob
from tfgradgen.core.text import as_text, counted
from tfgradgen.diagnostics.advice import Run, again, cheaper, longer, more_draws, smaller_steps, too_large
from tfgradgen.diagnostics.convergence import (
    CLASS_PROB,
    LOG_DENSITY,
    MIN_RESULTS,
    Convergence,
    rhat_limit,
    shown_names,
)
from tfgradgen.media.medium import Medium

MIN_ESS, MIN_ESS_OF_CHAIN = 100.0, 4.0  # least ESS, in total and per chain; below, the error itself is uncertain
MIN_EXACT_DRAWS = 10  # least number of independent draws; the standard error of ten is known to about a quarter
MAX_ACCEPT_GAP = 0.1
STUCK_ACCEPT_RATE = 0.02  # a chain with a lower acceptance rate hardly moves
MAX_ENERGY_ERROR = 1000.0  # nats; beyond it the integrator has left the level set for good (Stan's bound)
STILL_SHARE = 0.2  # share of a chain's draws in one place; the chain then has a small ESS, whatever the others do
STILL_CHANCE = 1e-3  # probability of such a standstill in any chain if proposals are rejected independently
MODE_SHARE = 0.5  # share of a statistic's variance between chains; above it, more lies between than within them
FEW = 6  # most chains or ranges of chains listed in a sentence
MAX_TEXT = 1000  # characters

IMAGES, MEANS = "images", "means"  # the two grades of a run, of any medium, as run.json has them
GRADES = (IMAGES, MEANS)
PAGES_FILE = "tfgradgen/diagnostics/README.md"
# Sections of that page, one for each kind of warning.
PAGES = (
    "models",
    "not-finite",
    "no-draws",
    "approximate-draws",
    "class-regularization",
    "stuck-chains",
    "divergences",
    "standstills",
    "starts",
    "one-chain",
    "separate-modes",
    "disagreeing-chains",
    "few-effective-draws",
    "acceptance",
)


class Issue(NamedTuple):
    """A problem of a run.

    Attributes:
      page: The section about it, one of `PAGES`.
      against: The grades that the run loses by it.
      found: What was found.
      remedy: What to do, with a price; '' if `found` says it.
    """

    page: str
    against: tuple[str, ...]
    found: str
    remedy: str = ""

    @property
    def what(self) -> str:
        return f"{self.found}: {self.remedy}" if self.remedy else self.found

    def line(self, medium: Medium) -> str:
        """Return the issue of a run of `medium`. It begins with the grades that the run loses, and names its section."""
        named = " and ".join(grade_name(grade, medium) for grade in self.against)
        return with_page(self.page, f"{named}: {self.what}" if named else self.what)


def grade_name(grade: str, medium: Medium) -> str:
    """Return how lines name one of `GRADES` in a run of `medium`."""
    return medium.plural if grade == IMAGES else grade


def with_page(page: str, text: str) -> str:
    """Return a warning, escaped and of bounded length, with a reference to its section, one of `PAGES`."""
    return f"{as_text(text, MAX_TEXT)} ({PAGES_FILE}#{page})"


def issue(page: str, what: str, *against: str) -> Issue:
    """Return an `Issue` by which the run loses the grades `against`."""
    return Issue(page, against, what)


def diverged(log_accept_ratio: np.ndarray) -> np.ndarray:
    """Return whether each proposal's energy error exceeds `MAX_ENERGY_ERROR`, in the shape of `log_accept_ratio`, in nats."""
    is_diverged: np.ndarray = np.isfinite(log_accept_ratio) & (log_accept_ratio < -MAX_ENERGY_ERROR)
    return is_diverged


def chain_table(draws: Draws) -> dict[str, list[Any]]:
    """Return diagnostics of each chain over the kept draws, as lists of length num_chains.

    Returns:
      By name:
      - accept_rate: Mean acceptance probability.
      - step_size: The last step size; None if there is none.
      - mean_class_prob: Mean of the finite values of p(class).
      - num_distinct: Number of places that the chain visited.
      - standstill: Most consecutive proposals that were rejected.
      - num_divergent: Number of proposals with an energy error above `MAX_ENERGY_ERROR`.
      - num_invalid: Number of proposals with a density or gradient that is not finite. They are rejected.
      - num_not_finite: Number of states with a density that is not finite.
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
    """Return the mean of the finite values; None if there are none."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def longest_run(flags: np.ndarray) -> int:
    """Return the largest number of consecutive true entries of `flags` [num]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def never_moved(chains: Mapping[str, list[Any]], num_results: int) -> str:
    """Return text such as `chains 0 to 3` if there are several draws and no chain ever moved; '' otherwise."""
    is_still = num_results > 1 and max(chains["num_distinct"]) == 1
    return _chains(chains["num_distinct"]) if is_still else ""


def prior_problems(num_not_finite: int | None, num_scored: int | None) -> list[Issue]:
    """Return the problem that some prior draws have no finite p(class), if there are such draws.

    Args:
      num_not_finite: Number of draws without a finite p(class).
      num_scored: Number of draws that were scored. Both are None for a method that scores none.
    """
    if not num_not_finite or not num_scored:
        return []
    text = (
        f"{num_not_finite} of {num_scored} prior draws ({100 * num_not_finite / num_scored:.2g} %) had no finite p(class): a "
        "model returns NaN or inf for that part of z, and the draws leave it out; check the models' weights and ranges"
    )
    return [issue("not-finite", text, IMAGES, MEANS)]


def problems(
    chains: Mapping[str, list[Any]], found: Mapping[str, Convergence], num_results: int, latent_dim: int, run: Run
) -> list[Issue]:
    """Return the problems of a run, the most serious first; [] if there are none. No two of them give contradictory advice.

    Args:
      chains: The `chain_table` of the run.
      found: The `run_statistics` of the run.
      num_results: Number of draws per chain.
      latent_dim: Number of coordinates of z.
      run: Other properties of the run.
    """
    if run.is_near:
        return [*_near(chains, num_results, run)]
    lines = [*_broken(chains, num_results), *_of_method(run)]
    mixing = _mixing(found, num_results, len(chains["accept_rate"]), latent_dim, run) if run.kind != "ascent" else []
    if run.kind == "chain":
        moving = [*_failing(chains, num_results, run), *_still(chains, num_results, run)]
        others = [*_starts(chains, num_results, run, bool(moving or mixing)), *_one_chain(run), *mixing]
        if _stuck(chains, num_results).all():  # neither more draws nor more chains help, but the grades are lost all the same
            lost = {grade for one in others for grade in one.against}
            moving = [one._replace(against=_both(one, lost)) if one.page == "stuck-chains" else one for one in moving]
            others = []
        lines += [*moving, *others]
    else:
        lines += mixing
    total = num_results * len(chains["accept_rate"])
    if run.kind == "exact" and total < MIN_EXACT_DRAWS:
        text = "the error of a single draw is unknown" if total < 2 else f"the error of {total} draws is uncertain"
        remedy = f"take {MIN_EXACT_DRAWS} or more by --num_results or --num_chains ({again(MIN_EXACT_DRAWS / total)})"
        lines.append(Issue("few-effective-draws", (MEANS,), text, remedy))
    if run.kind == "chain" and mixing:  # if the chains agree, another step size would only be faster
        for text in off_target(float(np.mean(chains["accept_rate"])), run.target_accept_prob):
            price = again((2 * run.num_burnin_steps + num_results) / (run.num_burnin_steps + num_results))
            lines.append(issue("acceptance", f"{text}, twice as many of each ({price})", MEANS))
    return lines


def _both(one: Issue, lost: Collection[str]) -> tuple[str, ...]:
    return tuple(grade for grade in GRADES if grade in one.against or grade in lost)


def passed(
    chains: Mapping[str, list[Any]],
    found: Mapping[str, Convergence],
    num_results: int,
    latent_dim: int,
    run: Run,
    against: Sequence[str],
) -> list[str]:
    """Return a line for each grade that the run has, which are all but those in `against`.

    The other arguments are those of `problems`.
    """
    lines, num_chains = [], len(chains["accept_rate"])
    names = {grade: grade_name(grade, run.medium) for grade in GRADES}
    if IMAGES not in against:
        lines.append(f"{names[IMAGES]}: {_images(chains, num_results, run)}")
    if MEANS not in against:
        lines.append(f"{names[MEANS]}: good to the +- shown: {_means(found, num_results, num_chains, latent_dim, run)}")
    return lines


def _images(chains: Mapping[str, list[Any]], num_results: int, run: Run) -> str:
    count = len(chains["accept_rate"])
    if run.is_near:
        return f"{counted(count, 'draw')} of the posterior, near one draw, not independent"
    if run.kind == "exact":
        return f"{counted(count, 'independent, exact draw')} of the posterior"
    has_moved = num_results >= MIN_RESULTS and min(chains["num_distinct"]) > 1
    moved = ", and every chain moved" if has_moved else ""
    if run.num_exact == count:
        return f"{counted(count, 'draw')} of the posterior: starts and kernel are exact{moved}"
    return f"{counted(count, 'draw')} of the posterior: the kernel is exact, and the chains have forgotten their starts{moved}"


def _means(found: Mapping[str, Convergence], num_results: int, num_chains: int, latent_dim: int, run: Run) -> str:
    if run.is_independent:
        return "the draws are independent"
    rhat = max((c.rhat for c in found.values() if c.rhat is not None), default=None)
    limit = rhat_limit(num_results, num_chains, latent_dim + 2)
    digits = 3 if rhat is not None and rhat > float(f"{limit:.2f}") else 2  # a limit that is rounded down would look passed
    agree = "" if rhat is None else f"R-hat is at most {rhat:.3f} (limit {limit:.{digits}f}), "
    return f"{agree}the ESS of p(class) is {found[CLASS_PROB].ess or 0:.0f}"


def checked(run: Run, latent_dim: int) -> str:
    """Return the line of a run without problems: what was checked in a run of this kind."""
    every = ["models", f"stored {run.medium.plural}", "finite densities"]
    if run.kind == "chain":
        every += ["starts", "stuck chains", "divergences", "standstills", "acceptance"]
    if not run.is_independent:
        every += [f"R-hat of p(class), the log density and {counted(latent_dim, 'coordinate')} of z", "ESS"]
    return f"checked: {', '.join(every)}; nothing found"


def proven_problems(chains: Mapping[str, list[Any]], num_results: int) -> list[str]:
    """Return those of `problems` that one run proves and that further draws would not fix.

    These are densities that are not finite and stuck chains. Divergences are not among them: a longer run has
    more of them. The texts name no remedy. The arguments are those of `problems`.
    """
    found = (*_broken(chains, num_results), *_failing(chains, num_results, Run()))
    return [one.found for one in found if one.page != "divergences"]


def _of_method(run: Run) -> Iterable[Issue]:
    """Yield an issue if the method does not draw from the posterior, whatever the run."""
    if run.is_calibrated:
        return
    if run.kind == "ascent":
        text = "the points climb towards modes and are not draws of the posterior: use a kernel that samples"
        yield issue("no-draws", f"{text}, such as --kernel=mala ({again()}){cheaper(run)}", IMAGES, MEANS)
    elif run.kind == "fitted":
        text = "the draws are of a fitted approximation, not of the posterior: add --exact for chains of the posterior"
        yield issue("approximate-draws", f"{text} ({again()} or more){cheaper(run)}", IMAGES, MEANS)
    elif run.is_regularized:
        text = "the draws are not of the posterior: --class_reg pulls them to the class mean; leave it out"
        yield issue("class-regularization", f"{text} ({again()}){cheaper(run)}", IMAGES, MEANS)
    else:
        text = "the draws are of an approximation to the posterior, and no error shows its bias: raise --num_results, or use "
        text += f"a kernel whose draws are exact, such as --kernel=mala ({again()}){cheaper(run)}"
        yield issue("approximate-draws", text, IMAGES, MEANS)


def _broken(chains: Mapping[str, list[Any]], num_results: int) -> Iterable[Issue]:
    total = num_results * len(chains["accept_rate"])
    bad = chains["num_not_finite"]
    if sum(bad):
        text = f"the density is not finite in {sum(bad)} of {total} draws ({_chains(bad)})"
        remedy = "a model returns NaN or inf there; check its image_range and its weights, and leave these chains out"
        yield Issue("not-finite", (IMAGES, MEANS), text, remedy)
    bad = chains["num_invalid"]
    if sum(bad):
        text = f"{sum(bad)} of {total} proposals had no finite density or gradient ({_chains(bad)})"
        remedy = "a model returns NaN or inf for part of z, and the draws leave that part out; check the models there"
        yield Issue("not-finite", (IMAGES, MEANS), text, remedy)


def off_target(accept_rate: float, target: float | None) -> Iterable[str]:
    """Yield a finding if the mean acceptance is far from the target of the adaptation.

    Whether the steps are too large or too small, the adaptation was too short.

    Args:
      accept_rate: Mean acceptance probability.
      target: The target; None if nothing was adapted.
    """
    if target is not None and abs(accept_rate - target) > MAX_ACCEPT_GAP:
        found = f"acceptance {accept_rate:.2f} is off its target {target:.2f}"
        yield f"{found}: raise --num_adaptation_steps and --num_burnin_steps"


def _still(chains: Mapping[str, list[Any]], num_results: int, run: Run) -> Iterable[Issue]:
    """Yield an issue if chains stood still for more than `STILL_SHARE` of their draws, and longer than chance explains.

    If proposals were rejected independently at the rate of the typical chain, a standstill of k draws would begin at any
    proposal of any chain with probability rate ** k.
    """
    moves = (np.asarray(chains["num_distinct"]) - 1) / max(num_results - 1, 1)
    # A kernel without a Metropolis test has an acceptance of 1, but may still not move.
    rates, longest = np.minimum(chains["accept_rate"], moves), np.asarray(chains["standstill"])
    goes = (rates >= STUCK_ACCEPT_RATE) & ~_never(chains, num_results)  # `_failing` reports the others
    refused = 1 - np.median(rates)
    usual = np.inf if refused == 1 else 0.0  # without rejections, chance explains no standstill
    if 0 < refused < 1:
        usual = np.log(STILL_CHANCE / (len(rates) * num_results)) / np.log(refused)
    still = (longest > max(usual, STILL_SHARE * num_results)) & goes
    if still.any():
        order = [int(k) for k in np.argsort(-longest, kind="stable") if still[k]]
        named = [
            f"chain {k} did not move in {longest[k]} of {num_results} draws ({longest[k] / num_results:.0%})" for k in order
        ]
        more = f", and {len(order) - FEW} more chains stood still as long" if len(order) > FEW else ""
        remedy = f"{too_large(run)} or run more --num_chains ({again()} or more){cheaper(run)}"
        yield issue("standstills", f"{', '.join(named[:FEW])}{more}: {remedy}", MEANS)


def _never(chains: Mapping[str, list[Any]], num_results: int) -> np.ndarray:
    """Return a mask of the chains that never moved, where chance does not explain it or their acceptance is very low."""
    never: np.ndarray = np.asarray(chains["num_distinct"]) == 1
    if num_results < MIN_RESULTS:
        return np.zeros_like(never)
    rates = np.asarray(chains["accept_rate"])
    chance = float((1 - np.clip(np.median(rates), 0, 1)) ** (num_results - 1))
    by_chance = float(special.bdtrc(never.sum() - 1, len(never), chance))
    return never & ((by_chance < STILL_CHANCE) | (rates < STUCK_ACCEPT_RATE))


def _failing(chains: Mapping[str, list[Any]], num_results: int, run: Run) -> Iterable[Issue]:
    rates, never = np.asarray(chains["accept_rate"]), _never(chains, num_results)
    price = f"({again()}){cheaper(run)}"
    bad = chains["num_divergent"]
    if sum(bad):
        text = (
            f"{sum(bad)} of {num_results * len(rates)} transitions diverged, energy error above {MAX_ENERGY_ERROR:.0f} nats "
            f"({_chains(bad)})"
        )
        yield Issue("divergences", (MEANS,), text, f"{smaller_steps(run)} {price}")
    remedy = f"{too_large(run)} {price}"
    if never.any():
        shown = "its last draw is its start" if never.sum() == 1 else "their last draws are their starts"
        text = f"{_chains(never)} never moved in {num_results} draws, so {shown}"
        yield Issue("stuck-chains", (IMAGES, MEANS), text, remedy)
    stuck = _stuck(chains, num_results) & ~never
    if stuck.any():
        text = f"{_chains(stuck)} stuck, acceptance below {STUCK_ACCEPT_RATE}"
        yield Issue("stuck-chains", (MEANS,), text, remedy)


def _stuck(chains: Mapping[str, list[Any]], num_results: int) -> np.ndarray:
    """Return a mask of the chains that `_failing` reports as stuck."""
    stuck: np.ndarray = _never(chains, num_results) | (np.asarray(chains["accept_rate"]) < STUCK_ACCEPT_RATE)
    return stuck


def _starts(chains: Mapping[str, list[Any]], num_results: int, run: Run, is_mixing_bad: bool) -> Iterable[Issue]:
    """Yield an issue if chains did not start at exact draws, and nothing shows that they have forgotten their starts."""
    count = len(chains["accept_rate"])
    num_other = max(count - (run.num_exact or 0), 0)
    if not num_other or not (is_mixing_bad or not run.is_dispersed or count < 2 or num_results < MIN_RESULTS):
        return
    which = "the chains" if num_other == count else f"{num_other} of {count} chains"
    start = "the proposals were learned from the draws where the chains start"
    if not run.is_learned:
        start = f"{which} did not start at exact draws of the posterior"
    if not run.is_dispersed and not is_mixing_bad and count > 1 and num_results >= MIN_RESULTS:
        text = (
            f"{which} did not start at exact or independent draws, so their agreement does not show that they have forgotten "
        )
        named = f"--kernel={run.chosen} " if run.chosen else ""
        other = f" or with {named}--init=prior" if run.takes_init else ""
        yield issue("starts", f"{text}their starts: compare with another --seed{other}{cheaper(run)}", *GRADES)
        return
    yield issue(
        "starts",
        f"{start}, and nothing shows that the chains have forgotten their starts: {longer(run, num_results)}{cheaper(run)}",
        *((IMAGES,) if run.is_dispersed else GRADES),
    )


def _near(chains: Mapping[str, list[Any]], num_results: int, run: Run) -> Iterable[Issue]:
    """Yield the issues of chains that all start at one draw of another run; the advice names only what `vary` has."""
    for one in _broken(chains, num_results):
        yield one._replace(against=(IMAGES,))
    if num_results > 1 and max(chains["num_distinct"]) == 1:
        text = f"no chain moved in {num_results} steps, so each {run.medium.noun} is that of the first draw: lower --amount"
        yield issue("stuck-chains", f"{text} or raise --num_steps")
    if run.num_exact is None:
        text = f"the run that they come from does not show that its {run.medium.plural} are draws of the posterior"
        text += ": see its own warnings"
        yield issue("starts", text, IMAGES)
    yield issue("starts", "all chains start at one draw, so do not average over them; for averages, run `sample`", MEANS)


def _one_chain(run: Run) -> Iterable[Issue]:
    if run.num_sharing > 1:
        return
    tuned = run.target_accept_prob is not None
    if run.is_divided:
        if tuned:
            text = "a step size that is tuned by a block of one chain alone biases its draws"
            yield issue("one-chain", f"{text}: give a --block that leaves 4 chains or more in each block", IMAGES, MEANS)
        return
    why = ", and a step size that is tuned by one chain alone biases its draws" if tuned else ""
    text = f"one chain does not show what it has missed{why}: raise --num_chains to 4 or more (up to {again(4)})"
    yield issue("one-chain", f"{text}{cheaper(run)}", *((IMAGES, MEANS) if tuned else (MEANS,)))


def _mixing(found: Mapping[str, Convergence], num_results: int, num_chains: int, latent_dim: int, run: Run) -> list[Issue]:
    """Return at most one issue: the chains are in different modes, they disagree, or the effective sample size is small."""
    if run.is_independent:
        return []
    names, limit = shown_names(latent_dim), rhat_limit(num_results, num_chains, latent_dim + 2)
    rhats = {name: found[name].rhat or 0.0 for name in found}
    worst = max(rhats, key=lambda name: rhats[name])
    sizes = {name: found[name].ess for name in (CLASS_PROB, LOG_DENSITY) if name in found}
    least = min(sizes, key=lambda name: sizes[name] or 0.0)
    size, needed = sizes[least], max(MIN_ESS, MIN_ESS_OF_CHAIN * num_chains)
    times = max((rhats[worst] ** 2 - 1) / (limit**2 - 1), needed / size if size else 2.0)
    advice = f"{more_draws(times, run, num_results)}{cheaper(run)}"
    digits = next((k for k in (2, 3) if f"{rhats[worst]:.{k}f}" != f"{limit:.{k}f}"), 4)
    disagree = f"R-hat {rhats[worst]:.{digits}f} of {names[worst]}, limit {limit:.{digits}f}"
    share = found[worst].between or 0.0
    if rhats[worst] > limit and share > MODE_SHARE:
        text = (
            f"{run.units} stay in different modes ({share:.0%} of the variance of {names[worst]} lies between them, "
            f"{disagree}): their starts decide, so run more --num_chains, 4 times as many for half the error ({again(4)})"
        )
        return [issue("separate-modes", f"{text}{cheaper(run)}", MEANS)]
    if rhats[worst] > limit:
        return [issue("disagreeing-chains", f"{run.units} disagree, {disagree}: {advice}", MEANS)]
    if size is None or size < needed:
        worth = "unknown" if size is None else f"{size:.0f}"
        text = f"small effective sample size ({worth} for the mean of {names[least]}, below {needed:.0f}): {advice}"
        return [issue("few-effective-draws", text, MEANS)]
    return []


def _chains(flags: Iterable[Any]) -> str:
    """Return the chains with a true entry as text: `chain 3`, `chains 0 to 3, 5` or `12 of 16 chains`."""
    entries = [bool(flag) for flag in flags]
    which = np.flatnonzero(entries)
    parts = []
    for run in np.split(which, np.flatnonzero(np.diff(which) > 1) + 1):
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(k) for k in run]
    if len(parts) > FEW:
        return f"{len(which)} of {len(entries)} chains"
    return f"chain{'s' * (len(which) > 1)} {', '.join(parts)}"
