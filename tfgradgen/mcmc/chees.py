"""HMC whose trajectory length is adapted too: ChEES-HMC (Hoffman, Radul and Sountsov 2021), TFP's adaptation.

The length is one for all chains, like the step size; what each chain adds to the criterion is weighted by its acceptance, so a
stuck chain or one that is not finite adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, whole
from tfgradgen.mcmc.hmc import leapfrog_info, make_hmc
from tfgradgen.mcmc.kernel import KernelSampler, WrappedKernel, absent_if_nan, log_accept_prob

START_STEPS = 3  # leapfrog steps of the first trajectory


@dataclass(frozen=True)
class CheesConfig(AdaptedConfig):
    """The length of a trajectory is tuned, up to a bound."""

    # `tune` shows none better on the shipped models: tools/tuning/chees.
    step_size: float = again(AdaptedConfig, "step_size", 0.3)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.65)

    max_leapfrog_steps: int = whole(16, low=1, high=1000, help="gradients in one step, at most", search=Search(2, 32, log=True))


def shared_step_size(results: Any) -> tf.Tensor:
    """The step size of all chains, a scalar: it turns the length into a number of steps."""
    return tf.reshape(unnest.get_innermost(results, "step_size"), [])


def finite_log_accept_prob(results: Any) -> tf.Tensor:
    """`log_accept_prob` [num_chains], -inf where it is not a number: the chain's weight in the criterion is its exponential."""
    return absent_if_nan(log_accept_prob(results))


class Chees(WrappedKernel):
    """TFP's, which begins its average at a length of 0, and would end there without steps that adapt."""

    @staticmethod
    def make_fn(**parameters: Any) -> Any:
        return tfp.experimental.mcmc.GradientBasedTrajectoryLengthAdaptation(**parameters)

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        results = self.inner_kernel.bootstrap_results(init_state)
        return results._replace(averaged_max_trajectory_length=results.max_trajectory_length)


def make_chees(posterior: PosteriorLike, config: CheesConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    # TFP bounds the length by the step size of the step before; the bound that holds is on the number of steps.
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
    about="hmc that tunes one length for many chains",
    law="asymptotically exact",
    defaults=CheesConfig(),
    schedule=Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
    cost_fn=lambda config: Cost(START_STEPS, 0),
    min_chains=2,  # the criterion looks at their spread
    counts_adaptation=True,
    make_fn=make_chees,
    info_fn=leapfrog_info,
    tunes_by_label=False,  # the length of a trajectory is one for all chains
)
