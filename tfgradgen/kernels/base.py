"""What a kernel is to the rest of the project, and the adaptation that all kernels share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import unnest  # how TFP's own adapters find a field in nested results

from tfgradgen.config import KernelConfig, Schedule

TargetLogProbFn = Callable[[tf.Tensor], tf.Tensor]

# One chain's acceptance is noisy, and averaging the log of a step size that swings with it ends up too small: at TFP's 0.05,
# acceptance after 150 steps was 0.65 (mala) and 0.80 (hmc) for targets of 0.574 and 0.651 on a normal; at 0.2, 0.59 and 0.74.
EXPLORATION_SHRINKAGE = 0.2


class StepInfo(NamedTuple):
    """What a transition left in its kernel results, each [num_chains].

    target_log_prob: of the state now, in nats. is_accepted: bool. log_accept_ratio: of the proposal; its acceptance
    probability is exp(min(., 0)). step_size: distance in z that the transition used.
    """

    target_log_prob: tf.Tensor
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor
    step_size: tf.Tensor


@dataclass(frozen=True)
class KernelFamily:
    """One entry of the registry.

    make_fn: (target_log_prob_fn, step_size, config) -> tfp.mcmc.TransitionKernel whose results hold `step_size` as a
      distance in z, so that TFP's adapters can set it. flags: the fields of KernelConfig that it uses.
      defaults, schedule: what the command line uses.
    """

    name: str
    make_fn: Callable[[TargetLogProbFn, Any, KernelConfig], tfp.mcmc.TransitionKernel]
    flags: tuple[str, ...]
    defaults: KernelConfig
    schedule: Schedule


def adaptive_kernel(
    family: KernelFamily,
    target_log_prob_fn: TargetLogProbFn,
    config: KernelConfig,
    num_chains: int,
    num_adaptation_steps: int,
) -> tfp.mcmc.TransitionKernel:
    """`family`'s kernel with a step size per chain, tuned by dual averaging, then frozen.

    The step size has shape [num_chains, 1]: a chain that is stuck or not finite tunes its own and nobody else's.
    """
    step_size = tf.fill([num_chains, 1], tf.constant(config.step_size, tf.float32))
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        family.make_fn(target_log_prob_fn, step_size, config),
        num_adaptation_steps=num_adaptation_steps,
        target_accept_prob=config.target_accept_prob,
        exploration_shrinkage=EXPLORATION_SHRINKAGE,
    )


def step_info(results: Any) -> StepInfo:
    """Reads `StepInfo` from the results of any kernel of the registry, adapted or not."""
    accept = unnest.get_innermost(results, "is_accepted")
    step_size = unnest.get_innermost(results, "step_size")
    return StepInfo(
        target_log_prob=unnest.get_innermost(results, "target_log_prob"),
        is_accepted=accept,
        log_accept_ratio=unnest.get_innermost(results, "log_accept_ratio"),
        step_size=tf.broadcast_to(tf.reshape(step_size, [-1]), tf.shape(accept)),
    )
