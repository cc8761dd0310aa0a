"""The flags of `tune`, parsed and checked."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.cli.flags import check_flags, flags_of, read_flags
from tfgradgen.cli.model_options import MODEL_FLAGS
from tfgradgen.cli.options import ANY_KERNEL, PLACE_FLAGS, SampleOptions, kernel_flags, parse_sample
from tfgradgen.core.checks import check_int, fail
from tfgradgen.core.config import AdaptedConfig, changed_config
from tfgradgen.core.settings import path, real, switch, text, whole
from tfgradgen.core.text import value_text
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.tuning.space import MIN_KEPT, check_optuna, check_tunable, filled, num_gradients_of, searched

SAMPLE_FLAGS = ("num_chains", "temperature", "seed", "init", "jit", *PLACE_FLAGS, *MODEL_FLAGS)
DEFAULT_KERNEL, DEFAULT_CHAINS = "hmc", 8
STARTS = ("resample", "prior")
MIN_CHAINS = 4  # the ESS needs several chains to reflect whether they agree
MIN_GRADIENTS = 60  # no kernel can run with fewer
RUNS_OF_BUDGET = 20


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of `tune`. Fields without a line here are described by their help.

    Attributes:
      sampled: What is sampled from which models, and how it is run.
      control: None for the kernel's own schedule.
      fixed: Settings of the kernel that are not searched.
    """

    kernel: str = text(DEFAULT_KERNEL, help="kernel whose settings are searched; it must adapt a step size")
    sampled: SampleOptions
    budget: float = real(
        shown="X", help=f"gradients per chain, of all trials together; by default {RUNS_OF_BUDGET} times num_gradients"
    )
    num_gradients: int = whole(
        1000,
        low=MIN_GRADIENTS,
        high=10_000_000,
        help="gradients per chain in each run, including burn-in and adaptation",
    )
    num_seeds: int = whole(1, low=1, high=1000, help="largest number of runs of each label in a trial; poor trials end earlier")
    num_fresh: int = whole(
        4,
        low=2,
        high=1000,
        help="runs of each label on fresh seeds, for the best and for the control; not part of --budget",
    )
    control: Path | None = path(None, shown="FILE", help="schedule to beat; by default that of the kernel")
    out: Path = path(Path("out/tune"), shown="out/tune", help="output folder")
    resume: bool = switch(help="continue the search in that folder; a larger --budget extends it")
    fixed: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what determines the trials, JSON-serializable.

        The budget is left out, because it only determines the number of trials. So are the locations of models and results.
        """
        own = ("kernel", "num_gradients", "num_seeds", "fixed")
        run = {name: value for name, value in self.sampled.run.to_dict().items() if name != "jit"}
        return {**{name: getattr(self, name) for name in own}, **run, "label": str(self.sampled.label)}


OWN_FLAGS = tuple(flags_of(TuneOptions))


def tune_flags() -> tuple[str, ...]:
    """Return all flags that `tune` takes with any kernel."""
    return ("label", *OWN_FLAGS, *SAMPLE_FLAGS, *kernel_flags())


def parse_tune(flags: dict[str, Any]) -> TuneOptions:
    """Return the options that the flags of `tune` give.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    check_flags("tune", flags, tune_flags())
    if flags.get("init") not in (None, *STARTS):
        remedy = "the chains of a trial start at exact draws, or at prior draws"
        raise fail("init", f"one of {', '.join(STARTS)}", value_text(flags["init"]), remedy)
    given = {flag: flags[flag] for flag in SAMPLE_FLAGS if flag in flags}
    sampled = parse_sample({"label": flags["label"], "kernel": ANY_KERNEL, "num_chains": DEFAULT_CHAINS} | given)
    check_optuna()
    own = read_flags(TuneOptions, flags)
    kernel = check_tunable(own["kernel"])
    given = {flag: flags[flag] for flag in kernel_flags() if flag in flags}
    for flag in given:
        if flag not in searched(kernel):
            listed = ", ".join(searched(kernel))
            raise fail("flags", f"a setting of {kernel}: one of {listed}", f"--{flag}", "leave it out")
    fixed = held_fixed(kernel, given)
    check_int("num_chains", sampled.run.num_chains, MIN_CHAINS, 4096)
    budget, num_gradients = own.get("budget", float(RUNS_OF_BUDGET * own["num_gradients"])), own["num_gradients"]
    if budget < num_gradients:
        raise fail(
            "budget", f"at least one run of num_gradients {num_gradients}", f"{budget:g}", "raise it, to some twenty runs"
        )
    return TuneOptions(**own | {"budget": budget}, sampled=sampled, fixed=fixed)


def read_control(options: TuneOptions) -> Recipe:
    """Return the schedule to beat, with the length of a run.

    Raises:
      UserError: It is a schedule of another kernel, or does not fit into a run.
    """
    recipe = default_recipe(options.kernel) if options.control is None else read_recipe(options.control)
    if recipe.kernel != options.kernel:
        raise fail("control", f"a schedule of {options.kernel}", f"one of {recipe.kernel}", f"give --kernel={recipe.kernel}")
    control = filled(recipe, options.num_gradients)
    least = math.ceil(num_gradients_of(control))
    if least > options.num_gradients:
        what = f"at least {least}, the control's burn-in and {MIN_KEPT} draws"
        raise fail("num_gradients", what, options.num_gradients, "raise it, or give a --control with a shorter burn-in")
    return control


def held_fixed(kernel: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `given`, checked, with the adaptation scheme that they belong to.

    Raises:
      UserError: A setting is out of range, or belongs to another adaptation scheme.
    """
    config = changed_config(SAMPLERS[kernel].defaults, given).to_dict()
    belongs = any(name in names for names in AdaptedConfig.idle.values() for name in given)
    return {name: config[name] for name in (*given, *(("adaptation",) if belongs else ()))}
