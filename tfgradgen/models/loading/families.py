"""Families of public models, with settings that the models themselves do not contain.

The settings come from the model cards on TF-Hub and Kaggle Models. A family is recognized by the handle, or by signatures that
no other family has, as for a copy in a folder. Flags override all entries.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tfgradgen.models.loading.ranges import SYMMETRIC, UNIT
from tfgradgen.models.loading.saved_model import Opened


@dataclass(frozen=True)
class RoleSpec:
    """How to use a model in one role.

    Attributes:
      signature: Name of the signature; '' if only one is suitable.
      output: Name of the output; '' if only one is suitable.
      image_range: (low, high) of the images that it takes or returns.
      prior: Distribution of a generator's latent point (`priors.TRANSPORTS`).
      scores: What a classifier returns: 'logits', 'probabilities' or 'scores'. For a discriminator, whether it returns the
        logit or the probability that an image is natural.
      num_classes: Number of classes of a model that takes class numbers, which its signature does not contain.
      image_size: Height and width of the training images of a classifier that accepts any size.
      rate: Samples or frames per second of the sounds or clips that it takes or returns.
      is_known: False if the family is unknown.
      lacking: Name of the family if it is known but has no such role.
    """

    signature: str = ""
    output: str = ""
    image_range: tuple[float, float] | None = None
    prior: str = "normal"
    scores: str = "logits"
    num_classes: int = 0
    image_size: int | None = None
    rate: float | None = None
    is_known: bool = True
    lacking: str = ""


UNKNOWN = RoleSpec(is_known=False)


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      name: Its name.
      handle: A regular expression for its handles, in lower case with hyphens.
      uses: Role -> RoleSpec.
      interfaces: Mappings signature -> inputs. A model that matches one of them is recognized without its handle. Empty if
        other models have the same signatures.
    """

    name: str
    handle: str
    uses: Mapping[str, RoleSpec]
    interfaces: tuple[Mapping[str, frozenset[str]], ...] = ()


_IMAGENET = RoleSpec(image_range=UNIT, image_size=224)
_COMPARE_GAN = {
    "generator": RoleSpec("generator", image_range=UNIT, prior="uniform"),
    "discriminator": RoleSpec("discriminator", image_range=UNIT),
}
_S3GAN = {
    "generator": RoleSpec("default", "generated", UNIT, num_classes=1000),
    "discriminator": RoleSpec("", "prediction", UNIT, scores="probabilities", num_classes=1000),
}

FAMILIES = (
    Family(
        "biggan",
        r"deepmind/biggan",
        {"generator": RoleSpec("default", "default", SYMMETRIC, "truncated_normal")},
        ({"default": frozenset({"z", "y", "truncation"})},),
    ),
    Family(
        "bigbigan",
        r"deepmind/bigbigan",
        {
            "generator": RoleSpec("generate", "default", SYMMETRIC),  # its `default` is the encoder
            "discriminator": RoleSpec("discriminate", "score_x", SYMMETRIC),
            "encoder": RoleSpec("encode", "z_mean", SYMMETRIC),
        },
        ({"generate": frozenset({"z"}), "encode": frozenset({"x"}), "discriminate": frozenset({"x", "z"})},),
    ),
    Family("progan", r"google/progan", {"generator": RoleSpec("default", "default", UNIT)}),
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
    Family("aiy", r"(google/)?aiy/.*classifier", {"classifier": RoleSpec(image_range=UNIT, scores="probabilities")}),
    Family(
        "yamnet", r"google/yamnet", {"classifier": RoleSpec(output="0", image_range=SYMMETRIC, scores="scores", rate=16_000.0)}
    ),
    Family("i3d", r"deepmind/i3d-kinetics", {"classifier": RoleSpec(image_range=UNIT, image_size=224, rate=25.0)}),
    Family("movinet", r"(tensorflow|google)/movinet", {"classifier": RoleSpec(image_range=UNIT, image_size=224, rate=5.0)}),
)


def resolve_role(opened: Opened, role: str) -> tuple[RoleSpec, list[str]]:
    """Return how to use a model in `role`, and what was assumed.

    The first is `UNKNOWN` for an unknown family, with `lacking` set if the family does not have the role. Assumptions are
    'family NAME' if only the signatures identify the family, and 'version N' if N is the highest of several versions.
    """
    use, assumed = _resolve(opened, role)
    return use, [*([f"version {opened.version}"] if opened.version else []), *assumed]


def _resolve(opened: Opened, role: str) -> tuple[RoleSpec, list[str]]:
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


def _use(family: Family, role: str) -> RoleSpec:
    return family.uses.get(role) or replace(UNKNOWN, lacking=family.name)


def _has(opened: Opened, interface: Mapping[str, frozenset[str]]) -> bool:
    known = opened.signatures
    return all(name in known and inputs <= set(known[name].inputs) for name, inputs in interface.items())
