"""From the flags that a user types to checked settings, before anything slow is imported."""

import difflib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tfgradgen.cli.model_options import MODEL_FLAGS, ModelOptions, parse_models
from tfgradgen.core.checks import UserError, check_choice, check_num_chains, did_you_mean, fail
from tfgradgen.core.config import REMOVED, KernelConfig, RunConfig, Schedule
from tfgradgen.core.text import NAME_LENGTH, printable, value_text
from tfgradgen.mcmc.presets import PRESETS
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe, settings_of

KERNEL_FLAGS = tuple(KernelConfig.checks)
SCHEDULE_FLAGS = tuple(field.name for field in fields(Schedule))
RUN_FLAGS = tuple(field.name for field in fields(RunConfig) if field.name != "init_z")
OWN_FLAGS = ("schedule", "out", "gradient_precision", "overwrite", "resume", "strict", "netcdf")
DEFAULT_KERNEL = "mala"
RENAMED = {"trust": "allow_unknown_ops"}  # old flag -> its name now
FLAGS = ("label", "kernel", *KERNEL_FLAGS, *SCHEDULE_FLAGS, *RUN_FLAGS, *MODEL_FLAGS, *OWN_FLAGS)


@dataclass(frozen=True)
class SampleOptions:
    """Everything that `sample` was asked for; `out` is None where a folder is to be chosen, `init_photograph` where chains
    start at none, `schedule_file` where all settings are flags and defaults."""

    label: Any
    kernel: str
    kernel_config: KernelConfig
    schedule: Schedule
    run: RunConfig
    init_photograph: Path | None
    models: ModelOptions
    out: Path | None
    overwrite: bool
    resume: bool
    strict: bool
    netcdf: bool
    gradient_precision: str
    schedule_file: Path | None = None

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.kernel, self.kernel_config, self.schedule)

    def to_dict(self) -> dict[str, Any]:
        """Every argument as it was used, defaults filled in, for the run record."""
        return {
            "label": self.label,
            "kernel": self.kernel,
            "kernel_config": self.kernel_config.to_dict(),
            "schedule": self.schedule.to_dict(),
            **({"schedule_file": str(self.schedule_file)} if self.schedule_file else {}),
            **self.run.to_dict(),
            **({"init_photograph": str(self.init_photograph)} if self.init_photograph else {}),
            **self.models.to_dict(),
            "out": str(self.out) if self.out else None,
            "overwrite": self.overwrite,
            "resume": self.resume,
            "strict": self.strict,
            "netcdf": self.netcdf,
            "gradient_precision": self.gradient_precision,
        }


def check_known(kind: str, given: str, known: Collection[str], where: str) -> None:
    """Raises `UserError`, one short line, where `given` is none of `known`, the names of all of that `kind`; `where` lists
    them."""
    if given not in known:
        bare = {name.strip("-"): name for name in known}
        near = difflib.get_close_matches(given[:NAME_LENGTH].strip("-").lower(), bare, n=1)
        asked = f"did you mean {bare[near[0]]}? " if near else ""
        raise UserError(f"unknown {kind} {printable(given)}; {asked}all {kind}s: {where}")


def check_flags(command: str, flags: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses flags that `command` does not have, naming the nearest that it has."""
    named = [f"--{name}" for name in known]
    for flag in flags:
        if flag in RENAMED and RENAMED[flag] in known:
            raise fail("flags", f"--{RENAMED[flag]}", f"--{flag}", f"--{flag} is now --{RENAMED[flag]}")
        if flag in REMOVED:
            raise fail("flags", "a flag of this version", f"--{flag}", REMOVED[flag])
        check_known("flag", f"--{flag}", named, f"python -m tfgradgen {command} --help")


def parse_path(flag: str, value: Any) -> Path:
    if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
        raise fail(flag, "a path", value_text(value), f"give --{flag}=PATH")
    try:
        return Path(str(value)).expanduser()
    except RuntimeError:
        raise fail(flag, "a path", value_text(value), "there is no such user's home; write the path out") from None


def parse_bool(flag: str, value: Any) -> bool:
    words = {"true": True, "false": False}
    parsed = words.get(value.lower(), value) if isinstance(value, str) else value
    return bool(check_choice(flag, parsed, (True, False)))


def not_used(flag: str, kernel: str) -> UserError:
    return fail(flag, f"a flag that --kernel={kernel} uses", f"--{flag}", "leave it out, or choose another kernel")


def parse_sample(flags: dict[str, Any]) -> SampleOptions:
    """Checks the flags of `sample`; raises `UserError` for the first that cannot be used."""
    given = dict(flags)
    kernel = given.pop("kernel", None)
    schedule_file = parse_path("schedule", given.pop("schedule")) if "schedule" in given else None
    base = read_recipe(schedule_file) if schedule_file else None
    kernel = check_choice("kernel", (base.kernel if base else DEFAULT_KERNEL) if kernel is None else kernel, PRESETS)
    if base and base.kernel != kernel:
        raise fail("kernel", f"{base.kernel}, as in {schedule_file}", kernel, "leave it out, or give another --schedule")
    label = given.pop("label")
    overwrite, resume, strict, netcdf, allow_unknown_ops = (
        parse_bool(flag, given.pop(flag, False)) for flag in ("overwrite", "resume", "strict", "netcdf", "allow_unknown_ops")
    )
    precision = check_choice("gradient_precision", given.pop("gradient_precision", "float32"), ("float32", "bfloat16"))
    if netcdf:
        from tfgradgen.diagnostics.netcdf import check_netcdf

        check_netcdf()
    of_models = {flag: given.pop(flag) for flag in MODEL_FLAGS if flag in given}
    models = parse_models(of_models, allow_unknown_ops)
    out = parse_path("out", given.pop("out")) if "out" in given else None
    photograph = _photograph(given)
    run = RunConfig(**_jit_as_bool({flag: given.pop(flag) for flag in RUN_FLAGS if flag in given}))
    method = PRESETS[kernel]
    check_num_chains(kernel, run.num_chains, method.min_chains)
    unused = {"init": not method.takes_starts, "gradient_precision": not method.takes_gradients}
    # They rest on the likelihood being a probability, and that of the class alone.
    unused["discriminator_weight"] = method.kind in ("exact", "particles") and models.discriminator is not None
    for flag in flags:
        if unused.get(flag):
            raise not_used(flag, kernel)
    for flag in given:
        if flag not in settings_of(method):
            raise not_used(flag, kernel)
    recipe = (base or default_recipe(kernel)).changed(given)
    return SampleOptions(
        label=label,
        kernel=kernel,
        kernel_config=recipe.config,
        schedule=recipe.schedule,
        run=run,
        init_photograph=photograph,
        models=models,
        out=out,
        overwrite=overwrite,
        resume=resume,
        strict=strict,
        netcdf=netcdf,
        gradient_precision=precision,
        schedule_file=schedule_file,
    )


def _photograph(flags: dict[str, Any]) -> Path | None:
    """Takes --init out of `flags` where it is no way to start but a picture's file."""
    init = flags.get("init")
    if init in (None, "resample", "prior"):
        return None
    with suppress(OSError, RuntimeError):  # a name that no file can have, or nobody's home
        path = Path(str(init)).expanduser()
        if path.is_file():
            del flags["init"]
            return path
    raise fail(
        "init",
        "resample, prior or the file of a picture",
        value_text(init),
        did_you_mean(init, ("resample", "prior")) or "check the path",
    )


def _jit_as_bool(flags: dict[str, Any]) -> dict[str, Any]:
    jit = flags.get("jit")
    if isinstance(jit, str) and jit.lower() in ("true", "false"):
        flags["jit"] = jit.lower() == "true"
    return flags
