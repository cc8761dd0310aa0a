"""What a sampler is to the rest of the project: one record for each, whether it runs a kernel or not.

Neither this file nor those of the samplers import TensorFlow before something is computed, so that flags, help, schedules and
finished runs are checked within a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.config import AdaptedConfig, KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Cost, SamplerKind

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

# What a sampler finds out about the models before its first step, by the names in run.json.
PRIOR_FACTS = (
    "prior_class_prob",
    "prior_class_prob_error",
    "prior_draws",
    "num_not_finite",
    "num_scored",
    "exact_starts",
)
START_FACTS = ("doubts", "start_cost", "learned", *PRIOR_FACTS)


class Resume(NamedTuple):
    """Where a run goes on: the state and facts of its last chunk."""

    state: dict[str, np.ndarray]
    facts: dict[str, Any]


RunFn = Callable[[Any, "ClassPosterior", Any, Schedule, RunConfig, Resume | None], Iterator[Chunk]]


@dataclass(frozen=True)
class Sampler:
    """One way to draw from a posterior; its file ends with the record, which `registry.SAMPLERS` lists.

    about: what it is good for, a phrase. law: what its draws are: 'exact', 'asymptotically exact', 'biased', 'approximate'
      or 'no draws'.
    defaults, schedule: what the command line uses; the fields of `defaults` are the sampler's flags.
    kind: 'chain', 'exact' (independent draws of the posterior), 'particles' (of populations), 'ascent' (none) or
      'fitted' (independent draws of an approximation). kind_fn: config -> the kind with those settings, None where it is one.
    run_fn: (sampler, posterior, config, schedule, run, resume) -> chunks; see `chunks_fn`.
    cost_fn: config -> gradients and forward passes a chain of one transition, about; it decides how many make a chunk.
    start_cost: of the first results, a chain.
    is_calibrated: config -> whether it leaves the posterior invariant.
    min_chains: fewer cannot be tuned.
    counts_adaptation: whether each number of adaptation steps is a graph of its own.
    served_steps: config -> leapfrog steps in one transition that a server runs (see `serving.rules`); 0 where none can.
    """

    name: str
    _: KW_ONLY
    about: str
    law: str
    defaults: KernelConfig
    schedule: Schedule
    run_fn: RunFn
    kind: SamplerKind = "chain"
    kind_fn: Callable[[Any], SamplerKind] | None = None
    cost_fn: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    start_cost: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    is_calibrated: Callable[[Any], bool] = lambda config: True
    min_chains: int = 1
    counts_adaptation: bool = False
    served_steps: Callable[[Any], int] = lambda config: 0

    def chunks_fn(
        self, posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
    ) -> Iterator[Chunk]:
        """A whole run, or with `resume` what is left of one.

        The facts of each chunk hold all that is known so far: num_scored, how many prior draws were scored, and
        num_not_finite, those of them without a finite p(class); where they are scored for that, prior_draws, as many, and the
        mean p(class) of the finite ones, prior_class_prob, with its standard error, prior_class_prob_error; exact_starts, how
        many chains start at an exact draw (`starts`), None where they were not to.
        """
        return self.run_fn(self, posterior, config, schedule, run, resume)

    def kind_of(self, settings: Mapping[str, Any]) -> SamplerKind:
        """The kind of its draws with these settings, by name."""
        return self.kind_fn(type(self.defaults)(**settings)) if self.kind_fn else self.kind

    @property
    def takes_gradients(self) -> bool:
        return self.cost_fn(self.defaults).num_gradients > 0

    @property
    def is_tuned(self) -> bool:
        """Whether its step size is adapted, so that `tune` can search its settings."""
        return isinstance(self.defaults, AdaptedConfig)

    @property
    def is_served(self) -> bool:
        """Whether `export` can write a model that runs it."""
        return self.served_steps(self.defaults) > 0

    @property
    def can_go_on(self) -> bool:
        """Whether a finished run can be made longer: particles move together, so that more of them are another run."""
        return self.kind != "particles"

    @property
    def is_batched(self) -> bool:
        """Whether several labels gain from running as one batch of chains: not of independent draws, where each label is drawn
        in turn either way, and not where all chains are tuned or moved together."""
        return False

    @property
    def takes_starts(self) -> bool:
        """Whether its chains start at points that the user can choose."""
        return self.kind in ("chain", "ascent")


def check_config(kernel_name: str, config: Any, defaults: KernelConfig) -> None:
    """Raises `UserError` where `config` is not of the class that `kernel_name` takes."""
    kind = type(defaults)
    if not isinstance(config, kind) or (kind is KernelConfig and type(config) is not kind):
        name = kind.__name__
        raise fail("config", f"a {name}, as {kernel_name} takes", type(config).__name__, f"pass tfgradgen.{name}(...)")


def with_start(chunk: Chunk, facts: dict[str, Any]) -> Chunk:
    """`chunk` with what was spent and found before the first one: `START_FACTS`."""
    cost = Cost(*(a + b for a, b in zip(chunk.cost, facts["start_cost"], strict=True)))
    return chunk._replace(cost=cost, facts={name: facts[name] for name in START_FACTS if name in facts} | chunk.facts)


def checked_facts(posterior: ClassPosterior, run: RunConfig, takes_gradients: bool, resume: Resume | None) -> dict[str, Any]:
    """The facts of a run that begins with nothing but the checks of its models, or of the one that goes on."""
    from tfgradgen.diagnostics.model_checks import admit

    if resume is not None:
        return resume.facts
    admitted = admit(posterior, run, takes_gradients)
    return {"doubts": admitted.doubts, "start_cost": admitted.cost}
