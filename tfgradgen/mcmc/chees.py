"""HMC whose trajectory length is adapted too: ChEES-HMC (Hoffman, Radul and Sountsov 2021), TFP's adaptation.

The length is one for all chains, like the step size; what each chain adds to the criterion is weighted by its acceptance, so a
stuck chain or one that is not finite adds nothing.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import unnest
from tfgradgen.core.config import CheesConfig
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.hmc import leapfrog_info, make_hmc
from tfgradgen.mcmc.kernel import KernelFamily, absent_if_nan, log_accept_prob
from tfgradgen.mcmc.presets import CHEES_START_STEPS, PRESETS


def shared_step_size(results: Any) -> tf.Tensor:
    """The step size of all chains, a scalar: it turns the length into a number of steps."""
    return tf.reshape(unnest.get_innermost(results, "step_size"), [])


def finite_log_accept_prob(results: Any) -> tf.Tensor:
    """`log_accept_prob` [num_chains], -inf where it is not a number: the chain's weight in the criterion is its exponential."""
    return absent_if_nan(log_accept_prob(results))


class Chees(tfp.experimental.mcmc.GradientBasedTrajectoryLengthAdaptation):
    """TFP's, which begins its average at a length of 0, and would end there without steps that adapt."""

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        results = super().bootstrap_results(init_state)
        return results._replace(averaged_max_trajectory_length=results.max_trajectory_length)


def make_chees(posterior: PosteriorLike, config: CheesConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    # TFP bounds the length by the step size of the step before; the bound that holds is on the number of steps.
    bounded = lambda results, num_steps: unnest.replace_innermost(  # noqa: E731
        results, num_leapfrog_steps=tf.minimum(num_steps, config.max_leapfrog_steps)
    )
    return Chees(
        make_hmc(posterior.unnormalized_log_prob, step_size, min(CHEES_START_STEPS, config.max_leapfrog_steps)),
        num_adaptation_steps=num_adaptation_steps,
        max_leapfrog_steps=config.max_leapfrog_steps,
        step_size_getter_fn=shared_step_size,
        num_leapfrog_steps_setter_fn=bounded,
        log_accept_prob_getter_fn=finite_log_accept_prob,
    )


FAMILY = KernelFamily(
    **vars(PRESETS["chees"]),
    make_fn=make_chees,
    info_fn=leapfrog_info,
)
