"""Types that the parts of the package share, with shapes, units and ranges."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from tfgradgen.core.checks import fail

if TYPE_CHECKING:
    import tensorflow as tf

Tensor: TypeAlias = "tf.Tensor"  # a string: this module does not import TensorFlow
SamplerKind: TypeAlias = Literal["chain", "exact", "particles", "ascent", "fitted"]  # see `mcmc.sampler.Sampler`
Init: TypeAlias = Literal["resample", "prior", "annealed", "given"]  # where chains start, see `core.config.RunConfig`
Jit: TypeAlias = bool | Literal["auto"]  # XLA or not, see `core.backend.use_xla`

IMAGE_CHANNELS = (1, 3, 4)  # possible lengths of a colour axis


def is_channels_first(dims: Sequence[int | None]) -> bool:
    """Return whether the axes after the batch can only be (channels, height, width)."""
    return len(dims) == 3 and dims[0] in IMAGE_CHANNELS and dims[2] not in IMAGE_CHANNELS and dims[0] != dims[1]


class GeneratorLike(Protocol):
    """`z` [B, latent_dim] float32, z ~ Normal(0, I) -> `image` [B, height, width, channels] float32 in [-1, 1].

    An image may also be a sound [B, samples] or a clip [B, frames, height, width, channels]. An attribute `medium`
    (`media.medium.Medium`), or `sample_rate` or `frame_rate`, gives the rate.
    """

    @property
    def latent_dim(self) -> int: ...

    def __call__(self, z: Tensor, /) -> Tensor: ...


class ClassifierLike(Protocol):
    """`image` [B, height, width, channels] float32 in [-1, 1] -> `logits` [B, num_classes] float32."""

    @property
    def num_classes(self) -> int: ...

    def __call__(self, image: Tensor, /) -> Tensor: ...


class Networks(NamedTuple):
    """The networks that a posterior evaluates. Posteriors that share them (by identity) share one compiled graph.

    Attributes:
      generator: See `GeneratorLike`.
      classifier: See `ClassifierLike`.
      discriminator: `image` -> float32 [B], the log-odds that the image is natural; None for none.
      discriminator_weight: >= 0, the weight of the discriminator in the target.
      max_batch: Rows that go through the networks at a time; None for all.
    """

    generator: GeneratorLike
    classifier: ClassifierLike
    discriminator: Any = None
    discriminator_weight: float = 0.0
    max_batch: int | None = None


class PosteriorLike(Protocol):
    """The target as a kernel sees it. Each density takes `z` [..., latent_dim] and returns float32 [...], in nats."""

    @property
    def latent_dim(self) -> int: ...

    def prior_log_prob(self, z: Tensor, /) -> Tensor: ...

    def likelihood_log_prob(self, z: Tensor, /) -> Tensor: ...

    def unnormalized_log_prob(self, z: Tensor, /) -> Tensor: ...


class Regularization(NamedTuple):
    """A quadratic penalty on the distance to the class mean: -weight / 2 * sum(((z - mean) / scale) ** 2), in nats.

    Attributes:
      weight: >= 0.
      mean: [latent_dim] float32, the mean of exact draws of the class.
      scale: [latent_dim] float32, their standard deviation.
    """

    weight: float
    mean: Tensor
    scale: Tensor


class Draws(NamedTuple):
    """The draws of a run, as NumPy arrays. Every sampler returns these.

    Attributes:
      z: [num_results, num_chains, latent_dim] float32, the kept states.
      class_prob: [num_results, num_chains] float32, p(class | g(z)) in [0, 1], without temperature.
      target_log_prob: [num_results, num_chains] float32, unnormalized, in nats.
      is_accepted: [num_results, num_chains] bool, whether the proposal that led to this draw was accepted.
      step_size: [num_results, num_chains] float32, a distance in z; NaN for a sampler without step size.
      log_accept_ratio: [num_results, num_chains] float32, of the proposal that led to this draw, in nats. Not finite if the
        density or gradient of the proposal is not; 0 for a sampler without proposals. nuts: log of the mean acceptance over
        the tree; below -1000 if the tree diverged or reached a point without a finite density.
    """

    z: np.ndarray
    class_prob: np.ndarray
    target_log_prob: np.ndarray
    is_accepted: np.ndarray
    step_size: np.ndarray
    log_accept_ratio: np.ndarray


def accept_prob(draws: Draws) -> np.ndarray:
    """Return the acceptance probability [num_results, num_chains] of each draw's proposal; 0 if the ratio is NaN."""
    prob: np.ndarray = np.exp(np.minimum(np.nan_to_num(draws.log_accept_ratio, nan=-np.inf), 0.0))
    return prob


FORWARD_COST = 0.45  # cost of a forward pass in gradients, measured on the shipped models on a CPU


class Cost(NamedTuple):
    """Network evaluations of a run, summed over chains.

    Steps of nuts and elliptical_slice differ in length. A batch then evaluates all chains until the longest step ends; the
    evaluations that a chain does not need are not counted.

    Attributes:
      num_gradients: Evaluations of value and gradient of the target.
      num_forward: Evaluations of the networks without gradient.
    """

    num_gradients: int
    num_forward: int

    @property
    def work(self) -> float:
        """The whole cost, in units of one gradient."""
        return self.num_gradients + FORWARD_COST * self.num_forward


class Progress(NamedTuple):
    """The progress of a run after a chunk. Rates and means are over the chunk and all chains.

    bound: On the log of the target's mass, in nats. A value that the method does not have is NaN.
    is_stored: Whether the chunk took nothing but stored rows of the pool, so that its pace predicts nothing.
    """

    num_done: int
    num_total: int
    accept_rate: float
    step_size: float
    class_prob: float
    bound: float = float("nan")
    is_stored: bool = False

    @property
    def shown(self) -> dict[str, str]:
        """Acceptance, p(class), step size and bound as text, without those that are not finite."""
        values = {
            "accept": (self.accept_rate, 2),
            "p(class)": (self.class_prob, 2),
            "step_size": (self.step_size, 3),
            "bound": (self.bound, 2),
        }
        return {name: f"{value:.{digits}f}" for name, (value, digits) in values.items() if np.isfinite(value)}


class Chunk(NamedTuple):
    """The result of one compiled chunk of a run.

    Attributes:
      progress: Progress of the run.
      draws: The draws of this chunk, [0 or more, num_chains, ...].
      state: Named arrays from which the sampler can resume, bit for bit.
      cost: Cost of the run so far.
      stats: Other statistics of the run so far, JSON-serializable.
      discarded: The burn-in draws of this chunk, in the form of `draws`; None if there are none.
    """

    progress: Progress
    draws: Draws
    state: dict[str, np.ndarray]
    cost: Cost
    stats: dict[str, Any]
    discarded: Draws | None = None


class SamplerResult(NamedTuple):
    """The result of a whole run: its kept draws, their cost, and other statistics (JSON-serializable)."""

    draws: Draws
    cost: Cost
    stats: dict[str, Any]


ProgressFn = Callable[[Progress], None]
ChunkFn = Callable[[Chunk], bool | None]  # True ends the run after that chunk


def collect(chunks: Iterable[Chunk], progress_fn: ProgressFn | None = None) -> SamplerResult:
    """Run `chunks` (at least one) to their end and concatenate their draws; call `progress_fn` after each chunk."""
    kept = []
    for chunk in chunks:
        kept.append(chunk.draws)
        if progress_fn:
            progress_fn(chunk.progress)
    if not kept:
        raise fail("chunks", "at least one chunk of a run", "none", "give the result of iter_chunks")
    draws = Draws(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))
    return SamplerResult(draws, chunk.cost, chunk.stats)
