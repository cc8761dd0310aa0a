"""What a kernel is to the rest of the project, and the adaptation that all kernels with a step size share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import unnest  # how TFP's own adapters find a field in nested results

from tfgradgen.config import AdaptedConfig, KernelConfig, Schedule
from tfgradgen.contracts import Cost, PosteriorLike

FIRST_PULL = 10.0  # dual averaging begins by trying steps up to so many times the first, as TFP's own default does


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
        step_size=tf.broadcast_to(tf.reshape(unnest.get_outermost(results, "step_size"), [-1]), shape),
        num_gradients=tf.broadcast_to(num_gradients, shape),
        num_forward=tf.broadcast_to(num_forward, shape),
    )


class Dials(NamedTuple):
    """What tunes a kernel, as tensors, so that one compiled run serves all values.

    step_size: [num_chains, 1] float32, the first. num_adaptation_steps: int32, transitions after which it is frozen.
    numbers: further settings, by name. step_scale: [latent_dim] float32 of geometric mean 1: coordinate k steps
    step_size * step_scale[k]; None where all step alike. shrinkage_target: like step_size, what dual averaging is drawn to in
    the beginning; None for TFP's own, 10 times step_size.
    """

    step_size: tf.Tensor
    num_adaptation_steps: tf.Tensor
    numbers: dict[str, tf.Tensor]
    step_scale: tf.Tensor | None = None
    shrinkage_target: tf.Tensor | None = None


ADAPTATION_NUMBERS = ("target_accept_prob", "exploration_shrinkage", "decay_rate", "step_count_smoothing", "adaptation_rate")


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
    live: settings of its own that its results hold too, so that they can be changed there.
    counts_adaptation: whether `make_fn` looks at the number of adaptation steps, so that each number is a graph of its own.
    powers: config -> of a kernel with replicas the powers of the likelihood in their targets, 1 first: its chains can start
      from states [num_replicas, num_chains, latent_dim]. () without replicas.
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
    live: tuple[str, ...] = ()
    counts_adaptation: bool = False
    powers: Callable[[Any], tuple[float, ...]] = lambda config: ()

    def dials(self, config: KernelConfig, num_chains: int, latent_dim: int, num_adaptation_steps: int) -> Dials | None:
        """Those of the start of a run; None where nothing is tuned."""
        if not isinstance(config, AdaptedConfig):
            return None
        given = config.to_dict()
        step_size = tf.fill([num_chains, 1], tf.constant(given["step_size"], tf.float32))
        numbers = {name: tf.constant(given[name]) for name in (*ADAPTATION_NUMBERS, *self.live)}
        dials = Dials(step_size, tf.constant(num_adaptation_steps), numbers)
        if not given.get("num_windows"):
            return dials
        return dials._replace(step_scale=tf.ones([latent_dim]), shrinkage_target=FIRST_PULL * step_size)

    def compiled_as(self, config: KernelConfig) -> KernelConfig:
        """`config` with whatever `Dials` hold as in `defaults`: configs that are equal then are one compiled run."""
        if not isinstance(config, AdaptedConfig):
            return config
        own, idle = self.defaults.to_dict(), config.idle[config.adaptation]
        values = {name: own[name] for name in ("step_size", *ADAPTATION_NUMBERS, *self.live) if name not in idle}
        if config.to_dict().get("num_windows"):
            values["num_windows"] = own["num_windows"] or 1  # how many is no matter of the graph
        return replace(config, **values)


class ScaledResults(NamedTuple):
    """step_size: [num_chains, 1], a distance in z, the geometric mean over coordinates. inner_results: of the kernel inside,
    whose step sizes are [num_chains, latent_dim]."""

    step_size: tf.Tensor
    inner_results: Any


class Scaled(OwnKernel):
    """A kernel that steps farther in some coordinates: `inner_kernel` with a step size for each.

    With a step size of its own, e * s_k, in coordinate k, leapfrog and Langevin steps are those with the step size e in the
    coordinates z_k / s_k: diagonal preconditioning. The density of z stays as it is, so there is no Jacobian to count.

    Args:
      inner_kernel: made with the step sizes step_size * step_scale.
      access: where its results hold them.
      step_size: [num_chains, 1].
      step_scale: [latent_dim] > 0.
    """

    def __init__(self, inner_kernel: tfp.mcmc.TransitionKernel, access: StepSizeAccess, step_size: Any, step_scale: Any):
        self._parameters = dict(inner_kernel=inner_kernel, access=access, step_size=step_size, step_scale=step_scale)

    def bootstrap_results(self, init_state: tf.Tensor) -> ScaledResults:
        own = self._parameters
        return ScaledResults(own["step_size"], own["inner_kernel"].bootstrap_results(init_state))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: ScaledResults, seed: Any = None) -> Any:
        own, step_size = self._parameters, previous_kernel_results.step_size
        results = own["access"].put(previous_kernel_results.inner_results, step_size * own["step_scale"])
        state, results = own["inner_kernel"].one_step(current_state, results, seed=seed)
        return state, ScaledResults(step_size, results)


OUTERMOST = StepSizeAccess(
    get=lambda results: results.step_size,
    put=lambda results, step_size: results._replace(step_size=step_size),
    log_accept_prob=log_accept_prob,
)


def dual_averaging(kernel: Any, dials: Dials, access: StepSizeAccess) -> tfp.mcmc.TransitionKernel:
    numbers = dials.numbers
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel,
        num_adaptation_steps=dials.num_adaptation_steps,
        target_accept_prob=numbers["target_accept_prob"],
        exploration_shrinkage=numbers["exploration_shrinkage"],
        shrinkage_target=dials.shrinkage_target,
        decay_rate=numbers["decay_rate"],
        step_count_smoothing=numbers["step_count_smoothing"],
        step_size_getter_fn=access.get,
        step_size_setter_fn=access.put,
        log_accept_prob_getter_fn=access.log_accept_prob,
    )


def simple(kernel: Any, dials: Dials, access: StepSizeAccess) -> tfp.mcmc.TransitionKernel:
    return tfp.mcmc.SimpleStepSizeAdaptation(
        kernel,
        num_adaptation_steps=dials.num_adaptation_steps,
        target_accept_prob=dials.numbers["target_accept_prob"],
        adaptation_rate=dials.numbers["adaptation_rate"],
        step_size_getter_fn=access.get,
        step_size_setter_fn=access.put,
        log_accept_prob_getter_fn=access.log_accept_prob,
    )


ADAPTATIONS = {"dual_averaging": dual_averaging, "simple": simple}


def adaptive_kernel(
    family: KernelFamily,
    posterior: PosteriorLike,
    config: KernelConfig,
    num_chains: int,
    num_adaptation_steps: int,
    dials: Dials | None = None,
) -> tfp.mcmc.TransitionKernel:
    """`family`'s kernel with a step size per chain, tuned as `config` says, then frozen.

    The step size has shape [num_chains, 1]: a chain that is stuck or not finite tunes its own and nobody else's. A kernel
    without a target acceptance comes as it is. `dials`, those of `config` where there are none, take the place of its numbers.
    """
    dials = dials or family.dials(config, num_chains, posterior.latent_dim, num_adaptation_steps)
    if dials is None or not isinstance(config, AdaptedConfig):
        return family.make_fn(posterior, config, None, num_adaptation_steps)
    adapt = ADAPTATIONS[config.adaptation]
    if dials.step_scale is None:
        return adapt(family.make_fn(posterior, config, dials.step_size, num_adaptation_steps), dials, family.access)
    kernel = family.make_fn(posterior, config, dials.step_size * dials.step_scale, num_adaptation_steps)
    return adapt(Scaled(kernel, family.access, dials.step_size, dials.step_scale), dials, OUTERMOST)


def start(family: KernelFamily, kernel: tfp.mcmc.TransitionKernel, z: tf.Tensor, dials: Dials | None) -> Any:
    """The kernel's first results at `z` [num_chains, latent_dim], with the settings that `dials` change in them."""
    results = kernel.bootstrap_results(z)
    own = {name: dials.numbers[name] for name in family.live} if dials else {}
    return unnest.replace_innermost(results, **own) if own else results
