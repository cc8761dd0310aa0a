"""Loads the models that the flags name, and says what is to be sampled of them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.checks import fail
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import as_text, note
from tfgradgen.contracts import Networks
from tfgradgen.images import read_pictures
from tfgradgen.methods import METHODS
from tfgradgen.model_checks import without_xla
from tfgradgen.models.classifier import Classifier, load_classifier
from tfgradgen.models.condition import ConditionClassifier, is_condition, parse_condition
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.models.labels import resolve_labels, split_names
from tfgradgen.models.metadata import Label
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.saved_model import try_call
from tfgradgen.posterior import ClassPosterior

MAX_CHANNELS = 4  # of an image that can be written as PNG


@dataclass(frozen=True)
class Target:
    """What one run samples: the classifier, which of its outputs, and that output's label."""

    classifier: Classifier | ConditionClassifier
    index: int
    label: Label


class Loaded(NamedTuple):
    """The models of a run. discriminator: None where none enters the target; discriminator_fn: its log-odds of `natural`."""

    generator: Generator
    classifiers: tuple[Classifier, ...]
    discriminator: Classifier | None
    discriminator_fn: Callable[[Any], Any] | None
    options: ModelOptions

    def targets(self, wanted: Any) -> list[Target]:
        """What `wanted` names: classes of the first classifier, or conditions on the classes of all."""
        labelled = [classifier.labels for classifier in self.classifiers]
        if is_condition(wanted, labelled):
            return [self._condition(part, labelled) for part in split_names(labelled, wanted)]
        first = self.classifiers[0]
        indices = resolve_labels(first.labels, wanted)
        if first.output == "scores":  # each class for itself is a condition of its own
            return [self._condition(str(index), labelled) for index in indices]
        return [Target(first, index, first.labels[index]) for index in indices]

    def _condition(self, text: str, labelled: Sequence[Sequence[Label]]) -> Target:
        classifier = ConditionClassifier(self.classifiers, parse_condition(text, labelled))
        return Target(classifier, 1, classifier.labels[1])

    def networks(self, target: Target) -> Networks:
        """What a run of `target` evaluates.

        Raises:
          UserError: the generator is to take the target's class and does not know it.
        """
        return Networks(
            self.generator.for_label(target.label),
            target.classifier,
            self.discriminator_fn,
            self.options.discriminator_weight,
            self.options.max_batch,
        )


def load_models(options: ModelOptions, gradient_precision: str = "float32") -> Loaded:
    """The models, run together once: each may be sound and still not take the other's pictures. What had to be guessed is
    said on stderr."""
    lenient, is_low = {"allow_unknown_ops": options.allow_unknown_ops}, gradient_precision == "bfloat16"
    generator = load_generator(options.generator, **options.generator_settings, **lenient)
    if len(generator.image_shape) == 3 and generator.image_shape[2] > MAX_CHANNELS:
        got = f"images {list(generator.image_shape)}"
        remedy = "choose another --generator or --generator_signature, or export it with its channels last"
        raise fail(
            "generator", f"images [height, width, channels] of 1 to {MAX_CHANNELS} channels, as PNG has them", got, remedy
        )
    classifiers = tuple(load_classifier(path, **options.classifier_settings, **lenient) for path in options.classifiers)
    discriminator = load_discriminator(options.discriminator, **lenient) if options.discriminator else None
    loaded = Loaded(generator, classifiers, discriminator, discriminator and natural_log_odds(discriminator), options)
    observers = [*classifiers, *([discriminator] if discriminator else [])]
    modules = [generator.module, *(model.module for model in observers)]
    if is_low and not sum(map(lower_gradients, modules)):
        raise fail("gradient_precision", "a convolution in a model", "none", "leave --gradient_precision out")
    say_guesses("generator", generator)
    for classifier in classifiers:
        say_guesses("classifier", classifier)
    if discriminator:
        say_guesses("discriminator", discriminator)
    example = tf.zeros([2, generator.latent_dim])
    for model in observers:
        into = functools.partial(lambda model, z: model.log_probs(generator(z)), model)
        try_call(into, example, 2, f"{generator.path} into {model.path}")
    return loaded


def say_guesses(role: str, model: Generator | Classifier) -> None:
    """One line on stderr with what was assumed of `model`, with the values, and where to say otherwise."""
    values = {
        "image_range": model.image_range,
        "prior": getattr(model, "prior", None),
        "output": getattr(model, "output", None),
    }
    values["image_size"] = getattr(model, "image_size", None)
    flags = {"image_range": "range", "image_size": "size"}
    named = []

    def mend(name: str) -> str:
        return f"(--{role}_{flags.get(name, name)})" if role != "discriminator" else f"({name} in its model.json)"

    for name in model.assumed:
        if name.startswith("family"):
            named.append(f"{name} by its signatures")
        elif name == "labels":
            named.append(f"labels of {model.num_classes} outputs {mend(name)}")  # type: ignore[union-attr]
        else:
            named.append(f"{name} {values[name]} {mend(name)}")
    if named:
        note(f"guessed  {role} {as_text(model.path)}: {', '.join(named)}")


def choose_backend(options: SampleOptions, loaded: Loaded, target: Target) -> SampleOptions:
    """`options` in graph mode where XLA would be taken but cannot compile the models, which is said on stderr."""
    posterior = ClassPosterior.of(loaded.networks(target), target.index, options.run.temperature)
    why = without_xla(posterior, options.run) if METHODS[options.kernel].takes_gradients else ""
    if not why:
        return options
    note(f"graph    mode, without XLA: {why}")
    return replace(options, run=replace(options.run, jit=False))


def start_at_photograph(options: SampleOptions, generator: Generator) -> SampleOptions:
    """`options` with the latent point of the photograph that --init names, if it names one.

    Raises:
      UserError: no picture there, or a generator without encoder.
    """
    if options.init_photograph is None:
        return options
    if generator.encode_fn is None:
        raise fail(
            "init",
            "a generator with an encoder, as BigBiGAN's, to start at a photograph",
            f"{generator.path}, which has none",
            "use --init=resample or --init=prior",
        )
    height, width = generator.image_shape[:2]
    picture = read_pictures([options.init_photograph], width, height)
    z = generator.encode_fn(tf.cast(picture, tf.float32) / 127.5 - 1.0)[0]
    return replace(options, run=replace(options.run, init="given", init_z=tuple(float(x) for x in z.numpy())))
