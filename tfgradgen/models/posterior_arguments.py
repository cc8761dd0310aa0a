"""Checks of the arguments of `ClassPosterior` and of its densities, as far as their values are known."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import check_int, check_real, fail
from tfgradgen.core.config import MAX_FLOAT32, MIN_TEMPERATURE
from tfgradgen.core.contracts import Regularization
from tfgradgen.core.text import value_text


def check_size(role: str, model: Any, name: str) -> None:
    """Raise `UserError` unless the attribute `name` of `model` is an integer of at least 1."""
    size = getattr(model, name, None)
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        got = f"{name}={size}" if hasattr(model, name) else "none"
        raise fail(role, f"a {name}, an integer of at least 1", got, f"set {name} of the {role} to an integer")


def _is_known(value: Any) -> bool:
    """Return whether the value of a tensor can be read: it is none of a graph, and no variable while a graph is traced."""
    return hasattr(value, "numpy") and not (isinstance(value, tf.Variable) and tf.inside_function())


def checked_temperature(temperature: Any) -> Any:
    """Return `temperature` as a float or a float32 tensor; raise `UserError` unless its value, if known, is finite and > 0."""
    if not tf.is_tensor(temperature):
        return _in_range(temperature)
    if not (temperature.dtype.is_floating or temperature.dtype.is_integer):
        raise fail("temperature", "a number above 0", f"a tensor of {temperature.dtype.name}", "give a float32 tensor")
    for value in temperature.numpy().ravel().tolist() if _is_known(temperature) else ():
        _in_range(value)
    return temperature if temperature.dtype == tf.float32 else tf.cast(temperature, tf.float32)


def _in_range(temperature: Any) -> float:
    number = check_real("temperature", temperature, 0.0)
    if number > MAX_FLOAT32:  # float32 would make it infinite, and the likelihood constant
        raise fail("temperature", f"a number of at most {MAX_FLOAT32:.3g}", temperature, "give a smaller one")
    if number < MIN_TEMPERATURE:
        raise fail("temperature", f"a number of at least {MIN_TEMPERATURE:g}", temperature, "give a larger one")
    return number


def check_regularization(regularization: Any, latent_dim: int) -> None:
    """Raise `UserError` unless `regularization` is None or a `Regularization` of latent points of `latent_dim` coordinates."""
    if regularization is None:
        return
    if not isinstance(regularization, Regularization):
        got = type(regularization).__name__
        raise fail("regularization", "a tfgradgen.Regularization(weight, mean, scale)", got, "give one, or leave it out")
    if not tf.is_tensor(regularization.weight):
        check_real("regularization.weight", regularization.weight, 0.0, inclusive_low=True)
    for name, low in (("mean", -np.inf), ("scale", 0.0)):
        given = getattr(regularization, name)
        if tf.is_tensor(given) and not _is_known(given):
            continue
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise fail(f"regularization.{name}", f"numbers [{latent_dim}]", value_text(given), "give an array") from error
        if values.ndim > 2 or values.shape[-1:] not in ((), (latent_dim,)):
            expected = f"[{latent_dim}], or a row for each chain"
            got = f"shape {list(values.shape)}"
            raise fail(f"regularization.{name}", expected, got, "give one number for each coordinate of z")
        if not (np.isfinite(values) & (values > low)).all():
            expected = "finite numbers" if low < 0 else "finite numbers above 0"
            raise fail(f"regularization.{name}", expected, value_text(values.ravel().tolist()), "give such numbers")


def check_discriminator(discriminator: Any, weight: float) -> None:
    """Raise `UserError` if there is a discriminator without a weight, a weight without one, or one that cannot be called."""
    if discriminator is None and weight:
        raise fail("discriminator_weight", "a discriminator beside it", "none", "give one, or leave the weight out")
    if discriminator is None:
        return
    if not callable(discriminator):
        got = type(discriminator).__name__
        raise fail("discriminator", "a function from images to log-odds [batch]", got, "give one, or leave it out")
    if not weight:
        raise fail("discriminator", "a discriminator_weight above 0", "0", "give one, for example discriminator_weight=1.0")


def check_label_tensor(label: tf.Tensor, num_classes: int) -> None:
    """Raise `UserError` unless `label` is an integer tensor [] or [num_chains] of class indices."""
    expected = "an integer tensor, with one label or one per chain"
    if not label.dtype.is_integer or label.shape.rank not in (0, 1) or label.shape == (0,):
        raise fail("label", expected, f"{label.dtype.name} of shape {label.shape}", "give int32 [] or [num_chains]")
    if hasattr(label, "numpy"):
        for value in np.unique(label.numpy()).tolist():
            check_int("label", value, 0, num_classes - 1)


def one_part(z: Any) -> Any:
    """Return `z` from a structure with one part, as TFP passes it: {"z": z}, (z,) or [z].

    Raises:
      UserError: A mapping has other keys.
    """
    if isinstance(z, Mapping):
        if set(z) != {"z"}:
            raise fail("z", "the key z only", ", ".join(map(str, z)) or "none", "pass z, or a dict with the key z only")
        return z["z"]
    return z[0] if isinstance(z, list | tuple) and len(z) == 1 and hasattr(z[0], "shape") else z
