"""Families of public models: what their handles or signatures tell, and what they do not say of themselves.

From the models' cards on TF-Hub and Kaggle Models. A handle names a family; so do its signatures where nothing else has the
same, as for a copy in a folder. Every entry can be overridden by a flag.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfgradgen.models.loading.ranges import SYMMETRIC, UNIT
from tfgradgen.models.loading.saved_model import Opened


@dataclass(frozen=True)
class Use:
    """How a model serves in one role.

    signature, output: names; '' where the model has only one that fits. image_range: of the pictures that it takes or gives.
    prior: law of a generator's latent point (`priors.TRANSPORTS`). scores: what a classifier gives, 'logits', 'probabilities'
    or 'scores'; a discriminator, the logit or the probability that a picture is natural. num_classes: of a model that takes
    class numbers, which its signature does not tell. image_size: height and width that a classifier of any size was trained on.
    is_known: False where no family tells all this. lacking: the family, where it is known and has no such role.
    """

    signature: str = ""
    output: str = ""
    image_range: tuple[float, float] | None = None
    prior: str = "normal"
    scores: str = "logits"
    num_classes: int = 0
    image_size: int | None = None
    is_known: bool = True
    lacking: str = ""


UNKNOWN = Use(is_known=False)


@dataclass(frozen=True)
class Family:
    """handle: a regular expression, in lower case with hyphens. interfaces: each signature -> inputs, one of which a model must
    have to be recognized without its handle; none where others have the same. uses: role -> Use."""

    name: str
    handle: str
    uses: Mapping[str, Use]
    interfaces: tuple[Mapping[str, frozenset[str]], ...] = ()


_IMAGENET = Use(image_range=UNIT, image_size=224)
_COMPARE_GAN = {
    "generator": Use("generator", image_range=UNIT, prior="uniform"),
    "discriminator": Use("discriminator", image_range=UNIT),
}
_S3GAN = {
    "generator": Use("default", "generated", UNIT, num_classes=1000),
    "discriminator": Use("", "prediction", UNIT, scores="probabilities", num_classes=1000),
}

FAMILIES = (
    Family(
        "biggan",
        r"deepmind/biggan",
        {"generator": Use("default", "default", SYMMETRIC, "truncated_normal")},
        ({"default": frozenset({"z", "y", "truncation"})},),
    ),
    Family(
        "bigbigan",
        r"deepmind/bigbigan",
        {
            "generator": Use("generate", "default", SYMMETRIC),  # its `default` is the encoder
            "discriminator": Use("discriminate", "score_x", SYMMETRIC),
            "encoder": Use("encode", "z_mean", SYMMETRIC),
        },
        ({"generate": frozenset({"z"}), "encode": frozenset({"x"}), "discriminate": frozenset({"x", "z"})},),
    ),
    Family("progan", r"google/progan", {"generator": Use("default", "default", UNIT)}),
    Family(
        "compare_gan",
        r"google/compare-gan/(.*/)?model-",
        _COMPARE_GAN,
        ({"generator": frozenset({"z"}), "discriminator": frozenset()},),
    ),
    Family(
        "s3gan",
        r"google/compare-gan/",
        _S3GAN,
        ({"default": frozenset({"z", "labels"})}, {"default": frozenset({"images", "labels"})}),
    ),
    Family("efficientnet", r"google/efficientnet/.*classification", {"classifier": _IMAGENET}),
    Family("inception", r"google/(imagenet/)?inception.*classification", {"classifier": replace(_IMAGENET, image_size=299)}),
    Family("imagenet", r"google/(imagenet|mobilenet|resnet).*classification", {"classifier": _IMAGENET}),
    Family("bit", r"google/bit/.*ilsvrc2012.*classification", {"classifier": _IMAGENET}),
    Family("aiy", r"(google/)?aiy/.*classifier", {"classifier": Use(image_range=UNIT, scores="probabilities")}),
    Family("yamnet", r"google/yamnet", {"classifier": Use(output="0", image_range=SYMMETRIC, scores="scores")}),
)


def use_of(opened: Opened, role: str) -> tuple[Use, list[str]]:
    """How a model serves in `role`, `UNKNOWN` where nothing tells, also `lacking` where its family does not serve in that; and
    what was assumed for it: 'family NAME' where its signatures alone say so, 'version N' where N was the highest of several."""
    use, assumed = _use_of(opened, role)
    return use, [*([f"version {opened.version}"] if opened.version else []), *assumed]


def _use_of(opened: Opened, role: str) -> tuple[Use, list[str]]:
    handle = opened.handle.lower().replace("_", "-")
    for family in FAMILIES:
        if re.search(rf"(^|/){family.handle}", handle):
            use, size = _use(family, role), re.search(r"-(96|128|160|192|224)[-/]classification", handle)
            return replace(use, image_size=int(size[1])) if size and use.image_size else use, []
    alike = (family for family in FAMILIES if any(_has(opened, interface) for interface in family.interfaces))
    found = next(alike, None)
    if found is None:
        return UNKNOWN, []
    return _use(found, role), [f"family {found.name}"] if role in found.uses else []


def _use(family: Family, role: str) -> Use:
    return family.uses.get(role) or replace(UNKNOWN, lacking=family.name)


def _has(opened: Opened, interface: Mapping[str, frozenset[str]]) -> bool:
    known = opened.signatures
    return all(name in known and inputs <= set(known[name].inputs) for name, inputs in interface.items())
