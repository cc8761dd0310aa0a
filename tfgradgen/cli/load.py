"""Loading of the models that the flags name, and the targets that are sampled from them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.api import choose_jit
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import note
from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Networks
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.io.images import read_images
from tfgradgen.models.classifier import Classifier, fitted, load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.fitting import range_text
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.models.loading.saved_model import try_call
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.targets import Target, targets_of
from tfgradgen.posterior import ClassPosterior

MAX_CHANNELS = 4  # most channels of an image that can be written as PNG


class Loaded(NamedTuple):
    """The models of a run.

    Attributes:
      generator: The generator.
      classifiers: At least one classifier.
      discriminator: None if the target has none.
      discriminator_fn: Its log-odds of `natural`; None if there is none.
      options: The options that name the models.
      remote: The workers that run what is sampled; None for this process.
    """

    generator: Generator
    classifiers: tuple[Classifier, ...]
    discriminator: Classifier | None
    discriminator_fn: Callable[[Any], Any] | None
    options: ModelOptions
    remote: Any = None

    def targets(self, wanted: Any) -> list[Target]:
        """Return the targets that `wanted` names: classes of the first classifier, or conditions on the classes of all."""
        return targets_of(self.classifiers, wanted)

    def networks(self, target: Target) -> Networks:
        """Return the networks that a run of `target` evaluates.

        Raises:
          UserError: The generator needs the target's class and does not have it.
        """
        return Networks(
            self.generator.for_label(target.label),
            target.classifier,
            self.discriminator_fn,
            self.options.discriminator_weight,
            self.options.max_batch,
        )


def load_models(options: ModelOptions, gradient_precision: str = "float32") -> Loaded:
    """Load the models and evaluate them together once, because valid models can still be incompatible.

    Guessed settings are printed to stderr.

    Args:
      options: Options about the models.
      gradient_precision: 'float32' or 'bfloat16', the precision of the convolutions in gradients.

    Raises:
      UserError: A model cannot be loaded or used, or the models are incompatible.
    """
    note("doing    loading models")
    is_lenient, is_low = options.allow_unknown_ops, gradient_precision == "bfloat16"
    generator = load_generator(options.generator, **options.generator_settings, allow_unknown_ops=is_lenient)
    if len(generator.image_shape) == 3 and generator.image_shape[2] > MAX_CHANNELS:
        expected = f"images [height, width, channels] of 1 to {MAX_CHANNELS} channels, as PNG has them"
        remedy = "choose another --generator or --generator_signature, or export it with its channels last"
        raise fail("generator", expected, f"images {list(generator.image_shape)}", remedy)
    classifiers = tuple(
        load_classifier(path, **options.classifier_settings, allow_unknown_ops=is_lenient) for path in options.classifiers
    )
    generator = generator.with_class_names(classifiers[0].labels)
    classifiers = tuple(_fitted(classifier, generator, options) for classifier in classifiers)
    discriminator = load_discriminator(options.discriminator, allow_unknown_ops=is_lenient) if options.discriminator else None
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


def _fitted(classifier: Classifier, generator: Generator, options: ModelOptions) -> Classifier:
    """Return `classifier` with settings inferred from the generator's images, if it accepts images of their rank."""
    shape = (2, *generator.image_shape)
    ranks = 2 if classifier.image_size == () else 4
    if len(shape) == ranks:  # otherwise `load_models` fails with an error that names both models
        try_call(lambda image: classifier.raw_scores(image), tf.zeros(shape), 2, f"{generator.path} into {classifier.path}")
        return fitted(classifier, generator, options.max_batch)
    return classifier


def say_guesses(role: str, model: Generator | Classifier) -> None:
    """Print to stderr the guessed settings of `model`, with their values and how to change them, and then its warnings."""
    named = [_guess(role, model, name) for name in model.assumed]
    if getattr(model, "is_binary", False):
        named.append(f"one output, {'the logit' if model.output == 'logits' else 'the probability'} of {model.labels[1].name}")  # type: ignore[union-attr]
    if named:
        note(f"guessed  {role} {as_text(model.path)}: {', '.join(named)}")
    for line in getattr(model, "warnings", ()):
        note(f"warning  {with_page('models', f'{role} {as_text(model.path)}: {line}')}")


def _guess(role: str, model: Generator | Classifier, name: str) -> str:
    """Return the guessed value of the setting `name`, and the flag that changes it."""
    flags = {"image_range": "range", "image_size": "size"}
    way = f"--{role}_{flags.get(name, name)}" if role != "discriminator" else f"{name} in its model.json"
    if name.startswith("family"):
        return f"{name} by its signatures"
    if name.startswith("version "):
        return f"{name}, the highest in that folder"
    if isinstance(model, Generator):
        if name == "class_input":
            return f"the input {model.classes.place if model.classes else ''} is the class ({way})"
        if name == "class_names":
            return "its classes in the classifier's order (labels in its model.json)"
    elif name == "labels":
        return f"labels of {model.num_classes} {'classes' if model.is_binary else 'outputs'} ({way})"
    elif name == "image_range" and model.range_scores:
        (best, top), *others = model.range_scores
        scores = ", ".join(f"{range_text(bounds)} {score:.2f}" for bounds, score in others)
        return f"image_range {range_text(best)} with score {top:.2f}, {scores} ({way})"
    return f"{name} {getattr(model, name)} ({way})"


def choose_backend(options: SampleOptions, loaded: Loaded, target: Target) -> SampleOptions:
    """Return `options`, in graph mode if XLA would be used but cannot compile the models. This is printed to stderr."""
    if loaded.remote:
        jit, why = loaded.remote.backend(options, target)
        run = replace(options.run, jit=jit)
    else:
        posterior = ClassPosterior.of(loaded.networks(target), target.index, options.run.temperature)
        run, why = choose_jit(posterior, options.kernel, options.run)
    if why:
        note(f"graph    mode, without XLA: {why}")
    return replace(options, run=run)


def start_at_photograph(options: SampleOptions, generator: Generator) -> SampleOptions:
    """Return `options` with the latent point of the photograph that --init names, if it names one.

    Raises:
      UserError: The image cannot be read, or the generator has no encoder.
    """
    if options.init_photograph is None:
        return options
    if generator.encode_fn is None:
        raise fail(
            "init",
            "a generator with an encoder, such as BigBiGAN, to start at a photograph",
            f"{generator.path}, which has none",
            "use --init=resample or --init=prior",
        )
    height, width = generator.image_shape[:2]
    image = read_images([options.init_photograph], width, height)
    z = generator.encode_fn(tf.cast(image, tf.float32) / 127.5 - 1.0)[0]
    return replace(options, run=replace(options.run, init="given", init_z=tuple(float(x) for x in z.numpy())))
