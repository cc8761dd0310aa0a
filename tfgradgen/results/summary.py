"""The summary of a run that is printed at its end."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgradgen.core.contracts import SamplerKind
from tfgradgen.core.text import as_text, counted
from tfgradgen.diagnostics.advice import priced
from tfgradgen.diagnostics.convergence import CLASS_PROB, LATENT, shown_names
from tfgradgen.diagnostics.issues import MAX_TEXT, never_moved
from tfgradgen.io.folders import REPORT
from tfgradgen.mcmc.importance import MAX_PARETO_K
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.media.registry import medium_in
from tfgradgen.results.record import FIT, NEAREST, PROJECTION, TIME_BUDGET, VARIED, prior_estimate

LEAST_SHOWN = 0.0005  # smaller numbers would be 0 with three decimals
MOST_DIGITS = 9  # of a mean, however small its error
WORK = {"gradients": "gradients", "forward": "forward passes"}
WORD = len("ran      ")  # characters of the heading of a line
MAX_PROBLEM = MAX_TEXT + 100  # characters, with the section about it
MAX_ERRORS = 3.0  # by which two estimates of one number differ by chance, in standard errors
UNITS = {"chain": "chain", "exact": "chain", "particles": "population", "ascent": "ascent", "fitted": "chain"}


def kind_of(record: dict[str, Any]) -> SamplerKind:
    """Return what the draws of a run are: see `mcmc.sampler.Sampler`."""
    return SAMPLERS[record["kernel"]].kind_of(record["arguments"]["kernel_config"])


def title_of(record: Mapping[str, Any]) -> str:
    """Return what the images of a run are: class, kernel, seed and temperature. `record` may be a `plan`."""
    name = as_text(record["label"]["name"])
    temperature = record["arguments"].get("temperature", 1.0)
    if VARIED in record:
        name = f"{name}, near chain {record[VARIED]['chain']} of a run"
    return f"{name}, {record['kernel']}, seed {as_text(record['seed'])}, temperature {temperature:g}"


def sizes_text(record: Mapping[str, Any], num_results: int, num_chains: int) -> str:
    """Return text such as `16 chains, 264 draws each`."""
    return f"{counted(num_chains, UNITS[kind_of(dict(record))])}, {counted(num_results, 'draw')} each"


def legend_of(record: Mapping[str, Any]) -> str:
    """Return the line that says what p is below an image."""
    return f"p: the classifier's probability of {as_text(record['label']['name'])}"


def verdict(record: dict[str, Any]) -> list[str]:
    """Return the lines of a diagnosis.

    They begin with `ok` for each grade that the run has, and for the list of checks if none found a problem, and with `warning`
    for each problem, with what to do and what that costs.
    """
    problems = [as_text(problem, MAX_PROBLEM) for problem in record["problems"]]
    return [
        *(f"ok       {line}" for line in record["passed"]),
        *(f"warning  {priced(problem, record['seconds'])}" for problem in problems),
    ]


def summary(record: dict[str, Any], folder: Any = None) -> str:
    """Return the summary of a run: its results, acceptance, mixing, grades and warnings, and the `folder` if given."""
    return "\n".join([*measured(record), *verdict(record), *([] if folder is None else [wrote(record, folder)])])


def measured(record: dict[str, Any]) -> list[str]:
    """Return the lines about the results of a run, its acceptance and its mixing. The first `WORD` characters are a heading."""
    arguments, name = record["arguments"], record["label"]["name"]
    schedule, num_chains = arguments["schedule"], arguments["num_chains"]
    stat, kind = record["statistics"]["class_prob"], kind_of(record)
    work = [f"{record[f'num_{kind}']:,} {word}" for kind, word in WORK.items() if record[f"num_{kind}"]]
    burnin = f" after {schedule['num_burnin_steps']} discarded" if schedule["num_burnin_steps"] else ""
    ess = "unknown" if stat["ess"] is None else f"{stat['ess']:.0f}"
    mean = "unknown" if record["mean_class_prob"] is None else _estimate(record["mean_class_prob"], stat["standard_error"])
    mixing = (
        f"mixing   effective sample size (ESS) of p(class) {ess} of {schedule['num_results'] * num_chains}{_rhat(record, stat)}"
    )
    return [
        f"ran      {record['kernel']} for {as_text(name)}: "
        f"{sizes_text(record, schedule['num_results'], num_chains)}{burnin}, "
        f"{', '.join(work)} in {record['seconds']:.0f} s{_batch(record)} ({as_text(record['backend'])} mode)",
        *_cut(record),
        f"p(class) mean {mean}; under the prior {_prior(record)}",
        *_starts(record),
        *_projected(record),
        f"moved    {_moved(record)}",
        *_bound(record),
        *([f"nearest  photographs: {nearest_text(record[NEAREST])}"] if NEAREST in record else []),
        *([mixing] if kind not in ("ascent", "fitted") else []),
    ]


def _cut(record: dict[str, Any]) -> list[str]:
    """Return a line if --time_budget ended the run."""
    if TIME_BUDGET not in record:
        return []
    made, budget = record["arguments"]["schedule"]["num_results"], record[TIME_BUDGET]
    return [
        f"cut      at {made} of {budget['num_results']} draws by --time_budget={budget['seconds']:g}s; --resume continues "
        "the run"
    ]


def _batch(record: dict[str, Any]) -> str:
    return f", its share of a batch of {len(record['batch']['index'])} labels" if "batch" in record else ""


def wrote(record: dict[str, Any], folder: Any) -> str:
    """Return the line that lists the files of a run in `folder`."""
    more = "chains.nc, " if record["arguments"]["netcdf"] else ""
    medium = medium_in(record)
    if medium.is_small or record["arguments"].get("save_images"):
        more += f"{medium.noun}-*{medium.ending}, "
    more += f"{medium.joined_name}, " if medium.joined_name else ""
    more += "checkpoint.npz, " if SAMPLERS[record["kernel"]].can_go_on and VARIED not in record else ""
    shown = f"{REPORT} (open it in a browser), grid.png, plots.png, film.png"
    return f"wrote    {as_text(folder)}: {shown}, samples.npz, {more}run.json"


def figure(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` decimals, or 'unknown' for None, which a record has for numbers that are not finite."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def _error(standard_error: float | None) -> str:
    return f" +- {'unknown' if standard_error is None else _places(standard_error)}"


def _places(value: float) -> str:
    """Return `value` with three decimals, or in scientific notation if these would all be 0."""
    return f"{value:.3f}" if value >= LEAST_SHOWN or value == 0 else f"{value:.1e}"


def _estimate(value: float, error: float | None) -> str:
    """Return `value +- error`, with three decimals, or with the digits down to the second one of a smaller error."""
    if error is None or not 0 < error < LEAST_SHOWN or not math.isfinite(value):
        return f"{_places(value)}{_error(error)}"
    last = math.floor(math.log10(error)) - 1
    if abs(value) >= LEAST_SHOWN:
        return f"{value:.{min(-last, MOST_DIGITS)}f}{_error(error)}"
    digits = math.floor(math.log10(abs(value))) - last if value else 1
    return f"{value:.{min(max(digits, 1), MOST_DIGITS)}e}{_error(error)}"


def _rhat(record: dict[str, Any], stat: dict[str, Any]) -> str:
    rhats = {name: each["rhat"] for name, each in record["statistics"].items() if each["rhat"] is not None}
    if rhats:
        names = shown_names(record["latent_dim"])
        worst = max(rhats, key=lambda name: rhats[name])
        shown = [f"{rhats[name]:.3f} of {names[name]}" for name in dict.fromkeys((CLASS_PROB, LATENT, worst)) if name in rhats]
        return f"; R-hat {', '.join(shown)}" if shown else ""
    still = never_moved(record["chains"], record["arguments"]["schedule"]["num_results"])
    return f", R-hat not defined: {still} never moved" if still and kind_of(record) == "chain" else ""


def _starts(record: dict[str, Any]) -> list[str]:
    """Return a line if some chains could not start at exact draws."""
    num_exact, num_chains = record["exact_starts"], record["arguments"]["num_chains"]
    if num_exact is None or num_exact == num_chains:
        return []
    return [
        f"starts   {num_exact} of {num_chains} at exact draws of the target, the others at likely ones of the "
        f"{record['prior_draws']} prior draws"
    ]


def nearest_text(found: Mapping[str, Any]) -> str:
    """Return how near the nearest photographs are to the images, from the record of `evaluation.nearest`."""
    distances = [tile["distance"] for tile in found["tiles"]]
    which = f"{found['num_photographs']} photographs {'of the class' if found.get('is_class') is True else 'of any class'}"
    return (
        f"{min(distances):.3f} to {max(distances):.3f} from the images (1 - cosine of the judge's features, {which}). "
        f"A photograph is {found['median']:.3f} from the nearest other one (median), one in twenty is nearer than "
        f"{found['low']:.3f}; so are {found['num_near']} of {len(distances)} images"
    )


def projection_line(found: Mapping[str, Any], photograph: Any) -> str:
    """Return the line that says how near to a photograph chains start; `found` is the record of a `Projection`."""
    prior = f"random images by {figure(found['prior_pixel_rmse'], 2)}"
    near = f"pixels differ by {figure(found['pixel_rmse'], 2)} (RMS, of 1; {prior})"
    if found["feature_distance"] is not None:
        near += (
            f", the classifier's features by {figure(found['feature_distance'], 2)} "
            f"(1 - cosine; random images by {figure(found['prior_feature_distance'], 2)})"
        )
    way = "encoder" if found["by"] == "encoder" else "optimization"
    return f"nearest  image to {as_text(photograph)}, by {way}, at which all chains start: {near}"


def _projected(record: dict[str, Any]) -> list[str]:
    """Return a line if the chains start at a photograph."""
    if PROJECTION not in record:
        return []
    return [projection_line(record[PROJECTION], record["arguments"].get("init_photograph", "the photograph"))]


def _prior(record: dict[str, Any]) -> str:
    if record["prior_draws"]:
        found = prior_estimate(record)
        return "unknown" if found is None else f"{_estimate(*found[:2])} ({found[2]} draws)"
    evidence = np.asarray(record["evidence"], float)  # NaN for null
    spread = float(evidence.std(ddof=1) / np.sqrt(len(evidence))) if len(evidence) > 1 else None
    power = "" if record["arguments"]["temperature"] == 1 else " ** (1 / temperature)"
    where = ", over the prior draws where it is finite" if record["num_not_finite"] else ""
    return f"p(class){power} is {_estimate(float(evidence.mean()), spread)} by annealing, unbiased{where}"


def _bound(record: dict[str, Any]) -> list[str]:
    """Return the line of a fit: its bound, and the estimates of the same number by prior draws and by its own weights."""
    if FIT not in record:
        return []
    fit = record[FIT]
    power = "" if record["arguments"]["temperature"] == 1 else " ** (1 / temperature)"
    energy = " * exp(energy)" if record["arguments"].get("discriminator_weight") else ""
    what = f"log of the mean of p(class){power}{energy}" if power or energy else "log p(class)"
    bound, prior, mass = (
        figure(fit[name], 2) + _error(fit[f"{name}_error"]) for name in ("bound", "prior_log_mass", "log_mass")
    )
    return [
        f"bound    {what} is at least {bound} by {fit['num_paths']} paths; it is {prior} by the prior draws, {mass} by the "
        f"weights of the paths (Pareto k {figure(fit['pareto_k'], 2)}{_doubt_of(fit)})"
    ]


def _doubt_of(fit: dict[str, Any]) -> str:
    """Return why the estimate from the weights of the paths is not to be trusted; '' if no reason is known.

    Paths that miss a mode leave no trace in their weights, so a small Pareto k alone proves nothing.
    """
    if fit["pareto_k"] is not None and fit["pareto_k"] > MAX_PARETO_K:
        return f", above {MAX_PARETO_K}: not to be trusted"
    figures = [fit[name] for name in ("log_mass", "prior_log_mass", "log_mass_error", "prior_log_mass_error")]
    if None in figures:
        return ""
    mass, prior, *errors = figures
    apart, error = abs(mass - prior), math.hypot(*errors)
    if not error or apart <= MAX_ERRORS * error:
        return ""
    return f", but {apart / error:.1f} standard errors from the prior draws: not to be trusted"


def _moved(record: dict[str, Any]) -> str:
    kind, rate = kind_of(record), record["accept_rate"]
    if kind == "exact":
        return f"acceptance {figure(rate, 4)} of the prior draws; the draws are exact and independent"
    if kind == "fitted":
        return "along learned paths; the draws are independent, of an approximation of the posterior"
    if kind == "particles":
        return "from the prior to the posterior, by powers of the likelihood"
    parts = []
    if FIT in record:
        parts.append(f"acceptance {figure(rate, 2)} of chains that take learned paths as proposals")
    config = record["arguments"]["kernel_config"]
    if "target_accept_prob" in config:
        is_tuned = record["arguments"]["schedule"].get("num_adaptation_steps")
        target = f" (target {config['target_accept_prob']:.2f})" if is_tuned else ""
        parts.append(f"acceptance {figure(rate, 2)}{target}")
    if record["step_size"]:
        steps = np.asarray([step for step in record["step_size"] if step is not None])
        spread = f" ({steps.min():.3f} to {steps.max():.3f} over chains)" if np.ptp(steps) else ""  # of smc's populations
        parts.append(f"step size {np.median(steps):.3f}{spread}")
    return ", ".join(parts or ["every step, without a step size"])
