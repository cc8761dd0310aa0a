"""Replica exchange (Swendsen and Wang 1986; Earl and Deem 2005) over powers of the likelihood: TFP's, with HMC inside.

Replica k has the target prior * likelihood ** b_k, 1 = b_0 > b_1 > ...: the last is close to the prior, where modes are within
reach of one another. States are handed on between neighbours; the draws are those of replica 0.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfgradgen.core._tf_private import unnest
from tfgradgen.core.config import ReplicaConfig
from tfgradgen.core.contracts import PosteriorLike
from tfgradgen.mcmc.hmc import make_hmc
from tfgradgen.mcmc.kernel import KernelFamily, StepInfo, StepSizeAccess, log_accept_prob
from tfgradgen.mcmc.presets import PRESETS


def inverse_temperatures(config: ReplicaConfig) -> np.ndarray:
    """The likelihood's exponents [num_replicas] float32, 1 first, in geometric steps."""
    return np.geomspace(1.0, config.min_inverse_temperature, config.num_replicas).astype(np.float32)


class ReplicaExchange(tfp.mcmc.ReplicaExchangeMC):
    """TFP's, which can also start from a state of each replica, [num_replicas, num_chains, latent_dim]."""

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        if init_state.shape.rank == 2:
            return super().bootstrap_results(init_state)
        apart = tfp.mcmc.ReplicaExchangeMC(**self.parameters | {"state_includes_replicas": True})
        return apart.bootstrap_results(init_state)


def make_replica_exchange(posterior: PosteriorLike, config: ReplicaConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    return ReplicaExchange(
        target_log_prob_fn=None,
        untempered_log_prob_fn=posterior.prior_log_prob,
        tempered_log_prob_fn=posterior.likelihood_log_prob,
        inverse_temperatures=tf.constant(inverse_temperatures(config)),
        make_kernel_fn=lambda target_log_prob_fn: make_hmc(target_log_prob_fn, step_size, config.num_leapfrog_steps),
        swap_proposal_fn=tfp.mcmc.even_odd_swap_proposal_fn(1.0),
    )


ACCESS = StepSizeAccess(
    get=lambda results: unnest.get_innermost(results.post_swap_replica_results, "step_size"),
    put=lambda results, step_size: results._replace(
        post_swap_replica_results=unnest.replace_innermost(results.post_swap_replica_results, step_size=step_size)
    ),
    log_accept_prob=lambda results: log_accept_prob(results.pre_swap_replica_results),
    is_accepted=lambda results: unnest.get_innermost(results.pre_swap_replica_results, "is_accepted"),
    target_log_prob=lambda results: unnest.get_innermost(results.pre_swap_replica_results, "target_log_prob"),
)


def replica_info(posterior: PosteriorLike, config: ReplicaConfig, z: tf.Tensor, results: Any) -> StepInfo:
    """`StepInfo` of replica 0; the cost is that of all, the swap's own evaluations among them.

    Accepted is what moved the chain, its own proposal or its neighbour's state.
    """
    before = unnest.get_outermost(results, "pre_swap_replica_results")
    after = unnest.get_outermost(results, "post_swap_replica_results")
    swapped = ~unnest.get_outermost(results, "is_swap_accepted")[0, 0]
    accepted = unnest.get_innermost(before, "is_accepted")[0]
    gradients = config.num_replicas * (config.num_leapfrog_steps + 1)  # TFP takes the gradients anew after a swap
    return StepInfo(
        target_log_prob=unnest.get_innermost(after, "target_log_prob")[0],
        is_accepted=accepted | swapped,
        log_accept_ratio=unnest.get_innermost(before, "log_accept_ratio")[0],
        step_size=tf.broadcast_to(tf.reshape(unnest.get_innermost(after, "step_size")[0], [-1]), tf.shape(accepted)),
        num_gradients=tf.fill(tf.shape(accepted), gradients),
        num_forward=tf.fill(tf.shape(accepted), config.num_replicas),
    )


FAMILY = KernelFamily(
    **vars(PRESETS["replica_exchange"]),
    make_fn=make_replica_exchange,
    info_fn=replica_info,
    access=ACCESS,
    step_shape=lambda config: (config.num_replicas, 1, 1),  # a step of each replica, shared by the chains
    powers=lambda config: tuple(inverse_temperatures(config).tolist()),
)
