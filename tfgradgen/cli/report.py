"""The record beside every output, and the six lines that a person reads."""

import platform
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfgradgen
from tfgradgen.backend import use_xla
from tfgradgen.cli.options import SampleOptions
from tfgradgen.contracts import Cost, Draws
from tfgradgen.diagnostics import statistics
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.generator import Generator
from tfgradgen.trust import chain_table, problems


def environment(jit: bool | str) -> dict[str, Any]:
    """Versions and the device: what decides the bits of a result besides the arguments."""
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    xla = use_xla(jit)
    return {
        "versions": {
            "tfgradgen": tfgradgen.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "tensorflow_probability": tfp.__version__,
            "numpy": np.__version__,
        },
        "device": [device.name for device in devices],
        "machine": platform.machine(),
        "jit": xla,
        "backend": "xla" if xla else "graph",  # the two draw different random numbers from one seed
    }


def model_record(model: Generator | Classifier) -> dict[str, Any]:
    own = ("latent_dim", "image_shape", "image_size", "output")
    return {
        "path": model.path,
        "sha256": model.sha256,
        "image_range": list(model.image_range),
        **{name: getattr(model, name) for name in own if hasattr(model, name)},
        "assumed": list(model.assumed),
    }


def plan(options: SampleOptions, generator: Generator, classifier: Classifier, index: int) -> dict[str, Any]:
    """The part of run.json that is known before the run."""
    label = classifier.labels[index]
    return {
        "command": "sample",
        "label": {"index": index, "name": label.name, "wnid": label.wnid},
        "kernel": options.kernel,
        "seed": options.run.seed,
        "arguments": options.to_dict(),
        "generator": model_record(generator),
        "classifier": model_record(classifier),
        **environment(options.run.jit),
    }


def identity(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `plan` or run.json decides the bits of the draws: not where things lie, nor how a flag was spelt."""
    arguments, places = record["arguments"], ("label", "generator", "classifier", "out", "overwrite", "resume", "strict", "jit")
    return {
        **{name: record[name] for name in ("label", "kernel", "versions", "device", "machine", "backend")},
        "arguments": {name: value for name, value in arguments.items() if name not in places},
        **{name: record[name] | {"path": None} for name in ("generator", "classifier")},
    }


def run_record(planned: dict[str, Any], draws: Draws, facts: dict[str, Any]) -> dict[str, Any]:
    """All of run.json: `plan` and what came out; `facts` are what the run itself measured: cost, seconds, prior_class_prob."""
    config = planned["arguments"]["kernel_config"]
    independent = config is None
    cost: Cost = facts["cost"]
    return {
        **planned,
        "accept_rate": float(draws.is_accepted.mean()) if not independent else facts["accept_rate"],
        "step_size": [float(s) for s in draws.step_size[-1]] if not independent else None,
        "mean_class_prob": float(draws.class_prob.mean()),
        "final_class_prob": [float(p) for p in draws.class_prob[-1]],
        "prior_class_prob": facts["prior_class_prob"],
        "prior_draws": facts["prior_draws"],
        **trust(draws, config),
        "num_gradients": cost.num_gradients,
        "num_forward": cost.num_forward,
        "seconds": round(facts["seconds"], 3),
    }


def trust(draws: Draws, config: dict[str, Any] | None) -> dict[str, Any]:
    """The part of run.json that says whether to trust the draws; `config` is the kernel's, None for exact draws."""
    found, chains = statistics(draws, independent=config is None), chain_table(draws)
    return {
        "statistics": {name: convergence._asdict() for name, convergence in found.items()},
        "chains": chains,
        "problems": problems(chains, found, len(draws.z), config["target_accept_prob"] if config else None),
    }


def trust_lines(record: dict[str, Any]) -> list[str]:
    """One line for each thing that speaks against a run, or one that nothing does."""
    return [f"trust    {problem}" for problem in record["problems"] or ["nothing speaks against it"]]


def summary(record: dict[str, Any], folder: Any) -> str:
    """Six lines or more: what ran, what came out, how it moved, how sure that is, is it to be trusted, where it lies."""
    arguments, name = record["arguments"], record["label"]["name"]
    schedule, num_chains = arguments["schedule"], arguments["num_chains"]
    stat = record["statistics"]["class_prob"]
    work = f"{record['num_gradients']:,} gradients" if record["num_gradients"] else f"{record['num_forward']:,} prior draws"
    burnin = f" after {schedule['num_burnin_steps']} discarded" if schedule["num_burnin_steps"] else ""
    if record["step_size"]:
        steps = np.asarray(record["step_size"])
        target = arguments["kernel_config"]["target_accept_prob"]
        moved = (
            f"acceptance {record['accept_rate']:.2f} (target {target:.2f}), "
            f"step size {np.median(steps):.3f} ({steps.min():.3f} to {steps.max():.3f} over chains)"
        )
    else:
        moved = f"acceptance {record['accept_rate']:.4f} of the prior draws; the draws are exact and independent"
    ess = "unknown" if stat["ess_bulk"] is None else f"{stat['ess_bulk']:.0f} of {schedule['num_results'] * num_chains}"
    rhat = "" if stat["rhat"] is None else f", R-hat {stat['rhat']:.3f}"
    error = "" if stat["standard_error"] is None else f" +- {stat['standard_error']:.3f}"
    return "\n".join(
        [
            f"ran      {record['kernel']} for {name}: {num_chains} chains, {schedule['num_results']} draws each{burnin}, "
            f"{work} in {record['seconds']:.0f} s ({record['backend']} mode)",
            f"p(class) mean {record['mean_class_prob']:.3f}{error}; under the prior {record['prior_class_prob']:.3f} "
            f"({record['prior_draws']} draws)",
            f"moved    {moved}",
            f"mixing   effective draws of p(class) {ess}{rhat}",
            *trust_lines(record),
            f"wrote    {folder}: grid.png, samples.npz, run.json",
        ]
    )
