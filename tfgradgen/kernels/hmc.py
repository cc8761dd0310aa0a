"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): TFP's kernel, with its parameters kept in its results."""

import tensorflow_probability as tfp

from tfgradgen.config import KernelConfig, Schedule
from tfgradgen.kernels.base import KernelFamily

FAMILY = KernelFamily(
    name="hmc",
    make_fn=lambda target_log_prob_fn, step_size, config: tfp.mcmc.HamiltonianMonteCarlo(
        target_log_prob_fn,
        step_size=step_size,
        num_leapfrog_steps=config.num_leapfrog_steps,
        store_parameters_in_results=True,
    ),
    flags=("step_size", "target_accept_prob", "num_leapfrog_steps"),
    # 0.651 is the optimal acceptance as the dimension grows (Beskos et al. 2013).
    # Three gradients a transition rather than five: from prior starts on the shipped models, more chains find their class.
    defaults=KernelConfig(step_size=0.1, target_accept_prob=0.651, num_leapfrog_steps=3),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
)
