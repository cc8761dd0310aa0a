"""The flags of `export`, parsed and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.cli.flags import check_flags, flags_of, read_flags
from tfgradgen.cli.model_options import MODEL_FLAGS
from tfgradgen.cli.options import SampleOptions, parse_sample
from tfgradgen.core.checks import check_choice, fail, renamed
from tfgradgen.core.settings import path, switch, text, value, whole
from tfgradgen.core.text import value_text
from tfgradgen.mcmc.registry import SAMPLERS

SAMPLE_FLAGS = (
    *("schedule", "step_size", "target_accept_prob", "num_leapfrog_steps", "num_chains", "temperature", "seed"),
    *MODEL_FLAGS,
)

# A start costs this many forward passes, each about 0.45 gradients. 64 cost as much as 29 steps of mala; the 256 of a run would
# cost more than the whole chain. If the class is rarer than one in 64, most chains start outside of it and need their steps.
NUM_START_DRAWS = 64
NUM_GRADIENTS = 100  # per image, unless --num_steps is given
MAX_STEPS_FACTOR = 10
BATCH_SIZES = (1, 4, 16)
MAX_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `export`. Fields without a line here are described by their help.

    Attributes:
      pair: The models, the kernel, and how the step sizes are tuned.
      version: None for the next free version.
      batched: None for no such signatures.
    """

    labels: Any = text("all", help="classes that requests can ask for: names, WordNet ids or indices, or all")
    pair: SampleOptions
    out: Path = path(
        shown="BASE",
        help="output folder: BASE/<version>/ is the model; next to it are files to start a server, and two clients",
    )
    version: int | None = whole(
        None, low=1, high=2**62, shown="N", states_bounds=True, help="version number; by default the next free one"
    )
    num_steps: int = whole(
        low=1, high=1_000_000, shown="N", help=f"transitions per draw; by default about {NUM_GRADIENTS} gradients"
    )
    max_steps: int = whole(
        low=1,
        high=1_000_000,
        shown="N",
        help=f"largest num_steps that a request can ask for; by default {MAX_STEPS_FACTOR} times num_steps",
    )
    num_start_draws: int = whole(
        NUM_START_DRAWS, low=1, high=100_000, help="prior draws among which the start of a chain is chosen"
    )
    batch_sizes: tuple[int, ...] = value(BATCH_SIZES, help="sizes to which the server pads batches")
    batched: int | None = whole(
        None,
        low=2,
        high=MAX_BATCH,
        shown="N",
        states_bounds=True,
        help="add signatures *_batched, in which N rows go through the networks together, which suits a GPU",
    )
    xla: bool = switch(help="add a signature serving_xla for servers that can compile; the others need no XLA")

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
            "batched": self.batched,
            "xla": self.xla,
        }


OWN_FLAGS = tuple(flags_of(ExportOptions))
FLAGS = ("kernel", *OWN_FLAGS, *SAMPLE_FLAGS)


def parse_export(flags: dict[str, Any]) -> ExportOptions:
    """Return the options that the flags of `export` give.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    check_flags("export", flags, FLAGS)
    if "out" not in flags:
        raise fail("out", "a folder for the versions of the model", "none", "give --out=BASE")
    own = read_flags(ExportOptions, flags)
    out = own["out"].absolute()
    if not out.name or out.name == ".." or (out.exists() and not out.is_dir()):
        raise fail("out", "a folder with a name of its own", str(out), "give --out=BASE")
    asked = {name: flags[name] for name in SAMPLE_FLAGS if name in flags}
    if "text" in flags and own["labels"] == "all":  # a condition on each class could not be served together: the text alone
        own["labels"] = None
    with renamed("label", "labels"):
        pair = parse_sample({"label": own["labels"], "kernel": flags["kernel"]} | asked)
    check_choice("kernel", pair.kernel, [name for name, sampler in SAMPLERS.items() if sampler.is_served])
    class_reg = pair.kernel_config.to_dict().get("class_reg")
    if class_reg:
        raise fail("schedule: class_reg", "0, because a served chain samples the posterior", class_reg, "set it to 0")
    steps = SAMPLERS[pair.kernel].served_steps(pair.kernel_config)
    num_steps = own.get("num_steps", max(1, NUM_GRADIENTS // steps))
    max_steps = own.get("max_steps", MAX_STEPS_FACTOR * num_steps)
    if max_steps < num_steps:
        raise fail("max_steps", f"at least num_steps={num_steps}", max_steps, "raise --max_steps, or lower --num_steps")
    counts = {"num_steps": num_steps, "max_steps": max_steps, "batch_sizes": _sizes(own["batch_sizes"])}
    return ExportOptions(**own | counts | {"out": out}, pair=pair)


def _sizes(given: Any) -> tuple[int, ...]:
    """Return the batch sizes of a list such as 1,4,16, which Fire may have parsed already."""
    items = list(given) if isinstance(given, list | tuple) else [given]
    is_rising = all(isinstance(size, int) and not isinstance(size, bool) for size in items) and items == sorted({*items})
    if not is_rising or not items or not 1 <= items[0] <= items[-1] <= MAX_BATCH:
        raise fail(
            "batch_sizes", f"rising whole numbers in 1..{MAX_BATCH}", value_text(given), "give for example --batch_sizes=1,4,16"
        )
    return tuple(items)
