"""The record of a run, run.json: its arguments, its results and their diagnosis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Draws, accept_prob
from tfgradgen.core.files import finite
from tfgradgen.diagnostics.convergence import statistics
from tfgradgen.diagnostics.issues import chain_table, finite_mean, prior_problems, problems
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import PRIOR_FACTS

MODELS = ("generator", "classifier", "discriminator")
BATCH = "batch"  # in run.json: lists of index, name and wnid of all labels that ran as one batch of chains
AUTO = "auto"  # in run.json: what --kernel=auto chose, and by which mass
SURROUNDINGS = ("versions", "device", "machine", "backend")  # entries of `origin.environment` that determine bits


def surroundings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of an environment, or of a record, that determine the bits of a result."""
    return {name: record[name] for name in SURROUNDINGS}


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a `plan` or run.json that determine the bits of the draws: no paths and no output options."""
    switches = ("overwrite", "resume", "strict", "netcdf", "jit", "allow_unknown_ops", "trust")  # trust: in older runs
    places = ("label", *MODELS, "init_photograph", "schedule_file", "out", *switches)
    arguments = {name: value for name, value in record["arguments"].items() if name not in places}
    # The number of draws does not change the earlier ones.
    arguments["schedule"] = {name: value for name, value in arguments["schedule"].items() if name != "num_results"}
    return {
        **{name: record[name] for name in ("label", "kernel")},
        **surroundings(record),
        "arguments": arguments,
        **{name: record[name] | {"path": None} for name in MODELS if name in record},
    }


def run_record(planned: dict[str, Any], draws: Draws, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the whole of run.json from its `plan`, the draws and `facts`: cost, seconds and statistics of the sampler."""
    found = {name: facts.get(name) for name in (*PRIOR_FACTS, "evidence")}
    found["doubts"] = [*planned["classifier"].get("doubts", []), *facts.get("doubts", [])]
    record = {
        **planned,
        "accept_rate": facts.get("accept_rate", float(accept_prob(draws).mean())),
        **of_draws(draws),
        **found,
        **trust(draws, planned["kernel"], planned["arguments"]["kernel_config"], said_before({**facts, **found})),
        "num_gradients": facts["num_gradients"],
        "num_forward": facts["num_forward"],
        "seconds": round(facts["seconds"], 3),
    }
    return dict(finite(record))  # equal to its copy read from JSON


def of_draws(draws: Draws) -> dict[str, Any]:
    """Return the last step sizes, the mean p(class) and each chain's last p(class); None for numbers that are not finite."""
    steps = draws.step_size[-1]
    return {
        "step_size": [or_none(s) for s in steps] if np.isfinite(steps).any() else None,
        "mean_class_prob": finite_mean(draws.class_prob),
        "final_class_prob": [or_none(p) for p in draws.class_prob[-1]],
    }


def or_none(value: Any) -> float | None:
    """Return `value`, or None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def said_before(facts: Mapping[str, Any]) -> list[str]:
    """Return the problems of the models in `facts` or run.json, which do not depend on the draws."""
    return [*facts.get("doubts", []), *prior_problems(facts.get("num_not_finite"), facts.get("num_scored"))]


def trust(draws: Draws, kernel: str, config: dict[str, Any], doubts: Sequence[str]) -> dict[str, Any]:
    """Return the diagnosis of `draws` for run.json; `doubts` are the problems of the models (`said_before`)."""
    method = SAMPLERS[kernel]
    found, chains = statistics(draws, independent=method.kind == "exact"), chain_table(draws)
    lines = [*doubts, *problems(chains, found, len(draws.z), method.kind, config.get("target_accept_prob"))]
    if method.kind == "chain" and not method.is_calibrated(type(method.defaults)(**config)):
        lines.append("the draws are not from the posterior: --class_reg pulls them to the class mean; leave it out")
    return {
        "statistics": {name: convergence._asdict() for name, convergence in found.items()},
        "chains": chains,
        "problems": lines,
    }
