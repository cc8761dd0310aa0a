"""The interface of kernels to the rest of the package, and the adaptation shared by all kernels with a step size."""

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

# No single step size suits all regions: in a narrow mode, nothing may be accepted. After adaptation, each transition
# multiplies the shared step size by a random factor: uniform in LONG, or, in one of ten transitions, in SHORT.
LONG, SHORT = (0.5, 1.5), (0.1, 0.3)
SHORT_SHARE = 0.1
MANY_MOVES = 4  # moves of most chains after which a chain without moves counts as stuck, as does 1 healthy chain in 100


class StepInfo(NamedTuple):
    """What a transition left in its kernel results; each field is [num_chains].

    Attributes:
      target_log_prob: Log density of the current state, in nats.
      is_accepted: bool, whether the chain moved to a proposal.
      log_accept_ratio: Log acceptance ratio of the proposal; its acceptance probability is exp(min(log_accept_ratio, 0)).
      step_size: Distance in z, shared by all chains, before jitter; NaN if the kernel has none.
      num_gradients: int32, gradients that the transition took.
      num_forward: int32, forward passes that the transition took.
    """

    target_log_prob: tf.Tensor
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor
    step_size: tf.Tensor
    num_gradients: tf.Tensor
    num_forward: tf.Tensor


class StepSizeAccess(NamedTuple):
    """Functions with which adaptation reads and writes kernel results.

    Attributes:
      get: results -> step size [..., 1, 1].
      put: (results, step size) -> results.
      log_accept_prob: results -> log acceptance probability of the last proposal of each chain, [..., num_chains].
      is_accepted: results -> whether each chain moved, [..., num_chains].
      target_log_prob: results -> log density of the state of each chain, [..., num_chains].
    """

    get: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    log_accept_prob: Callable[[Any], Any]
    is_accepted: Callable[[Any], Any]
    target_log_prob: Callable[[Any], Any]


def log_accept_prob(results: Any) -> tf.Tensor:
    """Return the log acceptance probability [num_chains] of the last proposal."""
    return tf.minimum(unnest.get_innermost(results, "log_accept_ratio"), 0.0)


def nan_to_neg_inf(log_weight: tf.Tensor) -> tf.Tensor:
    """Return `log_weight` with NaN replaced by -inf."""
    log_weight = tf.convert_to_tensor(log_weight)
    return tf.where(tf.math.is_nan(log_weight), tf.constant(-np.inf, log_weight.dtype), log_weight)


def one_tensor(state: Any) -> Any:
    """Return `state` as a tensor; the kernels of this package have a state of one part.

    Raises:
      UserError: The state is a structure of parts.
    """
    if tf.nest.is_nested(state):
        expected = "one tensor [num_chains, latent_dim]"
        raise fail("current_state", expected, f"a {type(state).__name__} of {len(state)} parts", "pass z itself")
    return tf.convert_to_tensor(state)


class KernelBase:
    """Base class of this package's kernels.

    It stores all constructor arguments in `_parameters`, from which TFP's adaptation kernels rebuild a kernel. Kernels are
    calibrated unless they override `is_calibrated`. The class has the interface of `tfp.mcmc.TransitionKernel` and is
    registered as a subclass of it, but is defined without importing TFP.
    """

    _parameters: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        tfp.mcmc.TransitionKernel.register(KernelBase)
        return super().__new__(cls)

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    @property
    def is_calibrated(self) -> bool:
        return True

    def copy(self, **changed: Any) -> Any:
        """Return the same kernel with the constructor arguments `changed` replaced."""
        return type(self)(**self.parameters | changed)

    @property
    def experimental_shard_axis_names(self) -> list[str]:
        return []

    def experimental_with_shard_axes(self, shard_axis_names: Any) -> Any:
        return self


class WrappedKernel(KernelBase):
    """A kernel of TFP with changed initial results; its transitions are unchanged.

    Attributes:
      make_fn: Constructor's arguments -> TFP's kernel.
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
    """Return the `StepInfo` in the results of a Metropolis-Hastings kernel, adapted or not."""
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


class TunableParams(NamedTuple):
    """Tunable parameters of a kernel, as tensors, so that one compiled run serves all their values.

    Attributes:
      step_size: float32, the initial step size of all chains, with the shape of `KernelSampler.step_shape`, or with one row
        per chain.
      num_adaptation_steps: int32, number of transitions after which the step size is frozen.
      numbers: Other settings, by name.
    """

    step_size: tf.Tensor
    num_adaptation_steps: tf.Tensor
    numbers: dict[str, tf.Tensor]


class Learned(NamedTuple):
    """What a kernel learned of its target before the first transition; it is frozen afterwards.

    Attributes:
      results: Fields of the kernel's initial results, by name: tensors or structures of tensors.
      stats: Statistics of the fit, JSON-serializable.
      warnings: Warnings, one line each.
      num_forward: Forward passes that it took, whether they were made now or earlier for the same models.
    """

    results: dict[str, Any]
    stats: dict[str, Any]
    warnings: list[str]
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

    Attributes:
      make_fn: (posterior, config, step_size, num_adaptation_steps) -> tfp.mcmc.TransitionKernel. `step_size` has shape
        `step_shape(config)`; it is None unless the config is an `AdaptedConfig`.
      info_fn: (posterior, config, z, results) -> `StepInfo`.
      access: Where the results hold the step size.
      step_shape: config -> shape of the step size, which broadcasts with the states that the kernel moves.
      short_share: Share of transitions with a short step (see `jitter`); 0 if these take more gradients than others.
      tunes_by_label: Whether chains of several labels can run in one batch without affecting each other's tuning.
      powers: config -> for a kernel with replicas, the powers of the likelihood in their targets, 1 first; its chains can
        start from states [num_replicas, num_chains, latent_dim]. () without replicas.
      learn_fn: (posterior, config, run) -> `Learned`, the same for the same arguments; None for a kernel that learns nothing.
    """

    _: KW_ONLY
    make_fn: Callable[[Any, Any, Any, int], Any]
    info_fn: Callable[[Any, Any, Any, Any], StepInfo] = lambda posterior, config, z, results: read_step(results)
    access: StepSizeAccess = INNERMOST
    step_shape: Callable[[Any], tuple[int, ...]] = lambda config: (1, 1)
    short_share: float = SHORT_SHARE
    tunes_by_label: bool = True
    powers: Callable[[Any], tuple[float, ...]] = lambda config: ()
    learn_fn: Callable[[Any, Any, RunConfig], Learned] | None = None
    run_fn: RunFn = _run_chains

    @property
    def is_batched(self) -> bool:
        return self.tunes_by_label

    def held(self, *places: str) -> tuple[str, ...]:
        """Return the names of the settings that a compiled run holds as tensors in any of `places` (see `Setting.held`)."""
        return tuple(name for name, setting in settings_of(self.defaults).items() if setting.held in places)

    def tunable_params(self, config: KernelConfig, num_adaptation_steps: int, num_sizes: int = 1) -> TunableParams | None:
        """Return the tunable parameters at the start of a run; None if nothing is tuned.

        Args:
          config: Settings of the kernel.
          num_adaptation_steps: Transitions after which the step size is frozen.
          num_sizes: 1 if all chains share a step size; else the number of chains, in which those of one label share theirs.
        """
        if not isinstance(config, AdaptedConfig):
            return None
        given = config.to_dict()
        numbers = {name: tf.constant(given[name]) for name in self.held("adaptation", "results")}
        *replicas, _, _ = self.step_shape(config)
        step_size = tf.fill([*replicas, num_sizes, 1], tf.constant(given["step_size"], tf.float32))
        return TunableParams(step_size, tf.constant(num_adaptation_steps), numbers)

    def compiled_as(self, config: KernelConfig) -> KernelConfig:
        """Return `config` with the settings in `TunableParams` at their defaults; equal results share one compiled run."""
        if not isinstance(config, AdaptedConfig):
            return config
        own, idle = self.defaults.to_dict(), config.idle[config.adaptation]
        values = {name: own[name] for name in self.held("step", "adaptation", "results") if name not in idle}
        return replace(config, **values)


class PooledResults(NamedTuple):
    """Results of a transition of `Pooled`.

    Attributes:
      num_steps: int32, transitions so far.
      num_moves: [..., num_chains] int32, moves of each chain so far.
      log_accept_prob: [..., 1] or [..., num_chains], see `pooled_log_accept_prob`.
      inner_results: Results of the inner kernel.
    """

    num_steps: tf.Tensor
    num_moves: tf.Tensor
    log_accept_prob: tf.Tensor
    inner_results: Any


def pooled_log_accept_prob(
    log_accept_prob: tf.Tensor, is_fit: tf.Tensor, num_moves: tf.Tensor, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Return the log of the mean acceptance probability of the healthy chains, [..., 1]; -inf if there are none.

    With `labels`, return the mean of each label at all of its chains, [..., num_chains]: no chain affects another label.

    Two kinds of chains are left out: those whose state has no finite density, and those that have never moved by the time that
    most chains have moved `MANY_MOVES` times. The latter accept nothing at any step size, and would pull the step size of all
    others towards 0. Whether a chain counts depends on earlier transitions alone, so the mean over healthy chains is not
    selected by its own outcome. A proposal without a finite acceptance probability, such as that of a diverged trajectory,
    counts as rejected.

    Args:
      log_accept_prob: [..., num_chains], of the last proposals.
      is_fit: Like it, bool, whether the density of the chain's state is finite.
      num_moves: Like it, int32, moves before the last transition.
      labels: [num_chains] int32; None if all chains have the same label.
    """

    def total_of(values: tf.Tensor) -> tf.Tensor:
        if labels is None:
            return tf.reduce_sum(values, -1, keepdims=True)
        # Sum over a mask, because its bits do not depend on the order in which a GPU adds.
        is_same = labels[:, None] == labels
        return tf.reduce_sum(tf.where(is_same, values[..., None, :], tf.zeros([], values.dtype)), -1)

    def share(flags: tf.Tensor) -> tf.Tensor:
        return total_of(tf.cast(flags, tf.int32))

    is_still = is_fit & (num_moves == 0)
    is_stuck = is_still & (share(is_fit & (num_moves >= MANY_MOVES)) > share(is_still))
    weight = tf.cast(is_fit & ~is_stuck, log_accept_prob.dtype)
    total = total_of(weight * tf.exp(nan_to_neg_inf(log_accept_prob)))
    return tf.math.log(tf.math.divide_no_nan(total, total_of(weight)))


def jitter(shape: Any, seed: tf.Tensor, short_share: float, dtype: Any) -> tf.Tensor:
    """Return random factors of the step size: uniform in `SHORT` with probability `short_share`, otherwise in `LONG`."""
    u = tf.random.stateless_uniform(shape, seed, dtype=dtype)
    long = LONG[0] + (LONG[1] - LONG[0]) * (u - short_share) / (1 - short_share)
    short = SHORT[0] + (SHORT[1] - SHORT[0]) * tf.math.divide_no_nan(u, tf.constant(short_share, dtype))
    return tf.where(u < short_share, short, long)


class Pooled(KernelBase):
    """`inner_kernel` with the pooled acceptance of all chains of a label in its results, to tune their shared step size.

    After adaptation, each transition multiplies that step size by a random factor (see `jitter`), the same for all
    chains. The factor depends on the seed alone, so each transition leaves the target invariant. The results hold the step
    size without the factor.

    Args:
      inner_kernel: Any kernel that `access` fits.
      access: See `StepSizeAccess`.
      num_adaptation_steps: int32, transitions without jitter, in which the step size is tuned.
      labels: [num_chains] int32, labels of the chains, whose step size is then [..., num_chains, 1]; None if all have the
        same.
      short_share: Share of transitions with a short step, in [0, 1).
    """

    def __init__(
        self,
        inner_kernel: tfp.mcmc.TransitionKernel,
        access: StepSizeAccess,
        num_adaptation_steps: Any,
        labels: Any = None,
        short_share: float = SHORT_SHARE,
    ):
        self._parameters = dict(
            inner_kernel=inner_kernel,
            access=access,
            num_adaptation_steps=num_adaptation_steps,
            labels=labels,
            short_share=short_share,
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
        factor = jitter(shape, fold_in(seed, Stream.JITTER), self._parameters["short_share"], step_size.dtype)
        is_tuning = previous_kernel_results.num_steps < self._parameters["num_adaptation_steps"]
        inner_results = access.put(inner_results, tf.where(is_tuning, step_size, step_size * factor))
        state, results = self._parameters["inner_kernel"].one_step(current_state, inner_results, seed=seed)
        results = access.put(results, step_size)
        is_fit = tf.math.is_finite(access.target_log_prob(results))
        pooled = pooled_log_accept_prob(access.log_accept_prob(results), is_fit, num_moves, self._parameters["labels"])
        num_moves += tf.cast(access.is_accepted(results), tf.int32)
        return state, PooledResults(previous_kernel_results.num_steps + 1, num_moves, pooled, results)


def dual_averaging(kernel: Pooled, tunable_params: TunableParams, **access: Any) -> tfp.mcmc.TransitionKernel:
    """Return `kernel` with its step size adapted by dual averaging."""
    numbers = tunable_params.numbers
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel,
        num_adaptation_steps=tunable_params.num_adaptation_steps,
        target_accept_prob=numbers["target_accept_prob"],
        exploration_shrinkage=numbers["exploration_shrinkage"],
        # TFP's default is 10 times the initial step size, which wastes the first ten transitions of a short adaptation.
        shrinkage_target=tunable_params.step_size,
        decay_rate=numbers["decay_rate"],
        step_count_smoothing=numbers["step_count_smoothing"],
        **access,
    )


def simple(kernel: Pooled, tunable_params: TunableParams, **access: Any) -> tfp.mcmc.TransitionKernel:
    """Return `kernel` with its step size adapted by TFP's simple scheme."""
    return tfp.mcmc.SimpleStepSizeAdaptation(
        kernel,
        num_adaptation_steps=tunable_params.num_adaptation_steps,
        target_accept_prob=tunable_params.numbers["target_accept_prob"],
        adaptation_rate=tunable_params.numbers["adaptation_rate"],
        **access,
    )


ADAPTATIONS = {"dual_averaging": dual_averaging, "simple": simple}


def adaptive_kernel(
    sampler: KernelSampler,
    posterior: PosteriorLike,
    config: KernelConfig,
    num_adaptation_steps: int,
    tunable_params: TunableParams | None = None,
    labels: tf.Tensor | None = None,
) -> tfp.mcmc.TransitionKernel:
    """Return `sampler`'s kernel with one step size for all chains of a label, tuned as `config` specifies, then frozen.

    The step size is tuned by the mean acceptance of these chains. A chain that tuned its own step size would have a kernel
    that depends on the chain's state and leaves no distribution invariant: during adaptation, mass flows from one mode to
    another, and chains that cannot return keep it there. The influence of any one chain on a shared step size decreases with
    the number of chains. A kernel without a target acceptance probability is returned as it is.

    Args:
      sampler: The sampler.
      posterior: The target.
      config: Settings of the kernel.
      num_adaptation_steps: Transitions in which the step size is tuned.
      tunable_params: Replace the numbers of `config`; by default those of `config`.
      labels: [num_chains] int32, labels of the chains if they differ.
    """
    tunable_params = tunable_params or sampler.tunable_params(config, num_adaptation_steps)
    if tunable_params is None or not isinstance(config, AdaptedConfig):
        return sampler.make_fn(posterior, config, None, num_adaptation_steps)
    kernel, access = sampler.make_fn(posterior, config, tunable_params.step_size, num_adaptation_steps), sampler.access
    return ADAPTATIONS[config.adaptation](
        Pooled(kernel, access, tunable_params.num_adaptation_steps, labels, sampler.short_share),
        tunable_params,
        step_size_getter_fn=lambda results: access.get(results.inner_results),
        step_size_setter_fn=lambda results, step_size: results._replace(
            inner_results=access.put(results.inner_results, step_size)
        ),
        log_accept_prob_getter_fn=lambda results: results.log_accept_prob,
    )


def start(sampler: KernelSampler, kernel: tfp.mcmc.TransitionKernel, z: tf.Tensor, tunable_params: TunableParams | None) -> Any:
    """Return the kernel's initial results at `z` [num_chains, latent_dim], with the values of `tunable_params` in them."""
    results = kernel.bootstrap_results(z)
    own = {name: tunable_params.numbers[name] for name in sampler.held("results")} if tunable_params else {}
    return unnest.replace_innermost(results, **own) if own else results
