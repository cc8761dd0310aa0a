"""What a kernel is to the rest of the project, and the adaptation that all kernels with a step size share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import Stream, fold_in
from tfgradgen.core.checks import fail
from tfgradgen.core.config import AdaptedConfig, KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import settings_of
from tfgradgen.mcmc.sampler import Resume, RunFn, Sampler

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

# One step size does not fit every place: in a narrow mode nothing may be accepted. After the adaptation each transition steps
# by the shared size times a factor that is uniform within 1 -+ STEP_JITTER: some steps are then short enough there.
STEP_JITTER = 0.5
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
    log_weight = tf.convert_to_tensor(log_weight)
    return tf.where(tf.math.is_nan(log_weight), tf.constant(-np.inf, log_weight.dtype), log_weight)


def one_tensor(state: Any) -> Any:
    """`state`, which our own kernels take as one tensor.

    Raises:
      UserError: it is a structure of parts.
    """
    if tf.nest.is_nested(state):
        expected = "one tensor [num_chains, latent_dim]"
        raise fail("current_state", expected, f"a {type(state).__name__} of {len(state)} parts", "pass z itself")
    return tf.convert_to_tensor(state)


class OwnKernel:
    """A kernel of ours: calibrated, with every constructor argument in `_parameters`, by which TFP's adapters rebuild it.

    It is what `tfp.mcmc.TransitionKernel` is, and counts as one, but its class is made without TFP.
    """

    _parameters: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        tfp.mcmc.TransitionKernel.register(OwnKernel)
        return super().__new__(cls)

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    @property
    def is_calibrated(self) -> bool:
        return True

    def copy(self, **changed: Any) -> Any:
        """The same kernel but for the constructor arguments `changed`."""
        return type(self)(**self.parameters | changed)

    @property
    def experimental_shard_axis_names(self) -> list[str]:
        return []

    def experimental_with_shard_axes(self, shard_axis_names: Any) -> Any:
        return self


class WrappedKernel(OwnKernel):
    """A kernel of TFP's whose steps are as they are, and whose first results are changed.

    make_fn: makes TFP's kernel of the constructor's arguments.
    """

    make_fn: Callable[..., Any]

    def __init__(self, **parameters: Any):
        self.inner_kernel = self.make_fn(**parameters)

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.inner_kernel.parameters)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: Any, seed: Any = None) -> Any:
        return self.inner_kernel.one_step(current_state, previous_kernel_results, seed=seed)


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

    step_size: float32, the first of all chains, shaped as `KernelSampler.step_shape` says, or with a row for each chain.
    num_adaptation_steps: int32, transitions after which it is frozen. numbers: further settings, by name.
    """

    step_size: tf.Tensor
    num_adaptation_steps: tf.Tensor
    numbers: dict[str, tf.Tensor]


class Learned(NamedTuple):
    """What a kernel learned of its target before the first transition; it is frozen then.

    results: fields of the kernel's first results, by name, which are tensors or structures of them. facts: what was found,
    JSON-able. doubts: what is to be said of it, a line each. num_forward: forward passes that it took, whether they were made
    now or earlier for the same models.
    """

    results: dict[str, Any]
    facts: dict[str, Any]
    doubts: list[str]
    num_forward: int


def _run_chains(
    sampler: KernelSampler,
    posterior: ClassPosterior,
    config: Any,
    schedule: Schedule,
    run: RunConfig,
    resume: Resume | None,
) -> Iterator[Chunk]:
    from tfgradgen.mcmc.runs import started_chunks

    return started_chunks(sampler, posterior, config, schedule, run, resume)


@dataclass(frozen=True)
class KernelSampler(Sampler):
    """A sampler that runs chains of a transition kernel.

    make_fn: (posterior, config, step_size, num_adaptation_steps) -> tfp.mcmc.TransitionKernel. `step_size` has shape
      `step_shape(config)`; kernels without one (`StepConfig` tells) get None.
    info_fn: (posterior, config, z, results) -> `StepInfo`.
    access: where the results hold the step size.
    step_shape: config -> shape of the step size, which broadcasts with the states that the kernel steps.
    tunes_by_label: whether chains of several labels can run beside one another without a part in each other's tuning.
    powers: config -> of a kernel with replicas the powers of the likelihood in their targets, 1 first: its chains can start
      from states [num_replicas, num_chains, latent_dim]. () without replicas.
    learn_fn: (posterior, config, run) -> `Learned`, the same for the same arguments; None for a kernel that learns nothing.
    """

    _: KW_ONLY
    make_fn: Callable[[Any, Any, Any, int], Any]
    info_fn: Callable[[Any, Any, Any, Any], StepInfo] = lambda posterior, config, z, results: read_step(results)
    access: StepSizeAccess = INNERMOST
    step_shape: Callable[[Any], tuple[int, ...]] = lambda config: (1, 1)
    tunes_by_label: bool = True
    powers: Callable[[Any], tuple[float, ...]] = lambda config: ()
    learn_fn: Callable[[Any, Any, RunConfig], Learned] | None = None
    run_fn: RunFn = _run_chains

    @property
    def is_batched(self) -> bool:
        return self.tunes_by_label

    def held(self, *places: str) -> tuple[str, ...]:
        """The settings that a compiled run holds in any of `places` (see `Setting.held`), as tensors."""
        return tuple(name for name, setting in settings_of(self.defaults).items() if setting.held in places)

    def dials(self, config: KernelConfig, num_adaptation_steps: int, num_sizes: int = 1) -> Dials | None:
        """Those of the start of a run; None where nothing is tuned. num_sizes: 1 where all chains share a step size, else the
        number of chains, of which those of one label share theirs."""
        if not isinstance(config, AdaptedConfig):
            return None
        given = config.to_dict()
        numbers = {name: tf.constant(given[name]) for name in self.held("adaptation", "results")}
        *replicas, _, _ = self.step_shape(config)
        step_size = tf.fill([*replicas, num_sizes, 1], tf.constant(given["step_size"], tf.float32))
        return Dials(step_size, tf.constant(num_adaptation_steps), numbers)

    def compiled_as(self, config: KernelConfig) -> KernelConfig:
        """`config` with whatever `Dials` hold as in `defaults`: configs that are equal then are one compiled run."""
        if not isinstance(config, AdaptedConfig):
            return config
        own, idle = self.defaults.to_dict(), config.idle[config.adaptation]
        values = {name: own[name] for name in self.held("step", "adaptation", "results") if name not in idle}
        return replace(config, **values)


class PooledResults(NamedTuple):
    """num_steps: int32, transitions so far. num_moves: [..., num_chains] int32, of each chain so far. log_accept_prob:
    [..., 1] or [..., num_chains], see `pooled_log_accept_prob`."""

    num_steps: tf.Tensor
    num_moves: tf.Tensor
    log_accept_prob: tf.Tensor
    inner_results: Any


def pooled_log_accept_prob(
    log_accept_prob: tf.Tensor, is_fit: tf.Tensor, num_moves: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """log of the mean acceptance probability of the healthy chains, [..., 1]; -inf where there is none.

    With `labels` the mean of each label, at all of its chains [..., num_chains]: no chain has a part in another label's.

    Left out are chains whose state has no finite density, and chains that have never moved by the time that most have moved
    `MANY_MOVES` times: they accept nothing at any step size, and would draw the step of all others towards 0. Whether a chain
    counts depends on earlier transitions alone, so the mean over healthy chains is not selected by its own outcome. A proposal
    without a finite acceptance probability, as of a trajectory that diverged, counts as refused.

    Args:
      log_accept_prob: [..., num_chains], of the last proposals.
      is_fit: like it, bool, whether the density of the chain's state is finite.
      num_moves: like it, int32, before the last transition.
      labels: [num_chains] int32; None where all chains have one.
    """

    def total_of(values: tf.Tensor) -> tf.Tensor:
        if labels is None:
            return tf.reduce_sum(values, -1, keepdims=True)
        # Sums over a mask, whose bits do not depend on the order in which a GPU adds.
        is_same = labels[:, None] == labels
        return tf.reduce_sum(tf.where(is_same, values[..., None, :], tf.zeros([], values.dtype)), -1)

    def share(flags: tf.Tensor) -> tf.Tensor:
        return total_of(tf.cast(flags, tf.int32))

    is_still = is_fit & (num_moves == 0)
    is_stuck = is_still & (share(is_fit & (num_moves >= MANY_MOVES)) > share(is_still))
    weight = tf.cast(is_fit & ~is_stuck, log_accept_prob.dtype)
    total = total_of(weight * tf.exp(absent_if_nan(log_accept_prob)))
    return tf.math.log(tf.math.divide_no_nan(total, total_of(weight)))


class Pooled(OwnKernel):
    """`inner_kernel`, with the acceptance of all chains of a label taken together in its results, for the step size that they
    share.

    After the adaptation each transition steps by that size times a random factor (see `STEP_JITTER`), the same for all chains.
    The factor depends on the seed alone, so that each transition leaves the target invariant. The results hold the size without
    the factor.

    Args:
      inner_kernel: any that `access` fits.
      access: see `StepSizeAccess`.
      num_adaptation_steps: int32, transitions without jitter, while the step size is tuned.
      labels: [num_chains] int32, of the chains, whose step size is then [..., num_chains, 1]; None where all have one.
    """

    def __init__(
        self, inner_kernel: tfp.mcmc.TransitionKernel, access: StepSizeAccess, num_adaptation_steps: Any, labels: Any = None
    ):
        self._parameters = dict(
            inner_kernel=inner_kernel, access=access, num_adaptation_steps=num_adaptation_steps, labels=labels
        )

    def bootstrap_results(self, init_state: tf.Tensor) -> PooledResults:
        results = self._parameters["inner_kernel"].bootstrap_results(init_state)
        ratio = self._parameters["access"].log_accept_prob(results)
        first = ratio if self._parameters["labels"] is not None else ratio[..., :1]
        return PooledResults(tf.constant(0), tf.zeros_like(ratio, tf.int32), tf.zeros_like(first), results)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: PooledResults, seed: Any = None) -> Any:
        access, num_moves = self._parameters["access"], previous_kernel_results.num_moves
        seed = tfp.random.sanitize_seed(seed)
        inner_results = previous_kernel_results.inner_results
        step_size = access.get(inner_results)
        shape = tf.concat([tf.shape(step_size)[:-2], [1, 1]], 0)
        factor = tf.random.stateless_uniform(
            shape, fold_in(seed, Stream.JITTER), 1 - STEP_JITTER, 1 + STEP_JITTER, step_size.dtype
        )
        is_tuning = previous_kernel_results.num_steps < self._parameters["num_adaptation_steps"]
        inner_results = access.put(inner_results, tf.where(is_tuning, step_size, step_size * factor))
        state, results = self._parameters["inner_kernel"].one_step(current_state, inner_results, seed=seed)
        results = access.put(results, step_size)
        is_fit = tf.math.is_finite(access.target_log_prob(results))
        pooled = pooled_log_accept_prob(access.log_accept_prob(results), is_fit, num_moves, self._parameters["labels"])
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
    sampler: KernelSampler,
    posterior: PosteriorLike,
    config: KernelConfig,
    num_adaptation_steps: int,
    dials: Dials | None = None,
    labels: tf.Tensor | None = None,
) -> tfp.mcmc.TransitionKernel:
    """`sampler`'s kernel with one step size for all chains of a label, tuned as `config` says, then frozen.

    It is tuned by the mean acceptance of these chains. A chain that tuned its own step would have a kernel that depends on
    where the chain is, which leaves no distribution invariant: while it lasts, mass flows from one mode to another, and chains
    that cannot flow back keep it there. What a shared step takes over from any one chain shrinks with the number of chains. A
    kernel without a target acceptance comes as it is. `dials`, by default those of `config`, take the place of its numbers.
    `labels` [num_chains] int32: those of the chains, where they differ.
    """
    dials = dials or sampler.dials(config, num_adaptation_steps)
    if dials is None or not isinstance(config, AdaptedConfig):
        return sampler.make_fn(posterior, config, None, num_adaptation_steps)
    kernel, access = sampler.make_fn(posterior, config, dials.step_size, num_adaptation_steps), sampler.access
    return ADAPTATIONS[config.adaptation](
        Pooled(kernel, access, dials.num_adaptation_steps, labels),
        dials,
        step_size_getter_fn=lambda results: access.get(results.inner_results),
        step_size_setter_fn=lambda results, step_size: results._replace(
            inner_results=access.put(results.inner_results, step_size)
        ),
        log_accept_prob_getter_fn=lambda results: results.log_accept_prob,
    )


def start(sampler: KernelSampler, kernel: tfp.mcmc.TransitionKernel, z: tf.Tensor, dials: Dials | None) -> Any:
    """The kernel's first results at `z` [num_chains, latent_dim], with the settings that `dials` change in them."""
    results = kernel.bootstrap_results(z)
    own = {name: dials.numbers[name] for name in sampler.held("results")} if dials else {}
    return unnest.replace_innermost(results, **own) if own else results
