"""Checks of a posterior's likelihood and its gradient before the first step, for failures that a run would not show."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import UserError, fail

XLA_TOLERANCE = 1e-2  # nats: tolerance for reordered float32 sums in deep networks
# Relative to a gradient's length. Sums over thousands of samples of a sound reach 0.01; a wrong compilation is far off. A unit
# within rounding of a kink, such as that of ReLU, turns the gradient of its point by up to 0.13: the median of points counts.
XLA_GRADIENT_TOLERANCE = 5e-2
ROW_TOLERANCE = 1e-3  # same units: tolerance for reordered sums when a row is evaluated in another batch
SCALES = (1e-3, 1e3)  # of the likelihood's gradient relative to the prior's; outside, one of the two has no effect


LIKELY = 0.9  # p(class) above which log p is rightly nearly flat, for example for the condition `!goldfish`

EvaluateFn = Callable[[tf.Tensor], tuple[tf.Tensor, Any]]  # z [B, latent_dim] -> value [B], gradient like z or None


class Check(NamedTuple):
    """The result of one check.

    Attributes:
      what: What was checked.
      is_ok: Whether it is as expected.
      expected: What was expected.
      found: What was found.
      remedy: What to do if it is not `is_ok`.
      is_grave: Whether a run would be wrong if the check fails, not only of doubtful use.
    """

    what: str
    is_ok: bool
    expected: str
    found: str
    remedy: str
    is_grave: bool = True

    def error(self) -> UserError:
        return fail(self.what, self.expected, self.found, self.remedy)


def value_and_gradient(fn: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return `fn(z)` [B] and its gradient with respect to `z` [B, latent_dim].

    The gradient is None if `fn` does not depend on z.

    Raises:
      UserError: An operation of `fn` has no gradient.
    """
    try:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = fn(z)
        return value, tape.gradient(value, z)
    except LookupError as error:
        op = re.search(r"op type: (\w+)", str(error))
        if op is None:
            raise
        raise fail(
            "models",
            "a gradient of log p(class | g(z)) with respect to z",
            f"the operation {op[1]}, which has none",
            "use --kernel=rejection",
        ) from error


def share(mask: Any) -> str:
    """Return the share of true entries of `mask` [B] as text, such as `75% of 64 points`."""
    return f"{np.mean(mask):.0%} of {len(mask)} points"


def likelihood_checks(value: tf.Tensor, gradient: tf.Tensor | None) -> list[Check]:
    """Check the log-likelihood [B] and its gradient, without the prior.

    The prior's gradient would hide that the generator has none, for example because it ends in a cast.
    """
    finite = np.isfinite(value)
    slopes = np.zeros((len(value), 1)) if gradient is None else np.asarray(gradient)
    finite_slopes = np.isfinite(slopes).all(-1)
    steep = np.any(np.nan_to_num(slopes) != 0, -1)
    models = "check the models and their ranges"
    return [
        Check("p(class)", bool(finite.any()), "a finite log-likelihood at the start points", share(finite), models),
        Check(
            "models",
            bool(finite_slopes.any()),
            "a finite gradient of log p(class | g(z)) with respect to z",
            share(finite_slopes),
            models,
        ),
        Check(
            "models",
            bool(steep.any()),
            "a non-zero gradient of log p(class | g(z)) with respect to z",
            share(steep),
            "the generator or classifier cuts it (a cast, a rounding, an argmax); use --kernel=rejection",
        ),
    ]


def warning_lines(checks: Iterable[Check]) -> list[str]:
    """Return a line for each failed check that lets a run continue.

    Raises:
      UserError: The first failed check that is grave.
    """
    bad = [check for check in checks if not check.is_ok]
    for check in bad:
        if check.is_grave:
            raise check.error()
    return [f"{check.what}: expected {check.expected}, found {check.found}: {check.remedy}" for check in bad]


def gradient_checks(
    z: tf.Tensor, graph_fn: EvaluateFn, xla_fn: EvaluateFn | None, class_prob: np.ndarray | None = None
) -> list[Check]:
    """Check the likelihood and its gradient at prior draws `z` [B, latent_dim] before a run.

    The checks are of the value and gradient of the likelihood, the scale of its gradient relative to the prior's, bitwise
    determinism, independence of the rows, and agreement of XLA with graph mode.

    Args:
      z: Prior draws.
      graph_fn: `value_and_gradient` of the log-likelihood without XLA.
      xla_fn: The same with XLA; None if the run does not use XLA.
      class_prob: [B], p(class) at `z`. If most of it is above `LIKELY`, there is no lower bound on the likelihood's gradient.
    """
    value, gradient = graph_fn(z)
    found = likelihood_checks(value, gradient)
    if gradient is None or not all(check.is_ok for check in found):
        return found  # without a gradient there is nothing more to compare
    prior = np.linalg.norm(z, axis=-1)  # the gradient of log Normal(z; 0, I) is -z
    lengths = np.linalg.norm(gradient, axis=-1)
    ratio = float(np.nanmedian(lengths / prior))
    low = 0.0 if class_prob is not None and np.median(class_prob) > LIKELY else SCALES[0]
    found.append(
        Check(
            "gradient",
            True,
            "its norm, with respect to z",
            f"median {np.nanmedian(lengths):.3g}, {np.nanmin(lengths):.3g} to {np.nanmax(lengths):.3g}; "
            f"median of the prior's {np.median(prior):.3g}",
            "",
        )
    )
    found.append(
        Check(
            "scales",
            low < ratio < SCALES[1],
            f"the likelihood's gradient between {low:g} and {SCALES[1]:g} of the prior's",
            f"{ratio:.3g}",
            "choose a --temperature that brings the two together",
            is_grave=False,
        )
    )
    found += _again(graph_fn, z, value, gradient)
    return [*found, xla_check(xla_fn, z, value, gradient)] if xla_fn else found


def _again(graph_fn: EvaluateFn, z: tf.Tensor, value: tf.Tensor, gradient: tf.Tensor) -> list[Check]:
    """Check that two further evaluations reproduce all bits, and that a row does not depend on the others in its batch.

    For the latter, one more batch consists of copies of one row. That row is the least likely one, so that it is not saturated,
    among all but the first, with which a model could compare the others.
    """
    row = 1 + int(np.argmin(np.where(np.isfinite(value[1:]), value[1:], np.inf))) if len(value) > 1 else 0
    first, among_others = (value, gradient), graph_fn(tf.repeat(z[row : row + 1], len(z), axis=0))

    def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))

    is_same = same(first, graph_fn(z)) and same(first, graph_fn(z))
    copies = tuple(np.repeat(column[row : row + 1], len(z), 0) for column in first)
    nats, turned = (of_row.max(initial=0.0) for of_row in _differences(*zip(copies, among_others, strict=True)))
    is_alone = not is_same or bool(nats <= ROW_TOLERANCE and turned <= ROW_TOLERANCE)  # 'determinism' reports noise
    return [
        Check(
            "determinism",
            is_same,
            "the same bits of the likelihood and its gradient from two evaluations",
            "the same" if is_same else "others",
            "remove noise and dropout from the model; a chain needs one density",
        ),
        Check(
            "rows",
            is_alone,
            "the same gradient of a latent point whatever others are in its batch",
            "the same" if nats == turned == 0 else f"{nats:.1g} nats and {turned:.1g} of the gradient apart",
            "remove operations over the whole batch, such as its mean, from the model: chains would influence each other",
        ),
    ]


def _differences(values: tuple[Any, Any], gradients: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences between two evaluations at each row where the first is finite.

    Args:
      values: (first, other), each [B], in nats.
      gradients: (first, other), each [B, latent_dim].

    Returns:
      Those of the values in nats, and those of the gradients relative to the first's length, or to 1 if it is shorter.
    """
    (value, other_value), (gradient, other_gradient) = (tuple(map(np.asarray, pair)) for pair in (values, gradients))
    usable = np.isfinite(value) & np.isfinite(gradient).all(-1)  # other rows cannot be compared
    turned = np.linalg.norm(other_gradient - gradient, axis=-1) / np.maximum(np.linalg.norm(gradient, axis=-1), 1.0)
    return np.abs(other_value - value)[usable], turned[usable]


def with_xla(xla_fn: Callable[[tf.Tensor], Any], z: tf.Tensor) -> tuple[Any, str]:
    """Return `xla_fn(z)` and "", or None and why XLA cannot compile it."""
    try:
        return xla_fn(z), ""
    except (tf.errors.OpError, ValueError, NotImplementedError) as error:
        # The message names the missing kernels within pages of text about the graph.
        missing = ", ".join(dict.fromkeys(re.findall(r"(\w+) \(No registered", str(error))))
        why = f"no kernel for {missing}" if missing else " ".join(str(error).split())[:160]
        return None, f"no compilation ({why})"


def xla_check(xla_fn: EvaluateFn, z: tf.Tensor, value: tf.Tensor, gradient: tf.Tensor) -> Check:
    """Compare XLA with graph mode's `value` [B] and `gradient` at `z`.

    The check is not grave if XLA cannot compile the models at all.
    """
    limits = f"{XLA_TOLERANCE:g} nats, and the gradients of most points within {XLA_GRADIENT_TOLERANCE:g}"
    expected = f"the values of graph mode within {limits}, by XLA"
    remedy = "use --jit=false"
    found, why = with_xla(xla_fn, z)
    if why:
        return Check("xla", False, expected, why, remedy, is_grave=False)
    other_value, other_gradient = found
    of_values, of_gradients = _differences((value, other_value), (gradient, other_gradient))
    apart, turned = of_values.max(initial=0.0), np.median(of_gradients) if len(of_gradients) else 0.0
    return Check(
        "xla",
        bool(apart <= XLA_TOLERANCE and turned <= XLA_GRADIENT_TOLERANCE),
        expected,
        f"{apart:.1g} nats and {turned:.1g} of the gradient apart",
        remedy,
    )
