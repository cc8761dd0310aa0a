"""Replica exchange (Swendsen and Wang 1986; Earl and Deem 2005) over powers of the likelihood: TFP's kernel, with HMC inside.

The target of replica k is prior * likelihood ** b_k, with 1 = b_0 > b_1 > ... The last one is close to the prior, where chains
can move between modes. Neighbouring replicas swap states; the draws are those of replica 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost, PosteriorLike
from tfgradgen.core.lazy import tf, tfp, unnest
from tfgradgen.core.settings import Search, again, real, whole
from tfgradgen.mcmc.hmc import make_hmc
from tfgradgen.mcmc.kernel import KernelSampler, StepInfo, StepSizeAccess, WrappedKernel, log_accept_prob


@dataclass(frozen=True)
class ReplicaConfig(AdaptedConfig):
    """Settings of replica exchange. The powers of the likelihood, from 1 to the smallest, are spaced geometrically."""

    # `tune` finds no better defaults on the shipped models: tools/tuning/replica_exchange.
    step_size: float = again(AdaptedConfig, "step_size", 0.2)
    target_accept_prob: float = again(AdaptedConfig, "target_accept_prob", 0.6)

    num_leapfrog_steps: int = whole(
        3, low=1, high=1000, help="gradients in a transition of each replica", search=Search(1, 12, log=True)
    )
    num_replicas: int = whole(
        4, low=2, high=64, help="number of replicas, each at its own power of the likelihood", search=Search(2, 6)
    )
    min_inverse_temperature: float = real(
        0.1, low=0.0, high=1.0, help="power of the likelihood in the last replica", search=Search(0.02, 0.5, log=True)
    )


def inverse_temperatures(config: ReplicaConfig) -> np.ndarray:
    """Return the exponents of the likelihood, [num_replicas] float32, from 1 on in geometric steps."""
    return np.geomspace(1.0, config.min_inverse_temperature, config.num_replicas).astype(np.float32)


class ReplicaExchange(WrappedKernel):
    """TFP's kernel, which can also start from one state per replica, [num_replicas, num_chains, latent_dim]."""

    @staticmethod
    def make_fn(**parameters: Any) -> Any:
        return tfp.mcmc.ReplicaExchangeMC(**parameters)

    def bootstrap_results(self, init_state: tf.Tensor) -> Any:
        has_replicas = init_state.shape.rank == 3
        inner = self.make_fn(**self.parameters | {"state_includes_replicas": True}) if has_replicas else self.inner_kernel
        return inner.bootstrap_results(init_state)


def make_replica_exchange(posterior: PosteriorLike, config: ReplicaConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    """Return replica exchange for `posterior`; see `KernelSampler.make_fn`."""
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
    """Return the `StepInfo` of replica 0; the cost is that of all replicas, including the evaluations of the swap.

    A transition counts as accepted if it moved the chain, either to its own proposal or to its neighbour's state.
    """
    before = unnest.get_outermost(results, "pre_swap_replica_results")
    after = unnest.get_outermost(results, "post_swap_replica_results")
    swapped = ~unnest.get_outermost(results, "is_swap_accepted")[0, 0]
    accepted = unnest.get_innermost(before, "is_accepted")[0]
    gradients = config.num_replicas * (config.num_leapfrog_steps + 1)  # TFP recomputes the gradients after a swap
    return StepInfo(
        target_log_prob=unnest.get_innermost(after, "target_log_prob")[0],
        is_accepted=accepted | swapped,
        log_accept_ratio=unnest.get_innermost(before, "log_accept_ratio")[0],
        step_size=tf.broadcast_to(tf.reshape(unnest.get_innermost(after, "step_size")[0], [-1]), tf.shape(accepted)),
        num_gradients=tf.fill(tf.shape(accepted), gradients),
        num_forward=tf.fill(tf.shape(accepted), config.num_replicas),
    )


SAMPLER = KernelSampler(
    "replica_exchange",
    about="for distant modes: hmc at several temperatures",
    exactness="asymptotically exact",
    defaults=ReplicaConfig(),
    schedule=Schedule(num_results=25, num_burnin_steps=40, num_adaptation_steps=34),
    cost_fn=lambda config: Cost(config.num_replicas * (config.num_leapfrog_steps + 1), config.num_replicas),
    start_cost=lambda config: Cost(config.num_replicas, 0),
    make_fn=make_replica_exchange,
    info_fn=replica_info,
    access=ACCESS,
    step_shape=lambda config: (config.num_replicas, 1, 1),  # one step size per replica, shared by the chains
    powers=lambda config: tuple(inverse_temperatures(config).tolist()),
)
