"""MAP estimation: gradient ascent on the posterior's density, the baseline for the chains. It does not sample.

The regularizers are those of Nguyen et al. (2016), a decay of z in each step and bounds on each coordinate; each is a separate
setting. Class-specific regularization is our interpretation of the poster of Xu, Acuna and Duvenaud, which names it without a
formula: a quadratic penalty on the distance to the mean of exact draws of the class, in units of their standard deviation
(`Regularization`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.config import KernelConfig, Schedule
from tfgradgen.core.contracts import PosteriorLike, Regularization, Tensor
from tfgradgen.core.lazy import tf
from tfgradgen.core.settings import choice, real
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, StepInfo, one_tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults (Kingma and Ba 2015)


@dataclass(frozen=True)
class MapConfig(KernelConfig):
    """Settings of gradient ascent."""

    step_size: float = real(0.05, help="step size of adam, or the length of a normalized step")
    optimizer: str = choice("adam", choices=("adam", "normalized"), help="how a step follows from the gradient")
    objective: str = choice("log_prob", choices=("log_prob", "logit"), help="which output of the classifier is maximized")
    class_reg: float = real(
        0.0,
        inclusive_low=True,
        help="weight of a penalty on the distance to the mean of exact draws of the class, in standard deviations",
    )
    l2_decay: float = real(0.0, high=1.0, inclusive_low=True, help="share by which each step shrinks z")
    clip_sigma: float = real(0.0, inclusive_low=True, help="bound on abs(z), in standard deviations; 0 is none")
    clip_around: str = choice(
        "prior",
        choices=("prior", "class"),
        help="whose mean and standard deviations clip_sigma uses; those of the class are per coordinate",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_around == "class" and self.clip_sigma == 0:
            raise fail(
                "clip_around", "a bound around the class", "clip_sigma 0, which is no bound", "give --clip_sigma=2, for example"
            )

    @property
    def needs_class_moments(self) -> bool:
        return self.class_reg > 0 or (self.clip_sigma > 0 and self.clip_around == "class")


class ClassTarget(PosteriorLike, Protocol):
    """A `PosteriorLike` that also provides the classifier's logit."""

    @property
    def regularization(self) -> Regularization | None: ...

    def objectives(self, z: Tensor, /) -> tuple[Tensor, Tensor]: ...


class MapResults(NamedTuple):
    """Results of a step.

    Attributes:
      target_log_prob: [num_chains], log density of the state.
      gradient: Gradient of the objective at the state, like z.
      first_moment: Adam's running mean of the gradient, like z.
      second_moment: Adam's running mean of the squared gradient, like z.
      step: int32 scalar, number of steps so far.
    """

    target_log_prob: tf.Tensor
    gradient: tf.Tensor
    first_moment: tf.Tensor
    second_moment: tf.Tensor
    step: tf.Tensor


class MapAscent(KernelBase):
    """One ascent step, either of Adam or of fixed length along the gradient, then decay and bounds.

    Args:
      posterior: The target; `objectives(z)` returns the objectives 'log_prob' and 'logit'.
      config: See `MapConfig`.
    """

    def __init__(self, posterior: ClassTarget, config: MapConfig):
        self._posterior, self._config = posterior, config
        self._parameters = dict(posterior=posterior, config=config)

    @property
    def is_calibrated(self) -> bool:
        return False

    def bootstrap_results(self, init_state: tf.Tensor) -> MapResults:
        init_state = one_tensor(init_state)
        zeros = tf.zeros_like(init_state)
        return MapResults(*self._evaluate(init_state), zeros, zeros, tf.constant(0))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: MapResults, seed: Any = None) -> Any:
        config, before = self._config, previous_kernel_results
        uphill, first, second = OPTIMIZERS[config.optimizer](before)
        z = (current_state + config.step_size * uphill) * (1.0 - config.l2_decay)
        if config.clip_sigma > 0:
            mean, scale = self._bounds()
            z = tf.clip_by_value(z, mean - config.clip_sigma * scale, mean + config.clip_sigma * scale)
        return z, MapResults(*self._evaluate(z), first, second, before.step + 1)

    def _bounds(self) -> tuple[Any, Any]:
        regularization = self._posterior.regularization
        if self._config.clip_around == "prior" or regularization is None:
            return 0.0, 1.0
        return regularization.mean, regularization.scale

    def _evaluate(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_prob, logit = self._posterior.objectives(z)
            objective = log_prob if self._config.objective == "log_prob" else logit
        return log_prob, tape.gradient(objective, z)


def adam(before: MapResults) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return Adam's step for a learning rate of 1, and its two running means."""
    count = tf.cast(before.step + 1, before.gradient.dtype)
    first = BETA_1 * before.first_moment + (1 - BETA_1) * before.gradient
    second = BETA_2 * before.second_moment + (1 - BETA_2) * tf.square(before.gradient)
    scale = tf.sqrt(second / (1 - tf.pow(BETA_2, count))) + EPSILON
    return first / (1 - tf.pow(BETA_1, count)) / scale, first, second


def normalized(before: MapResults) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the gradient normalized to length 1 for each chain, and the unchanged running means."""
    uphill = tf.math.l2_normalize(before.gradient, axis=-1)
    return uphill, before.first_moment, before.second_moment


OPTIMIZERS = {"adam": adam, "normalized": normalized}


def map_info(posterior: PosteriorLike, config: MapConfig, z: tf.Tensor, results: MapResults) -> StepInfo:
    """Return the `StepInfo` of a step, which is always accepted; `log_accept_ratio` is 0 where the density is finite."""
    value = results.target_log_prob
    return StepInfo(
        target_log_prob=value,
        is_accepted=tf.ones_like(value, tf.bool),
        log_accept_ratio=tf.where(tf.math.is_finite(value), tf.zeros_like(value), value),
        step_size=tf.fill(tf.shape(value), np.float32(config.step_size)),
        num_gradients=tf.ones_like(value, tf.int32),
        num_forward=tf.zeros_like(value, tf.int32),
    )


SAMPLER = KernelSampler(
    "map",
    about="baseline: climbs to modes",
    exactness="no draws",
    defaults=MapConfig(),
    schedule=Schedule(num_results=100, num_burnin_steps=200, num_adaptation_steps=0),
    kind="ascent",
    is_calibrated=lambda config: False,
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: MapAscent(posterior, config),
    info_fn=map_info,
)
