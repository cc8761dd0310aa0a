"""HMC with an adapted trajectory length: ChEES-HMC (Hoffman, Radul and Sountsov 2021), with TFP's adaptation.

All chains share one trajectory length, as they share one step size. The contribution of each chain to the criterion is
weighted by its acceptance probability, so a chain that is stuck or not finite contributes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, whole
from tfgradgen.mcmc.hmc import leapfrog_info, make_hmc
from tfgradgen.mcmc.kernel import KernelSampler, WrappedKernel, log_accept_prob, nan_to_neg_inf

START_STEPS = 3  # leapfrog steps of the first trajectory


@dataclass(frozen=True)
class CheesConfig(AdaptedConfig):
    """Settings of ChEES-HMC, which tunes the trajectory length up to a bound."""

    # `tune` finds no better defaults on the shipped models: tools/tuning/chees.
    step_size: float = again(AdaptedConfig, "step_size", 0.3)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.65)

    max_leapfrog_steps: int = whole(
        16, low=1, high=1000, help="largest number of gradients in a transition", search=Search(2, 32, log=True)
    )


def shared_step_size(results: Any) -> tf.Tensor:
    """Return the step size of all chains as a scalar, which converts the trajectory length to a number of steps."""
    return tf.reshape(unnest.get_innermost(results, "step_size"), [])


def finite_log_accept_prob(results: Any) -> tf.Tensor:
    """Return `log_accept_prob` [num_chains] with NaN replaced by -inf; its exponential weights the chain in the criterion."""
    return nan_to_neg_inf(log_accept_prob(results))


class Chees(WrappedKernel):
    """TFP's trajectory length adaptation, with the averaged length initialized to the first length.

    TFP initializes the average to 0, and would end with that length if there were no adaptation steps.
    """

    @staticmethod
    def make_fn(**parameters: Any) -> Any:
        return tfp.experimental.mcmc.GradientBasedTrajectoryLengthAdaptation(**parameters)

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        results = self.inner_kernel.bootstrap_results(init_state)
        return results._replace(averaged_max_trajectory_length=results.max_trajectory_length)


def make_chees(posterior: PosteriorLike, config: CheesConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    """Return ChEES-HMC for `posterior`; see `KernelSampler.make_fn`."""

    # TFP bounds the length by the step size of the previous step. This bounds the number of steps itself.
    def bounded(results: Any, num_steps: tf.Tensor) -> Any:
        return unnest.replace_innermost(results, num_leapfrog_steps=tf.minimum(num_steps, config.max_leapfrog_steps))

    return Chees(
        inner_kernel=make_hmc(posterior.unnormalized_log_prob, step_size, min(START_STEPS, config.max_leapfrog_steps)),
        num_adaptation_steps=num_adaptation_steps,
        max_leapfrog_steps=config.max_leapfrog_steps,
        step_size_getter_fn=shared_step_size,
        num_leapfrog_steps_setter_fn=bounded,
        log_accept_prob_getter_fn=finite_log_accept_prob,
    )


SAMPLER = KernelSampler(
    "chees",
    about="hmc that tunes one trajectory length",
    exactness="asymptotically exact",
    defaults=CheesConfig(),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
    cost_fn=lambda config: Cost(START_STEPS, 0),
    min_chains=2,  # the criterion is computed from their spread
    counts_adaptation=True,
    make_fn=make_chees,
    info_fn=leapfrog_info,
    short_share=0.0,  # its trajectory would have more steps
    tunes_by_label=False,  # all chains share one trajectory length
)
