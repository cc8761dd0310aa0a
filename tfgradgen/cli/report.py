"""The record beside every output, and the six lines that a person reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgradgen.cli.terminal import as_text
from tfgradgen.contracts import Draws, accept_prob
from tfgradgen.diagnostics import statistics
from tfgradgen.files import finite
from tfgradgen.presets import PRESETS
from tfgradgen.trust import chain_table, problems

MODELS = ("generator", "classifier", "discriminator")
WORK = {"gradients": "gradients", "forward": "forward passes"}
MAX_PROBLEM = 1000  # characters
UNITS = {"chain": "chains", "exact": "chains", "particles": "populations", "ascent": "ascents"}


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `plan` or run.json decides the bits of the draws: not where things lie, nor how a flag was spelt."""
    switches = ("overwrite", "resume", "strict", "netcdf", "jit", "allow_unknown_ops", "trust")  # the last: of older runs
    places = ("label", *MODELS, "init_photograph", "schedule_file", "out", *switches)
    return {
        **{name: record[name] for name in ("label", "kernel", "versions", "device", "machine", "backend")},
        "arguments": {name: value for name, value in record["arguments"].items() if name not in places},
        **{name: record[name] | {"path": None} for name in MODELS if name in record},
    }


def run_record(planned: dict[str, Any], draws: Draws, facts: dict[str, Any]) -> dict[str, Any]:
    """All of run.json: `plan` and what came out; `facts` are what the run itself found: cost, seconds, and by method more."""
    steps = draws.step_size[-1]
    found = {name: facts.get(name) for name in ("prior_class_prob", "prior_draws", "evidence")}
    doubts = [*planned["classifier"].get("doubts", []), *facts.get("doubts", [])]
    record = {
        **planned,
        "accept_rate": facts.get("accept_rate", float(accept_prob(draws).mean())),
        "step_size": [float(s) for s in steps] if np.isfinite(steps).any() else None,
        "mean_class_prob": float(draws.class_prob.mean()),
        "final_class_prob": [float(p) for p in draws.class_prob[-1]],
        **found,
        "doubts": doubts,
        **trust(draws, planned["kernel"], planned["arguments"]["kernel_config"], doubts),
        "num_gradients": facts["num_gradients"],
        "num_forward": facts["num_forward"],
        "seconds": round(facts["seconds"], 3),
    }
    return dict(finite(record))  # as it is read again


def trust(draws: Draws, kernel: str, config: dict[str, Any], doubts: Sequence[str]) -> dict[str, Any]:
    """The part of run.json that says whether to trust the draws of `kernel` with the settings `config`; `doubts` are those that
    the models gave before the first step."""
    method = PRESETS[kernel]
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
    stat, kind = record["statistics"]["class_prob"], PRESETS[record["kernel"]].kind
    work = [f"{record[f'num_{kind}']:,} {word}" for kind, word in WORK.items() if record[f"num_{kind}"]]
    burnin = f" after {schedule['num_burnin_steps']} discarded" if schedule["num_burnin_steps"] else ""
    ess = "unknown" if stat["ess_bulk"] is None else f"{stat['ess_bulk']:.0f} of {schedule['num_results'] * num_chains}"
    rhat = "" if stat["rhat"] is None else f", R-hat {stat['rhat']:.3f}"
    chains = "chains.nc, " if arguments["netcdf"] else ""
    error = "" if stat["standard_error"] is None else f" +- {stat['standard_error']:.3f}"
    return "\n".join(
        [
            f"ran      {record['kernel']} for {as_text(name)}: {num_chains} {UNITS[kind]}, "
            f"{schedule['num_results']} draws each{burnin}, "
            f"{', '.join(work)} in {record['seconds']:.0f} s ({record['backend']} mode)",
            f"p(class) mean {figure(record['mean_class_prob'])}{error}; under the prior {_prior(record)}",
            f"moved    {_moved(record)}",
            *([f"mixing   effective draws of p(class) {ess}{rhat}"] if kind != "ascent" else []),
            *trust_lines(record),
            f"wrote    {as_text(folder)}: grid.png, plots.png, film.png, samples.npz, {chains}run.json",
        ]
    )


def figure(value: float | None, digits: int = 3) -> str:
    """`value` with so many digits after the point; of a figure that is not finite there is nothing in a record."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def _prior(record: dict[str, Any]) -> str:
    if record["prior_draws"]:
        return f"{figure(record['prior_class_prob'])} ({record['prior_draws']} draws)"
    evidence = np.asarray(record["evidence"], float)  # NaN for null
    error = f" +- {evidence.std(ddof=1) / np.sqrt(len(evidence)):.3f}" if len(evidence) > 1 else ""
    power = "" if record["arguments"]["temperature"] == 1 else " ** (1 / temperature)"
    return f"p(class){power} is {evidence.mean():.3f}{error} by annealing"


def _moved(record: dict[str, Any]) -> str:
    kind, rate = PRESETS[record["kernel"]].kind, record["accept_rate"]
    if kind == "exact":
        return f"acceptance {figure(rate, 4)} of the prior draws; the draws are exact and independent"
    if kind == "particles":
        return "from the prior to the posterior, by powers of the likelihood"
    parts = []
    if "target_accept_prob" in record["arguments"]["kernel_config"]:
        parts.append(f"acceptance {figure(rate, 2)} (target {record['arguments']['kernel_config']['target_accept_prob']:.2f})")
    if record["step_size"]:
        steps = np.asarray([step for step in record["step_size"] if step is not None])
        parts.append(f"step size {np.median(steps):.3f} ({steps.min():.3f} to {steps.max():.3f} over chains)")
    return ", ".join(parts or ["every step, without a step size"])
