"""Settings of a model that a caller can give if model.json and the model itself lack them or are wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from tfgradgen.core.checks import UserError, check_choice, check_int, did_you_mean, fail
from tfgradgen.core.text import value_text
from tfgradgen.media.medium import check_rate
from tfgradgen.models.loading.metadata import parse_range

CHANNELS_LAST, CHANNELS_FIRST = "channels_last", "channels_first"
GREY, RGB = "grey", "rgb"
MAX_WIDTH = 2**20  # latent dimensions or classes; larger values are surely a typo and would exhaust memory
GENERATOR_CLASSES = ("target", "uniform", "latent")
PRIORS = ("normal", "truncated_normal", "uniform")
SCORES = ("logits", "probabilities", "scores")
# Flag of the command line, also in run.json -> the setting of the model that it sets.
GENERATOR_FLAGS = {
    "generator_signature": "signature",
    "generator_tags": "tags",
    "generator_range": "image_range",
    "generator_prior": "prior",
    "latent_dim": "latent_dim",
    "truncation": "truncation",
    "generator_class": "generator_class",
    "generator_class_input": "class_input",
    "generator_class_slice": "class_slice",
    "num_classes": "num_classes",
    "generator_layout": "layout",
    "generator_rate": "rate",
}
CLASSIFIER_FLAGS = {
    "classifier_signature": "signature",
    "classifier_tags": "tags",
    "classifier_range": "image_range",
    "classifier_size": "image_size",
    "classifier_output": "output",
    "classifier_labels": "labels",
    "classifier_channels": "channels",
    "classifier_layout": "layout",
    "classifier_rate": "rate",
}
T = TypeVar("T", bound="ModelSettings")


@dataclass(frozen=True)
class ModelSettings:
    """Settings of any model; None if not given.

    Attributes:
      signature: The signature to call, NAME or NAME:OUTPUT.
      tags: Tags of the meta graph.
      image_range: (low, high) of the images that it takes or returns.
      layout: Order of the axes of the images, 'channels_last' or 'channels_first'.
      rate: Samples per second of the sounds, or frames per second of the clips, that it takes or returns.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.
    """

    signature: str | None = None
    tags: tuple[str, ...] | None = None
    image_range: tuple[float, float] | None = None
    layout: str | None = None
    rate: float | None = None
    allow_unknown_ops: bool = False

    def __post_init__(self) -> None:
        if self.image_range is not None:
            object.__setattr__(self, "image_range", parse_range(self.image_range, "model"))
        if self.layout is not None:
            check_choice("layout", self.layout, (CHANNELS_LAST, CHANNELS_FIRST))
        if self.rate is not None:
            object.__setattr__(self, "rate", check_rate("rate", self.rate))


@dataclass(frozen=True)
class GeneratorSettings(ModelSettings):
    """Settings of a generator; None if not given.

    Attributes:
      latent_dim: Dimension of the model's own latent point.
      prior: Its distribution: 'normal', 'truncated_normal' (at two standard deviations) or 'uniform' (-1 to 1).
      truncation: In (0, 1], for models with this input; it also scales the latent point.
      generator_class: Source of the class of a class-conditional generator. 'target': the class that is sampled. 'uniform': an
        extra normal coordinate, whose quantile chooses a class, each with equal probability. 'latent': the softmax of one extra
        normal coordinate per class.
      class_input: Name of the input that takes the class.
      class_slice: (start, stop), or 'START:STOP', of the coordinates of the model's own latent point that are a one-hot class.
        They count in latent_dim.
      num_classes: Number of classes.
    """

    latent_dim: int | None = None
    prior: str | None = None
    truncation: float | None = None
    generator_class: str | None = None
    class_input: str | None = None
    class_slice: Any = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_dim is not None:
            check_int("latent_dim", self.latent_dim, 1, MAX_WIDTH)
        if self.num_classes is not None:
            check_int("num_classes", self.num_classes, 1, MAX_WIDTH)
        if self.class_input is not None and not isinstance(self.class_input, str):
            raise fail("class_input", "the name of an input", self.class_input, "give the name as in the model's signature")
        if self.class_slice is not None:
            object.__setattr__(self, "class_slice", parse_slice(self.class_slice))
        if self.class_slice is not None and self.class_input is not None:
            raise fail("class_slice", "either class_slice or class_input", "both", "leave one of them out")
        if self.prior is not None:
            check_choice("prior", self.prior, PRIORS)
        if self.truncation is not None:
            is_number = isinstance(self.truncation, int | float) and not isinstance(self.truncation, bool)
            if not is_number or not 0 < self.truncation <= 1:
                raise fail("truncation", "a number above 0, at most 1", value_text(self.truncation), "give one in that range")
        if self.generator_class is not None:
            check_choice("generator_class", self.generator_class, GENERATOR_CLASSES)


@dataclass(frozen=True)
class ClassifierSettings(ModelSettings):
    """Settings of a classifier; None if not given.

    Attributes:
      labels: One name or {name, wnid, synset} per output, or 'imagenet'.
      image_size: (height, width) of its input.
      output: 'logits'; 'probabilities', which sum to one over the classes; or 'scores', an independent probability of each
        class.
      channels: 'grey' or 'rgb'; images of the other kind are converted.
    """

    labels: Any = None
    image_size: tuple[int, int] | None = None
    output: str | None = None
    channels: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None:
            check_choice("output", self.output, SCORES)
        if self.channels is not None:
            check_choice("channels", self.channels, (GREY, RGB))


def settings_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """Return `kind(**given)`; raise `UserError` for an unknown name."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name == "trust":
            raise fail("settings", "allow_unknown_ops", "trust", "trust is now allow_unknown_ops")
        if name not in known:
            raise fail("settings", "one of " + ", ".join(known), name, did_you_mean(name, known) or "give one of these")
    return kind(**given)


def with_card(given: T, card: Mapping[str, Any], names: tuple[str, ...], where: str) -> T:
    """Return `given`, with settings `names` that are not given taken from `card`, the content of model.json.

    Raises:
      UserError: A value in `card` is out of range; the message names the model `where`.
    """
    said = {name: card[name] for name in names if card.get(name) is not None and getattr(given, name) is None}
    try:
        return replace(given, **said)
    except UserError as error:
        raise UserError(f"model {where}, model.json: {error}") from error


def parse_slice(value: Any) -> tuple[int | None, int | None]:
    """Return (start, stop) from 'START:STOP', as in a Python slice, or from a pair; None stands for an open end.

    Raises:
      UserError: `value` is neither.
    """
    match = re.fullmatch(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*", value) if isinstance(value, str) else None
    if match:
        pair = tuple(None if part is None else int(part) for part in match.groups())
    else:
        pair = tuple(value) if isinstance(value, list | tuple) else ()
    is_pair = len(pair) == 2 and all(part is None or (isinstance(part, int) and not isinstance(part, bool)) for part in pair)
    if not is_pair or pair == (None, None):
        raise fail("class_slice", "START:STOP of the class in z", value, "give 32:42, :10 or -10:, for example")
    return pair[0], pair[1]
