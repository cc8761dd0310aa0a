"""Every way to draw from a posterior under one name and one interface: the kernels, exact rejection, sequential Monte Carlo."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.core.arrays import check_state
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule, SmcConfig
from tfgradgen.core.contracts import Chunk, Cost, Regularization
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.chains import chain_chunks, state_layout
from tfgradgen.mcmc.kernel import KernelFamily
from tfgradgen.mcmc.kernels import KERNELS
from tfgradgen.mcmc.presets import PRESETS, PRIOR_FACTS, Preset
from tfgradgen.mcmc.rejection import class_moments, exact_chunks
from tfgradgen.mcmc.smc import smc_chunks
from tfgradgen.mcmc.starts import choose_starts
from tfgradgen.posterior import ClassPosterior

START_FACTS = ("doubts", "start_cost", *PRIOR_FACTS)


class Resume(NamedTuple):
    """Where a run goes on: the state and facts of its last chunk."""

    state: dict[str, np.ndarray]
    facts: dict[str, Any]


ChunksFn = Callable[[ClassPosterior, Any, Schedule, RunConfig, Resume | None], Iterator[Chunk]]


@dataclass(frozen=True)
class Method(Preset):
    """One way to draw.

    chunks_fn: (posterior, config, schedule, run, resume) -> chunks; the facts of each hold all that is known so far, and
      num_scored, how many prior draws the method has scored, and num_not_finite, those of them without a finite p(class);
      where it scores them for that, prior_draws, as many, and the mean p(class) of the finite ones, prior_class_prob, with its
      standard error, prior_class_prob_error; exact_starts, how many chains start at an exact draw (`starts`), None where they
      were not to.
    """

    chunks_fn: ChunksFn = field(kw_only=True)


def _chains(family: KernelFamily) -> Method:
    def chunks(
        posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
    ) -> Iterator[Chunk]:
        if resume is None:
            init_z, posterior, facts = _start(posterior, family, config, run)
        else:
            layout = state_layout(run.num_chains, posterior.latent_dim)
            check_state({name: resume.state[name] for name in layout if name in resume.state}, layout)
            init_z, posterior, facts = resume.state["z"], _restored(posterior, config, resume.state), resume.facts
        state = resume and resume.state
        for chunk in chain_chunks(posterior, family.name, config, schedule, run, init_z, state):
            yield _from_the_start(chunk, facts)

    return Method(**vars(PRESETS[family.name]), chunks_fn=chunks)


def _from_the_start(chunk: Chunk, facts: dict[str, Any]) -> Chunk:
    """`chunk` with what was spent and found before the first one: `START_FACTS`."""
    cost = Cost(*(a + b for a, b in zip(chunk.cost, facts["start_cost"], strict=True)))
    return chunk._replace(cost=cost, facts={name: facts[name] for name in START_FACTS if name in facts} | chunk.facts)


def _start(
    posterior: ClassPosterior, family: KernelFamily, config: Any, run: RunConfig
) -> tuple[Any, ClassPosterior, dict[str, Any]]:
    """Start points, the target with the class's moments if the kernel wants them, and what was seen on the way."""
    posterior, doubts, start_cost = admit(posterior, run, family.cost_fn(config).num_gradients > 0)
    facts: dict[str, Any] = {"doubts": doubts, "start_cost": [*start_cost]}
    starts = choose_starts(posterior, run, family.powers(config))
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


def _exact_chunks(
    posterior: ClassPosterior, config: KernelConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    facts = _checked(posterior, run, takes_gradients=False) if resume is None else resume.facts
    for chunk in exact_chunks(posterior, schedule.num_results, run, resume and resume.state):
        yield _from_the_start(chunk, facts)


def _checked(posterior: ClassPosterior, run: RunConfig, takes_gradients: bool) -> dict[str, Any]:
    _, doubts, cost = admit(posterior, run, takes_gradients)
    return {"doubts": doubts, "start_cost": cost}


def _smc_chunks(
    posterior: ClassPosterior, config: SmcConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    facts = _checked(posterior, run, takes_gradients=True) if resume is None else resume.facts
    for chunk in smc_chunks(posterior, config, schedule.num_results, run, resume and resume.state):
        yield _from_the_start(chunk, facts)


_OTHERS = (
    Method(**vars(PRESETS["rejection"]), chunks_fn=_exact_chunks),
    Method(**vars(PRESETS["smc"]), chunks_fn=_smc_chunks),
)
METHODS: dict[str, Method] = {method.name: method for method in (*(_chains(family) for family in KERNELS.values()), *_OTHERS)}
