"""A run of chains from its beginning: the models are checked, starts are found, then the kernel runs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfgradgen.core.arrays import check_state
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Regularization
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.chains import chain_chunks, state_layout
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.rejection import class_moments
from tfgradgen.mcmc.sampler import Resume, with_start
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior


def started_chunks(
    sampler: KernelSampler,
    posterior: ClassPosterior,
    config: Any,
    schedule: Schedule,
    run: RunConfig,
    resume: Resume | None,
) -> Iterator[Chunk]:
    """`chain_chunks` from the starts that `run` asks for, or from where `resume` ended."""
    if resume is None:
        init_z, posterior, facts = _start(posterior, sampler, config, run)
    else:
        layout = state_layout(run.num_chains, posterior.latent_dim)
        check_state({name: resume.state[name] for name in layout if name in resume.state}, layout)
        init_z, posterior, facts = resume.state["z"], _restored(posterior, config, resume.state), resume.facts
    state = resume and resume.state
    for chunk in chain_chunks(posterior, sampler.name, config, schedule, run, init_z, state):
        yield with_start(chunk, facts)


def _start(
    posterior: ClassPosterior, sampler: KernelSampler, config: Any, run: RunConfig
) -> tuple[Any, ClassPosterior, dict[str, Any]]:
    """Start points, the target with the class's moments if the kernel wants them, and what was seen on the way."""
    posterior, doubts, start_cost = admit(posterior, run, sampler.cost_fn(config).num_gradients > 0)
    facts: dict[str, Any] = {"doubts": doubts, "start_cost": [*start_cost]}
    starts = choose_starts(posterior, run, sampler.powers(config))
    num_forward = starts.num_draws
    if config.needs_class_moments:
        mean, scale, num_drawn = class_moments(posterior, run)
        posterior, num_forward = _regularized(posterior, config, mean, scale), num_forward + num_drawn
    facts["start_cost"][1] += num_forward
    facts |= {"prior_class_prob": starts.class_prob, "prior_class_prob_error": starts.class_prob_error}
    facts |= {"prior_draws": starts.num_draws, "exact_starts": starts.num_exact}
    facts |= {"num_not_finite": starts.num_not_finite, "num_scored": starts.num_draws}
    return starts.z, posterior, facts


def _restored(posterior: ClassPosterior, config: Any, state: dict[str, np.ndarray]) -> ClassPosterior:
    if not config.needs_class_moments:
        return posterior
    return _regularized(posterior, config, state["class_mean"], state["class_scale"])


def _regularized(posterior: ClassPosterior, config: Any, mean: np.ndarray, scale: np.ndarray) -> ClassPosterior:
    return posterior.regularized(Regularization(config.class_reg, mean, scale))
