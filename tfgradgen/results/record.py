"""The record of a run, run.json: what is known before it, what came out, and whether to trust that."""

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
BATCH = "batch"  # in run.json: index, name and wnid, each a list, of all labels that ran as one batch of chains
AUTO = "auto"  # in run.json: what --kernel=auto chose, and by which mass
SURROUNDINGS = ("versions", "device", "machine", "backend")  # of `origin.environment`: what decides bits besides the arguments


def surroundings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an environment, or of a record that holds one, that decides the bits of a result."""
    return {name: record[name] for name in SURROUNDINGS}


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `plan` or run.json decides the bits of the draws: not where things lie, nor how a flag was spelt."""
    switches = ("overwrite", "resume", "strict", "netcdf", "jit", "allow_unknown_ops", "trust")  # the last: of older runs
    places = ("label", *MODELS, "init_photograph", "schedule_file", "out", *switches)
    arguments = {name: value for name, value in record["arguments"].items() if name not in places}
    # How many draws there are does not change those that come before them.
    arguments["schedule"] = {name: value for name, value in arguments["schedule"].items() if name != "num_results"}
    return {
        **{name: record[name] for name in ("label", "kernel")},
        **surroundings(record),
        "arguments": arguments,
        **{name: record[name] | {"path": None} for name in MODELS if name in record},
    }


def run_record(planned: dict[str, Any], draws: Draws, facts: dict[str, Any]) -> dict[str, Any]:
    """All of run.json: the `plan` and what came out; `facts` are what the run found: cost, seconds, and by method more."""
    found = {name: facts.get(name) for name in (*PRIOR_FACTS, "evidence")}
    found |= {"learned": facts["learned"]} if "learned" in facts else {}
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
    return dict(finite(record))  # as it is read again


def of_draws(draws: Draws) -> dict[str, Any]:
    """The last step sizes, the mean p(class) and the last p(class) of each chain; null where a number is not finite."""
    steps = draws.step_size[-1]
    return {
        "step_size": [or_none(s) for s in steps] if np.isfinite(steps).any() else None,
        "mean_class_prob": finite_mean(draws.class_prob),
        "final_class_prob": [or_none(p) for p in draws.class_prob[-1]],
    }


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
