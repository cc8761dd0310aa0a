"""No-U-Turn sampler (Hoffman and Gelman 2014; Phan et al. 2019): TFP's kernel, with divergences reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, whole
from tfgradgen.mcmc.kernel import KernelSampler, StepInfo, read_step

MAX_ENERGY_DIFF = 1000.0  # nats, TFP's default; beyond it, a trajectory has diverged


@dataclass(frozen=True)
class NutsConfig(AdaptedConfig):
    """Settings of NUTS, which doubles a trajectory until it turns back."""

    # `tune` finds no better defaults on the shipped models: tools/tuning/nuts.
    step_size: float = again(AdaptedConfig, "step_size", 0.2)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.7)

    max_tree_depth: int = whole(
        4, low=1, high=12, help="at most 2 ** max_tree_depth gradients in a transition", search=Search(1, 6)
    )


def nuts_info(posterior: PosteriorLike, config: NutsConfig, z: tf.Tensor, results: Any) -> StepInfo:
    """Return the `StepInfo` with the number of gradients of each chain; in a batch, all chains wait for the longest tree.

    NUTS selects a state of its tree by weight, so `log_accept_ratio` is that of the mean over the tree. The mean would hide a
    divergence, which is therefore reported as an energy error beyond `MAX_ENERGY_DIFF`. A point without a finite density ends
    a tree as a divergence does, and TFP does not distinguish the two.
    """
    info = read_step(results, unnest.get_innermost(results, "leapfrogs_taken"))
    diverged = unnest.get_innermost(results, "has_divergence")
    return info._replace(log_accept_ratio=tf.where(diverged, -MAX_ENERGY_DIFF - 1.0, info.log_accept_ratio))


SAMPLER = KernelSampler(
    "nuts",
    about="hmc that chooses the length of each trajectory",
    exactness="asymptotically exact",
    defaults=NutsConfig(),
    schedule=Schedule(num_results=25, num_burnin_steps=50, num_adaptation_steps=40),
    cost_fn=lambda config: Cost(2 ** (config.max_tree_depth - 1), 0),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: tfp.mcmc.NoUTurnSampler(
        posterior.unnormalized_log_prob,
        step_size=step_size,
        max_tree_depth=config.max_tree_depth,
        max_energy_diff=MAX_ENERGY_DIFF,
    ),
    info_fn=nuts_info,
    short_share=0.0,  # its trees would be deeper
)
