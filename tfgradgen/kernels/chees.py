"""HMC whose trajectory length is adapted too: ChEES-HMC (Hoffman, Radul and Sountsov 2021), TFP's adaptation.

The length is one for all chains, so a chain cannot have a length of its own as it has a step size; what each chain adds to the
criterion is weighted by its acceptance, so a stuck chain or one that is not finite adds nothing.
"""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import unnest

from tfgradgen.config import CheesConfig, Schedule
from tfgradgen.contracts import Cost, PosteriorLike
from tfgradgen.kernels.base import KernelFamily, log_accept_prob
from tfgradgen.kernels.hmc import leapfrog_info, make_hmc

START_LEAPFROG_STEPS = 3


def typical_step_size(results: Any) -> tf.Tensor:
    """The median over chains, which one bad chain cannot move far: it turns the common length into a number of steps."""
    return tfp.stats.percentile(unnest.get_innermost(results, "step_size"), 50.0, interpolation="nearest")


def finite_log_accept_prob(results: Any) -> tf.Tensor:
    """`log_accept_prob` [num_chains], -inf where it is not a number: the chain's weight in the criterion is its exponential."""
    value = log_accept_prob(results)
    return tf.where(tf.math.is_nan(value), -float("inf"), value)


def make_chees(posterior: PosteriorLike, config: CheesConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    return tfp.experimental.mcmc.GradientBasedTrajectoryLengthAdaptation(
        make_hmc(posterior.unnormalized_log_prob, step_size, min(START_LEAPFROG_STEPS, config.max_leapfrog_steps)),
        num_adaptation_steps=num_adaptation_steps,
        max_leapfrog_steps=config.max_leapfrog_steps,
        step_size_getter_fn=typical_step_size,
        log_accept_prob_getter_fn=finite_log_accept_prob,
    )


FAMILY = KernelFamily(
    name="chees",
    make_fn=make_chees,
    defaults=CheesConfig(step_size=0.3, target_accept_prob=0.65, max_leapfrog_steps=16),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
    info_fn=leapfrog_info,
    cost_fn=lambda config: Cost(START_LEAPFROG_STEPS, 0),
    min_chains=2,  # the criterion looks at their spread
)
