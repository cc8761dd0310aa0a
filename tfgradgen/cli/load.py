"""Loading of the models that the flags name, and the targets that are sampled from them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from tfgradgen.api import choose_jit
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import note
from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Networks
from tfgradgen.core.text import as_text
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.mcmc.projection import at_photograph
from tfgradgen.models.classifier import Classifier, fitted, load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.fitting import range_text
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.models.loading.saved_model import try_call
from tfgradgen.models.precision import lower_gradients
from tfgradgen.models.targets import Target, targets_of
from tfgradgen.models.text import TextClassifier, load_text_model
from tfgradgen.models.tokens import read_captions
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.summary import projection_line

C = TypeVar("C", bound=Classifier)


class Loaded(NamedTuple):
    """The models of a run.

    Attributes:
      generator: The generator.
      classifiers: At least one classifier.
      text: The classifier of the text; None if the target has none.
      discriminator: None if the target has none.
      discriminator_fn: Its log-odds of `natural`; None if there is none.
      options: The options that name the models.
      remote: The workers that run what is sampled; None for this process.
    """

    generator: Generator
    classifiers: tuple[Classifier, ...]
    text: TextClassifier | None
    discriminator: Classifier | None
    discriminator_fn: Callable[[Any], Any] | None
    options: ModelOptions
    remote: Any = None

    def targets(self, wanted: Any) -> list[Target]:
        """Return the targets that `wanted` names, each with the text if there is one; for None the text alone."""
        return targets_of(self.classifiers, wanted, self.text)

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
    classifiers = tuple(
        load_classifier(path, **options.classifier_settings, allow_unknown_ops=is_lenient) for path in options.classifiers
    )
    generator = generator.with_class_names(classifiers[0].labels)
    classifiers = tuple(_fitted(classifier, generator, options) for classifier in classifiers)
    text = _text_classifier(options)
    text = text and _fitted(text, generator, options)
    discriminator = None
    if options.discriminator:
        discriminator = load_discriminator(options.discriminator, allow_unknown_ops=is_lenient).at_rate_of(generator)
    tells_fn = discriminator and natural_log_odds(discriminator)
    loaded = Loaded(generator, classifiers, text, discriminator, tells_fn, options)
    observers = [*classifiers, *(model for model in (text, discriminator) if model)]
    modules = [generator.module, *(model.module for model in observers)]
    if is_low and not sum(map(lower_gradients, modules)):
        raise fail("gradient_precision", "a convolution in a model", "none", "leave --gradient_precision out")
    say_guesses("generator", generator)
    for classifier in classifiers:
        say_guesses("classifier", classifier)
    for role, model in (("text model", text), ("discriminator", discriminator)):
        if model:
            say_guesses(role, model)
    example = tf.zeros([2, generator.latent_dim])
    for model in observers:
        into = functools.partial(lambda model, z: model.log_probs(generator(z)), model)
        try_call(into, example, 2, f"{generator.path} into {model.path}")
    return loaded


def _text_classifier(options: ModelOptions) -> TextClassifier | None:
    if options.text is None:
        return None
    captions = None if options.captions is None else read_captions(options.captions)
    return load_text_model(options.text_model, allow_unknown_ops=options.allow_unknown_ops).classifier(options.text, captions)


def _fitted(classifier: C, generator: Generator, options: ModelOptions) -> C:
    """Return `classifier` with settings inferred from the generator's images, if it takes what the generator gives."""
    shape = (2, *generator.image_shape)
    if classifier.kind == generator.medium.kind:  # otherwise `load_models` fails with an error that names both models
        classifier = classifier.at_rate_of(generator)
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
    way = f"--{role}_{flags.get(name, name)}" if role in ("generator", "classifier") else f"{name} in its model.json"
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
    value = "100, that of CLIP" if name == "scale" else getattr(model, name)
    return f"{name} {value} ({way})"


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


def start_at_photograph(options: SampleOptions, loaded: Loaded, targets: Sequence[Target]) -> SampleOptions:
    """Return `options` with the latent point whose image is nearest to the photograph that --init names, if it names one.

    Raises:
      UserError: The image cannot be read, or the generator makes no images, or other ones for each of several `targets`.
    """
    if options.init_photograph is None:
        return options
    networks = loaded.networks(targets[0])
    if len(targets) > 1 and networks.generator is not loaded.generator:
        got = f"{len(targets)}, and a generator that takes the class"
        raise fail("init", "one label, to start at a photograph", got, "name one")
    run, found = at_photograph(networks, options.init_photograph, options.run)
    note(projection_line(found, options.init_photograph))
    return replace(options, run=run, projection=found)
