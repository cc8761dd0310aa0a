"""No-U-Turn sampler (Hoffman and Gelman 2014; Phan et al. 2019): TFP's kernel, its divergences made visible."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import unnest
from tfgradgen.core.config import NutsConfig
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.kernel import KernelFamily, StepInfo, read_step
from tfgradgen.mcmc.presets import PRESETS

MAX_ENERGY_DIFF = 1000.0  # nats, TFP's own; beyond it the trajectory has diverged


def nuts_info(posterior: PosteriorLike, config: NutsConfig, z: tf.Tensor, results: Any) -> StepInfo:
    """`StepInfo` with each chain's own gradients; in a batch all chains wait for the longest tree.

    NUTS takes a state of its tree by weight, so `log_accept_ratio` is that of the mean over the tree, and a divergence, which
    the mean would hide, stands in it as an energy error beyond `MAX_ENERGY_DIFF`. A point without a finite density ends a tree
    as a divergence does, and TFP does not tell the two apart.
    """
    info = read_step(results, unnest.get_innermost(results, "leapfrogs_taken"))
    diverged = unnest.get_innermost(results, "has_divergence")
    return info._replace(log_accept_ratio=tf.where(diverged, -MAX_ENERGY_DIFF - 1.0, info.log_accept_ratio))


FAMILY = KernelFamily(
    **vars(PRESETS["nuts"]),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: tfp.mcmc.NoUTurnSampler(
        posterior.unnormalized_log_prob,
        step_size=step_size,
        max_tree_depth=config.max_tree_depth,
        max_energy_diff=MAX_ENERGY_DIFF,
    ),
    info_fn=nuts_info,
)
