"""From the flags that name and describe models to checked settings."""

import os
from dataclasses import dataclass
from typing import Any

from tfgradgen.core.checks import check_int, check_real, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.shipped import default_model

# Flag -> the setting of the model that it gives.
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
}
MODEL_FLAGS = (
    "generator",
    "classifier",
    *GENERATOR_FLAGS,
    *CLASSIFIER_FLAGS,
    "discriminator",
    "discriminator_weight",
    "max_batch",
    "allow_unknown_ops",
)


@dataclass(frozen=True)
class ModelOptions:
    """Which models, and what the flags say of them. discriminator: None where none enters the target, its weight is 0 there."""

    generator: str
    classifiers: tuple[str, ...]
    generator_settings: dict[str, Any]
    classifier_settings: dict[str, Any]
    discriminator: str | None
    discriminator_weight: float
    max_batch: int | None
    allow_unknown_ops: bool

    def to_dict(self) -> dict[str, Any]:
        """By flag, for the run record."""
        given = {flag: self.generator_settings.get(name) for flag, name in GENERATOR_FLAGS.items()}
        given |= {flag: self.classifier_settings.get(name) for flag, name in CLASSIFIER_FLAGS.items()}
        return {
            "generator": self.generator,
            "classifier": ",".join(self.classifiers),
            **{flag: value for flag, value in given.items() if value is not None},
            **({"discriminator": self.discriminator} if self.discriminator else {}),
            "discriminator_weight": self.discriminator_weight,
            "max_batch": self.max_batch,
            "allow_unknown_ops": self.allow_unknown_ops,
        }


def parse_handle(flag: str, value: Any) -> str:
    """A folder, an archive, a URL or a Kaggle handle, as text; what Fire makes of one is no text only for odd file names."""
    if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
        raise fail(
            flag, "a model: a folder, an archive, a TF-Hub URL or a Kaggle handle", value_text(value), f"give --{flag}=MODEL"
        )
    return str(value)


def parse_models(flags: dict[str, Any], allow_unknown_ops: bool) -> ModelOptions:
    """Checks the flags of `MODEL_FLAGS` among `flags`; raises `UserError` for the first that cannot be used."""
    weight = check_real("discriminator_weight", flags.get("discriminator_weight", 0.0), 0.0, is_low_in=True)
    if "discriminator" in flags and not weight:
        raise fail(
            "discriminator", "a --discriminator_weight above 0", weight or "none", "give one, 1 is the discriminator's own"
        )
    max_batch = flags.get("max_batch")
    if max_batch is not None:
        check_int("max_batch", max_batch, 1)
    discriminator = flags.get("discriminator", str(default_model("discriminator")))
    classifiers = _classifiers(parse_handle("classifier", flags.get("classifier", str(default_model("classifier")))))
    classifier_settings = _settings(flags, CLASSIFIER_FLAGS)
    if len(classifiers) > 1 and classifier_settings:
        flag = next(flag for flag in CLASSIFIER_FLAGS if flag in flags)
        got = f"{len(classifiers)} of them, which it would all describe"
        raise fail(flag, "one classifier", got, "say it in a model.json in the folder of the one that is meant")
    return ModelOptions(
        generator=parse_handle("generator", flags.get("generator", str(default_model("generator")))),
        classifiers=classifiers,
        generator_settings=_settings(flags, GENERATOR_FLAGS),
        classifier_settings=classifier_settings,
        discriminator=parse_handle("discriminator", discriminator) if weight else None,
        discriminator_weight=weight,
        max_batch=max_batch,
        allow_unknown_ops=allow_unknown_ops,
    )


def unlike_shipped(options: ModelOptions) -> dict[str, Any]:
    """Flag -> value of what a command has to say of its models."""
    usual = parse_models({}, allow_unknown_ops=False).to_dict()
    return {flag: value for flag, value in options.to_dict().items() if value != usual.get(flag)}


def _classifiers(text: str) -> tuple[str, ...]:
    """`A,B` -> two; a comma in the name of a folder that exists separates nothing."""
    if os.path.exists(os.path.expanduser(text)):  # unlike pathlib's, false for what cannot be a path
        return (text,)
    handles = tuple(part.strip() for part in text.split(",") if part.strip())
    if not handles:
        raise fail("classifier", "a model, or several as A,B", value_text(text), "give --classifier=MODEL")
    return handles


def _settings(flags: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {name: _parsed(flag, name, flags[flag]) for flag, name in names.items() if flag in flags}


def _parsed(flag: str, name: str, value: Any) -> Any:
    if name == "tags":
        return _words(flag, value)
    if name == "image_size" and isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if name == "labels" and value != "imagenet":
        return str(value)
    if name == "signature" and not isinstance(value, str):
        raise fail(flag, "the name of a signature", value_text(value), f"give --{flag}=NAME or NAME:OUTPUT")
    return value


def _words(flag: str, value: Any) -> tuple[str, ...]:
    """`a,b`, or what Fire makes of it."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise fail(flag, "tags as a,b", value_text(value), f"give --{flag}=gen,bsNone, for example")
    return tuple(word for item in items if (word := str(item).strip()))
