"""What a kernel is to the rest of the project, and the adaptation that all kernels with a step size share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import unnest  # how TFP's own adapters find a field in nested results

from tfgradgen.config import KernelConfig, Schedule
from tfgradgen.contracts import Cost, PosteriorLike

# One chain's acceptance is noisy, and averaging the log of a step size that swings with it ends up too small: at TFP's 0.05,
# acceptance after 150 steps was 0.65 (mala) and 0.80 (hmc) for targets of 0.574 and 0.651 on a normal; at 0.2, 0.59 and 0.74.
EXPLORATION_SHRINKAGE = 0.2


class StepInfo(NamedTuple):
    """What a transition left in its kernel results, each [num_chains].

    target_log_prob: of the state now, in nats. is_accepted: bool, whether the chain moved to a proposal. log_accept_ratio: of
    the proposal; its acceptance probability is exp(min(., 0)). step_size: distance in z that the transition used, NaN where
    there is none. num_gradients, num_forward: int32, evaluations that the transition took.
    """

    target_log_prob: tf.Tensor
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor
    step_size: tf.Tensor
    num_gradients: tf.Tensor
    num_forward: tf.Tensor


class StepSizeAccess(NamedTuple):
    """How adaptation reaches into kernel results: get(results) -> step sizes, put(results, step sizes) -> results,
    log_accept_prob(results) -> like the step sizes without their last axis."""

    get: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    log_accept_prob: Callable[[Any], Any]


def log_accept_prob(results: Any) -> tf.Tensor:
    """log of the acceptance probability [num_chains] of the last proposal."""
    return tf.minimum(unnest.get_innermost(results, "log_accept_ratio"), 0.0)


def absent_if_nan(log_weight: tf.Tensor) -> tf.Tensor:
    """`log_weight`, -inf where it is not a number."""
    return tf.where(tf.math.is_nan(log_weight), -np.inf, log_weight)


class OwnKernel(tfp.mcmc.TransitionKernel):
    """A kernel of ours: calibrated, with every constructor argument in `_parameters`, by which TFP's adapters rebuild it."""

    _parameters: dict[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    @property
    def is_calibrated(self) -> bool:
        return True


INNERMOST = StepSizeAccess(
    get=lambda results: unnest.get_innermost(results, "step_size"),
    put=lambda results, step_size: unnest.replace_innermost(results, step_size=step_size),
    log_accept_prob=log_accept_prob,
)


def read_step(results: Any, num_gradients: Any = 1, num_forward: Any = 0) -> StepInfo:
    """`StepInfo` from the results of a Metropolis-Hastings kernel of one step size a chain, adapted or not."""
    accept = unnest.get_innermost(results, "is_accepted")
    shape = tf.shape(accept)
    return StepInfo(
        target_log_prob=unnest.get_innermost(results, "target_log_prob"),
        is_accepted=accept,
        log_accept_ratio=unnest.get_innermost(results, "log_accept_ratio"),
        step_size=tf.broadcast_to(tf.reshape(unnest.get_innermost(results, "step_size"), [-1]), shape),
        num_gradients=tf.broadcast_to(num_gradients, shape),
        num_forward=tf.broadcast_to(num_forward, shape),
    )


@dataclass(frozen=True)
class KernelFamily:
    """One entry of the registry.

    make_fn: (posterior, config, step_size, num_adaptation_steps) -> tfp.mcmc.TransitionKernel. `step_size` has shape
      [num_chains, 1]; kernels without one (`StepConfig` tells) get None.
    defaults, schedule: what the command line uses; the fields of `defaults` are the kernel's flags.
    info_fn: (posterior, config, z, results) -> `StepInfo`.
    cost_fn: config -> gradients and forward passes a chain of one transition, about; it decides how many make a chunk.
    start_cost: of `bootstrap_results`, a chain.
    access: where the results hold the step size.
    kind: what it gives, 'chain' or 'ascent' (see `methods.Method`).
    is_calibrated: whether the kernel leaves the posterior invariant, given its settings.
    min_chains: chains that it takes to tune it.
    """

    name: str
    make_fn: Callable[[Any, Any, Any, int], tfp.mcmc.TransitionKernel]
    defaults: KernelConfig
    schedule: Schedule
    info_fn: Callable[[Any, Any, tf.Tensor, Any], StepInfo] = lambda posterior, config, z, results: read_step(results)
    cost_fn: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    start_cost: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    access: StepSizeAccess = INNERMOST
    kind: str = "chain"
    is_calibrated: Callable[[Any], bool] = lambda config: True
    min_chains: int = 1


def adaptive_kernel(
    family: KernelFamily,
    posterior: PosteriorLike,
    config: KernelConfig,
    num_chains: int,
    num_adaptation_steps: int,
) -> tfp.mcmc.TransitionKernel:
    """`family`'s kernel with a step size per chain, tuned by dual averaging, then frozen.

    The step size has shape [num_chains, 1]: a chain that is stuck or not finite tunes its own and nobody else's. A kernel
    without a target acceptance comes as it is.
    """
    given = config.to_dict()
    step_size = tf.fill([num_chains, 1], tf.constant(given["step_size"], tf.float32)) if "step_size" in given else None
    kernel = family.make_fn(posterior, config, step_size, num_adaptation_steps)
    if "target_accept_prob" not in given:
        return kernel
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel,
        num_adaptation_steps=num_adaptation_steps,
        target_accept_prob=given["target_accept_prob"],
        exploration_shrinkage=EXPLORATION_SHRINKAGE,
        step_size_getter_fn=family.access.get,
        step_size_setter_fn=family.access.put,
        log_accept_prob_getter_fn=family.access.log_accept_prob,
    )
