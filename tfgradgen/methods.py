"""Every way to draw from a posterior under one name and one interface: the kernels, exact rejection, sequential Monte Carlo."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.backend import fold_in, use_xla
from tfgradgen.config import KernelConfig, RunConfig, Schedule, SmcConfig
from tfgradgen.contracts import Chunk, Cost, Networks, Regularization
from tfgradgen.kernels import KERNELS
from tfgradgen.kernels.base import KernelFamily
from tfgradgen.posterior import ClassPosterior
from tfgradgen.preflight import doubts, preflight, value_and_gradient, xla_check
from tfgradgen.presets import PRESETS, Preset
from tfgradgen.rejection import class_moments, exact_chunks
from tfgradgen.sampling import chain_chunks
from tfgradgen.smc import smc_chunks
from tfgradgen.starts import choose_starts

NUM_CHECKED = 4  # prior draws that are looked at before the first step
PREFLIGHT_STREAM = 4
START_FACTS = (
    "doubts",
    "start_cost",
    "prior_class_prob",
    "prior_class_prob_error",
    "prior_draws",
    "num_not_finite",
    "num_scored",
    "exact_starts",
)


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
    starts = choose_starts(posterior, run, family.powers(config))
    facts: dict[str, Any] = {"doubts": [], "start_cost": [0, 0]}
    if family.cost_fn(config).num_gradients:
        facts = look(posterior, run)
    num_forward = starts.num_draws
    if config.needs_class_moments:
        mean, scale, num_drawn = class_moments(posterior, run)
        posterior, num_forward = _regularized(posterior, config, mean, scale), num_forward + num_drawn
    facts["start_cost"][1] += num_forward
    facts |= {"prior_class_prob": starts.class_prob, "prior_class_prob_error": starts.class_prob_error}
    facts |= {"prior_draws": starts.num_draws, "exact_starts": starts.num_exact}
    facts |= {"num_not_finite": starts.num_not_finite, "num_scored": starts.num_draws}
    return starts.z, posterior, facts


@functools.lru_cache(maxsize=8)
def likelihood_gradient(networks: Networks, temperature: float, xla: bool) -> Any:
    """Compiled `value_and_gradient` of the log-likelihood, (label, z) -> (value, gradient): one for every class.

    Compiled where a single value is wanted, too: TensorFlow rewrites a SavedModel at its first eager gradient, and from then on
    every graph of it, the sampler's among them, keeps all intermediate results: slower by a sixth, and a gigabyte at 64 chains.
    """

    def evaluate(label: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        return value_and_gradient(ClassPosterior.of(networks, label, temperature).likelihood_log_prob, z)

    return tf.function(evaluate, jit_compile=xla, autograph=False)


class _Looked(NamedTuple):
    """How a run looks at its posterior before the first step: prior draws, and the compiled evaluations."""

    z: tf.Tensor
    graph_fn: Any
    xla_fn: Any


def _looking(posterior: ClassPosterior, run: RunConfig) -> _Looked:
    graph_fn, xla_fn = (
        functools.partial(likelihood_gradient(posterior.networks, posterior.temperature, xla), posterior.label)
        for xla in (False, True)
    )
    return _Looked(
        posterior.sample_prior(NUM_CHECKED, fold_in(posterior.own_seed(run.seed), PREFLIGHT_STREAM)),
        graph_fn,
        xla_fn if use_xla(run.jit) else None,
    )


def look(posterior: ClassPosterior, run: RunConfig) -> dict[str, Any]:
    """`preflight` as this run will evaluate: what is to be said of it (doubts) and what it cost (start_cost).

    Raises:
      UserError: a run would go wrong.
    """
    z, graph_fn, xla_fn = _looking(posterior, run)
    checks = preflight(posterior.generator(z), z, graph_fn, xla_fn)
    for check in checks:
        if check.what == "xla" and not check.is_ok:  # this run would compile them
            raise check.error()
    return {"doubts": doubts(checks), "start_cost": [NUM_CHECKED * (3 if xla_fn else 2), NUM_CHECKED]}


def without_xla(posterior: ClassPosterior, run: RunConfig) -> str:
    """Why a run that would take XLA by itself (jit 'auto') has to do without; '' where it has not."""
    z, graph_fn, xla_fn = _looking(posterior, run)
    if run.jit != "auto" or xla_fn is None:
        return ""
    check = xla_check(xla_fn, z, *graph_fn(z))
    return "" if check.is_ok else check.found


def _restored(posterior: ClassPosterior, config: Any, state: dict[str, np.ndarray]) -> ClassPosterior:
    if not config.needs_class_moments:
        return posterior
    return _regularized(posterior, config, state["class_mean"], state["class_scale"])


def _regularized(posterior: ClassPosterior, config: Any, mean: np.ndarray, scale: np.ndarray) -> ClassPosterior:
    return posterior.regularized(Regularization(config.class_reg, mean, scale))


def _exact_chunks(
    posterior: ClassPosterior, config: KernelConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    return exact_chunks(posterior, schedule.num_results, run, resume and resume.state)


def _smc_chunks(
    posterior: ClassPosterior, config: SmcConfig, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    facts = look(posterior, run) if resume is None else resume.facts
    for chunk in smc_chunks(posterior, config, schedule.num_results, run, resume and resume.state):
        yield _from_the_start(chunk, facts)


_OTHERS = (
    Method(**vars(PRESETS["rejection"]), chunks_fn=_exact_chunks),
    Method(**vars(PRESETS["smc"]), chunks_fn=_smc_chunks),
)
METHODS: dict[str, Method] = {method.name: method for method in (*(_chains(family) for family in KERNELS.values()), *_OTHERS)}
