"""Hamiltonian Monte Carlo split along the normal prior: exact rotations, and kicks by the likelihood's gradient alone.

The Hamiltonian is the sum of -log Normal(z; 0, I) + |p|^2 / 2, whose exact flow rotates (z, p), and of the negative
log-likelihood, whose flow kicks p. Strang's splitting of the two (Beskos, Pinski, Sanz-Serna and Stuart 2011; Shahbaba, Lan,
Johnson and Neal 2014) has errors only where the likelihood is curved, so its step size does not shrink as the dimension of the
prior grows. A step of size h makes two kicks of size h / 2, and between them a rotation by the angle 2 arctan(h / 2), as
Beskos et al. choose it. With one leapfrog step, this is the preconditioned Crank-Nicolson Langevin proposal (Cotter, Roberts,
Stuart and White 2013) with their step h^2 / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tfgradgen.core.config import Schedule
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.core.lazy import tf, tfp
from tfgradgen.mcmc.hmc import HmcConfig, leapfrog_cost, leapfrog_info
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, one_tensor

LogProbFn = Callable[[Any], Any]  # z [num_chains, latent_dim] -> float32 [num_chains]


class UncalibratedResults(NamedTuple):
    """Results of a proposal.

    Attributes:
      target_log_prob: [num_chains], log density at the proposal.
      gradient: Gradient of the log-likelihood at the proposal, like z.
      log_acceptance_correction: [num_chains], the loss of kinetic energy.
    """

    target_log_prob: tf.Tensor
    gradient: tf.Tensor
    log_acceptance_correction: tf.Tensor


class SplitHmcResults(NamedTuple):
    """Results of a transition.

    Attributes:
      step_size: [1, 1], a distance in z.
      num_leapfrog_steps: int32 scalar.
      inner_results: Results of tfp.mcmc.MetropolisHastings.
    """

    step_size: tf.Tensor
    num_leapfrog_steps: tf.Tensor
    inner_results: Any


class _SplitKernel(KernelBase):
    """Base class of the proposal and of the whole kernel; see `SplitHmc`."""

    def __init__(
        self, prior_log_prob_fn: LogProbFn, likelihood_log_prob_fn: LogProbFn, step_size: Any, num_leapfrog_steps: Any
    ):
        self._parameters = dict(
            prior_log_prob_fn=prior_log_prob_fn,
            likelihood_log_prob_fn=likelihood_log_prob_fn,
            step_size=step_size,
            num_leapfrog_steps=num_leapfrog_steps,
        )


class UncalibratedSplitHmc(_SplitKernel):
    """The uncalibrated proposal of `SplitHmc`: every proposal is accepted."""

    @property
    def is_calibrated(self) -> bool:
        return False

    def _likelihood(self, z: tf.Tensor) -> Any:
        return tfp.math.value_and_gradient(self._parameters["likelihood_log_prob_fn"], z)

    def _results(
        self, z: tf.Tensor, likelihood: tf.Tensor, gradient: tf.Tensor, kinetic_loss: tf.Tensor
    ) -> UncalibratedResults:
        return UncalibratedResults(self._parameters["prior_log_prob_fn"](z) + likelihood, gradient, kinetic_loss)

    def bootstrap_results(self, init_state: tf.Tensor) -> UncalibratedResults:
        value, gradient = self._likelihood(one_tensor(init_state))
        return self._results(init_state, value, gradient, tf.zeros_like(value))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: UncalibratedResults, seed: Any = None) -> Any:
        seed = tfp.random.sanitize_seed(seed)
        step_size = tf.convert_to_tensor(self._parameters["step_size"], current_state.dtype)
        # Cosine and sine of the angle 2 arctan(h / 2).
        cos = (4.0 - tf.square(step_size)) / (4.0 + tf.square(step_size))
        sin = 4.0 * step_size / (4.0 + tf.square(step_size))
        momentum = tf.random.stateless_normal(tf.shape(current_state), seed, dtype=current_state.dtype)

        def leapfrog(i: tf.Tensor, z: tf.Tensor, p: tf.Tensor, value: tf.Tensor, gradient: tf.Tensor) -> Any:
            p = p + 0.5 * step_size * gradient
            z, p = cos * z + sin * p, cos * p - sin * z
            value, gradient = self._likelihood(z)
            return i + 1, z, p + 0.5 * step_size * gradient, value, gradient

        start = previous_kernel_results
        _, z, end_momentum, value, gradient = tf.while_loop(
            lambda i, *_: i < self._parameters["num_leapfrog_steps"],
            leapfrog,
            (tf.constant(0), current_state, momentum, tf.zeros_like(start.target_log_prob), start.gradient),
            parallel_iterations=1,
        )

        def kinetic(p: tf.Tensor) -> tf.Tensor:
            return 0.5 * tf.reduce_sum(tf.square(p), -1)

        return z, self._results(z, value, gradient, kinetic(momentum) - kinetic(end_momentum))


class SplitHmc(_SplitKernel):
    """HMC with rotations by the prior and kicks by the likelihood, and the Metropolis test.

    Args:
      prior_log_prob_fn: log Normal(z; 0, I), for which the rotation is exact; `z [num_chains, latent_dim]` -> float32
        [num_chains].
      likelihood_log_prob_fn: Like it.
      step_size: > 0, a scalar or [1, 1]; the same distance in z as the step size of HMC when it is small.
      num_leapfrog_steps: Gradients in one transition, >= 1.
    """

    def _inner(self, step_size: Any, num_leapfrog_steps: Any) -> tfp.mcmc.TransitionKernel:
        held = {"step_size": step_size, "num_leapfrog_steps": num_leapfrog_steps}
        return tfp.mcmc.MetropolisHastings(UncalibratedSplitHmc(**self._parameters | held))

    def bootstrap_results(self, init_state: tf.Tensor) -> SplitHmcResults:
        init_state = one_tensor(init_state)
        step_size = tf.convert_to_tensor(self._parameters["step_size"], init_state.dtype)
        num_leapfrog_steps = tf.convert_to_tensor(self._parameters["num_leapfrog_steps"], tf.int32)
        inner = self._inner(step_size, num_leapfrog_steps)
        return SplitHmcResults(step_size, num_leapfrog_steps, inner.bootstrap_results(init_state))

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: SplitHmcResults, seed: Any = None) -> Any:
        before = previous_kernel_results
        inner = self._inner(before.step_size, before.num_leapfrog_steps)
        state, inner_results = inner.one_step(current_state, before.inner_results, seed=seed)
        return state, before._replace(inner_results=inner_results)


def make_split_hmc(posterior: PosteriorLike, config: HmcConfig, step_size: Any, num_adaptation_steps: int) -> SplitHmc:
    """Return split HMC for `posterior`; see `KernelSampler.make_fn`."""
    return SplitHmc(posterior.prior_log_prob, posterior.likelihood_log_prob, step_size, config.num_leapfrog_steps)


SAMPLER = KernelSampler(
    "split_hmc",
    about="hmc for many latent dimensions",
    exactness="asymptotically exact",
    # `tune` finds no better defaults on the shipped models: tools/tuning/split_hmc.
    defaults=HmcConfig(
        step_size=0.274,
        target_accept_prob=0.542,
        exploration_shrinkage=0.164,
        decay_rate=0.643,
        step_count_smoothing=24,
        num_leapfrog_steps=4,
    ),
    schedule=Schedule(num_results=47, num_burnin_steps=28, num_adaptation_steps=21),
    cost_fn=leapfrog_cost,
    make_fn=make_split_hmc,
    info_fn=leapfrog_info,
)
