"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): TFP's kernel, which stores its parameters in its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, whole
from tfgradgen.mcmc.kernel import KernelSampler, StepInfo, read_step


@dataclass(frozen=True)
class HmcConfig(AdaptedConfig):
    """Settings of `hmc`, with its defaults, and of `split_hmc`."""

    # Chosen on the shipped models; `tune` finds no better defaults: tools/tuning/hmc. The target acceptance is below 0.651,
    # the optimum in the limit of high dimension (Beskos et al. 2013), and the first step size is large: the ESS is the same,
    # and more chains find their class from prior starts.
    step_size: float = again(AdaptedConfig, "step_size", 0.3)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.6)

    num_leapfrog_steps: int = whole(
        3, low=1, high=1000, help="gradients in a transition", search=Search(1, 12, log=True), held="results"
    )


def make_hmc(
    target_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], step_size: Any, num_leapfrog_steps: Any
) -> tfp.mcmc.TransitionKernel:
    """Return TFP's HMC; `step_size` broadcasts with the state, `num_leapfrog_steps` is a scalar."""
    return tfp.mcmc.HamiltonianMonteCarlo(
        target_log_prob_fn,
        step_size=step_size,
        num_leapfrog_steps=num_leapfrog_steps,
        store_parameters_in_results=True,
    )


def leapfrog_info(posterior: PosteriorLike, config: Any, z: tf.Tensor, results: Any) -> StepInfo:
    """Return the `StepInfo` of a kernel that computes one gradient in each leapfrog step."""
    return read_step(results, unnest.get_innermost(results, "num_leapfrog_steps"))


def leapfrog_cost(config: HmcConfig) -> Cost:
    """Return the cost of one transition of one chain: one gradient per leapfrog step."""
    return Cost(config.num_leapfrog_steps, 0)


SAMPLER = KernelSampler(
    "hmc",
    about="longer moves, several gradients each",
    exactness="asymptotically exact",
    defaults=HmcConfig(),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
    cost_fn=leapfrog_cost,
    served_steps=lambda config: config.num_leapfrog_steps,
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: make_hmc(
        posterior.unnormalized_log_prob, step_size, config.num_leapfrog_steps
    ),
    info_fn=leapfrog_info,
)
