"""The interface of samplers to the rest of the package: one record for each, whether it runs a kernel or not.

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

# What a sampler measures of the models before its first step, by the names in run.json.
PRIOR_STATS = (
    "prior_class_prob",
    "prior_class_prob_error",
    "prior_draws",
    "num_not_finite",
    "num_scored",
    "exact_starts",
)
# The warnings of the model checks are under `doubts` there: run.json uses `warnings` for something else.
START_STATS = ("doubts", "start_cost", "learned", *PRIOR_STATS)


class Resume(NamedTuple):
    """Where a run continues: the state and statistics of its last chunk."""

    state: dict[str, np.ndarray]
    stats: dict[str, Any]


RunFn = Callable[[Any, "ClassPosterior", Any, Schedule, RunConfig, Resume | None], Iterator[Chunk]]


@dataclass(frozen=True)
class Sampler:
    """One way to draw from a posterior. Its file ends with this record, which `registry.SAMPLERS` lists.

    Attributes:
      name: Its name on the command line.
      about: What it is good for, a phrase.
      exactness: What its draws are: 'exact', 'asymptotically exact', 'biased', 'approximate' or 'no draws'.
      defaults: Default settings on the command line; their fields are the sampler's flags.
      schedule: Default schedule on the command line.
      run_fn: (sampler, posterior, config, schedule, run, resume) -> chunks; see `chunks_fn`.
      kind: 'chain', 'exact' (independent draws of the posterior), 'particles' (draws of populations), 'ascent' (no draws) or
        'fitted' (independent draws of an approximation).
      kind_fn: config -> the kind with those settings; None if it does not depend on them.
      cost_fn: config -> approximate gradients and forward passes of one transition of a chain; it determines the size of a
        chunk.
      start_cost: config -> cost of the initial results of a chain.
      is_calibrated: config -> whether it leaves the posterior invariant.
      min_chains: Minimum number of chains, for tuning.
      counts_adaptation: Whether the graph depends on the number of adaptation steps.
      served_steps: config -> leapfrog steps in one transition that a server runs (see `serving.rules`); 0 if it cannot be
        served.
    """

    name: str
    _: KW_ONLY
    about: str
    exactness: str
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
        """Run the sampler, or with `resume` the rest of a run.

        The stats of each chunk contain everything known so far. `num_scored` is the number of prior draws that were scored,
        and `num_not_finite` the number of those without a finite p(class). If prior draws were scored to estimate p(class),
        `prior_draws` is their number, `prior_class_prob` the mean p(class) of the finite ones, and `prior_class_prob_error`
        its standard error. `exact_starts` is the number of chains that start at an exact draw (`starts`), None if exact starts
        were not requested.
        """
        return self.run_fn(self, posterior, config, schedule, run, resume)

    def kind_of(self, settings: Mapping[str, Any]) -> SamplerKind:
        """Return the kind of its draws with these settings, by name."""
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
        """Whether a finished run can be extended. Particles move together, so more of them are another run."""
        return self.kind != "particles"

    @property
    def is_batched(self) -> bool:
        """Whether several labels gain from running as one batch of chains.

        They do not if the draws are independent, since the labels are then drawn in turn either way, nor if all chains are
        tuned or moved together.
        """
        return False

    @property
    def takes_starts(self) -> bool:
        """Whether its chains start at points that the user can choose."""
        return self.kind in ("chain", "ascent")


def check_config(kernel_name: str, config: Any, defaults: KernelConfig) -> None:
    """Raise `UserError` if `config` is not of the class that `kernel_name` takes."""
    kind = type(defaults)
    if not isinstance(config, kind) or (kind is KernelConfig and type(config) is not kind):
        name = kind.__name__
        raise fail(
            "config", f"settings of class {name}, as {kernel_name} takes", type(config).__name__, f"pass tfgradgen.{name}(...)"
        )


def with_start(chunk: Chunk, stats: dict[str, Any]) -> Chunk:
    """Return `chunk` with what was spent and found before the first chunk added: the cost and the `START_STATS`."""
    cost = Cost(*(a + b for a, b in zip(chunk.cost, stats["start_cost"], strict=True)))
    return chunk._replace(cost=cost, stats={name: stats[name] for name in START_STATS if name in stats} | chunk.stats)


def checked_stats(posterior: ClassPosterior, run: RunConfig, takes_gradients: bool, resume: Resume | None) -> dict[str, Any]:
    """Return the statistics of the model checks, with which a run starts, or those of the run that is resumed."""
    from tfgradgen.diagnostics.model_checks import admit

    if resume is not None:
        return resume.stats
    admitted = admit(posterior, run, takes_gradients)
    return {"doubts": admitted.warnings, "start_cost": admitted.cost}
