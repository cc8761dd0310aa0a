"""What a caller may say of a model, where the model or its card is silent or wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tfgradgen.checks import check_choice, check_int, did_you_mean, fail
from tfgradgen.models.metadata import parse_range
from tfgradgen.text import value_text

GENERATOR_CLASSES = ("target", "uniform", "latent")
PRIORS = ("normal", "truncated_normal", "uniform")
SCORES = ("logits", "probabilities", "scores")
T = TypeVar("T", bound="ModelSettings")


@dataclass(frozen=True)
class ModelSettings:
    """None where nothing is said. signature: name of the function, NAME or NAME:OUTPUT. tags: of the meta graph. image_range:
    (low, high) of the pictures that it takes or gives. allow_unknown_ops: load it although it
    holds operations that are not allowed."""

    signature: str | None = None
    tags: tuple[str, ...] | None = None
    image_range: tuple[float, float] | None = None
    allow_unknown_ops: bool = False

    def __post_init__(self) -> None:
        if self.image_range is not None:
            object.__setattr__(self, "image_range", parse_range(self.image_range, "model"))


@dataclass(frozen=True)
class GeneratorSettings(ModelSettings):
    """latent_dim: width of the model's latent point. prior: its law: 'normal', 'truncated_normal' (within two deviations) or
    'uniform' (-1 to 1). truncation: of models that take one, in (0, 1]; their latent points are scaled by it.
    generator_class: of a class-conditional generator: 'target', the class that is sampled; 'uniform', one more normal
    coordinate whose quantile picks a class, each as likely; 'latent', a softmax of one more normal coordinate a class."""

    latent_dim: int | None = None
    prior: str | None = None
    truncation: float | None = None
    generator_class: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_dim is not None:
            check_int("latent_dim", self.latent_dim, 1)
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
    'logits', 'probabilities' of one class each picture, or 'scores', a probability of each class for itself."""

    labels: Any = None
    image_size: tuple[int, int] | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None:
            check_choice("output", self.output, SCORES)


def settings_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """`kind(**given)`; raises `UserError` for a name that it has not."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name == "trust":
            raise fail("settings", "allow_unknown_ops", "trust", "trust is now allow_unknown_ops")
        if name not in known:
            raise fail("settings", "one of " + ", ".join(known), name, did_you_mean(name, known) or "give one of those")
    return kind(**given)
