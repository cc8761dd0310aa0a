"""What a caller may say of a model, where the model or its card is silent or wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from tfgradgen.core.checks import UserError, check_choice, check_int, did_you_mean, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.metadata import parse_range

CHANNELS_LAST, CHANNELS_FIRST = "channels_last", "channels_first"
GREY, RGB = "grey", "rgb"
MAX_WIDTH = 2**20  # of a latent point, and of classes: a larger number is a typing error and would fill the memory
GENERATOR_CLASSES = ("target", "uniform", "latent")
PRIORS = ("normal", "truncated_normal", "uniform")
SCORES = ("logits", "probabilities", "scores")
T = TypeVar("T", bound="ModelSettings")


@dataclass(frozen=True)
class ModelSettings:
    """None where nothing is said. signature: name of the function, NAME or NAME:OUTPUT. tags: of the meta graph. image_range:
    (low, high) of the images that it takes or gives. layout: of their axes, 'channels_last' or 'channels_first'.
    allow_unknown_ops: load it although it holds operations that are not allowed."""

    signature: str | None = None
    tags: tuple[str, ...] | None = None
    image_range: tuple[float, float] | None = None
    layout: str | None = None
    allow_unknown_ops: bool = False

    def __post_init__(self) -> None:
        if self.image_range is not None:
            object.__setattr__(self, "image_range", parse_range(self.image_range, "model"))
        if self.layout is not None:
            check_choice("layout", self.layout, (CHANNELS_LAST, CHANNELS_FIRST))


@dataclass(frozen=True)
class GeneratorSettings(ModelSettings):
    """latent_dim: width of the model's latent point. prior: its law: 'normal', 'truncated_normal' (within two deviations) or
    'uniform' (-1 to 1). truncation: of models that take one, in (0, 1]; their latent points are scaled by it.
    generator_class: of a class-conditional generator: 'target', the class that is sampled; 'uniform', one more normal
    coordinate whose quantile picks a class, each as likely; 'latent', a softmax of one more normal coordinate a class.
    class_input: name of the input that takes the class. class_slice: (start, stop) of the coordinates of the model's own
    latent point that are a one-hot class, as 'START:STOP' or a pair; they count in latent_dim. num_classes: of the class."""

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
            raise fail("class_input", "the name of an input", self.class_input, "give the name as the model has it")
        if self.class_slice is not None:
            object.__setattr__(self, "class_slice", parse_slice(self.class_slice))
        if self.class_slice is not None and self.class_input is not None:
            raise fail("class_slice", "a class in z or an input of its own", "both", "leave one of the two out")
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
    """labels: names, or {name, wnid, synset}, one an output, or 'imagenet'. image_size: (height, width) of its input. output:
    'logits', 'probabilities' of one class each image, or 'scores', a probability of each class for itself. channels: 'grey' or
    'rgb', what images of the other kind become before the model sees them."""

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
    """`kind(**given)`; raises `UserError` for a name that it has not."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name == "trust":
            raise fail("settings", "allow_unknown_ops", "trust", "trust is now allow_unknown_ops")
        if name not in known:
            raise fail("settings", "one of " + ", ".join(known), name, did_you_mean(name, known) or "give one of those")
    return kind(**given)


def with_card(given: T, card: Mapping[str, Any], names: tuple[str, ...], where: str) -> T:
    """`given`, with what a model's `card` says of `names` where the caller says nothing.

    Raises:
      UserError: a value of the card is out of its range; the message names the model `where`.
    """
    said = {name: card[name] for name in names if card.get(name) is not None and getattr(given, name) is None}
    try:
        return replace(given, **said)
    except UserError as error:
        raise UserError(f"model {where}, model.json: {error}") from error


def parse_slice(value: Any) -> tuple[int | None, int | None]:
    """(start, stop) from 'START:STOP', as Python slices have them, or a pair; None is an end.

    Raises:
      UserError: neither of these.
    """
    match = re.fullmatch(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*", value) if isinstance(value, str) else None
    if match:
        pair = tuple(None if part is None else int(part) for part in match.groups())
    else:
        pair = tuple(value) if isinstance(value, list | tuple) else ()
    is_pair = len(pair) == 2 and all(part is None or (isinstance(part, int) and not isinstance(part, bool)) for part in pair)
    if not is_pair or pair == (None, None):
        raise fail("class_slice", "START:STOP of the class in z", value, "give for example 32:42, :10 or -10:")
    return pair[0], pair[1]
