"""What the parts promise one another: shapes, units and ranges."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

Tensor: TypeAlias = "tf.Tensor"  # TensorFlow itself is imported by the modules that compute
SamplerKind: TypeAlias = Literal["chain", "exact", "particles", "ascent"]  # see `mcmc.sampler.Sampler`
Init: TypeAlias = Literal["resample", "prior", "given"]  # where chains start, see `core.config.RunConfig`
Jit: TypeAlias = bool | Literal["auto"]  # XLA or not, see `core.backend.use_xla`

IMAGE_CHANNELS = (1, 3, 4)  # lengths of a last axis that can be one of colours


def is_channels_first(dims: Sequence[int | None]) -> bool:
    """Whether the axes after the batch can only be (channels, height, width)."""
    return len(dims) == 3 and dims[0] in IMAGE_CHANNELS and dims[2] not in IMAGE_CHANNELS and dims[0] != dims[1]


class GeneratorLike(Protocol):
    """`z` [B, latent_dim] float32, z ~ Normal(0, I) -> `image` [B, height, width, channels] float32 in [-1, 1]."""

    @property
    def latent_dim(self) -> int: ...

    def __call__(self, z: Tensor, /) -> Tensor: ...


class ClassifierLike(Protocol):
    """`image` [B, height, width, channels] float32 in [-1, 1] -> `logits` [B, num_classes] float32."""

    @property
    def num_classes(self) -> int: ...

    def __call__(self, image: Tensor, /) -> Tensor: ...


class Networks(NamedTuple):
    """The models of a posterior, by identity: what is compiled once for all that share them.

    discriminator: `image` -> float32 [B], the log-odds that it is natural; None for none. discriminator_weight: >= 0, of its
    term in the target. max_batch: rows that go through the networks at a time; None for all.
    """

    generator: GeneratorLike
    classifier: ClassifierLike
    discriminator: Any = None
    discriminator_weight: float = 0.0
    max_batch: int | None = None


class PosteriorLike(Protocol):
    """What a kernel may ask of its target; each density takes `z` [..., latent_dim] and gives float32 [...], in nats."""

    @property
    def latent_dim(self) -> int: ...

    def prior_log_prob(self, z: Tensor, /) -> Tensor: ...

    def likelihood_log_prob(self, z: Tensor, /) -> Tensor: ...

    def unnormalized_log_prob(self, z: Tensor, /) -> Tensor: ...


class Regularization(NamedTuple):
    """A pull towards the latent points of a class: -weight / 2 * sum(((z - mean) / scale) ** 2), in nats.

    weight: >= 0. mean, scale: [latent_dim] float32, of exact draws of the class.
    """

    weight: float
    mean: Tensor
    scale: Tensor


class Draws(NamedTuple):
    """What every sampling method returns, as NumPy arrays.

    z: [num_results, num_chains, latent_dim] float32, the kept states.
    class_prob: [num_results, num_chains] float32, p(class | g(z)) in [0, 1], without temperature.
    target_log_prob: [num_results, num_chains] float32, unnormalized, in nats.
    is_accepted: [num_results, num_chains] bool, whether the proposal that ended at this draw was accepted.
    step_size: [num_results, num_chains] float32, distance in z; NaN where a method has none.
    log_accept_ratio: [num_results, num_chains] float32, of the proposal before this draw, in nats; not finite where its density
      or gradient was not; 0 where a method has none. nuts: of the mean over its tree, below -1000 where that
      diverged or met a point without a finite density.
    """

    z: np.ndarray
    class_prob: np.ndarray
    target_log_prob: np.ndarray
    is_accepted: np.ndarray
    step_size: np.ndarray
    log_accept_ratio: np.ndarray


def accept_prob(draws: Draws) -> np.ndarray:
    """Acceptance probability [num_results, num_chains] of the proposal before each draw; 0 where it is not a number."""
    prob: np.ndarray = np.exp(np.minimum(np.nan_to_num(draws.log_accept_ratio, nan=-np.inf), 0.0))
    return prob


FORWARD_COST = 0.45  # of a gradient's, measured on the shipped models on CPU


class Cost(NamedTuple):
    """What a run spent on the networks, counted per chain state.

    num_gradients: evaluations of value and gradient of the target.
    num_forward: evaluations of the networks without gradient.
    Each chain's own: in nuts and elliptical_slice, whose steps differ in length, a batch evaluates the others' along with the
    longest, which is not counted.
    """

    num_gradients: int
    num_forward: int

    @property
    def work(self) -> float:
        """All of it in gradients."""
        return self.num_gradients + FORWARD_COST * self.num_forward


class Progress(NamedTuple):
    """What is known after each chunk of a run; rates and means are over the chunk and all chains."""

    num_done: int
    num_total: int
    accept_rate: float
    step_size: float
    class_prob: float

    @property
    def shown(self) -> dict[str, str]:
        """Acceptance, p(class) and step size, as text, those that there are."""
        facts = {"accept": (self.accept_rate, 2), "p(class)": (self.class_prob, 2), "step_size": (self.step_size, 3)}
        return {name: f"{value:.{digits}f}" for name, (value, digits) in facts.items() if np.isfinite(value)}


class Chunk(NamedTuple):
    """What a sampling method gives after each compiled chunk of a run.

    progress: how far the run is. draws: those that this chunk adds, [0 or more, num_chains, ...]. state: all that the method
    needs to go on from here, bit for bit, as named arrays. cost: of the whole run up to here. facts: what else the method has
    found so far, JSON-able. discarded: what it drew of the burn-in, like draws; None where that is nothing.
    """

    progress: Progress
    draws: Draws
    state: dict[str, np.ndarray]
    cost: Cost
    facts: dict[str, Any]
    discarded: Draws | None = None


class Found(NamedTuple):
    """All of a run. draws: its kept draws. cost: what they cost. facts: what else was found, JSON-able."""

    draws: Draws
    cost: Cost
    facts: dict[str, Any]


ProgressFn = Callable[[Progress], None]


def collect(chunks: Iterable[Chunk], progress_fn: ProgressFn | None = None) -> Found:
    """Runs `chunks` to their end, at least one, and joins what they give; `progress_fn` is called after each."""
    kept = []
    for chunk in chunks:
        kept.append(chunk.draws)
        if progress_fn:
            progress_fn(chunk.progress)
    draws = Draws(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))
    return Found(draws, chunk.cost, chunk.facts)
