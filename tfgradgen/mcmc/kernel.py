"""What a kernel is to the rest of the project, and the adaptation that all kernels with a step size share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import unnest
from tfgradgen.core.backend import fold_in
from tfgradgen.core.config import AdaptedConfig, KernelConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike

# One step size does not fit every place: in a narrow mode nothing may be accepted. After the adaptation each transition steps
# by the shared size times a factor that is uniform within 1 -+ STEP_JITTER: some steps are then short enough there.
STEP_JITTER = 0.5
JITTER_STREAM = -1  # kernels number their own streams from 0
MANY_MOVES = 4  # moves of most chains, by which a chain that has not moved once counts as stuck: of healthy ones 1 in 100


class StepInfo(NamedTuple):
    """What a transition left in its kernel results, each [num_chains].

    target_log_prob: of the state now, in nats. is_accepted: bool, whether the chain moved to a proposal. log_accept_ratio: of
    the proposal; its acceptance probability is exp(min(., 0)). step_size: distance in z that all chains share, before the
    jitter, NaN where there is none. num_gradients, num_forward: int32, evaluations that the transition took.
    """

    target_log_prob: tf.Tensor
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor
    step_size: tf.Tensor
    num_gradients: tf.Tensor
    num_forward: tf.Tensor


class StepSizeAccess(NamedTuple):
    """How adaptation reaches into kernel results.

    get(results) -> step size [..., 1, 1], put(results, step size) -> results. Of each chain, [..., num_chains]:
    log_accept_prob(results), of its last proposal; is_accepted(results), whether it moved; target_log_prob(results), of its
    state.
    """

    get: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    log_accept_prob: Callable[[Any], Any]
    is_accepted: Callable[[Any], Any]
    target_log_prob: Callable[[Any], Any]


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
    is_accepted=lambda results: unnest.get_innermost(results, "is_accepted"),
    target_log_prob=lambda results: unnest.get_innermost(results, "target_log_prob"),
)


def read_step(results: Any, num_gradients: Any = 1, num_forward: Any = 0) -> StepInfo:
    """`StepInfo` from the results of a Metropolis-Hastings kernel, adapted or not."""
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

    step_size: float32, the first of all chains, shaped as `KernelFamily.step_shape` says. num_adaptation_steps: int32,
    transitions after which it is frozen. numbers: further settings, by name.
    """

    step_size: tf.Tensor
    num_adaptation_steps: tf.Tensor
    numbers: dict[str, tf.Tensor]


ADAPTATION_NUMBERS = ("target_accept_prob", "exploration_shrinkage", "decay_rate", "step_count_smoothing", "adaptation_rate")


@dataclass(frozen=True)
class KernelFamily:
    """One entry of the registry.

    make_fn: (posterior, config, step_size, num_adaptation_steps) -> tfp.mcmc.TransitionKernel. `step_size` has shape
      `step_shape(config)`; kernels without one (`StepConfig` tells) get None.
    defaults, schedule: what the command line uses; the fields of `defaults` are the kernel's flags.
    info_fn: (posterior, config, z, results) -> `StepInfo`.
    cost_fn: config -> gradients and forward passes a chain of one transition, about; it decides how many make a chunk.
    start_cost: of `bootstrap_results`, a chain.
    access: where the results hold the step size.
    kind: what it gives, 'chain' or 'ascent' (see `methods.Method`).
    is_calibrated: whether the kernel leaves the posterior invariant, given its settings.
    min_chains: chains that it takes to tune it.
    live: settings of its own that its results hold too, so that they can be changed there.
    step_shape: config -> shape of the step size, which broadcasts with the states that the kernel steps.
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
    step_shape: Callable[[Any], tuple[int, ...]] = lambda config: (1, 1)
    counts_adaptation: bool = False
    powers: Callable[[Any], tuple[float, ...]] = lambda config: ()

    def dials(self, config: KernelConfig, num_adaptation_steps: int) -> Dials | None:
        """Those of the start of a run; None where nothing is tuned."""
        if not isinstance(config, AdaptedConfig):
            return None
        given = config.to_dict()
        numbers = {name: tf.constant(given[name]) for name in (*ADAPTATION_NUMBERS, *self.live)}
        step_size = tf.fill(self.step_shape(config), tf.constant(given["step_size"], tf.float32))
        return Dials(step_size, tf.constant(num_adaptation_steps), numbers)

    def compiled_as(self, config: KernelConfig) -> KernelConfig:
        """`config` with whatever `Dials` hold as in `defaults`: configs that are equal then are one compiled run."""
        if not isinstance(config, AdaptedConfig):
            return config
        own, idle = self.defaults.to_dict(), config.idle[config.adaptation]
        values = {name: own[name] for name in ("step_size", *ADAPTATION_NUMBERS, *self.live) if name not in idle}
        return replace(config, **values)


class PooledResults(NamedTuple):
    """num_steps: int32, transitions so far. num_moves: [..., num_chains] int32, of each chain so far. log_accept_prob:
    [..., 1], see `pooled_log_accept_prob`."""

    num_steps: tf.Tensor
    num_moves: tf.Tensor
    log_accept_prob: tf.Tensor
    inner_results: Any


def pooled_log_accept_prob(log_accept_prob: tf.Tensor, is_fit: tf.Tensor, num_moves: tf.Tensor) -> tf.Tensor:
    """log of the mean acceptance probability of the healthy chains, [..., 1]; -inf where there is none.

    Left out are chains whose state has no finite density, and chains that have never moved by the time that most have moved
    `MANY_MOVES` times: they accept nothing at any step size, and would draw the step of all others towards 0. Whether a chain
    counts depends on earlier transitions alone, so the mean over healthy chains is not selected by its own outcome. A proposal
    without a finite acceptance probability, as of a trajectory that diverged, counts as refused.

    Args:
      log_accept_prob: [..., num_chains], of the last proposals.
      is_fit: like it, bool, whether the density of the chain's state is finite.
      num_moves: like it, int32, before the last transition.
    """
    is_still = is_fit & (num_moves == 0)
    share = lambda flags: tf.reduce_sum(tf.cast(flags, tf.int32), -1, keepdims=True)  # noqa: E731
    is_stuck = is_still & (share(is_fit & (num_moves >= MANY_MOVES)) > share(is_still))
    weight = tf.cast(is_fit & ~is_stuck, log_accept_prob.dtype)
    total = tf.reduce_sum(weight * tf.exp(absent_if_nan(log_accept_prob)), -1, keepdims=True)
    return tf.math.log(tf.math.divide_no_nan(total, tf.reduce_sum(weight, -1, keepdims=True)))


class Pooled(OwnKernel):
    """`inner_kernel`, with the acceptance of all chains taken together in its results, for the step size that they share.

    After the adaptation each transition steps by that size times a random factor (see `STEP_JITTER`), the same for all chains.
    The factor depends on the seed alone, so that each transition leaves the target invariant. The results hold the size without
    the factor.

    Args:
      inner_kernel: any that `access` fits.
      access: see `StepSizeAccess`.
      num_adaptation_steps: int32, transitions without jitter, while the step size is tuned.
    """

    def __init__(self, inner_kernel: tfp.mcmc.TransitionKernel, access: StepSizeAccess, num_adaptation_steps: Any):
        self._parameters = dict(inner_kernel=inner_kernel, access=access, num_adaptation_steps=num_adaptation_steps)

    def bootstrap_results(self, init_state: tf.Tensor) -> PooledResults:
        results = self._parameters["inner_kernel"].bootstrap_results(init_state)
        ratio = self._parameters["access"].log_accept_prob(results)
        return PooledResults(tf.constant(0), tf.zeros_like(ratio, tf.int32), tf.zeros_like(ratio[..., :1]), results)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: PooledResults, seed: Any = None) -> Any:
        access, num_moves = self._parameters["access"], previous_kernel_results.num_moves
        seed = tfp.random.sanitize_seed(seed)
        inner_results = previous_kernel_results.inner_results
        step_size = access.get(inner_results)
        factor = tf.random.stateless_uniform(
            tf.shape(step_size), fold_in(seed, JITTER_STREAM), 1 - STEP_JITTER, 1 + STEP_JITTER, step_size.dtype
        )
        is_tuning = previous_kernel_results.num_steps < self._parameters["num_adaptation_steps"]
        inner_results = access.put(inner_results, tf.where(is_tuning, step_size, step_size * factor))
        state, results = self._parameters["inner_kernel"].one_step(current_state, inner_results, seed=seed)
        results = access.put(results, step_size)
        is_fit = tf.math.is_finite(access.target_log_prob(results))
        pooled = pooled_log_accept_prob(access.log_accept_prob(results), is_fit, num_moves)
        num_moves += tf.cast(access.is_accepted(results), tf.int32)
        return state, PooledResults(previous_kernel_results.num_steps + 1, num_moves, pooled, results)


def dual_averaging(kernel: Pooled, dials: Dials, **access: Any) -> tfp.mcmc.TransitionKernel:
    numbers = dials.numbers
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel,
        num_adaptation_steps=dials.num_adaptation_steps,
        target_accept_prob=numbers["target_accept_prob"],
        exploration_shrinkage=numbers["exploration_shrinkage"],
        # TFP's own is 10 times the first step, which costs a short adaptation its first ten transitions.
        shrinkage_target=dials.step_size,
        decay_rate=numbers["decay_rate"],
        step_count_smoothing=numbers["step_count_smoothing"],
        **access,
    )


def simple(kernel: Pooled, dials: Dials, **access: Any) -> tfp.mcmc.TransitionKernel:
    return tfp.mcmc.SimpleStepSizeAdaptation(
        kernel,
        num_adaptation_steps=dials.num_adaptation_steps,
        target_accept_prob=dials.numbers["target_accept_prob"],
        adaptation_rate=dials.numbers["adaptation_rate"],
        **access,
    )


ADAPTATIONS = {"dual_averaging": dual_averaging, "simple": simple}


def adaptive_kernel(
    family: KernelFamily,
    posterior: PosteriorLike,
    config: KernelConfig,
    num_adaptation_steps: int,
    dials: Dials | None = None,
) -> tfp.mcmc.TransitionKernel:
    """`family`'s kernel with one step size for all chains, tuned as `config` says, then frozen.

    It is tuned by the mean acceptance of all chains. A chain that tuned its own step would have a kernel that depends on where
    the chain is, which leaves no distribution invariant: while it lasts, mass flows from one mode to another, and chains that
    cannot flow back keep it there. What a shared step takes over from any one chain shrinks with the number of chains. A kernel
    without a target acceptance comes as it is. `dials`, those of `config` where there are none, take the place of its numbers.
    """
    dials = dials or family.dials(config, num_adaptation_steps)
    if dials is None or not isinstance(config, AdaptedConfig):
        return family.make_fn(posterior, config, None, num_adaptation_steps)
    kernel, access = family.make_fn(posterior, config, dials.step_size, num_adaptation_steps), family.access
    return ADAPTATIONS[config.adaptation](
        Pooled(kernel, access, dials.num_adaptation_steps),
        dials,
        step_size_getter_fn=lambda results: access.get(results.inner_results),
        step_size_setter_fn=lambda results, step_size: results._replace(
            inner_results=access.put(results.inner_results, step_size)
        ),
        log_accept_prob_getter_fn=lambda results: results.log_accept_prob,
    )


def start(family: KernelFamily, kernel: tfp.mcmc.TransitionKernel, z: tf.Tensor, dials: Dials | None) -> Any:
    """The kernel's first results at `z` [num_chains, latent_dim], with the settings that `dials` change in them."""
    results = kernel.bootstrap_results(z)
    own = {name: dials.numbers[name] for name in family.live} if dials else {}
    return unnest.replace_innermost(results, **own) if own else results
