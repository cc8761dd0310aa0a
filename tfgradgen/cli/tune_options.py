"""From the flags of `tune` to checked settings."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.cli.model_options import MODEL_FLAGS
from tfgradgen.cli.options import KERNEL_FLAGS, SampleOptions, check_flags, parse_bool, parse_path, parse_sample
from tfgradgen.core.checks import check_int, check_real, fail
from tfgradgen.core.config import AdaptedConfig, changed_config
from tfgradgen.core.text import value_text
from tfgradgen.mcmc.presets import PRESETS
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe
from tfgradgen.tuning.space import MIN_RESULTS, check_optuna, check_tunable, filled, num_gradients_of, searched

SAMPLE_FLAGS = ("num_chains", "temperature", "seed", "init", "jit", *MODEL_FLAGS)
OWN_FLAGS = ("kernel", "budget", "num_gradients", "num_seeds", "num_fresh", "control", "out", "resume")
FLAGS = ("label", *OWN_FLAGS, *SAMPLE_FLAGS, *KERNEL_FLAGS)
DEFAULT_KERNEL, DEFAULT_CHAINS = "hmc", 8
MIN_CHAINS = 4  # effective sample sizes see by them whether chains agree
MIN_GRADIENTS = 60  # fewer make no run of any kernel


@dataclass(frozen=True)
class TuneOptions:
    """Everything that `tune` was asked for. sampled: what is sampled, of which models, and how it is run. control: None for
    the kernel's own schedule. fixed: settings of the kernel that are not searched."""

    kernel: str
    sampled: SampleOptions
    budget: float
    num_gradients: int
    num_seeds: int
    num_fresh: int
    control: Path | None
    out: Path
    resume: bool
    fixed: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What decides the trials, JSON-able: neither the budget, which only says how many of them there are, nor where models
        and results lie."""
        own = ("kernel", "num_gradients", "num_seeds", "fixed")
        run = {name: value for name, value in self.sampled.run.to_dict().items() if name != "jit"}
        return {**{name: getattr(self, name) for name in own}, **run, "label": str(self.sampled.label)}


def parse_tune(flags: dict[str, Any]) -> TuneOptions:
    """Checks the flags of `tune`; raises `UserError` for the first that cannot be used."""
    check_flags("tune", flags, FLAGS)
    given = {flag: flags[flag] for flag in SAMPLE_FLAGS if flag in flags}
    sampled = parse_sample({"label": flags["label"], "kernel": "mala", "num_chains": DEFAULT_CHAINS} | given)
    check_optuna()
    kernel = check_tunable(flags.get("kernel", DEFAULT_KERNEL))
    given = {flag: flags[flag] for flag in KERNEL_FLAGS if flag in flags}
    for flag in given:
        if flag not in searched(kernel):
            listed = ", ".join(searched(kernel))
            raise fail("flags", f"of the settings of {kernel} any of {listed}", f"--{flag}", "leave it out")
    fixed = held_fixed(kernel, given)
    check_int("num_chains", sampled.run.num_chains, MIN_CHAINS, 4096)
    if sampled.init_photograph:
        raise fail(
            "init", "one of resample, prior", value_text(flags["init"]), "all chains at one point say little of how they mix"
        )
    num_gradients = check_int("num_gradients", flags.get("num_gradients", 1000), MIN_GRADIENTS, 10_000_000)
    budget = check_real("budget", flags.get("budget", 20 * num_gradients), 0.0)
    if budget < num_gradients:
        raise fail(
            "budget", f"at least one run of num_gradients {num_gradients}", f"{budget:g}", "raise it, to some twenty runs"
        )
    return TuneOptions(
        kernel=kernel,
        sampled=sampled,
        budget=budget,
        num_gradients=num_gradients,
        num_seeds=check_int("num_seeds", flags.get("num_seeds", 1), 1, 1000),
        num_fresh=check_int("num_fresh", flags.get("num_fresh", 4), 2, 1000),
        control=parse_path("control", flags["control"]) if "control" in flags else None,
        out=parse_path("out", flags.get("out", "out/tune")),
        resume=parse_bool("resume", flags.get("resume", False)),
        fixed=fixed,
    )


def read_control(options: TuneOptions) -> Recipe:
    """The schedule to beat, as long as every run."""
    recipe = default_recipe(options.kernel) if options.control is None else read_recipe(options.control)
    if recipe.kernel != options.kernel:
        raise fail("control", f"a schedule of {options.kernel}", f"one of {recipe.kernel}", f"give --kernel={recipe.kernel}")
    control = filled(recipe, options.num_gradients)
    least = math.ceil(num_gradients_of(control))
    if least > options.num_gradients:
        what = f"at least {least}, the control's burn-in and {MIN_RESULTS} draws"
        raise fail("num_gradients", what, options.num_gradients, "raise it, or give a --control with a shorter burn-in")
    return control


def held_fixed(kernel: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings `given`, checked, with the way to adapt that they belong to.

    Raises:
      UserError: one is out of its range, or belongs to another way to adapt.
    """
    config = changed_config(PRESETS[kernel].defaults, given).to_dict()
    belongs = any(name in names for names in AdaptedConfig.idle.values() for name in given)
    return {name: config[name] for name in (*given, *(("adaptation",) if belongs else ()))}
