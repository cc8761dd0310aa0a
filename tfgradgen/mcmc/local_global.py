"""Ex2MCMC (Samsonov et al. 2022): global moves among fresh prior draws, alternated with MALA.

The global move is iterated sampling importance resampling (i-SIR; Tjelmeland 2004; Andrieu, Lee and Vihola 2018). Among the
state and N fresh prior draws, it selects one with probability proportional to its likelihood, which leaves prior times
likelihood invariant. It needs forward passes only, and lets a chain change modes unless the class is too rare under the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, whole
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, StepInfo, nan_to_neg_inf, one_tensor, read_step
from tfgradgen.mcmc.mala import Mala


@dataclass(frozen=True)
class LocalGlobalConfig(AdaptedConfig):
    """Settings of the global and local moves of a transition."""

    # `tune` finds no better defaults on the shipped models: tools/tuning/local_global.
    step_size: float = again(AdaptedConfig, "step_size", 0.4)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.4)

    num_global_draws: int = whole(
        16, low=1, high=10_000, help="fresh prior draws in each global move", search=Search(1, 64, log=True)
    )
    num_local_steps: int = whole(1, low=1, high=1000, help="mala steps after each global move", search=Search(1, 8, log=True))


class LocalGlobalResults(NamedTuple):
    """Results of a transition.

    Attributes:
      has_moved: [num_chains] bool, whether the global move or a local step moved the chain.
      inner_results: Results of the last local step.
    """

    has_moved: tf.Tensor
    inner_results: Any


class IsirState(NamedTuple):
    """The states of chains in a global move.

    Attributes:
      z: [num_chains, latent_dim], the states.
      log_likelihood: [num_chains], log-likelihood of `z`.
      log_density: [num_chains], log density of the proposals over the prior at `z`, up to a constant.
    """

    z: tf.Tensor
    log_likelihood: tf.Tensor
    log_density: tf.Tensor


def resample(
    likelihood_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], state: IsirState, draw_fn: Any, num_draws: int, seed: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Make one i-SIR move.

    The draws come one at a time, and each is accepted with its share of the total weight so far. This is equivalent to one
    choice among all (Chao 1982), and holds a single batch of images in memory. The weight is likelihood over density; a weight
    that is not a number counts as 0. A constant factor of the density changes no share, so it need not be known.

    Args:
      likelihood_log_prob_fn: z [num_chains, latent_dim] -> log-likelihood [num_chains].
      state: The states before the move.
      draw_fn: (i, seed) -> the i-th independent draws z [num_chains, latent_dim] of the proposals, and their `log_density`.
      num_draws: Number of draws of each chain.
      seed: Seed of the move.

    Returns:
      The new z [num_chains, latent_dim], its log-likelihood [num_chains] and whether it has changed [num_chains].
    """

    def weight_of(log_likelihood: tf.Tensor, log_density: tf.Tensor) -> tf.Tensor:
        return nan_to_neg_inf(log_likelihood - log_density)

    def propose(i: tf.Tensor, z: tf.Tensor, log_likelihood: tf.Tensor, total: tf.Tensor, has_jumped: tf.Tensor) -> Any:
        draw, log_density = draw_fn(i, fold_in(fold_in(seed, i), 0))
        threshold = tf.cast(log_uniform(tf.shape(total), fold_in(fold_in(seed, i), 1)), total.dtype)
        value = likelihood_log_prob_fn(draw)
        weight = weight_of(value, log_density)
        total = tf.where(tf.math.is_finite(weight), tfp.math.log_add_exp(total, weight), total)
        takes = threshold < weight - total
        z, log_likelihood = tf.where(takes[:, None], draw, z), tf.where(takes, value, log_likelihood)
        return i + 1, z, log_likelihood, total, has_jumped | takes

    start, no = weight_of(state.log_likelihood, state.log_density), tf.zeros_like(state.log_likelihood, tf.bool)
    _, z, log_likelihood, _, has_jumped = tf.while_loop(
        lambda i, *_: i < num_draws,
        propose,
        (tf.constant(0), state.z, state.log_likelihood, start, no),
        parallel_iterations=1,
    )
    return z, log_likelihood, has_jumped


def resample_prior(
    likelihood_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor, log_likelihood: tf.Tensor, num_draws: int, seed: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Make a `resample` move among prior draws; return z [num_chains, latent_dim] and whether it has changed [num_chains]."""
    zero = tf.zeros([], log_likelihood.dtype)

    def draw(i: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.random.stateless_normal(tf.shape(z), seed, dtype=z.dtype), zero

    z, _, has_jumped = resample(likelihood_log_prob_fn, IsirState(z, log_likelihood, zero), draw, num_draws, seed)
    return z, has_jumped


def local_steps(kernel: Any, z: tf.Tensor, results: Any, num_steps: int, seed: Any, after_fn: Any) -> tuple[tf.Tensor, Any]:
    """Make `num_steps` transitions of `kernel` after a global move.

    Args:
      kernel: The local kernel.
      z: The states after the global move.
      results: What `after_fn` would return after no step; its `inner_results` are the kernel's.
      num_steps: Number of transitions.
      seed: Seed of the whole transition.
      after_fn: (results so far, the kernel's after one more step) -> results, of the same structure.

    Returns:
      The last z, and what `after_fn` makes of all results.
    """

    def local(i: tf.Tensor, z: tf.Tensor, now: Any) -> Any:
        z, inner_results = kernel.one_step(z, now.inner_results, seed=fold_in(seed, 1 + i))
        return i + 1, z, after_fn(now, inner_results)

    _, z, results = tf.while_loop(lambda i, *_: i < num_steps, local, (tf.constant(0), z, results), parallel_iterations=1)
    return z, results


class LocalGlobal(KernelBase):
    """One global move, then `num_local_steps` transitions of `inner_kernel`.

    Args:
      inner_kernel: A kernel for the same target, with `target_log_prob` and `step_size` in its results.
      prior_log_prob_fn: log Normal(z; 0, I), `z [num_chains, latent_dim]` -> float32 [num_chains].
      likelihood_log_prob_fn: Like it; the target is the sum of the two.
      num_global_draws: Fresh prior draws in a global move, >= 1.
      num_local_steps: Local transitions after each global move, >= 1.
    """

    def __init__(
        self,
        inner_kernel: tfp.mcmc.TransitionKernel,
        prior_log_prob_fn: Any,
        likelihood_log_prob_fn: Any,
        num_global_draws: int,
        num_local_steps: int,
    ):
        self._parameters = dict(
            inner_kernel=inner_kernel,
            prior_log_prob_fn=prior_log_prob_fn,
            likelihood_log_prob_fn=likelihood_log_prob_fn,
            num_global_draws=num_global_draws,
            num_local_steps=num_local_steps,
        )

    def bootstrap_results(self, init_state: tf.Tensor) -> LocalGlobalResults:
        init_state = one_tensor(init_state)
        inner_results = self._parameters["inner_kernel"].bootstrap_results(init_state)
        return LocalGlobalResults(tf.zeros(tf.shape(init_state)[:1], tf.bool), inner_results)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: LocalGlobalResults, seed: Any = None) -> Any:
        own, before, seed = self._parameters, previous_kernel_results.inner_results, tfp.random.sanitize_seed(seed)
        log_likelihood = unnest.get_innermost(before, "target_log_prob") - own["prior_log_prob_fn"](current_state)
        z, has_jumped = resample_prior(
            own["likelihood_log_prob_fn"], current_state, log_likelihood, own["num_global_draws"], fold_in(seed, 0)
        )
        # Recompute what the local kernel stores for its state, since the state is new; keep only the step size.
        step_size = unnest.get_innermost(before, "step_size")
        results = unnest.replace_innermost(own["inner_kernel"].bootstrap_results(z), step_size=step_size)
        return local_steps(
            own["inner_kernel"],
            z,
            LocalGlobalResults(has_jumped, results),
            own["num_local_steps"],
            seed,
            lambda now, after: LocalGlobalResults(now.has_moved | unnest.get_innermost(after, "is_accepted"), after),
        )


def make_local_global(posterior: PosteriorLike, config: LocalGlobalConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    """Return Ex2MCMC for `posterior`; see `KernelSampler.make_fn`."""
    return LocalGlobal(
        Mala(posterior.unnormalized_log_prob, step_size),
        posterior.prior_log_prob,
        posterior.likelihood_log_prob,
        config.num_global_draws,
        config.num_local_steps,
    )


def local_global_info(posterior: PosteriorLike, config: LocalGlobalConfig, z: tf.Tensor, results: Any) -> StepInfo:
    """Return the `StepInfo`; its acceptance is that of the last local step, by which the step size is tuned."""
    info = read_step(results, 1 + config.num_local_steps, config.num_global_draws)
    return info._replace(is_accepted=unnest.get_outermost(results, "has_moved"))


SAMPLER = KernelSampler(
    "local_global",
    about="finds several modes of a common class",
    exactness="asymptotically exact",
    defaults=LocalGlobalConfig(),
    schedule=Schedule(num_results=40, num_burnin_steps=60, num_adaptation_steps=52),
    cost_fn=lambda config: Cost(1 + config.num_local_steps, config.num_global_draws),
    make_fn=make_local_global,
    info_fn=local_global_info,
)
