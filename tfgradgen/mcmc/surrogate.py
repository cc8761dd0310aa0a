"""Global moves among draws of a learned proposal, alternated with elliptical slice sampling.

If a class is rare, hardly any prior draw belongs to it, and the global move of `local_global` rarely succeeds. Here a small
network predicts from z the classifier's output for its image (`surrogate_fit`), for all classes at once, so that one fit
serves all labels, conditions and temperatures. Its likelihood Lhat decides which prior draws are worth an image. Gabrie,
Rotskoff and Vanden-Eijnden (2022) and Samsonov et al. (2022) also alternate learned global moves with local ones; they use
flows.

The draws are exact whatever the fit, for the following reason. The proposals have the density prior(z) * g(z) / G with

    g(z) = floor + min(Lhat(z) ** power / cap, 1),   G = the mean of g under the prior.

They are drawn by rejection from the prior: z is accepted with probability g(z) / (floor + 1), which is at most 1 by
construction. So the draws have exactly this density, for any network and any numbers floor, cap and power, and the density is
known up to the constant G. The global move (i-SIR, `local_global.resample`) needs its weights likelihood / g only up to a
constant. Estimates enter in one place: floor is chosen so that about `prior_share` of the proposals are plain prior draws. An
error in that estimate changes the share, in the draws and in the density alike. As g is at least floor, no weight exceeds 1 /
floor, and no region that the network misses is left out. Everything is frozen before the first transition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import Cost
from tfgradgen.core.lazy import tf, tfp
from tfgradgen.core.settings import Search, real, whole
from tfgradgen.mcmc.elliptical_slice import EllipticalSlice, SliceResults, slice_info
from tfgradgen.mcmc.kernel import KernelBase, KernelSampler, Learned, StepInfo, nan_to_neg_inf, one_tensor
from tfgradgen.mcmc.local_global import IsirState, local_steps, resample

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

WIDTH = 128  # width of the network's two hidden layers
MAX_BLOCKS = 10_000  # blocks of prior draws that are searched for proposals
BLOCK = 64  # prior draws of a chain that the network evaluates together
PRIOR_ONLY = 30.0  # log floor of proposals that are the prior: 1 vanishes beside e^30 in float32


@dataclass(frozen=True)
class SurrogateConfig(KernelConfig):
    """Settings of the proposals and of the numbers of moves in a transition."""

    num_proposals: int = whole(32, low=1, high=10_000, help="proposals in each global move", search=Search(4, 128, log=True))
    num_slices: int = whole(1, low=1, high=1000, help="elliptical slices after each global move", search=Search(1, 8, log=True))
    power: float = real(
        0.0,
        high=2.0,
        inclusive_low=True,
        help="power of the learned likelihood in the proposals; lower is wider; 0 chooses it for each label",
        search=Search(0.1, 1.0),
    )
    prior_share: float = real(
        0.1, high=1.0, help="approximate share of prior draws among the proposals", search=Search(0.02, 0.5, log=True)
    )
    num_pool_draws: int = whole(
        16_384, low=256, high=1_000_000, help="prior draws to which the surrogate is fitted, once for all labels"
    )
    num_judged_draws: int = whole(1024, low=64, high=100_000, help="proposals whose weights decide between surrogate and prior")


class Weights(NamedTuple):
    """Weights of the network z -> log p of all classes, which has two hidden layers and a linear part."""

    first: tf.Tensor  # [latent_dim, WIDTH]
    first_bias: tf.Tensor
    second: tf.Tensor  # [WIDTH, WIDTH]
    second_bias: tf.Tensor
    last: tf.Tensor  # [WIDTH, num_classes]
    last_bias: tf.Tensor
    linear: tf.Tensor  # [latent_dim, num_classes]


class Proposals(NamedTuple):
    """The frozen proposals, float32; see the module for the scalars of g.

    Attributes:
      weights: Weights of the network.
      power: Power of the surrogate's likelihood.
      log_cap: Log of cap.
      log_floor: Log of floor.
    """

    weights: Weights
    power: tf.Tensor
    log_cap: tf.Tensor
    log_floor: tf.Tensor


def num_classes_of(posterior: Any) -> int:
    """Return the number of outputs of the network: the number of classes of all classifiers that the posterior uses."""
    return sum(int(each.num_classes) for each in posterior.asked)


def shapes(latent_dim: int, num_outputs: int) -> Weights:
    """Return the shapes of the network's weights."""
    return Weights(
        (latent_dim, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH, num_outputs), (num_outputs,), (latent_dim, num_outputs)
    )


def predict(weights: Weights, z: tf.Tensor) -> tf.Tensor:
    """Return the network's log p(class) [B, num_classes] at z [B, latent_dim]."""
    hidden = tf.nn.silu(z @ weights.first + weights.first_bias)
    hidden = tf.nn.silu(hidden @ weights.second + weights.second_bias)
    return hidden @ weights.last + weights.last_bias + z @ weights.linear


def prior_proposals(latent_dim: int, num_outputs: int) -> Proposals:
    """Return proposals that are plain prior draws."""
    weights = Weights(*(tf.zeros(shape) for shape in shapes(latent_dim, num_outputs)))
    return Proposals(weights, tf.constant(1.0), tf.constant(0.0), tf.constant(PRIOR_ONLY))


def log_density(proposals: Proposals, likelihood_fn: Any, z: tf.Tensor) -> tf.Tensor:
    """Return log g [B] at z [B, latent_dim], in nats; `likelihood_fn` maps the output of `predict` to log Lhat [B]."""
    log_likelihood = nan_to_neg_inf(likelihood_fn(predict(proposals.weights, tf.cast(z, tf.float32))))
    peak = tf.minimum(proposals.power * log_likelihood - proposals.log_cap, 0.0)
    return tfp.math.log_add_exp(proposals.log_floor, peak)


def take(log_g: tf.Tensor, proposals: Proposals, seed: tf.Tensor) -> tf.Tensor:
    """Return which prior draws become proposals, bool like `log_g`: each does with probability g / (floor + 1)."""
    return log_uniform(tf.shape(log_g), seed) < log_g - tf.math.softplus(proposals.log_floor)


def propose(
    proposals: Proposals, likelihood_fn: Any, like: tf.Tensor, num: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return independent proposals z [num_chains, num, latent_dim] and log g [num_chains, num], by rejection from the prior.

    A chain takes the first of its own prior draws that are accepted, so its proposals do not depend on other chains.

    Args:
      proposals: The frozen proposals.
      likelihood_fn: Output of `predict` -> log Lhat.
      like: A tensor of shape [num_chains, latent_dim].
      num: Proposals per chain.
      seed: Seed of the draws.
    """
    num_chains = tf.shape(like)[0] if like.shape[0] is None else like.shape[0]
    latent_dim = like.shape[-1]
    chains = tf.broadcast_to(tf.range(num_chains)[:, None], [num_chains, BLOCK])

    def block(i: tf.Tensor, count: tf.Tensor, z: tf.Tensor, log_g: tf.Tensor) -> Any:
        drawn = tf.random.stateless_normal([num_chains, BLOCK, latent_dim], fold_in(fold_in(seed, i), 0))
        value = tf.reshape(log_density(proposals, likelihood_fn, tf.reshape(drawn, [-1, latent_dim])), [num_chains, BLOCK])
        is_taken = take(value, proposals, fold_in(fold_in(seed, i), 1))
        row = count[:, None] + tf.cumsum(tf.cast(is_taken, tf.int32), 1) - 1
        # Everything else is written to one index beyond the proposals.
        where = tf.stack([chains, tf.where(is_taken, tf.minimum(row, num), num)], -1)
        z, log_g = tf.tensor_scatter_nd_update(z, where, drawn), tf.tensor_scatter_nd_update(log_g, where, value)
        return i + 1, count + tf.reduce_sum(tf.cast(is_taken, tf.int32), 1), z, log_g

    _, _, z, log_g = tf.while_loop(
        lambda i, count, *_: tf.logical_and(i < MAX_BLOCKS, tf.reduce_any(count < num)),
        block,
        (
            tf.constant(0),
            tf.zeros([num_chains], tf.int32),
            tf.zeros([num_chains, num + 1, latent_dim]),
            tf.fill([num_chains, num + 1], float("inf")),  # a proposal that was not found has weight 0
        ),
        parallel_iterations=1,
    )
    return z[:, :num], log_g[:, :num]


class SurrogateResults(NamedTuple):
    """Results of a transition.

    Attributes:
      proposals: The frozen proposals.
      has_jumped: [num_chains] bool, whether the global move moved the chain.
      num_forward: int32 [num_chains], forward passes of the last transition.
      inner_results: Results of the last slice; its `is_accepted` and `is_valid` are those of all slices of the transition.
    """

    proposals: Proposals
    has_jumped: tf.Tensor
    num_forward: tf.Tensor
    inner_results: SliceResults


class SurrogateKernel(KernelBase):
    """One global move among proposals, then `num_slices` elliptical slice transitions.

    The initial proposals are prior draws. They are part of the results, where learned ones can replace them.

    Args:
      likelihood_log_prob_fn: `z [num_chains, latent_dim]` -> float32 [num_chains]; the prior is Normal(0, I).
      surrogate_fn: Output of `predict`, [B, num_outputs] -> log Lhat [B].
      num_outputs: Number of outputs of the network.
      num_proposals: Proposals in each global move, >= 1.
      num_slices: Elliptical slices after each global move, >= 1.
    """

    def __init__(self, likelihood_log_prob_fn: Any, surrogate_fn: Any, num_outputs: int, num_proposals: int, num_slices: int):
        self._parameters = dict(
            likelihood_log_prob_fn=likelihood_log_prob_fn,
            surrogate_fn=surrogate_fn,
            num_outputs=num_outputs,
            num_proposals=num_proposals,
            num_slices=num_slices,
        )
        self._slices = EllipticalSlice(likelihood_log_prob_fn)

    def bootstrap_results(self, init_state: tf.Tensor) -> SurrogateResults:
        init_state = one_tensor(init_state)
        inner = self._slices.bootstrap_results(init_state)
        proposals = prior_proposals(init_state.shape[-1], self._parameters["num_outputs"])
        return SurrogateResults(proposals, tf.zeros_like(inner.is_accepted), inner.num_forward, inner)

    def one_step(self, current_state: tf.Tensor, previous_kernel_results: SurrogateResults, seed: Any = None) -> Any:
        own, before, seed = self._parameters, previous_kernel_results, tfp.random.sanitize_seed(seed)
        proposals, dtype = before.proposals, current_state.dtype
        drawn, log_g = propose(proposals, own["surrogate_fn"], current_state, own["num_proposals"], fold_in(seed, -1))
        drawn, log_g = tf.cast(drawn, dtype), tf.cast(log_g, dtype)
        here = tf.cast(log_density(proposals, own["surrogate_fn"], current_state), dtype)
        z, log_likelihood, has_jumped = resample(
            own["likelihood_log_prob_fn"],
            IsirState(current_state, before.inner_results.log_likelihood, here),
            lambda i, _: (tf.gather(drawn, i, axis=1), tf.gather(log_g, i, axis=1)),
            own["num_proposals"],
            fold_in(seed, 0),
        )
        num_forward = tf.fill(tf.shape(log_likelihood), own["num_proposals"])
        yes = tf.ones_like(has_jumped)
        start = SliceResults(log_likelihood, yes, yes, tf.zeros_like(num_forward))

        def after(now: SurrogateResults, results: SliceResults) -> SurrogateResults:
            flags = {
                "is_accepted": now.inner_results.is_accepted & results.is_accepted,
                "is_valid": now.inner_results.is_valid & results.is_valid,
            }
            return now._replace(num_forward=now.num_forward + results.num_forward, inner_results=results._replace(**flags))

        results = SurrogateResults(proposals, has_jumped, num_forward, start)
        return local_steps(self._slices, z, results, own["num_slices"], seed, after)


def make_surrogate(posterior: Any, config: SurrogateConfig, step_size: Any, num_adaptation_steps: int) -> Any:
    """Return the kernel for `posterior`; see `KernelSampler.make_fn`.

    If the target is only a density, without classes, its proposals are those of the prior.
    """
    surrogate_fn = getattr(posterior, "likelihood_of", lambda outputs: tf.zeros(tf.shape(outputs)[:-1]))
    num_outputs = num_classes_of(posterior) if hasattr(posterior, "asked") else 1
    return SurrogateKernel(posterior.likelihood_log_prob, surrogate_fn, num_outputs, config.num_proposals, config.num_slices)


def surrogate_info(posterior: Any, config: SurrogateConfig, z: tf.Tensor, results: SurrogateResults) -> StepInfo:
    """Return the `StepInfo`; a transition counts as accepted if the global move or the slices moved the chain."""
    info = slice_info(posterior, config, z, results.inner_results)
    return info._replace(
        is_accepted=results.has_jumped | info.is_accepted,
        num_gradients=tf.zeros_like(results.num_forward),
        num_forward=results.num_forward,
    )


def learn(posterior: ClassPosterior, config: SurrogateConfig, run: RunConfig) -> Learned:
    """Return the proposals of this posterior; see `surrogate_fit.learned`."""
    from tfgradgen.mcmc.surrogate_fit import learned

    return learned(posterior, config, run)


SAMPLER = KernelSampler(
    "surrogate",
    about="for rare classes: learned proposals",
    exactness="asymptotically exact",
    defaults=SurrogateConfig(),
    schedule=Schedule(num_results=40, num_burnin_steps=10, num_adaptation_steps=0),
    cost_fn=lambda config: Cost(0, config.num_proposals + 6 * config.num_slices),
    start_cost=lambda config: Cost(0, 1),
    make_fn=make_surrogate,
    info_fn=surrogate_info,
    tunes_by_label=False,
    learn_fn=learn,
)
