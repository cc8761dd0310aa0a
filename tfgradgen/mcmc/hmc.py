"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): TFP's kernel, with its parameters kept in its results."""

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
    """Of hmc, whose defaults these are, and of split_hmc."""

    # Chosen on the shipped models, and `tune` shows none better: tools/tuning/hmc. The acceptance lies below 0.651, the optimum
    # as the dimension grows (Beskos et al. 2013), and the first step is long: as many effective draws, and from prior starts
    # more chains find their class.
    step_size: float = again(AdaptedConfig, "step_size", 0.3)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.6)

    num_leapfrog_steps: int = whole(
        3, low=1, high=1000, help="gradients in one step", search=Search(1, 12, log=True), held="results"
    )


def make_hmc(
    target_log_prob_fn: Callable[[tf.Tensor], tf.Tensor], step_size: Any, num_leapfrog_steps: Any
) -> tfp.mcmc.TransitionKernel:
    """TFP's HMC; `step_size` broadcasts with the state, `num_leapfrog_steps` is a scalar."""
    return tfp.mcmc.HamiltonianMonteCarlo(
        target_log_prob_fn,
        step_size=step_size,
        num_leapfrog_steps=num_leapfrog_steps,
        store_parameters_in_results=True,
    )


def leapfrog_info(posterior: PosteriorLike, config: Any, z: tf.Tensor, results: Any) -> StepInfo:
    """`StepInfo` of a kernel that takes a gradient in each of its leapfrog steps."""
    return read_step(results, unnest.get_innermost(results, "num_leapfrog_steps"))


def leapfrog_cost(config: HmcConfig) -> Cost:
    return Cost(config.num_leapfrog_steps, 0)


SAMPLER = KernelSampler(
    "hmc",
    about="longer moves: several gradients a step",
    law="asymptotically exact",
    defaults=HmcConfig(),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
    cost_fn=leapfrog_cost,
    served_steps=lambda config: config.num_leapfrog_steps,
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: make_hmc(
        posterior.unnormalized_log_prob, step_size, config.num_leapfrog_steps
    ),
    info_fn=leapfrog_info,
)
