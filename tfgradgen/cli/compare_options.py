"""From the flags of `compare` to checked settings."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tfgradgen.cli.model_options import CLASSIFIER_FLAGS, GENERATOR_FLAGS, parse_handle
from tfgradgen.cli.options import SampleOptions, check_flags, parse_bool, parse_path, parse_sample
from tfgradgen.core.checks import check_int, check_real, fail
from tfgradgen.core.text import value_text
from tfgradgen.evaluation.entries import parse_entry
from tfgradgen.models.shipped import default_model

# The poster's four columns, then what it is to be seen against.
DEFAULT_KERNELS = ("map+reg", "mala+reg", "mala", "hmc", "map", "split_hmc", "smc", "rejection")
SAMPLE_FLAGS = (
    *("num_chains", "seed", "jit", "init", "generator", "classifier", "max_batch", "allow_unknown_ops"),
    *GENERATOR_FLAGS,
    *CLASSIFIER_FLAGS,
)
OWN_FLAGS = ("kernels", "num_gradients", "class_reg", "judge", "discriminator", "photographs", "out", "resume")
FLAGS = ("labels", *OWN_FLAGS, *SAMPLE_FLAGS)
MIN_GRADIENTS = 10
MIN_CHAINS = 5  # the errors are over chains, and a distance takes four pictures


@dataclass(frozen=True)
class CompareOptions:
    """Everything that `compare` was asked for. pair: how the two models are loaded and run. photographs: a folder of
    <label>/ folders, None for what comes with tfgradgen."""

    labels: Any
    kernels: tuple[str, ...]
    num_gradients: int
    class_reg: float
    pair: SampleOptions
    judge: str
    discriminator: str
    photographs: Path | None
    out: Path
    resume: bool

    def to_dict(self) -> dict[str, Any]:
        """Every argument as it was used, defaults filled in, for the record."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pair"}
        paths = ("judge", "discriminator", "photographs", "out")
        texts = {name: None if own[name] is None else str(own[name]) for name in paths}
        return self.pair.models.to_dict() | own | {"kernels": list(self.kernels)} | texts | asdict(self.pair.run)


def parse_compare(flags: dict[str, Any]) -> CompareOptions:
    """Checks the flags of `compare`; raises `UserError` for the first that cannot be used."""
    check_flags("compare", flags, FLAGS)
    pair = parse_sample({"label": flags["labels"], "kernel": "mala"} | {k: flags[k] for k in SAMPLE_FLAGS if k in flags})
    check_int("num_chains", pair.run.num_chains, MIN_CHAINS, 4096)
    class_reg = check_real("class_reg", flags.get("class_reg", 1.0), 0.0)
    kernels = _names(flags.get("kernels", DEFAULT_KERNELS))
    for name in kernels:
        parse_entry(name, class_reg)
    models = {name: parse_handle(name, flags.get(name, str(default_model(name)))) for name in ("judge", "discriminator")}
    return CompareOptions(
        labels=flags["labels"],
        kernels=kernels,
        num_gradients=check_int("num_gradients", flags.get("num_gradients", 300), MIN_GRADIENTS, 1_000_000),
        class_reg=class_reg,
        pair=pair,
        judge=models["judge"],
        discriminator=models["discriminator"],
        photographs=parse_path("photographs", flags["photographs"]) if "photographs" in flags else None,
        out=parse_path("out", flags.get("out", "out/compare")),
        resume=parse_bool("resume", flags.get("resume", False)),
    )


def _names(value: Any) -> tuple[str, ...]:
    """`a,b`, or what Fire makes of it -> distinct names."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise fail("kernels", "names of methods, a,b,c", value_text(value), "give for example --kernels=mala,hmc,rejection")
    return tuple(dict.fromkeys(str(item).strip() for item in items))
