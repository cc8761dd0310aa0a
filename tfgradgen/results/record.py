"""The record of a run, run.json: its arguments, its results and their diagnosis."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Cost, Draws, accept_prob
from tfgradgen.core.files import finite
from tfgradgen.diagnostics.advice import MIN_PRIOR_DRAWS, Run, accepted_mass
from tfgradgen.diagnostics.convergence import run_statistics
from tfgradgen.diagnostics.issues import (
    GRADES,
    IMAGES,
    Issue,
    chain_table,
    checked,
    finite_mean,
    issue,
    passed,
    prior_problems,
    problems,
)
from tfgradgen.mcmc.recipe import settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import PRIOR_STATS
from tfgradgen.media.registry import medium_in

MODELS = ("generator", "classifier", "discriminator")  # models with an entry of their own in run.json
PLACES = (*MODELS, "text_model")  # arguments of a run that say where a model is
TEXTS = ("text", "text_model", "reference_captions")  # arguments of a run about its text
BATCH = "batch"  # in run.json: lists of index, name and wnid of all labels that ran as one batch of chains
AUTO = "auto"  # in run.json: what --kernel=auto chose, and by which mass
FIT = "fit"  # in run.json: what `mcmc.importance.of_weights` says of a fitted approximation
LEARNED = "learned"  # in run.json: the proposals that a kernel learned, and their quality
VARIED = "varied"  # in run.json of `vary`: the run, chain and amount that its chains come from
NEAREST = "nearest_photographs"  # in run.json: the photograph nearest to each image (`evaluation.nearest`)
PROJECTION = "projection"  # in run.json: how near the start is to a photograph (`mcmc.projection.Projection`)
TIME_BUDGET = "time_budget"  # in run.json of a run that was cut: its seconds, and the num_results that it did not reach
ALONE = "alone"  # in run.json of one of several labels that ran by itself: the value of --label that names it alone
# Settings that, if raised, make the proposals of a kernel better: their number, their tails and their fit.
BETTER = ("num_proposals", "prior_share", "num_optimization_steps", "num_pool_draws")
BLOCK = "block"  # in the arguments of a run: chains that adapt and draw together, if they are not all chains of a label
SURROUNDINGS = ("versions", "device", "machine", "backend")  # entries of `origin.environment` that determine bits


def surroundings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of an environment, or of a record, that determine the bits of a result."""
    return {name: record[name] for name in SURROUNDINGS}


def is_of_condition(record: Mapping[str, Any]) -> bool:
    """Return whether a run of `sample` sampled a condition. A class has the signature of its classifier, a condition has none.

    The name does not tell: before `ALONE`, a class beside conditions was sampled as a condition with the name of the class.
    """
    label = record["label"]
    return label.get("index") == 1 and not label.get("wnid") and "signature" not in record["classifier"]


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a `plan` or run.json that determine the bits of the draws: no paths and no output options."""
    switches = (
        "overwrite",
        "resume",
        "strict",
        "netcdf",
        "save_images",
        "jit",
        "allow_unknown_ops",
        "trust",
    )  # trust: in older runs
    further = ("text_model", "reference_captions", "init_photograph", "photographs")
    places = ("label", *MODELS, *further, "schedule_file", "out", *switches)
    arguments = {name: value for name, value in record["arguments"].items() if name not in places}
    # The number of draws does not change the earlier ones.
    arguments["schedule"] = {name: value for name, value in arguments["schedule"].items() if name != "num_results"}
    return {
        **{name: record[name] for name in ("label", "kernel")},
        **surroundings(record),
        "arguments": arguments,
        **{name: record[name] | {"path": None} for name in MODELS if name in record},
    }


def run_record(planned: dict[str, Any], draws: Draws, stats: dict[str, Any]) -> dict[str, Any]:
    """Return the whole of run.json from its `plan`, the draws and `stats`: cost, seconds and statistics of the sampler."""
    found = {name: stats.get(name) for name in (*PRIOR_STATS, "evidence")}
    found |= {name: stats[name] for name in (FIT, LEARNED) if name in stats}
    found["doubts"] = [*planned["classifier"].get("doubts", []), *stats.get("doubts", [])]
    found["image_doubts"] = stats.get("image_doubts", [])
    cost = {name: stats[name] for name in Cost._fields}
    record = {
        **planned,
        "accept_rate": stats.get("accept_rate", float(accept_prob(draws).mean())),
        **of_draws(draws),
        **found,
        **diagnosis(draws, finite({**planned, **found, **cost})),
        **cost,
        "seconds": round(stats["seconds"], 3),
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


def said_before(stats: Mapping[str, Any]) -> list[Issue]:
    """Return the problems of the models and of the stored images in `stats` or run.json; they do not depend on the draws."""
    return [
        *(issue("models", line) for line in stats.get("doubts", [])),
        *(issue("models", line, IMAGES) for line in stats.get("image_doubts", [])),
        *prior_problems(stats.get("num_not_finite"), stats.get("num_scored")),
    ]


def diagnosis(draws: Draws, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of run.json that grades a run: are its images draws of the posterior, are its means good to their errors?

    Args:
      record: What else is known of the run, by the names in run.json.

    Returns:
      By name:
      - statistics: The `Convergence` of each statistic.
      - worst_coordinate: The coordinate of z that `statistics` contains.
      - latent_dim: Number of coordinates of z.
      - chains: The `chain_table`.
      - grades: 'ok' or 'warning' for each grade.
      - passed: Lines about what is in order.
      - problems: Lines about the problems, with their remedies (see `advice.priced`).
      - warnings: The section of diagnostics/README.md about each problem.
    """
    run = run_of(draws, record)
    sizes = len(draws.z), draws.z.shape[-1]
    found, coordinate = run_statistics(draws, independent=run.is_independent, labels=_labels(record, draws.z.shape[1]))
    chains = chain_table(draws)
    bad = [*said_before(record), *problems(chains, found, *sizes, run)]
    against = {grade for one in bad for grade in one.against}
    good = passed(chains, found, *sizes, run, [*against])
    return {
        "statistics": {name: convergence._asdict() for name, convergence in found.items()},
        "worst_coordinate": coordinate,
        "latent_dim": sizes[1],
        "chains": chains,
        "grades": {grade: "warning" if grade in against else "ok" for grade in GRADES},
        "passed": [*good, *([] if bad else [checked(run, sizes[1])])],
        "problems": [one.line(run.medium) for one in bad],
        "warnings": [one.page for one in bad],
    }


def run_of(draws: Draws, record: Mapping[str, Any]) -> Run:
    """Return what a diagnosis needs from `record`, whose entries have the names of run.json."""
    method, config = SAMPLERS[record["kernel"]], record["arguments"]["kernel_config"]
    schedule, num_chains = record["arguments"]["schedule"], draws.z.shape[1]
    labels = _labels(record, num_chains)
    num_adaptation_steps = schedule.get("num_adaptation_steps", 0)
    has_energy = "discriminator" in record
    num_exact, init = record.get("exact_starts"), record["arguments"].get("init", "resample")
    # With few exact draws, the other chains start at the likeliest prior draws, which may be the same ones. Annealed particles
    # may have one ancestor.
    is_dispersed = init == "prior" or (init == "resample" and (has_energy or num_exact is None or 2 * num_exact >= num_chains))
    settings, is_learned = settings_of(method), bool({FIT, LEARNED} & record.keys())
    return Run(
        kind=method.kind_of(config),
        is_calibrated=method.is_calibrated(type(method.defaults)(**config)),
        has_step=bool(np.isfinite(draws.step_size[-1]).any()),
        target_accept_prob=config.get("target_accept_prob") if num_adaptation_steps else None,
        num_burnin_steps=schedule.get("num_burnin_steps", 0),
        num_adaptation_steps=num_adaptation_steps,
        num_sharing=_num_sharing(record, labels, num_chains),
        is_divided=labels is None and (record["arguments"].get(BLOCK) or num_chains) < num_chains,
        # What a kernel learned from the rows where its chains start is not independent of the starts.
        num_exact=None if is_learned else num_exact,
        is_learned=is_learned,
        has_burnin="num_burnin_steps" in settings,
        takes_init=method.takes_starts,
        better=tuple(name for name in BETTER if name in settings),
        chosen=record["kernel"] if AUTO in record else "",
        is_dispersed=is_dispersed,
        is_near=VARIED in record,
        is_regularized=config.get("class_reg", 0.0) > 0,
        mass=None if has_energy or labels is not None else _mass(record),
        work=Cost(record["num_gradients"], record["num_forward"]).work,
        medium=medium_in(record),
    )


def prior_estimate(record: Mapping[str, Any]) -> tuple[float, float | None, int] | None:
    """Return the best estimate of the mean of p(class) under the prior that run.json has.

    It is that of the run, or at temperature 1 that by which --kernel=auto chose, if this has more draws.

    Returns:
      The mean, its standard error and the number of prior draws; None if they are fewer than `MIN_PRIOR_DRAWS`.
    """
    value, error = record.get("prior_class_prob"), record.get("prior_class_prob_error")
    num_draws, chosen = record.get("prior_draws") or 0, record.get(AUTO)
    # The mass counts a draw without a finite p(class) as 0, and of several labels it is that of the rarest one.
    is_same = record["arguments"].get("temperature", 1.0) == 1 and not record.get("num_not_finite")
    if chosen and is_same and not isinstance(record["label"].get("index"), list) and chosen["num_draws"] > num_draws:
        value, error, num_draws = chosen["mass"], chosen["error"], chosen["num_draws"]
    return None if value is None or num_draws < MIN_PRIOR_DRAWS else (value, error, num_draws)


def _mass(record: Mapping[str, Any]) -> float | None:
    """Return a lower bound on the share of prior draws that rejection accepts; None if it is unknown."""
    if AUTO in record:
        return accepted_mass(record[AUTO]["mass"], 1.0)
    found = prior_estimate(record)
    return accepted_mass(found and found[0], record["arguments"].get("temperature", 1.0))


def _num_sharing(record: Mapping[str, Any], labels: np.ndarray | None, num_chains: int) -> int:
    """Return the least number of chains that share a step size: those of a label, or of a block."""
    if labels is not None:
        return int(np.unique(labels, return_counts=True)[1].min())
    return smallest_block(record["arguments"].get(BLOCK) or num_chains, num_chains)


def smallest_block(size: int, num_chains: int) -> int:
    """Return the number of chains in the smallest block of a run in blocks of `size`; the last one may be smaller."""
    return min(size, num_chains % size or size)


def _labels(record: Mapping[str, Any], num_chains: int) -> np.ndarray | None:
    """Return the labels of the chains [num_chains] if there are several."""
    index = np.asarray(record["label"].get("index"))
    return index if index.shape == (num_chains,) and len(np.unique(index)) > 1 else None
