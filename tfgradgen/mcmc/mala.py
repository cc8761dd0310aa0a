"""Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996) with a step size that can be adapted.

TFP's kernel takes the step size only as a constructor argument, as a variance, and stores the drift of the last step in its
results. Adaptation writes the step size into the results. This kernel therefore stores it there, as a distance, and recomputes
the drift from the stored gradient: a stale drift belongs to another proposal density, and biases the acceptance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.lazy import tf, tfp
from tfgradgen.core.settings import again, real
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, one_tensor


@dataclass(frozen=True)
class MalaConfig(AdaptedConfig):
    """Settings of MALA. If `class_reg` is above 0, it adds a `Regularization`, and the target is not the posterior."""

    # `tune` finds no better defaults on the shipped models: tools/tuning/mala.
    step_size: float = again(AdaptedConfig, "step_size", 0.4)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.442)

    class_reg: float = real(
        0.0,
        inclusive_low=True,
        help="weight of a penalty on the distance to the mean of exact draws of the class, in standard deviations; above 0 the "
        "target is not the posterior",
    )
    _: KW_ONLY
    exploration_shrinkage: float = again(AdaptedConfig, "exploration_shrinkage", 0.208)
    decay_rate: float = again(AdaptedConfig, "decay_rate", 0.715)
    step_count_smoothing: int = again(AdaptedConfig, "step_count_smoothing", 12)

    @property
    def needs_class_moments(self) -> bool:
        return self.class_reg > 0


class MalaResults(NamedTuple):
    """Results of a transition.

    Attributes:
      step_size: A distance in z; broadcasts with the state.
      inner_results: Results of tfp.mcmc.MetropolisAdjustedLangevinAlgorithm.
    """

    step_size: tf.Tensor
    inner_results: Any


class Mala(KernelBase):
    """MALA: proposal z + (step_size^2 / 2) grad log p(z) + step_size * Normal(0, I), with the Metropolis-Hastings test.

    Args:
      target_log_prob_fn: `z [num_chains, latent_dim]` -> float32 [num_chains].
      step_size: A distance > 0, a scalar or [1, 1]: the standard deviation of the proposal's noise, in the same unit as the
        step size of HMC with one leapfrog step.
    """

    def __init__(self, target_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], step_size: Any, name: str = "mala"):
        self._parameters = dict(target_log_prob_fn=target_log_prob_fn, step_size=step_size, name=name)

    def _inner(self, step_size: Any) -> tfp.mcmc.TransitionKernel:
        return tfp.mcmc.MetropolisAdjustedLangevinAlgorithm(
            self._parameters["target_log_prob_fn"], step_size=tf.square(step_size), name=self._parameters["name"]
        )

    def bootstrap_results(self, init_state: tf.Tensor) -> MalaResults:
        init_state = one_tensor(init_state)
        step_size = tf.convert_to_tensor(self._parameters["step_size"], init_state.dtype)
        return MalaResults(step_size, self._inner(step_size).bootstrap_results(init_state))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: MalaResults, seed: Any = None) -> Any:
        step_size = previous_kernel_results.step_size
        inner_results = with_drift(previous_kernel_results.inner_results, step_size)
        state, inner_results = self._inner(step_size).one_step(current_state, inner_results, seed=seed)
        return state, MalaResults(step_size, inner_results)


def with_drift(inner_results: Any, step_size: tf.Tensor) -> Any:
    """Return TFP's MALA results with the drift for `step_size`: (step_size^2 / 2) grad log p, as the volatility is 1."""
    accepted = inner_results.accepted_results
    drift = [0.5 * tf.square(step_size) * gradient for gradient in accepted.grads_target_log_prob]
    return inner_results._replace(accepted_results=accepted._replace(diffusion_drift=drift))


SAMPLER = KernelSampler(
    "mala",
    about="one gradient per transition",
    exactness="asymptotically exact",
    defaults=MalaConfig(),
    schedule=Schedule(num_results=264, num_burnin_steps=36, num_adaptation_steps=27),
    is_calibrated=lambda config: config.class_reg == 0,
    served_steps=lambda config: 1,
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: Mala(posterior.unnormalized_log_prob, step_size),
)
