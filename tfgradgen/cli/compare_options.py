"""The flags of `compare`, parsed and checked."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tfgradgen.cli.flags import check_flags, flags_of, parse_words, read_flags
from tfgradgen.cli.model_options import model_or, parse_handle
from tfgradgen.cli.options import ANY_KERNEL, PLACE_FLAGS, SampleOptions, parse_sample
from tfgradgen.core.checks import check_int, fail, renamed
from tfgradgen.core.settings import path, real, switch, text, whole
from tfgradgen.evaluation.method_specs import parse_method_spec
from tfgradgen.models.loading.settings import CLASSIFIER_FLAGS, GENERATOR_FLAGS
from tfgradgen.models.shipped import MODEL_SETS
from tfgradgen.results.record import TEXTS

# The four columns of the poster, then methods to compare them with.
DEFAULT_KERNELS = ("map+reg", "mala+reg", "mala", "hmc", "map", "split_hmc", "smc", "rejection")
SAMPLE_FLAGS = (
    *PLACE_FLAGS,
    *TEXTS,
    *("num_chains", "seed", "jit", "init", "models", "generator", "classifier", "max_batch", "allow_unknown_ops"),
    *GENERATOR_FLAGS,
    *CLASSIFIER_FLAGS,
)
MIN_GRADIENTS = 10
MIN_CHAINS = 5  # standard errors are over chains, and a distance needs four images


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of `compare`. Fields without a line here are described by their help.

    Attributes:
      pair: How the generator and the classifier are loaded and run.
      discriminator: None for none.
      photographs: A folder with one folder <label>/ per label; None for those that come with tfgradgen.
    """

    labels: Any = text(shown="A,B", help="classes: names, WordNet ids or indices, or all")
    kernels: tuple[str, ...] = text(
        DEFAULT_KERNELS,
        help="samplers; NAME+reg is map or mala with class-specific regularization. The first four are those of the poster",
    )
    num_gradients: int = whole(
        300,
        low=MIN_GRADIENTS,
        high=1_000_000,
        help="gradients of each chain; everything is measured after 10, 30, 100, 300, ... of them",
    )
    class_reg: float = real(1.0, help="weight of the regularization in the +reg methods")
    pair: SampleOptions
    judge: str = text(shown="MODEL", help="classifier with a signature `features` that guides no chain")
    discriminator: str | None = text(
        shown="MODEL", help="classifier with a label `natural`, or a BigBiGAN or compare_gan model with its discriminator"
    )
    photographs: Path | None = path(
        None,
        shown="PATH",
        help="held-out photographs, <label>/*.jpg or val/<label>/*.jpg in a folder or .tar; they become the first row of "
        "grids.png. By default the shipped features of such photographs",
    )
    out: Path = path(Path("out/compare"), shown="out/compare", help="output folder")
    resume: bool = switch(help="continue in that folder; finished cells (method x label) are kept")

    def to_dict(self) -> dict[str, Any]:
        """Return all arguments as used, including defaults, for the record."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pair"}
        paths = ("judge", "discriminator", "photographs", "out")
        texts = {name: None if own[name] is None else str(own[name]) for name in paths}
        return self.pair.models.to_dict() | own | {"kernels": list(self.kernels)} | texts | asdict(self.pair.run)


OWN_FLAGS = tuple(flags_of(CompareOptions))
FLAGS = (*OWN_FLAGS, *SAMPLE_FLAGS)


def parse_compare(flags: dict[str, Any]) -> CompareOptions:
    """Return the options that the flags of `compare` give.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    check_flags("compare", flags, FLAGS)
    asked = {flag: flags[flag] for flag in SAMPLE_FLAGS if flag in flags}
    with renamed("label", "labels"):
        pair = parse_sample({"label": flags["labels"], "kernel": ANY_KERNEL} | asked)
    check_int("num_chains", pair.run.num_chains, MIN_CHAINS, 4096)
    if pair.run.init == "annealed":
        remedy = "all methods get the same gradients, and annealing takes further ones"
        raise fail("init", "resample, prior or the file of an image", "annealed", remedy)
    own = read_flags(CompareOptions, flags)
    names = parse_words("kernels", own["kernels"], "names of methods, a,b,c", "mala,hmc,rejection")
    own["kernels"] = tuple(dict.fromkeys(names))
    for name in own["kernels"]:
        parse_method_spec(name, own["class_reg"])
    models = pair.models.models
    own["judge"] = parse_handle("judge", model_or("judge", own, models))
    has_one = "discriminator" in own or "discriminator" in MODEL_SETS[models][0]
    own["discriminator"] = parse_handle("discriminator", model_or("discriminator", own, models)) if has_one else None
    return CompareOptions(**own, pair=pair)
