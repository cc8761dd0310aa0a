"""The record beside every output, and the six lines that a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgradgen.cli.terminal import as_text
from tfgradgen.core.contracts import Draws, accept_prob
from tfgradgen.core.files import finite
from tfgradgen.diagnostics.convergence import statistics
from tfgradgen.diagnostics.issues import chain_table, finite_mean, never_moved, prior_problems, problems
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import PRIOR_FACTS

MODELS = ("generator", "classifier", "discriminator")
WORK = {"gradients": "gradients", "forward": "forward passes"}
MAX_PROBLEM = 1000  # characters
UNITS = {"chain": "chains", "exact": "chains", "particles": "populations", "ascent": "ascents"}


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `plan` or run.json decides the bits of the draws: not where things lie, nor how a flag was spelt."""
    switches = ("overwrite", "resume", "strict", "netcdf", "jit", "allow_unknown_ops", "trust")  # the last: of older runs
    places = ("label", *MODELS, "init_photograph", "schedule_file", "out", *switches)
    arguments = {name: value for name, value in record["arguments"].items() if name not in places}
    # How many draws there are does not change those that come before them.
    arguments["schedule"] = {name: value for name, value in arguments["schedule"].items() if name != "num_results"}
    return {
        **{name: record[name] for name in ("label", "kernel", "versions", "device", "machine", "backend")},
        "arguments": arguments,
        **{name: record[name] | {"path": None} for name in MODELS if name in record},
    }


def run_record(planned: dict[str, Any], draws: Draws, facts: dict[str, Any]) -> dict[str, Any]:
    """All of run.json: `plan` and what came out; `facts` are what the run itself found: cost, seconds, and by method more."""
    steps = draws.step_size[-1]
    found = {name: facts.get(name) for name in (*PRIOR_FACTS, "evidence")}
    found["doubts"] = [*planned["classifier"].get("doubts", []), *facts.get("doubts", [])]
    record = {
        **planned,
        "accept_rate": facts.get("accept_rate", float(accept_prob(draws).mean())),
        "step_size": [or_none(s) for s in steps] if np.isfinite(steps).any() else None,
        "mean_class_prob": finite_mean(draws.class_prob),
        "final_class_prob": [or_none(p) for p in draws.class_prob[-1]],
        **found,
        **trust(draws, planned["kernel"], planned["arguments"]["kernel_config"], said_before({**facts, **found})),
        "num_gradients": facts["num_gradients"],
        "num_forward": facts["num_forward"],
        "seconds": round(facts["seconds"], 3),
    }
    return dict(finite(record))  # as it is read again


def or_none(value: Any) -> float | None:
    """`value` as JSON has it: null where it is not finite."""
    return float(value) if np.isfinite(value) else None


def said_before(facts: Mapping[str, Any]) -> list[str]:
    """What facts or run.json say of the models, whatever the draws."""
    return [*facts.get("doubts", []), *prior_problems(facts.get("num_not_finite"), facts.get("num_scored"))]


def trust(draws: Draws, kernel: str, config: dict[str, Any], doubts: Sequence[str]) -> dict[str, Any]:
    """The part of run.json that says whether to trust the draws of `kernel` with the settings `config`; `doubts` are those that
    the models gave rise to (`said_before`)."""
    method = SAMPLERS[kernel]
    found, chains = statistics(draws, independent=method.kind == "exact"), chain_table(draws)
    lines = [*doubts, *problems(chains, found, len(draws.z), method.kind, config.get("target_accept_prob"))]
    if method.kind == "chain" and not method.is_calibrated(type(method.defaults)(**config)):
        lines.append("the draws are not of the posterior: --class_reg pulls them to the class's middle; leave it out for those")
    return {
        "statistics": {name: convergence._asdict() for name, convergence in found.items()},
        "chains": chains,
        "problems": lines,
    }


def trust_lines(record: dict[str, Any]) -> list[str]:
    """One line for each thing that speaks against a run, or one that nothing does."""
    return [f"trust    {as_text(problem, MAX_PROBLEM)}" for problem in record["problems"] or ["nothing speaks against it"]]


def summary(record: dict[str, Any], folder: Any) -> str:
    """Six lines or more: what ran, what came out, how it moved, how sure that is, is it to be trusted, where it lies."""
    arguments, name = record["arguments"], record["label"]["name"]
    schedule, num_chains = arguments["schedule"], arguments["num_chains"]
    stat, kind = record["statistics"]["class_prob"], SAMPLERS[record["kernel"]].kind
    work = [f"{record[f'num_{kind}']:,} {word}" for kind, word in WORK.items() if record[f"num_{kind}"]]
    burnin = f" after {schedule['num_burnin_steps']} discarded" if schedule["num_burnin_steps"] else ""
    ess = "unknown" if stat["ess"] is None else f"{stat['ess']:.0f}"
    more = ("chains.nc, " if arguments["netcdf"] else "") + ("checkpoint.npz, " if SAMPLERS[record["kernel"]].can_go_on else "")
    mean = (
        "unknown" if record["mean_class_prob"] is None else f"{record['mean_class_prob']:.3f}{_error(stat['standard_error'])}"
    )
    mixing = (
        f"mixing   effective sample size (ESS) of p(class) {ess} of {schedule['num_results'] * num_chains}{_rhat(record, stat)}"
    )
    return "\n".join(
        [
            f"ran      {record['kernel']} for {as_text(name)}: {num_chains} {UNITS[kind]}, "
            f"{schedule['num_results']} draws each{burnin}, "
            f"{', '.join(work)} in {record['seconds']:.0f} s ({record['backend']} mode)",
            f"p(class) mean {mean}; under the prior {_prior(record)}",
            *_starts(record),
            f"moved    {_moved(record)}",
            *([mixing] if kind != "ascent" else []),
            *trust_lines(record),
            f"wrote    {as_text(folder)}: grid.png, plots.png, film.png, samples.npz, {more}run.json",
        ]
    )


def figure(value: float | None, digits: int = 3) -> str:
    """`value` with so many digits after the point; of a figure that is not finite there is nothing in a record."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def _error(standard_error: float | None) -> str:
    return f" +- {'unknown' if standard_error is None else _places(standard_error)}"


def _places(value: float) -> str:
    """With three decimals, or where that would be a zero with two digits."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.1e}"


def _rhat(record: dict[str, Any], stat: dict[str, Any]) -> str:
    if stat["rhat"] is not None:
        return f", R-hat {stat['rhat']:.3f}"
    still = never_moved(record["chains"], record["arguments"]["schedule"]["num_results"])
    return f", R-hat not defined: {still} never moved" if still and SAMPLERS[record["kernel"]].kind == "chain" else ""


def _starts(record: dict[str, Any]) -> list[str]:
    """A line where chains could not start at exact draws."""
    num_exact, num_chains = record["exact_starts"], record["arguments"]["num_chains"]
    if num_exact is None or num_exact == num_chains:
        return []
    return [
        f"starts   {num_exact} of {num_chains} at exact draws of the target, the others at likely ones of the "
        f"{record['prior_draws']} prior draws"
    ]


def _prior(record: dict[str, Any]) -> str:
    if record["prior_draws"]:
        if record["prior_class_prob"] is None:
            return "unknown"
        error = _error(record["prior_class_prob_error"])
        return f"{_places(record['prior_class_prob'])}{error} ({record['prior_draws']} draws)"
    evidence = np.asarray(record["evidence"], float)  # NaN for null
    spread = float(evidence.std(ddof=1) / np.sqrt(len(evidence))) if len(evidence) > 1 else None
    power = "" if record["arguments"]["temperature"] == 1 else " ** (1 / temperature)"
    where = ", over the prior draws where it is finite" if record["num_not_finite"] else ""
    return f"p(class){power} is {_places(float(evidence.mean()))}{_error(spread)} by annealing, unbiased{where}"


def _moved(record: dict[str, Any]) -> str:
    kind, rate = SAMPLERS[record["kernel"]].kind, record["accept_rate"]
    if kind == "exact":
        return f"acceptance {figure(rate, 4)} of the prior draws; the draws are exact and independent"
    if kind == "particles":
        return "from the prior to the posterior, by powers of the likelihood"
    parts = []
    if "target_accept_prob" in record["arguments"]["kernel_config"]:
        parts.append(f"acceptance {figure(rate, 2)} (target {record['arguments']['kernel_config']['target_accept_prob']:.2f})")
    if record["step_size"]:
        steps = np.asarray([step for step in record["step_size"] if step is not None])
        spread = f" ({steps.min():.3f} to {steps.max():.3f} over chains)" if np.ptp(steps) else ""  # of smc's populations
        parts.append(f"step size {np.median(steps):.3f}{spread}")
    return ", ".join(parts or ["every step, without a step size"])
