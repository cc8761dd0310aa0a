"""A sampler that is wrong, for negative controls."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp


class ForgetsTheProposal(tfp.mcmc.UncalibratedLangevin):
    """A Langevin proposal that claims to be symmetric, so the Metropolis test accepts by the ratio of the targets alone."""

    def one_step(self, current_state: Any, previous_kernel_results: Any, seed: Any = None) -> Any:
        state, results = super().one_step(current_state, previous_kernel_results, seed=seed)
        correction = tf.zeros_like(results.log_acceptance_correction)
        return state, results._replace(log_acceptance_correction=correction)
