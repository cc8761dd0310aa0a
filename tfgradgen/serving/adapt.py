"""Step sizes that an export freezes: those that the ordinary adaptation of a run finds for each class."""

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

NUM_KEPT_STEPS = 10  # after adaptation: what the acceptance is taken from


class Adapted(NamedTuple):
    """step_size: that of all adapted chains, a distance in z. accept_rate: mean acceptance probability of those chains in
    `NUM_KEPT_STEPS` steps with it. doubts: of the checks of the models (`model_checks.admit`)."""

    step_size: float
    accept_rate: float
    doubts: list[str]


def adapt(
    posterior: ClassPosterior,
    kernel: str,
    config: KernelConfig,
    num_adaptation_steps: int,
    run: RunConfig,
    progress_fn: ProgressFn | None = None,
) -> Adapted:
    """Tunes the step size of `kernel` for the class of `posterior` as `sample_chains` does in a run.

    A served chain has no burn-in of its own to tune in, so it takes the step size that the chains of the run share.

    Raises:
      UserError: a run of these models would go wrong, or found no step size.
    """
    posterior, doubts, *_ = admit(posterior, run, SAMPLERS[kernel].cost_fn(config).num_gradients > 0)
    init_z, _, _ = initial_points(posterior, run)
    schedule = Schedule(NUM_KEPT_STEPS, num_adaptation_steps, num_adaptation_steps)
    draws, *_ = collect(chain_chunks(posterior, kernel, config, schedule, run, init_z), progress_fn)
    step_size = float(draws.step_size[-1, 0])
    if not (np.isfinite(step_size) and step_size > 0):
        raise fail("step_size", "a finite one after adaptation", step_size, "check the models with python -m tfgradgen check")
    return Adapted(step_size, float(accept_prob(draws).mean()), doubts)
