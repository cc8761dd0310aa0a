"""The flags that name and describe models, parsed and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgradgen.cli.flags import flags_of, parse_path, parse_words
from tfgradgen.core.checks import fail
from tfgradgen.core.settings import choice, path, real, switch, value, whole
from tfgradgen.core.settings import text as words
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.settings import CLASSIFIER_FLAGS, GENERATOR_FLAGS
from tfgradgen.models.shipped import MODEL_SETS, PHOTOGRAPHS, default_model, handles_of, shipped_model
from tfgradgen.models.tokens import check_text
from tfgradgen.results.record import TEXTS


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The flags about models.

    Settings that are not given come from the model's model.json or its family, or are guessed and reported.
    """

    models: str = choice(
        PHOTOGRAPHS,
        choices=tuple(MODEL_SETS),
        states_bounds=True,
        help=f"set of shipped models, used unless another model is named: {', '.join(MODEL_SETS)}",
    )
    generator: str = words(shown="MODEL", help="model that turns latent points into images, sounds or clips")
    classifier: str = words(
        shown="MODEL", help="model that classifies these; several as A,B. In --label, NAME@2 is a class of the second one"
    )
    generator_signature: str = words(
        shown="NAME", help="function to use if the model has several; NAME:OUTPUT selects an output"
    )
    generator_tags: str = words(shown="A,B", help="tags of the graph to use, if the model has several")
    generator_range: Any = value(shown="0,1", help="range of the values that it gives")
    generator_prior: str = value(
        shown="normal",
        help="prior of the latent point: normal, truncated_normal (at 2 standard deviations) or uniform (-1 to 1)",
    )
    latent_dim: int = value(shown="N", help="number of dimensions of the latent point")
    truncation: float = value(shown="1", help="truncation of BigGAN, in (0, 1]")
    generator_class: str = value(
        shown="target",
        help="class input of a conditional generator. target: the class of --label; uniform: a further coordinate of z chooses "
        "one; latent: the softmax of a further coordinate per class",
    )
    generator_class_input: str = words(shown="NAME", help="name of the class input, if shapes and names do not show it")
    generator_class_slice: str = words(
        shown="32:42", help="coordinates of z that are a one-hot class; :10 means the first ten, -10: the last ten"
    )
    num_classes: int = value(shown="N", help="number of its classes, if its class input is a number")
    generator_layout: str = value(
        shown="channels_last", help="axes of its images: channels_last or channels_first ([B, channels, height, width])"
    )
    generator_rate: float = value(shown="N", help="samples per second of its sounds, or frames per second of its clips")
    classifier_signature: str = words(shown="NAME", help="as --generator_signature")
    classifier_tags: str = words(shown="A,B", help="as --generator_tags")
    classifier_range: Any = value(
        shown="0,1",
        help="range of the values that it expects. If nothing shows it, the usual range that gives the most distinct classes",
    )
    classifier_size: Any = value(shown="N", help="size of its input in pixels: N for a square, or HEIGHT,WIDTH")
    classifier_output: str = value(
        shown="logits", help="what it returns: logits, probabilities (they sum to 1) or scores (an independent one per class)"
    )
    classifier_labels: str = words(
        shown="FILE",
        help="names of its classes: a JSON file, or a text file with one name per line; imagenet for those of ImageNet. By "
        "default a file such as labels.txt in the model's folder or next to it",
    )
    classifier_channels: str = value(shown="rgb", help="rgb or grey; grey converts coloured images to luma")
    classifier_layout: str = value(shown="channels_last", help="as --generator_layout")
    classifier_rate: float = value(shown="N", help="as --generator_rate, for its input")
    text: str = words(
        shown="WORDS",
        help='what the images show, such as "a yellow bus on a dark road"; with a class as well, they also show '
        "that class. Words that the text model does not know are refused",
    )
    text_model: str = words(shown="MODEL", help="model that embeds texts and images, such as CLIP")
    discriminator: str = words(
        shown="MODEL", help="model that tells natural images from generated ones; give --discriminator_weight too"
    )
    discriminator_weight: float = real(
        0.0,
        inclusive_low=True,
        help="weight in the target log density of the discriminator's log-odds that an image is natural",
    )
    reference_captions: Path | None = path(
        None,
        shown="FILE",
        help="captions with which the text competes, one per line; by default those of the text model. The probability of the "
        "text is its share among them",
    )
    max_batch: int | None = whole(
        None, low=1, shown="N", help="draws that go through the models at a time; lower it if memory is short"
    )
    allow_unknown_ops: bool = switch(
        help="load models with operations that such models do not need. Such a model can read and write files"
    )


DECLARED = flags_of(ModelFlags)
MODEL_FLAGS = tuple(DECLARED)


@dataclass(frozen=True)
class ModelOptions:
    """The models, and what the flags say about them.

    Attributes:
      models: The set of shipped models that is used where no other model is named.
      generator: Handle of the generator.
      classifiers: Handles of the classifiers, at least one.
      generator_settings: Given settings of the generator by name.
      classifier_settings: Given settings of the classifier by name.
      text: What the images show; None for no text.
      text_model: Handle of the text model.
      captions: File of the reference captions; None for those of the text model.
      discriminator: Handle of the discriminator; None if the target has none.
      discriminator_weight: Its weight in the target; 0 without one.
      max_batch: Most images in one evaluation; None for no limit.
      allow_unknown_ops: Whether to load models with operations that such models do not need.
    """

    models: str
    generator: str
    classifiers: tuple[str, ...]
    generator_settings: dict[str, Any]
    classifier_settings: dict[str, Any]
    text: str | None
    text_model: str
    captions: Path | None
    discriminator: str | None
    discriminator_weight: float
    max_batch: int | None
    allow_unknown_ops: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the options by flag, for the run record."""
        given = {flag: self.generator_settings.get(name) for flag, name in GENERATOR_FLAGS.items()}
        given |= {flag: self.classifier_settings.get(name) for flag, name in CLASSIFIER_FLAGS.items()}
        return {
            "generator": self.generator,
            "classifier": ",".join(self.classifiers),
            **{flag: value for flag, value in given.items() if value is not None},
            **({"text": self.text, "text_model": self.text_model} if self.text else {}),
            **({"reference_captions": str(self.captions)} if self.captions else {}),
            **({"discriminator": self.discriminator} if self.discriminator else {}),
            "discriminator_weight": self.discriminator_weight,
            "max_batch": self.max_batch,
            "allow_unknown_ops": self.allow_unknown_ops,
        }


def parse_handle(flag: str, value: Any) -> str:
    """Return a handle (a folder, an archive, a URL or a Kaggle handle) as text. Fire parses only unusual file names otherwise.

    Raises:
      UserError: The value cannot be a handle.
    """
    if not isinstance(value, str | int | float) or isinstance(value, bool) or value == "":
        raise fail(
            flag, "a model: a folder, an archive, a TF-Hub URL or a Kaggle handle", value_text(value), f"give --{flag}=MODEL"
        )
    return str(value)


def model_or(role: str, flags: dict[str, Any], models: str) -> Any:
    """Return the value of the flag `role`, or the shipped model of that role in the set `models`.

    Raises:
      UserError: The flag is not given, and the set is not installed or has no such model.
    """
    return flags[role] if role in flags else str(shipped_model(role, models))


def parse_models(flags: dict[str, Any]) -> ModelOptions:
    """Return the options that those of `MODEL_FLAGS` among `flags` give.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    weight, max_batch, allow_unknown_ops = (
        DECLARED[flag].setting.parsed(flag, flags[flag]) if flag in flags else DECLARED[flag].default
        for flag in ("discriminator_weight", "max_batch", "allow_unknown_ops")
    )
    if "discriminator" in flags and not weight:
        raise fail("discriminator", "a --discriminator_weight above 0", weight or "none", "give one, for example 1")
    for flag in TEXTS[1:]:
        if flags.get(flag) is not None and "text" not in flags:
            raise fail(flag, "a --text that it is about", "none", 'give one, for example --text="a yellow bus"')
    captions = flags.get("reference_captions")
    models = DECLARED["models"].setting.parsed("models", flags.get("models", PHOTOGRAPHS))
    classifiers = _classifiers(parse_handle("classifier", model_or("classifier", flags, models)))
    classifier_settings = _settings(flags, CLASSIFIER_FLAGS)
    if len(classifiers) > 1 and classifier_settings:
        flag = next(flag for flag in CLASSIFIER_FLAGS if flag in flags)
        got = f"{len(classifiers)} of them, which it would all describe"
        raise fail(flag, "one classifier", got, "put it into a model.json in the folder of the right one")
    return ModelOptions(
        models=models,
        generator=parse_handle("generator", model_or("generator", flags, models)),
        classifiers=classifiers,
        generator_settings=_settings(flags, GENERATOR_FLAGS),
        classifier_settings=classifier_settings,
        text=check_text("text", flags["text"]) if "text" in flags else None,
        text_model=parse_handle("text_model", flags.get("text_model", str(default_model("text")))),
        captions=None if captions is None else parse_path("reference_captions", captions),
        discriminator=parse_handle("discriminator", model_or("discriminator", flags, models)) if weight else None,
        discriminator_weight=weight,
        max_batch=max_batch,
        allow_unknown_ops=allow_unknown_ops,
    )


def non_default_flags(options: ModelOptions) -> dict[str, Any]:
    """Return the flags about models whose values differ from their defaults, with these values."""
    of_set = {"models": options.models} if options.models != PHOTOGRAPHS else {}
    usual = parse_models(of_set).to_dict() | {"text_model": str(default_model("text"))}
    return of_set | {flag: value for flag, value in options.to_dict().items() if value != usual.get(flag)}


def _classifiers(text: str) -> tuple[str, ...]:
    """Return the handles of a list such as A,B."""
    handles = tuple(handles_of(text))
    if not handles:
        raise fail("classifier", "a model, or several as A,B", value_text(text), "give --classifier=MODEL")
    return handles


def _settings(flags: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {name: _parsed(flag, name, flags[flag]) for flag, name in names.items() if flag in flags}


def _parsed(flag: str, name: str, value: Any) -> Any:
    if name == "tags":
        return tuple(word for word in parse_words(flag, value, "tags as a,b", "gen,bsNone") if word)
    if name == "image_size" and isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if name == "labels" and value != "imagenet":
        return str(value)
    if name == "signature" and not isinstance(value, str):
        raise fail(flag, "the name of a signature", value_text(value), f"give --{flag}=NAME or NAME:OUTPUT")
    return value
