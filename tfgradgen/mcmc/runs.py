"""A run of chains from its beginning: check the models, find starting points, then run the kernel."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfgradgen.core.arrays import check_state
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Cost, Regularization
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.mcmc.chains import chain_chunks, state_layout
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.rejection import class_moments, of_chains
from tfgradgen.mcmc.sampler import Resume, with_start
from tfgradgen.mcmc.starts import Starts, choose_starts
from tfgradgen.posterior import ClassPosterior


def started_chunks(
    sampler: KernelSampler,
    posterior: ClassPosterior,
    config: Any,
    schedule: Schedule,
    run: RunConfig,
    resume: Resume | None,
) -> Iterator[Chunk]:
    """Run `chain_chunks` from the starting points that `run` asks for, or from where `resume` ended."""
    if resume is None:
        init_z, posterior, stats = start_of(posterior, sampler, config, run)
    else:
        layout = state_layout(posterior, config, run.num_chains)
        check_state({name: resume.state[name] for name in layout if name in resume.state}, layout)
        init_z, posterior, stats = resume.state["z"], _restored(posterior, config, resume.state), resume.stats
    state = resume and resume.state
    for chunk in chain_chunks(posterior, sampler.name, config, schedule, run, init_z, state):
        chunk = with_start(chunk, stats)
        yield chunk._replace(stats=chunk.stats | _of_labels(posterior, stats, chunk)) if posterior.is_batched else chunk


def _of_labels(posterior: ClassPosterior, stats: dict[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Return the statistics `labels`: those of a run of each label alone, in the order of `ClassPosterior.each_label`."""
    costs = [chunk.state["cost"][places].sum(0).tolist() for _, places in posterior.each_label()]
    of_each = [
        own | {name: begun + spent for name, begun, spent in zip(Cost._fields, own["start_cost"], cost, strict=True)}
        for own, cost in zip(stats["labels"], costs, strict=True)
    ]
    return {"labels": of_each}


def start_of(
    posterior: ClassPosterior, sampler: KernelSampler, config: Any, run: RunConfig
) -> tuple[Any, ClassPosterior, dict[str, Any]]:
    """Return the starts, the target (with the moments of the class if the kernel needs them), and the statistics so far."""
    admitted = admit(posterior, run, sampler.cost_fn(config).num_gradients > 0 or run.starts_take_gradients)
    posterior = admitted.posterior
    starts, parts = choose_starts(posterior, run, sampler.powers(config)), posterior.each_label()
    nums_drawn = [0] * len(parts)
    if config.needs_class_moments:
        moments = [class_moments(each, run) for each, _ in parts]
        nums_drawn = [num_drawn for _, _, num_drawn in moments]
        mean, scale, _ = of_chains(posterior, moments) if posterior.is_batched else moments[0]
        posterior = _regularized(posterior, config, mean, scale)
    num_learned = sampler.learn_fn(posterior, config, run).num_forward if sampler.learn_fn else 0
    stats = _stats(admitted.warnings, admitted.cost, starts, sum(nums_drawn) + num_learned)
    if posterior.is_batched:
        seen = zip(admitted.of_each, starts.of_each, nums_drawn, strict=True)
        stats["labels"] = [_stats(warnings, cost, own, num_drawn) for (warnings, cost), own, num_drawn in seen]
    return starts.z, posterior, stats


def _stats(warnings: list[str], cost: list[int], starts: Starts, num_drawn: int) -> dict[str, Any]:
    """Return the statistics that are known before the first step.

    Args:
      warnings: Warnings of the model checks.
      cost: [gradients, forward passes] of the model checks.
      starts: The starting points.
      num_drawn: Other forward passes, for the moments of the class or for what the kernel learns.
    """
    spent = [cost[0] + starts.spent.num_gradients, cost[1] + starts.spent.num_forward + starts.num_draws + num_drawn]
    return {"doubts": warnings, "start_cost": spent, **starts.stats}


def _restored(posterior: ClassPosterior, config: Any, state: dict[str, np.ndarray]) -> ClassPosterior:
    if not config.needs_class_moments:
        return posterior
    return _regularized(posterior, config, state["class_mean"], state["class_scale"])


def _regularized(posterior: ClassPosterior, config: Any, mean: np.ndarray, scale: np.ndarray) -> ClassPosterior:
    return posterior.regularized(Regularization(config.class_reg, mean, scale))
