"""Fixed step sizes for an export, found for each class by the usual adaptation of a run."""

from typing import NamedTuple

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import ProgressFn, accept_prob, collect
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.chains import chain_chunks
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.starts import initial_points
from tfgradgen.posterior import ClassPosterior

NUM_KEPT_STEPS = 10  # steps after adaptation, from which the acceptance rate is computed


class Adapted(NamedTuple):
    """The result of `adapt`.

    Attributes:
      step_size: The step size of all chains, a distance in z.
      accept_rate: Mean acceptance probability of the chains in `NUM_KEPT_STEPS` steps with it.
      warnings: Warnings from the checks of the models (`model_checks.admit`).
    """

    step_size: float
    accept_rate: float
    warnings: list[str]


def adapt(
    posterior: ClassPosterior,
    kernel: str,
    config: KernelConfig,
    num_adaptation_steps: int,
    run: RunConfig,
    progress_fn: ProgressFn | None = None,
) -> Adapted:
    """Tune the step size of `kernel` for the class of `posterior`, as `sample_chains` does in a run.

    A served chain has no burn-in in which to tune, so it takes the step size that the chains of this run share.

    Raises:
      UserError: The models cannot be sampled, or no step size was found.
    """
    posterior, warnings, *_ = admit(posterior, run, SAMPLERS[kernel].cost_fn(config).num_gradients > 0)
    init_z, _, _ = initial_points(posterior, run)
    schedule = Schedule(NUM_KEPT_STEPS, num_adaptation_steps, num_adaptation_steps)
    draws, *_ = collect(chain_chunks(posterior, kernel, config, schedule, run, init_z), progress_fn)
    step_size = float(draws.step_size[-1, 0])
    if not (np.isfinite(step_size) and step_size > 0):
        expected = "a finite step size after adaptation"
        raise fail("step_size", expected, step_size, "check the models with python -m tfgradgen check")
    return Adapted(step_size, float(accept_prob(draws).mean()), warnings)
