"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): TFP's kernel, with its parameters kept in its results."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import unnest
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.kernel import KernelFamily, StepInfo, read_step
from tfgradgen.mcmc.presets import PRESETS


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


FAMILY = KernelFamily(
    **vars(PRESETS["hmc"]),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: make_hmc(
        posterior.unnormalized_log_prob, step_size, config.num_leapfrog_steps
    ),
    info_fn=leapfrog_info,
    live=("num_leapfrog_steps",),
)
