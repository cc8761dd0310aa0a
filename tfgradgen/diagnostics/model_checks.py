"""Checks of the models before the first step. Every method makes them, in the command and in the library.

Their results are cached with the models, so a run of many labels makes the checks that do not depend on the label once.
"""

import functools
import itertools
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import compile_fn, full_float32, use_xla
from tfgradgen.core.checks import check_real, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Networks
from tfgradgen.core.memo import per_networks
from tfgradgen.core.text import as_python, value_text
from tfgradgen.diagnostics.preflight import Check, gradient_checks, value_and_gradient, warning_lines
from tfgradgen.diagnostics.prior_checks import NUM_FORWARD, NUM_ROWS, Evidence, examine, label_checks, prior_points
from tfgradgen.diagnostics.random_ops import random_ops
from tfgradgen.posterior import ClassPosterior

NUM_CHECKED = 4  # prior draws whose gradients are checked
NUM_EVALUATIONS = 4  # evaluations of their gradients; XLA adds one


class Admitted(NamedTuple):
    """A posterior that passed its checks.

    Attributes:
      posterior: The posterior, with its temperature as a number.
      warnings: Warnings, one line each.
      cost: Gradients and forward passes of the checks, whether they were made now or earlier.
      of_each: Warnings and cost of each label by itself, in the order of `ClassPosterior.each_label`.
    """

    posterior: ClassPosterior
    warnings: list[str]
    cost: list[int]
    of_each: list[tuple[list[str], list[int]]]


def admit(posterior: ClassPosterior, run: RunConfig, takes_gradients: bool) -> Admitted:
    """Make the checks of a method with or without gradients. Every method begins with this.

    TensorFloat-32 is switched off for the whole process (see `full_float32`).

    Args:
      posterior: The target.
      run: Settings of the run.
      takes_gradients: Whether the method uses gradients.

    Raises:
      UserError: The run would be wrong: its temperature is not the posterior's, or the models are random, mix the rows of a
        batch, return other shapes than they promise, or have no finite likelihood or, if gradients are used, no finite
        gradient.
    """
    full_float32()
    posterior = with_number(posterior)
    posterior.check_run(run)
    found = [*prior_checks(posterior)]
    warning_lines(found)  # errors of these checks come first
    if takes_gradients:
        found += checked_gradients(posterior, run)
    lines = warning_lines(found)  # errors of these checks name their labels
    num_gradients = NUM_CHECKED * (NUM_EVALUATIONS + use_xla(run.jit)) if takes_gradients else 0
    parts = posterior.each_label()
    gradients = _gradients_of_each(posterior, run) if takes_gradients else [[] for _ in parts]
    of_each = [
        (warning_lines([*prior_checks(each), *own]), [num_gradients, NUM_FORWARD])
        for (each, _), own in zip(parts, gradients, strict=True)
    ]
    return Admitted(posterior, lines, [num_gradients * len(parts), NUM_FORWARD], of_each)


def with_number(posterior: ClassPosterior) -> ClassPosterior:
    """Return `posterior` with its temperature as a Python float, by which compiled functions are cached.

    Raises:
      UserError: The temperature is a tensor without a value, or its value is out of range.
    """
    temperature = posterior.temperature
    if not tf.is_tensor(temperature):
        return posterior
    try:
        value = float(temperature)
    except (TypeError, ValueError) as error:
        got = "a tensor of a graph" if not hasattr(temperature, "numpy") else f"a tensor of shape {list(temperature.shape)}"
        raise fail("temperature", "one number", got, "pass a float, or sample outside of tf.function") from error
    return ClassPosterior.of(
        posterior.networks, posterior.label, check_real("temperature", value, 0.0), posterior.regularization
    )


def warn_of(lines: Iterable[str]) -> None:
    """Issue each line as a Python warning, in calls of the library; the command prints them, and `tg.sample` returns them."""
    for line in lines:
        warnings.warn(as_python(line), stacklevel=3)


@per_networks
def evidence(networks: Networks) -> Evidence:
    """Return `examine` of `networks`, which is cached."""

    def scores(z: tf.Tensor) -> Any:
        image = networks.generator(z)
        observers = (networks.classifier, networks.discriminator)
        return [observer(image) for observer in observers if observer is not None]

    spec = tf.TensorSpec([NUM_ROWS, networks.generator.latent_dim], tf.float32)
    return examine(networks, lambda: random_ops(scores, spec))


def prior_checks(posterior: ClassPosterior) -> list[Check]:
    """Return the checks at prior draws that need no gradient, of the models and of each label."""
    seen = evidence(posterior.networks)
    says_it = any(not check.is_ok for check in seen.checks if check.what == "generator")
    found = [*seen.checks]
    for each, _ in posterior.each_label():
        log_prob = seen.log_probs[:, int(each.label)]
        of_label = label_checks(log_prob, each.classifier.num_classes, seen.medium, float(each.temperature))
        if says_it and not of_label[0].is_grave:
            of_label = of_label[1:]  # implied by images that are not finite
        found += [_of_label(check, each) for check in of_label] if posterior.is_batched else of_label
    return found


def _of_label(check: Check, posterior: ClassPosterior) -> Check:
    """Return `check` with the name of its label, to distinguish it from those of other labels."""
    return check._replace(what=f"{check.what} of {value_text(posterior.label_names[0])}")


@per_networks
def likelihood_gradient(networks: Networks, temperature: float, xla: bool) -> Any:
    """Return the compiled `value_and_gradient` of the log-likelihood, (label, z) -> (value, gradient), for all classes.

    It is used for single values as well. At the first eager gradient, TensorFlow rewrites a SavedModel. From then on each of
    its graphs, including the sampler's, keeps all intermediate results: it takes a sixth more time, and a gigabyte at 64
    chains.
    """

    def evaluate(label: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        return value_and_gradient(ClassPosterior.of(networks, label, temperature).likelihood_log_prob, z)

    return compile_fn(evaluate, jit_compile=xla)


def checked_gradients(posterior: ClassPosterior, run: RunConfig) -> list[Check]:
    """Return the `gradient_checks` of each label, with the functions that a run evaluates.

    Raises:
      UserError: The run uses XLA, but XLA cannot compile the models.
    """
    found = _gradients_of_each(posterior, run)
    for check in itertools.chain(*found):
        if check.what == "xla" and not check.is_ok:
            raise check.error()
    if not posterior.is_batched:
        return found[0]
    parts = posterior.each_label()
    return [_of_label(check, each) for (each, _), checks in zip(parts, found, strict=True) for check in checks]


def _gradients_of_each(posterior: ClassPosterior, run: RunConfig) -> list[list[Check]]:
    labels = tuple(int(each.label) for each, _ in posterior.each_label())
    found: list[list[Check]] = _gradients_of_labels(posterior.networks, posterior.temperature, use_xla(run.jit), labels)
    return found


@per_networks
def _gradients_of_labels(networks: Networks, temperature: float, xla: bool, labels: tuple[int, ...]) -> list[list[Check]]:
    return [gradient_checks_at(networks, label, NUM_CHECKED, temperature, xla) for label in labels]


def gradient_checks_at(networks: Networks, label: int, num: int, temperature: float, xla: bool) -> list[Check]:
    """Return the `gradient_checks` of a label at `num` of `checked_points`, with those of XLA if `xla` says so."""
    compiled = [likelihood_gradient(networks, temperature, each) for each in (False, True)]
    graph_fn, xla_fn = (functools.partial(fn, tf.constant(label)) for fn in compiled)
    z, class_prob = checked_points(networks, label, num)
    return gradient_checks(z, graph_fn, xla_fn if xla else None, class_prob)


def checked_points(networks: Networks, label: int, num: int) -> tuple[tf.Tensor, np.ndarray]:
    """Return the prior draws at which gradients are checked: first those with a finite target.

    If a model returns NaN for part of z, it is judged by the rest, wherever the first draws lie.

    Returns:
      `num` draws z [num, latent_dim], and p(class) [num] of each.
    """
    seen = evidence(networks)
    places = seen.points(label, num)
    return tf.gather(prior_points(networks.generator.latent_dim), places), np.exp(seen.log_probs[places, label])


def without_xla(posterior: ClassPosterior, run: RunConfig) -> str:
    """Return why jit='auto' must use graph mode instead of XLA for gradients of some label; '' if it need not."""
    if run.jit != "auto" or not use_xla(run.jit):
        return ""
    checks = itertools.chain(*_gradients_of_each(posterior, run))
    return next((check.found for check in checks if check.what == "xla" and not check.is_ok), "")


def checked_start(
    init_z: Any, posterior: ClassPosterior, run: RunConfig, num_replicas: int = 0, is_resumed: bool = False
) -> tf.Tensor:
    """Return `init_z` as float32 [num_chains, latent_dim], or [num_replicas, num_chains, latent_dim] if it has that shape.

    Args:
      init_z: The start points.
      posterior: The target.
      run: Settings of the run.
      num_replicas: Number of replicas of the kernel; 0 if it has none.
      is_resumed: Whether `init_z` is the state of a resumed run, of which only the shape is used.

    Raises:
      UserError: The shape is wrong, or a value is not a finite number.
    """
    shape = f"start points [{run.num_chains}, {posterior.latent_dim}], a row for each of num_chains={run.num_chains}"
    try:
        z = tf.cast(tf.convert_to_tensor(init_z), tf.float32)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise fail("init_z", shape, type(init_z).__name__, "give an array of numbers") from error
    rows = (run.num_chains, posterior.latent_dim)
    if z.shape != rows and not (num_replicas and z.shape == (num_replicas, *rows)):
        remedy = f"give RunConfig(num_chains={z.shape[0]})" if z.shape.rank == 2 and z.shape[0] else "give that shape"
        raise fail("init_z", shape, f"shape {list(z.shape)}", remedy)
    if not is_resumed and not np.isfinite(z).all():
        raise fail("init_z", "finite start points", "NaN or inf", "give finite latent points")
    return z
