"""Posteriors from Python, as workers make them again: from the files and settings of their models."""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.diagnostics.prior_checks import prior_points
from tfgradgen.engine.engine import Engine
from tfgradgen.engine.models import NONE_SENT, Sent, send
from tfgradgen.models.classifier import Classifier, load_classifier
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.posterior import ClassPosterior

NUM_PROBED = 4  # latent points at which a worker's models must return what those of the command return
TOLERANCE = 1e-2  # relative; another device rounds otherwise, another model is far beyond it
REMEDY = "load both by load_generator and load_classifier, or leave engine out"


class Spec(NamedTuple):
    """What a worker needs to make a posterior.

    Attributes:
      generator: Path and settings.
      classifier: Path and settings.
      label: As it was given.
      temperature: Of the likelihood.
      max_batch: Rows that go through the networks at a time.
      probe: Scores of the classes at the first prior points.
      sent: The files of the models, for workers that lack them.
    """

    generator: tuple[str, dict[str, Any]]
    classifier: tuple[str, dict[str, Any]]
    label: Any
    temperature: float
    max_batch: int | None
    probe: np.ndarray
    sent: Sent = NONE_SENT


_MADE: dict[str, ClassPosterior] = {}  # the posterior of the last blocks, so that models are loaded once


def names_of(classifier: Classifier) -> dict[str, Any]:
    """Return the names of the classes as a setting of `load_classifier`: they may come from a file that a worker lacks."""
    return {} if classifier.is_binary else {"labels": [asdict(label) for label in classifier.labels]}


def spec_of(posterior: ClassPosterior, engine: Engine) -> Spec:
    """Return the description of `posterior` for the workers of `engine`.

    Raises:
      UserError: A model was not loaded from files, or the target has more parts than two models.
    """
    given = posterior.parameters
    models = given["generator"], given["classifier"]
    is_loaded = (
        isinstance(models[0], Generator) and isinstance(models[1], Classifier) and all(m.given is not None for m in models)
    )
    if not is_loaded:
        raise fail("engine", "models from files, which workers can load", "Python objects", REMEDY)
    if given["discriminator"] is not None or given["regularization"] is not None:
        raise fail("engine", "a target of a generator and a classifier alone", "a further term", "leave it or engine out")
    label = given["label"]
    label = label.numpy().tolist() if hasattr(label, "numpy") else label
    generator, classifier = ((model.path, dict(model.given)) for model in models)
    found = Spec(generator, classifier, label, float(posterior.temperature), given["max_batch"], _probe(posterior))
    if not engine.is_elsewhere:
        return found
    named = classifier[0], classifier[1] | names_of(models[1])
    return found._replace(classifier=named, sent=send([generator[0], classifier[0]], engine.fleet.share))


def _probe(posterior: ClassPosterior) -> np.ndarray:
    generator, classifier = posterior.networks[:2]
    scores: np.ndarray = classifier(generator(prior_points(posterior.latent_dim)[:NUM_PROBED])).numpy()
    return scores


def posterior_of(spec: Spec) -> ClassPosterior:
    """Return the posterior in a worker.

    Raises:
      UserError: A model does not load, or is another one.
    """
    key = repr(spec._replace(probe=np.zeros(0), sent=Sent(spec.sent.sha256)))
    if key not in _MADE:
        _MADE.clear()
        with spec.sent.folders() as folders:
            (generator, own), (classifier, settings) = spec.generator, spec.classifier
            found = ClassPosterior(
                load_generator(folders.get(generator, generator), **own),
                load_classifier(folders.get(classifier, classifier), **settings),
                spec.label,
                temperature=spec.temperature,
                max_batch=spec.max_batch,
            )
        if not np.allclose(_probe(found), spec.probe, rtol=TOLERANCE, atol=TOLERANCE):
            raise fail("engine", "the models of the command", "models that return something else", REMEDY)
        _MADE[key] = found
    return _MADE[key]
