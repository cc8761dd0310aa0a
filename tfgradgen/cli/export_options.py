"""From the flags of `export` to checked settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.cli.model_options import MODEL_FLAGS
from tfgradgen.cli.options import SampleOptions, check_flags, parse_bool, parse_path, parse_sample
from tfgradgen.core.checks import check_choice, check_int, fail
from tfgradgen.core.text import value_text
from tfgradgen.mcmc.presets import SERVED

SAMPLE_FLAGS = (
    *("schedule", "step_size", "target_accept_prob", "num_leapfrog_steps", "num_chains", "temperature", "seed"),
    *MODEL_FLAGS,
)
OWN_FLAGS = ("out", "version", "num_steps", "max_steps", "num_start_draws", "batch_sizes", "xla")
FLAGS = ("kernel", "labels", *OWN_FLAGS, *SAMPLE_FLAGS)

# A start costs this many forward passes, about 0.45 gradients each: with 64 as much as 29 steps of mala, with the 256 of a run
# more than the whole chain. A class that is rarer than one in 64 mostly starts outside, and needs its steps.
NUM_START_DRAWS = 64
NUM_GRADIENTS = 100  # of a picture, unless --num_steps says otherwise
MAX_STEPS_FACTOR = 10
BATCH_SIZES = (1, 4, 16)


@dataclass(frozen=True)
class ExportOptions:
    """Everything that `export` was asked for. pair: models, kernel and how the step sizes are tuned. version: None for the next
    that is free."""

    labels: Any
    pair: SampleOptions
    out: Path
    version: int | None
    num_steps: int
    max_steps: int
    num_start_draws: int
    batch_sizes: tuple[int, ...]
    xla: bool

    def to_dict(self) -> dict[str, Any]:
        """Every argument as it was used, defaults filled in, for the record."""
        run = self.pair.run
        return {
            "labels": self.labels,
            "kernel": self.pair.kernel,
            "kernel_config": self.pair.kernel_config.to_dict(),
            "num_adaptation_steps": self.pair.schedule.num_adaptation_steps,
            **{name: getattr(run, name) for name in ("num_chains", "temperature", "seed", "jit")},
            **self.pair.models.to_dict(),
            "out": str(self.out),
            "version": self.version,
            "num_steps": self.num_steps,
            "max_steps": self.max_steps,
            "num_start_draws": self.num_start_draws,
            "batch_sizes": list(self.batch_sizes),
            "xla": self.xla,
        }


def parse_export(flags: dict[str, Any]) -> ExportOptions:
    """Checks the flags of `export`; raises `UserError` for the first that cannot be used."""
    check_flags("export", flags, FLAGS)
    if "out" not in flags:
        raise fail("out", "a folder for the versions of the model", "none", "give --out=BASE")
    out = parse_path("out", flags["out"]).absolute()
    if not out.name or out.name == ".." or (out.exists() and not out.is_dir()):
        raise fail("out", "a folder with a name of its own", str(out), "give --out=BASE")
    asked = {name: flags[name] for name in SAMPLE_FLAGS if name in flags}
    pair = parse_sample({"label": flags["labels"], "kernel": flags["kernel"]} | asked)
    check_choice("kernel", pair.kernel, SERVED)
    class_reg = pair.kernel_config.to_dict().get("class_reg")
    if class_reg:
        raise fail("schedule: class_reg", "0, for a served chain samples the posterior", class_reg, "set it to 0")
    own_steps = max(1, NUM_GRADIENTS // SERVED[pair.kernel](pair.kernel_config))
    num_steps = check_int("num_steps", flags.get("num_steps", own_steps), 1, 1_000_000)
    max_steps = check_int("max_steps", flags.get("max_steps", MAX_STEPS_FACTOR * num_steps), 1, 1_000_000)
    if max_steps < num_steps:
        raise fail("max_steps", f"at least num_steps={num_steps}", max_steps, "raise --max_steps, or lower --num_steps")
    version = flags.get("version")
    return ExportOptions(
        labels=flags["labels"],
        pair=pair,
        out=out,
        version=None if version is None else check_int("version", version, 1, 2**62),
        num_steps=num_steps,
        max_steps=max_steps,
        num_start_draws=check_int("num_start_draws", flags.get("num_start_draws", NUM_START_DRAWS), 1, 100_000),
        batch_sizes=_sizes(flags.get("batch_sizes", BATCH_SIZES)),
        xla=parse_bool("xla", flags.get("xla", False)),
    )


def _sizes(value: Any) -> tuple[int, ...]:
    """`1,4,16`, or what Fire makes of it."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    is_rising = all(isinstance(size, int) and not isinstance(size, bool) for size in items) and items == sorted({*items})
    if not is_rising or not items or not 1 <= items[0] <= items[-1] <= 1024:
        raise fail("batch_sizes", "rising whole numbers in 1..1024", value_text(value), "give for example --batch_sizes=1,4,16")
    return tuple(items)
