"""The search space: a range for every setting, and the number of transitions that fit into one run."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from tfgradgen.core.checks import UserError, check_choice, fail
from tfgradgen.core.config import AdaptedConfig, changed_config
from tfgradgen.core.settings import Setting, settings_of
from tfgradgen.mcmc.recipe import Recipe, default_recipe
from tfgradgen.mcmc.registry import SAMPLERS

MIN_KEPT = 20  # kept draws per chain; with fewer, the ESS is overestimated
MAX_BURNIN_SHARE = 0.6  # largest share of burn-in in the gradients of a run
LEAST_ADAPTATION, MOST_ADAPTATION = 8, 256  # transitions
LEAST_PART = 4  # transitions of adaptation in a short run; fewer do not tune
NUM_UNFIT = 200  # most proposals that do not fit into a run
OF_TUNING = ("target_accept_prob", "adaptation")  # settings that only runs with adaptation use
# Adaptation scheme -> its own settings.
OF_ADAPTATION = dict(zip(AdaptedConfig.idle, reversed(AdaptedConfig.idle.values()), strict=True))

Suggest = Callable[[Any, str], Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})


def ranges_of(kernel: str) -> dict[str, Suggest]:
    """Return, for each setting of `kernel` that a search varies, the function that asks an Optuna trial for it.

    A setting that changes the target, such as class_reg, declares no range.
    """
    defaults = SAMPLERS[kernel].defaults
    found = {name: _suggest(setting, getattr(defaults, name)) for name, setting in settings_of(defaults).items()}
    return {name: suggest for name, suggest in found.items() if suggest is not None}


def _suggest(setting: Setting, default: Any) -> Suggest | None:
    if setting.is_searched:
        return lambda trial, name: trial.suggest_categorical(name, setting.choices)
    if setting.search is None:
        return None
    low, high, log, relative = setting.search
    if setting.kind == "whole":
        return lambda trial, name: trial.suggest_int(name, int(low), int(high), log=log)
    scale = default if relative else 1.0
    return lambda trial, name: trial.suggest_float(name, low * scale, high * scale, log=log)


def check_optuna() -> None:
    """Raise `UserError` if Optuna is not installed; otherwise reduce its log to warnings."""
    try:
        import optuna
    except ImportError as error:
        raise fail("tune", "optuna, which proposes schedules", f"none ({error})", "pip install 'tfgradgen[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def check_tunable(kernel: Any) -> str:
    """Return `kernel` if it adapts its step size; raise `UserError` otherwise."""
    return str(check_choice("kernel", kernel, tunable()))


def tunable() -> list[str]:
    """Return the kernels that adapt a step size, which are those that a search takes."""
    return [name for name, sampler in SAMPLERS.items() if sampler.is_tuned]


def searched(kernel: str) -> tuple[str, ...]:
    """Return the settings of `kernel` that a search varies unless they are fixed."""
    return tuple(ranges_of(kernel))


def may_be_untuned(kernel: str, fixed: Mapping[str, Any] = NOTHING) -> bool:
    """Return whether a search also tries runs without adaptation.

    It does not if the kernel adapts more than the step size, or if a setting of adaptation is fixed.
    """
    of_tuning = {*OF_TUNING, *(name for names in OF_ADAPTATION.values() for name in names)}
    return not SAMPLERS[kernel].counts_adaptation and not of_tuning & set(fixed)


def suggest(trial: Any, kernel: str, num_gradients: float, fixed: Mapping[str, Any] = NOTHING) -> Recipe | None:
    """Return a schedule of `kernel` with about `num_gradients` per chain, proposed by an Optuna `trial`.

    Settings in `fixed` are not proposed. At most `MAX_BURNIN_SHARE` of the run is burn-in. The result is None if the
    transitions are so expensive that the run would be too short.
    """
    default = SAMPLERS[kernel].defaults
    ranges = ranges_of(kernel)
    values: dict[str, Any] = {}

    def ask(names: Iterable[str]) -> None:
        values.update({name: fixed[name] if name in fixed else ranges[name](trial, name) for name in names})

    of_tuning = (*OF_TUNING, *(name for names in OF_ADAPTATION.values() for name in names))
    ask(name for name in ranges if name not in of_tuning)
    num_steps = int(num_gradients / SAMPLERS[kernel].cost_fn(changed_config(default, values)).work)
    most_burnin = int(min(MAX_BURNIN_SHARE * num_steps, num_steps - MIN_KEPT))
    if may_be_untuned(kernel, fixed) and not trial.suggest_categorical("is_tuned", (True, False)):
        if num_steps < 2 * MIN_KEPT:
            return None
        num_burnin_steps = min(trial.suggest_int("num_burnin_steps", 1, MOST_ADAPTATION, log=True), most_burnin)
        counts = {"num_adaptation_steps": 0, "num_burnin_steps": num_burnin_steps}
        return filled(default_recipe(kernel).changed(values | counts), num_gradients)
    ask(OF_TUNING)
    ask(OF_ADAPTATION[values["adaptation"]])
    num_adaptation_steps = trial.suggest_int("num_adaptation_steps", LEAST_ADAPTATION, MOST_ADAPTATION, log=True)
    share = trial.suggest_float("adaptation_share", 0.5, 1.0, step=0.25)  # share of the burn-in
    most = int(most_burnin * share)
    if most < LEAST_PART or num_steps < 2 * MIN_KEPT:
        return None
    num_adaptation_steps = min(num_adaptation_steps, most)
    if SAMPLERS[kernel].counts_adaptation:  # a power of two, to compile few graphs
        num_adaptation_steps = 1 << (num_adaptation_steps.bit_length() - 1)
    counts = {"num_adaptation_steps": num_adaptation_steps, "num_burnin_steps": int(num_adaptation_steps / share)}
    return filled(default_recipe(kernel).changed(values | counts), num_gradients)


def check_fits(kernel: str, num_gradients: float, fixed: Mapping[str, Any]) -> None:
    """Raise `UserError` if hardly any proposal fits into a run."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    if not any(suggest(study.ask(), kernel, num_gradients, fixed) for _ in range(NUM_UNFIT)):
        raise unfit(kernel, num_gradients, fixed)


def unfit(kernel: str, num_gradients: float, fixed: Mapping[str, Any]) -> UserError:
    """Return the error for runs that are too short for a schedule of `kernel`."""
    values = "".join(f", --{name}={value}" for name, value in fixed.items())
    remedy = "raise it, or fix fewer settings" if values else "raise it"
    return fail("num_gradients", f"enough for a schedule of {kernel}{values}", f"{num_gradients:g}", remedy)


def coordinates(recipe: Recipe, fixed: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Return the values of a trial for which `suggest` proposes about `recipe`.

    The result is {} if `recipe` is out of the ranges or differs from `fixed`.
    """
    import optuna

    values = recipe.to_dict()
    is_tuned = values["num_adaptation_steps"] > 0
    idle = AdaptedConfig.idle[values["adaptation"]]
    if not is_tuned:
        idle = (*OF_TUNING, *(name for names in OF_ADAPTATION.values() for name in names))
    names = [name for name in searched(recipe.kernel) if name not in idle]
    default = default_recipe(recipe.kernel).config.to_dict()
    if any(values[name] != fixed.get(name, values[name]) for name in names) or any(
        values[name] != default[name] for name in default if name not in searched(recipe.kernel)
    ):
        return {}
    found = {name: values[name] for name in names if name not in fixed}
    if may_be_untuned(recipe.kernel, fixed):
        found["is_tuned"] = is_tuned
    if is_tuned:
        share = values["num_adaptation_steps"] / max(values["num_burnin_steps"], 1)
        found |= {"num_adaptation_steps": values["num_adaptation_steps"], "adaptation_share": round(4 * share) / 4}
    else:
        found["num_burnin_steps"] = values["num_burnin_steps"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            suggest(optuna.trial.FixedTrial(found), recipe.kernel, num_gradients_of(recipe), fixed)
        except (UserWarning, ValueError):  # a value is out of range
            return {}
    return found


def filled(recipe: Recipe, num_gradients: float) -> Recipe:
    """Return `recipe` with as many kept draws, at least `MIN_KEPT`, as give a run of `num_gradients` per chain with burn-in."""
    num_results = int(num_gradients / _per_step(recipe)) - recipe.schedule.num_burnin_steps
    return recipe.changed({"num_results": max(MIN_KEPT, num_results)})


def num_gradients_of(recipe: Recipe) -> float:
    """Return the approximate cost of a run of `recipe` per chain, with forward passes in units of gradients."""
    return _per_step(recipe) * recipe.schedule.num_steps


def _per_step(recipe: Recipe) -> float:
    return SAMPLERS[recipe.kernel].cost_fn(recipe.config).work
