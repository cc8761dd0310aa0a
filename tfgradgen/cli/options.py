"""The flags of a run, as `sample` takes them, parsed and checked before slow imports."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfgradgen.cli.flags import flags_of, read_flags
from tfgradgen.cli.model_options import MODEL_FLAGS, ModelOptions, parse_models
from tfgradgen.core.checks import check_choice, check_num_chains, did_you_mean, fail
from tfgradgen.core.config import KINDS_OF_START, KernelConfig, RunConfig, Schedule
from tfgradgen.core.settings import choice, path, switch, text, value, whole
from tfgradgen.core.settings import settings_of as declared
from tfgradgen.core.text import value_text
from tfgradgen.engine.blocks import check_block
from tfgradgen.engine.engine import ENGINES, Place, checked_place
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.recipe import Recipe, default_recipe, read_recipe, settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler
from tfgradgen.results.record import BLOCK

ANY_KERNEL = "mala"  # kernel of commands that do not ask for one
PRECISIONS = ("float32", "bfloat16")
_DURATION = re.compile(r"(?:(\d{1,9}(?:\.\d*)?)h)?(?:(\d{1,9}(?:\.\d*)?)m)?(?:(\d{1,9}(?:\.\d*)?)s?)?", re.ASCII)
MAX_SECONDS = 1e8  # three years
PLACE_FLAGS = ("engine", "address", "devices")
SCHEDULE_FLAGS, RUN_FLAGS = tuple(declared(Schedule)), tuple(declared(RunConfig))


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """The options of `sample`. Fields without a line here are described by their help.

    Attributes:
      recipe: Kernel, settings and counts; with --kernel=auto those of one of the kernels that it chooses from.
      run: Settings of the run that do not depend on the kernel.
      auto: The settings given with --kernel=auto; None if a kernel was named.
      init_photograph: The photograph at which chains start; None if they do not start at one.
      projection: How the point of that photograph was found (see `mcmc.projection`); None before, and without one.
      models: The models.
      like: None if no earlier run is repeated. Its settings are in the other fields.
      time_budget: In seconds; None for no bound.
      block: Chains in a block; None if those of a label, or of a batch of labels, stay together.
      address: None if a cluster is started, or if there is none.
      devices: None if there is no process for each device.
      schedule_file: None if all settings come from flags and defaults.
      out: None if the folder is chosen automatically.
    """

    label: Any = text(
        None,
        shown="NAME",
        help="class name, WordNet id, or index if no class has that name; several as a,b,c; or all. `labels` lists them",
    )
    recipe: Recipe = text(
        flag="kernel",
        shown=auto.NAME,
        help="sampling method; `kernels` lists all. auto decides by the share of prior draws that show the class: "
        f"{auto.about()}",
    )
    run: RunConfig
    auto: dict[str, Any] | None = None
    init_photograph: Path | None
    projection: dict[str, Any] | None = None
    models: ModelOptions
    schedule_file: Path | None = path(
        None,
        flag="schedule",
        shown="FILE",
        help="YAML file with the settings of a kernel, as written by `tune`; flags override it",
    )
    like: Path | None = path(
        None,
        shown="RUN",
        help="run.json of an earlier run, or its folder: take all settings of that run; flags override them. "
        "Of one of several labels it draws this label, or its batch, alone",
    )
    time_budget: float | None = value(
        None,
        shown="60s",
        help="stop drawing after so much time, such as 90s, 5m or 1h30m, and keep what was drawn; several labels share it. "
        "--resume continues",
    )
    gradient_precision: str = choice(
        "float32",
        choices=PRECISIONS,
        states_bounds=True,
        help="precision of the convolutions in gradients. With bfloat16 the draws stay exact, because values stay float32",
    )
    block: int | None = whole(
        None,
        low=1,
        shown="N",
        help="divide the chains of each label into blocks of N, which adapt and draw independently, so that they can run on "
        "several machines or devices. Draws depend on N, but not on where the blocks run",
    )
    engine: str = choice(
        "local",
        choices=ENGINES,
        states_bounds=True,
        help="where runs and blocks are computed. local: in this process; ray: on a Ray cluster (pip install 'tfgradgen[ray]')",
    )
    address: str | None = text(
        None, shown="HOST:PORT", help="head of the Ray cluster, or auto; by default one is started on this machine"
    )
    devices: Any = value(None, shown="all", help="GPUs that compute runs and blocks, one process each: all, a number, or 0,2")
    out: Path | None = path(
        None,
        shown="FOLDER",
        help="output folder; by default out/<label>-<kernel>-<seed>, with --models out/<set>-...",
    )
    overwrite: bool = switch(help="replace an earlier run in that folder")
    resume: bool = switch(
        help="continue an interrupted run, or extend a finished one with a larger --num_results. Flags that change the "
        "draws must be the same; with --overwrite, a run with other ones is replaced instead"
    )
    strict: bool = switch(help="exit with code 1 if a run has warnings")
    netcdf: bool = switch(help="also write chains.nc for ArviZ: pip install 'tfgradgen[netcdf]'")
    save_images: bool = switch(
        help="also write the image of each chain as a PNG file of its own; a sound or clip always has one"
    )
    photographs: Path | None = path(
        None,
        shown="PATH",
        help="folder or .tar with <label>/*.jpg, train/<label>/*.jpg or val/<label>/*.jpg: the report then shows the nearest "
        "of these photographs below each image, so that copies would be seen. A label without a folder is compared with all",
    )
    opens: bool = switch(flag="open", help="open the report in a browser at the end; of several labels the sheet")

    @property
    def place(self) -> Place:
        """Where runs and blocks are computed."""
        return checked_place(self.engine, self.address, self.devices)

    @property
    def kernel(self) -> str:
        return self.recipe.kernel if self.auto is None else auto.NAME

    def chosen(self, kernel: str) -> "SampleOptions":
        """Return these options with the `kernel` that --kernel=auto chose."""
        return replace(self, recipe=default_recipe(kernel).changed(self.auto or {}), auto=None)

    @property
    def kernel_config(self) -> KernelConfig:
        return self.recipe.config

    @property
    def schedule(self) -> Schedule:
        return self.recipe.schedule

    def to_dict(self) -> dict[str, Any]:
        """Return all arguments as used, including defaults, for the run record."""
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
            "save_images": self.save_images,
            "gradient_precision": self.gradient_precision,
            **({"photographs": str(self.photographs)} if self.photographs else {}),
            **({BLOCK: self.block} if self.block else {}),
        }


OWN_FLAGS = tuple(flags_of(SampleOptions))
RUN = declared(RunConfig)


def kernel_flags() -> tuple[str, ...]:
    """Return the names of the settings of all samplers."""
    return tuple(dict.fromkeys(name for sampler in SAMPLERS.values() for name in declared(sampler.defaults)))


def sample_flags() -> tuple[str, ...]:
    """Return all flags that `sample` takes with any kernel."""
    return (*OWN_FLAGS, *kernel_flags(), *SCHEDULE_FLAGS, *RUN_FLAGS, *MODEL_FLAGS)


def unused_flags(sampler: Sampler, has_discriminator: bool = True) -> tuple[str, ...]:
    """Return the flags common to all runs that `sampler` does not use.

    Args:
      sampler: The sampler.
      has_discriminator: Whether the target has a discriminator.
    """
    unused = {"init": not sampler.takes_starts, "gradient_precision": not sampler.takes_gradients}
    # These samplers require the likelihood to be a probability, that of the class alone.
    unused["discriminator_weight"] = sampler.kind in ("exact", "particles") and has_discriminator
    return tuple(flag for flag, is_unused in unused.items() if is_unused)


def unused_by_auto() -> tuple[str, ...]:
    """Return the flags common to all runs that some sampler of --kernel=auto does not use.

    Without a discriminator, all of them use --discriminator_weight.
    """
    unused = (unused_flags(SAMPLERS[kernel], has_discriminator=False) for kernel, _ in auto.CHOICES)
    return tuple(dict.fromkeys(flag for flags in unused for flag in flags))


def parse_sample(flags: dict[str, Any], default_kernel: str = ANY_KERNEL) -> SampleOptions:
    """Return the options that the flags of `sample` give.

    Args:
      flags: Values by flag.
      default_kernel: The kernel if neither the flags nor a schedule name one.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    own = read_flags(SampleOptions, flags)
    base = read_recipe(own["schedule_file"]) if own["schedule_file"] else None
    kernel = flags.get("kernel")
    kernel = kernel if kernel is not None else base.kernel if base else default_kernel
    is_auto = check_choice("kernel", kernel, (*SAMPLERS, auto.NAME)) == auto.NAME
    sampler = SAMPLERS[auto.CHOICES[0][0] if is_auto else kernel]
    if base and base.kernel != kernel:
        raise fail("kernel", f"{base.kernel}, as in {own['schedule_file']}", kernel, "leave it out, or give another --schedule")
    if own["time_budget"] is not None:
        own["time_budget"] = parse_duration("time_budget", own["time_budget"])
        if not sampler.can_go_on:
            raise fail("time_budget", "a kernel that draws one after another", kernel, "leave it out, or choose another kernel")
    if own["netcdf"]:
        from tfgradgen.diagnostics.netcdf import check_netcdf

        check_netcdf()
    _check_place(own)
    given = {flag: value for flag, value in flags.items() if flag not in OWN_FLAGS}
    models = parse_models({flag: given.pop(flag) for flag in MODEL_FLAGS if flag in given})
    photograph = _photograph(given)
    run = RunConfig(**{flag: RUN[flag].parsed(flag, given.pop(flag)) for flag in RUN_FLAGS if flag in given})
    check_num_chains(kernel, run.num_chains, sampler.min_chains)
    if own["block"] is not None:
        for each in [SAMPLERS[name] for name, _ in auto.CHOICES] if is_auto else [sampler]:
            check_block(own["block"], each, run.num_chains)
    unused, known = unused_flags(sampler, models.discriminator is not None), settings_of(sampler)
    if is_auto:
        unused, known = unused_by_auto(), auto.known_settings()
    wrong = [*(flag for flag in flags if flag in unused), *(flag for flag in given if flag not in known)]
    if wrong:
        remedy = _other_than_auto(wrong[0]) if is_auto else "leave it out, or choose another kernel"
        raise fail(wrong[0], f"a flag that --kernel={kernel} uses", f"--{wrong[0]}", remedy)
    own["recipe"] = (base or default_recipe(sampler.name)).changed(given)
    return SampleOptions(**own, run=run, auto=given if is_auto else None, init_photograph=photograph, models=models)


def _other_than_auto(flag: str) -> str:
    """Return the remedy for a flag that --kernel=auto refuses. It names a kernel that takes it."""
    chosen, common = [name for name, _ in auto.CHOICES], unused_by_auto()
    takes = [
        name
        for name, sampler in SAMPLERS.items()
        if flag not in unused_flags(sampler) and (flag in common or flag in settings_of(sampler))
    ]
    # First those that it can choose: the flag was meant for one of them.
    named = next((name for name in (*chosen, *takes) if name in takes), "mala")
    which = " or ".join(chosen)
    return f"leave it out, or name a kernel that does, such as --kernel={named} (--kernel={auto.NAME} chooses {which})"


def _check_place(own: Mapping[str, Any]) -> None:
    """Raise `UserError` unless the flags about where a run is computed fit together."""
    place = checked_place(own["engine"], own["address"], own["devices"])
    if own["time_budget"] is not None and not (place.is_here and own["block"] is None):
        expected = "a run that is not divided, in this process"
        flag = next(name for name in ("block", "devices", "engine") if own[name] not in (None, "local"))
        raise fail("time_budget", expected, f"--{flag}={own[flag]}", f"leave --{flag} or --time_budget out")


def parse_duration(flag: str, given: Any) -> float:
    """Return a duration such as 90, 90s, 5m or 1h30m, in seconds.

    Raises:
      UserError: It is not a duration, or not above 0.
    """
    match = _DURATION.fullmatch(str(given)) if isinstance(given, str | int | float) and not isinstance(given, bool) else None
    parts = [float(part or 0) for part in match.groups()] if match else []
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not 0 < seconds <= MAX_SECONDS:
        raise fail(flag, "a time above 0, such as 90s, 5m or 1h30m", value_text(given), f"give for example --{flag}=60s")
    return seconds


def _photograph(flags: dict[str, Any]) -> Path | None:
    """Remove --init from `flags` and return it if it is an image file; return None if it is missing or a kind of start.

    Raises:
      UserError: It is neither.
    """
    init = flags.get("init")
    if init in (None, *KINDS_OF_START):
        return None
    with suppress(OSError, RuntimeError):  # an invalid file name, or the home of an unknown user
        image_file = Path(str(init)).expanduser()
        if image_file.is_file():
            del flags["init"]
            return image_file
    raise fail(
        "init",
        f"{', '.join(KINDS_OF_START)} or the file of an image",
        value_text(init),
        did_you_mean(init, KINDS_OF_START) or "check the path",
    )
