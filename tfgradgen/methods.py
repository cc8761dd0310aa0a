"""Every way to draw from a posterior under one name and one interface: the kernels, exact rejection, sequential Monte Carlo."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfgradgen.config import KernelConfig, RunConfig, Schedule, SmcConfig
from tfgradgen.contracts import Chunk, Cost, Regularization
from tfgradgen.kernels import KERNELS
from tfgradgen.kernels.base import KernelFamily
from tfgradgen.posterior import ClassPosterior
from tfgradgen.preflight import check_likelihood
from tfgradgen.rejection import class_moments, exact_chunks
from tfgradgen.sampling import chain_chunks, initial_points
from tfgradgen.smc import smc_chunks

NUM_CHECKED = 4  # start points whose gradient is looked at before the first step


class Resume(NamedTuple):
    """Where a run goes on: the state and facts of its last chunk."""

    state: dict[str, np.ndarray]
    facts: dict[str, Any]


ChunksFn = Callable[[ClassPosterior, Any, Schedule, RunConfig, Resume | None], Iterator[Chunk]]


@dataclass(frozen=True)
class Method:
    """One way to draw.

    chunks_fn: (posterior, config, schedule, run, resume) -> chunks; the facts of each hold all that is known so far, and
      prior_class_prob, the mean p(class) of prior_draws prior draws, where the method looks at some.
    defaults, schedule: what the command line uses; the fields of `defaults` are the method's flags.
    kind: what the draws are: 'chain', 'exact' (independent, of the posterior), 'particles' (of populations) or 'ascent' (none).
    is_calibrated: config -> whether it is the posterior that the method leaves invariant.
    min_chains: fewer cannot be tuned.
    """

    name: str
    chunks_fn: ChunksFn
    defaults: KernelConfig
    schedule: Schedule
    kind: str
    is_calibrated: Callable[[Any], bool]
    min_chains: int = 1


def _chains(family: KernelFamily) -> Method:
    def chunks(
        posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
    ) -> Iterator[Chunk]:
        if resume is None:
            init_z, posterior, facts = _start(posterior, family, config, run)
        else:
            init_z, posterior, facts = _restart(posterior, config, resume)
        state = resume and resume.state
        for chunk in chain_chunks(posterior, family.name, config, schedule, run, init_z, state):
            cost = Cost(*(a + b for a, b in zip(chunk.cost, facts["start_cost"], strict=True)))
            yield chunk._replace(cost=cost, facts=chunk.facts | facts)

    kind = "ascent" if family.name == "map" else "chain"
    return Method(family.name, chunks, family.defaults, family.schedule, kind, family.is_calibrated, family.min_chains)


def _start(
    posterior: ClassPosterior, family: KernelFamily, config: Any, run: RunConfig
) -> tuple[Any, ClassPosterior, dict[str, Any]]:
    """Start points, the target with the class's moments if the kernel wants them, and what was seen on the way."""
    init_z, prior_class_prob, prior_draws = initial_points(posterior, run)
    num_gradients, num_forward = 0, prior_draws
    if family.cost_fn(config).num_gradients:
        checked = init_z[:NUM_CHECKED]
        check_likelihood(posterior.likelihood_log_prob, checked)
        num_gradients = len(checked)
    if config.needs_class_moments:
        mean, scale, num_drawn = class_moments(posterior, run)
        posterior, num_forward = _regularized(posterior, config, mean, scale), num_forward + num_drawn
    facts = {"prior_class_prob": prior_class_prob, "prior_draws": prior_draws}
    return init_z, posterior, facts | {"start_cost": [num_gradients, num_forward]}


def _restart(posterior: ClassPosterior, config: Any, resume: Resume) -> tuple[Any, ClassPosterior, dict[str, Any]]:
    if config.needs_class_moments:
        posterior = _regularized(posterior, config, resume.state["class_mean"], resume.state["class_scale"])
    return resume.state["z"], posterior, {k: resume.facts[k] for k in ("prior_class_prob", "prior_draws", "start_cost")}


def _regularized(posterior: ClassPosterior, config: Any, mean: np.ndarray, scale: np.ndarray) -> ClassPosterior:
    return posterior.regularized(Regularization(config.class_reg, mean, scale))


def _exact_chunks(
    posterior: ClassPosterior, config: KernelConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    return exact_chunks(posterior, schedule.num_results, run, resume and resume.state)


def _smc_chunks(
    posterior: ClassPosterior, config: SmcConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    return smc_chunks(posterior, config, schedule.num_results, run, resume and resume.state)


_OTHERS = (
    Method("rejection", _exact_chunks, KernelConfig(), Schedule(40, 0, 0), "exact", lambda config: True),
    # Finite populations are biased, by the order of 1 / num_results.
    Method("smc", _smc_chunks, SmcConfig(0.4, 0.4), Schedule(32, 0, 0), "particles", lambda config: False),
)
METHODS: dict[str, Method] = {method.name: method for method in (*(_chains(family) for family in KERNELS.values()), *_OTHERS)}
