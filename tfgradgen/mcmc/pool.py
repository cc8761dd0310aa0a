"""One pool of prior draws for all uses of a seed: starting points, exact draws, the mass of a class.

A pool is the sequence z_0, z_1, ... ~ Normal(0, I) of one seed, with the outputs of the models at g(z_i): the
log-probabilities of all classes, and the log-odds of a discriminator. Labels, conditions, temperatures and kernels share it,
so that each prior draw passes through the networks once. Only the outputs are kept, in memory and in the cache folder; z is
redrawn from the seed. Draws come in chunks of one size, so that one compiled function suffices, and a row has the same bits
however many rows were requested, and whether or not they were kept.

Each row also has one uniform number u. The classes divide [0, 1) into consecutive intervals whose lengths are their
probabilities, and the row is an exact draw of the class whose interval contains u. So every row is an exact draw of one class,
and the exact draws of two classes are independent. Measured from the upper end of a class, -u (mod 1) is uniform, and below
p(class) exactly if the row is a draw of that class. With this number, rows are accepted at any temperature. A condition has
uniform numbers of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.backend import Stream, as_seed, compile_fn, fold_in, full_float32, log_uniform, use_xla
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Networks, Progress
from tfgradgen.core.lazy import tf
from tfgradgen.core.memo import per_networks
from tfgradgen.io.numbered import NumberedArrays
from tfgradgen.models.loading.caches import cache_folder, check_private, make_private

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

CHUNK = 256  # rows per chunk and per file
ROWS = 16  # rows per call on a CPU in graph mode; a call with CHUNK rows is 1.5 times as slow, because it overflows the caches
NUM_PARALLEL = 2  # calls of ROWS rows at the same time, which use two cores better than one call does
NUM_PROBED = 8  # rows whose outputs identify the models
MAX_MEMORY = 1 << 27  # bytes of a pool's chunks kept in memory
FORMAT = 1  # change it whenever the rows of a seed change


class PriorDraws(NamedTuple):
    """Rows of a pool.

    Attributes:
      z: [num_draws, latent_dim] float32.
      uniform: [num_draws] float64 in [0, 1).
      log_probs: For each classifier, log p(class | g(z)) [num_draws, num_classes] float32, in nats.
      energy: [num_draws] float32, the discriminator's log-odds that g(z) is natural; 0 without a discriminator.
      first: Index of the first row in the pool.
    """

    z: np.ndarray
    uniform: np.ndarray
    log_probs: tuple[np.ndarray, ...]
    energy: np.ndarray
    first: int

    @property
    def logits(self) -> np.ndarray:
        """`log_probs` of the first classifier."""
        return self.log_probs[0]


class Weighed(NamedTuple):
    """Rows of a pool under a target. Each field is [num_draws] float64, in nats.

    Attributes:
      class_log_prob: log p(class | g(z)); NaN where it is undefined.
      log_weight: Log of target over prior; -inf where it is not finite.
      log_uniform: Logs of uniform numbers. Without a discriminator, a row is an exact draw if this is below `log_weight`.
    """

    class_log_prob: np.ndarray
    log_weight: np.ndarray
    log_uniform: np.ndarray

    @property
    def is_accepted(self) -> np.ndarray:
        """[num_draws] bool: which rows are exact draws, if the target has no discriminator."""
        accepted: np.ndarray = self.log_uniform < self.log_weight
        return accepted


class Pool:
    """The prior draws of one seed with the outputs of the models. Created by `pool_of`.

    Args:
      observe_fn: z [CHUNK, latent_dim] -> scores [CHUNK, num_columns], as returned by `Observers.observe`.
      seed: Seed of the run.
      latent_dim: Dimension of z.
      widths: Numbers of classes of the classifiers.
      arrays: Where scores are stored.
    """

    # Totals over all pools of this process: rows that went through the networks, and rows that were returned without.
    num_evaluated = num_spared = 0

    def __init__(self, observe_fn: Any, seed: int, latent_dim: int, widths: tuple[int, ...], arrays: NumberedArrays):
        self._observe_fn, self.latent_dim, self.widths, self._arrays = observe_fn, latent_dim, widths, arrays
        self.owner = arrays.owner
        self._seed = fold_in(as_seed(seed), Stream.POOL)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def z(self, number: int) -> np.ndarray:
        """Return the latent points [CHUNK, latent_dim] of a chunk, without using the networks."""
        seed = fold_in(fold_in(self._seed, number), 0)
        z: np.ndarray = tf.random.stateless_normal([CHUNK, self.latent_dim], seed).numpy()
        return z

    def draws(self, first: int, num: int) -> PriorDraws:
        """Return `num` rows from row `first` on; rows that are missing are evaluated."""
        evaluated = Pool.num_evaluated
        numbers = range(first // CHUNK, -(-(first + num) // CHUNK))
        inside = slice(first - numbers.start * CHUNK, first - numbers.start * CHUNK + num)
        uniform = np.concatenate([uniform_numbers(fold_in(fold_in(self._seed, number), 1)) for number in numbers])
        z, scores = (np.concatenate([fn(number) for number in numbers])[inside] for fn in (self.z, self._scores))
        *log_probs, last = np.split(scores, np.cumsum(self.widths), 1)
        energy = last[:, 0] if last.shape[1] else np.zeros(num, np.float32)
        Pool.num_spared += num if Pool.num_evaluated == evaluated else 0
        return PriorDraws(z, uniform[inside], tuple(log_probs), energy, first)

    def blocks(self, size: int, num: int) -> Iterator[PriorDraws]:
        """Yield the first `num` blocks of `size` rows, one at a time, so that memory does not grow with their number.

        If more than one chunk has to be evaluated, this is logged, with a `Progress` for a progress bar.
        """
        total = CHUNK * sum(not self._has(number) for number in range(-(-size * num // CHUNK)))
        before, logged = Pool.num_evaluated, 0
        if total > CHUNK:
            logger.info("prior draws: %d are evaluated for all labels of this seed", total)
        for block in range(num):
            yield self.draws(block * size, size)
            done = total if block == num - 1 else min(Pool.num_evaluated - before, total)
            if total > CHUNK and done > logged:
                progress = Progress(done, total, float("nan"), float("nan"), float("nan"))
                logger.debug("prior draws", extra={"progress": progress})
                logged = done

    def rows(self, num: int) -> list[np.ndarray]:
        """Return the scores [CHUNK, num_columns] of the chunks with the first `num` rows, for `adopt` in another process."""
        return [self._scores(number) for number in range(-(-num // CHUNK))]

    def adopt(self, owner: str, rows: Sequence[np.ndarray]) -> None:
        """Take the `rows` of a pool in another process, unless its `owner` differs: its models, seed, libraries or machine."""
        if owner != self.owner:
            return
        for number, scores in enumerate(rows):
            if not self._has(number):
                self._arrays.put(number, scores)
                self._remember(number, scores)

    def _has(self, number: int) -> bool:
        return number in self._kept or self._arrays.has(number)

    def _scores(self, number: int) -> np.ndarray:
        found = self._find(number)
        return self._evaluate(number) if found is None else found

    def scores(self, z: np.ndarray) -> np.ndarray:
        """Return the outputs of the models at any latent points z [n, latent_dim], with the columns of `Observers.observe`.

        This takes one forward pass each, by the compiled function that evaluates the pool's own draws. Nothing is kept.
        """
        full_float32()
        filled = np.concatenate([z, np.zeros([-len(z) % CHUNK, self.latent_dim], np.float32)])
        parts = [self._observe_fn(tf.constant(filled[k : k + CHUNK])).numpy() for k in range(0, len(filled), CHUNK)]
        return np.concatenate(parts)[: len(z)]

    def _find(self, number: int) -> np.ndarray | None:
        scores = self._kept.get(number)
        if scores is None:
            scores = self._arrays.get(number)
            if scores is not None and not np.isfinite(scores).any():
                scores = None  # models that pass their checks do not return this
            if scores is not None:
                self._remember(number, scores)
        else:
            self._kept.move_to_end(number)
        return scores

    def _evaluate(self, number: int) -> np.ndarray:
        full_float32()
        if not self._observe_fn.experimental_get_tracing_count():
            logger.info("compiling the models for prior draws")
        scores: np.ndarray = self._observe_fn(tf.constant(self.z(number))).numpy()
        Pool.num_evaluated += CHUNK
        self._arrays.put(number, scores)
        self._remember(number, scores)
        return scores

    def _remember(self, number: int, scores: np.ndarray) -> None:
        self._kept[number] = scores
        while len(self._kept) > max(1, MAX_MEMORY // scores.nbytes):
            self._kept.popitem(last=False)


def uniform_numbers(seed: tf.Tensor) -> np.ndarray:
    """Return [CHUNK] float64 in [0, 1), multiples of 2^-52; float32 numbers would draw a rare class too often or never."""
    numbers: np.ndarray = tf.random.stateless_uniform([CHUNK], seed, dtype=tf.float64).numpy()
    return numbers


class Observers(NamedTuple):
    """The models behind a pool.

    Attributes:
      networks: The models, with the first classifier, and with the discriminator if it is in the target.
      others: Further classifiers that a condition uses.
      num_rows: Maximum number of rows per call of the models; None for all.
    """

    networks: Networks
    others: tuple[Any, ...]
    num_rows: int | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of columns of `observe` for each classifier: its number of classes."""
        return tuple(int(each.num_classes) for each in (self.networks.classifier, *self.others))

    @property
    def models(self) -> tuple[Any, ...]:
        networks = self.networks
        last = () if networks.discriminator is None else (networks.discriminator,)
        return (networks.generator, networks.classifier, *self.others, *last)

    @property
    def sha256(self) -> tuple[str, ...]:
        """Digests of the files of each model; () unless all have one, as a model without files may change under its pool."""
        found = tuple(getattr(model, "sha256", "") for model in self.models)
        return found if all(found) else ()

    def observe(self, z: tf.Tensor) -> tf.Tensor:
        """Return log-probabilities in nats, then log-odds if there is a discriminator, of z [B, latent_dim].

        The result is [B, sum(widths)], plus one column with a discriminator.
        """
        from tfgradgen.core.batching import batched_rows

        generator, classifier, discriminator, *_ = self.networks
        size = min(filter(None, (self.num_rows, self.networks.max_batch)), default=None)

        def of_rows(rows: tf.Tensor) -> tf.Tensor:
            image = generator(rows)
            columns = [_log_probs(each, image) for each in (classifier, *self.others)]
            return tf.concat(columns if discriminator is None else [*columns, discriminator(image)[:, None]], 1)

        if size is None or z.shape[0] <= size:
            return of_rows(z)
        return batched_rows(of_rows, size, z, num_parallel=NUM_PARALLEL if size == self.num_rows else 1)


def _log_probs(classifier: Any, image: tf.Tensor) -> tf.Tensor:
    """Return log p(class | image) [B, num_classes] in nats, as a posterior computes it, with or without a condition."""
    if not getattr(classifier, "is_exclusive", True):
        return classifier.log_probs(image)
    logits = classifier(image)
    if logits.shape.rank != 2 or logits.shape[1] != classifier.num_classes:
        expected = f"logits [batch, {classifier.num_classes}]"
        raise fail("classifier", expected, logits.shape, "return one row of logits for each row of the input")
    return tf.nn.log_softmax(logits)


def observers_of(posterior: ClassPosterior) -> Observers:
    """Return the models that evaluate prior draws for `posterior`."""
    generator, classifier, discriminator, _, max_batch = posterior.networks
    first, *others = getattr(classifier, "asked", (classifier,))
    return Observers(Networks(generator, first, discriminator if posterior.has_energy else None, 0.0, max_batch), tuple(others))


def pool_of(posterior: ClassPosterior, run: RunConfig) -> Pool:
    """Return the pool of `run.seed` and the models of `posterior`, the same object for all posteriors of these models.

    Models are identified by the sha256 of their files and by their outputs at a few points, which distinguish settings,
    classes of a generator, libraries and processors. Scores of models without files are kept in memory only, and only as long
    as the models return the same outputs at those points. A pool does not keep its models alive.
    """
    observers = observers_of(posterior)
    networks, others = observers.networks, observers.others
    probe = _kept_probe(networks, others) if observers.sha256 else _probe(observers)
    pool: Pool = _pool(networks, others, run.seed, use_xla(run.jit), probe)
    return pool


def without_xla(posterior: ClassPosterior, run: RunConfig) -> str:
    """Return why jit='auto' must use graph mode instead of XLA for forward passes; '' if it need not."""
    from tfgradgen.diagnostics.model_checks import evidence
    from tfgradgen.diagnostics.preflight import with_xla
    from tfgradgen.diagnostics.prior_checks import prior_points

    if run.jit != "auto" or not use_xla(run.jit):
        return ""
    evidence(posterior.networks)  # models that give nothing usable are refused first
    return with_xla(pool_of(posterior, run).scores, prior_points(posterior.latent_dim)[:NUM_PROBED])[1]


def _probe(observers: Observers) -> bytes:
    """Return the outputs of the models at `NUM_PROBED` prior draws, as bytes."""
    from tfgradgen.diagnostics.prior_checks import prior_points

    full_float32()
    points = prior_points(observers.networks.generator.latent_dim)[:NUM_PROBED]
    return bytes(observers.observe(points).numpy().tobytes())


@per_networks
def _kept_probe(networks: Networks, others: tuple[Any, ...]) -> bytes:
    return _probe(Observers(networks, others))


@per_networks
def _compiled(networks: Networks, others: tuple[Any, ...], xla: bool) -> Any:
    return compile_fn(Observers(networks, others, None if xla or use_xla("auto") else ROWS).observe, jit_compile=xla)


@per_networks
def _pool(networks: Networks, others: tuple[Any, ...], seed: int, xla: bool, probe: bytes) -> Pool:
    observers, dim = Observers(networks, others), networks.generator.latent_dim
    widths = observers.widths
    num_columns = sum(widths) + (networks.discriminator is not None)
    # Whatever may change the bits but not show in the probe, which is evaluated in another way.
    backend = (xla, tf.__version__, [device.name for device in tf.config.list_logical_devices()], platform.machine())
    threads = (tf.config.threading.get_intra_op_parallelism_threads(), os.cpu_count())
    key = (FORMAT, CHUNK, ROWS, dim, widths, seed, networks.max_batch, backend, threads, observers.sha256)
    owner = hashlib.sha256(repr(key).encode() + probe).hexdigest()
    root = cache_root() if observers.sha256 else None
    arrays = NumberedArrays(root and root / owner[:32], owner, (CHUNK, num_columns))
    return Pool(_compiled(networks, others, xla), seed, dim, widths, arrays)


def cache_root() -> Path | None:
    """Return the folder of all pools on disk; None if there can be none, so that pools are in memory only."""
    try:
        folder = cache_folder()
        if folder.is_relative_to(Path.home()) and not Path.home().is_dir():
            return None
        root = folder / "pools"
        make_private(root)
        for place in (folder, root):
            check_private(place, "TFGRADGEN_CACHE_DIR")
    except (UserError, OSError, RuntimeError, ValueError):
        return None
    return root


def weigh(posterior: ClassPosterior, draws: PriorDraws, run: RunConfig) -> Weighed:
    """Weight `draws` of `pool_of(posterior, run)` by the target of `posterior`, which has one label."""
    condition, index = getattr(posterior.classifier, "of_log_probs", None), int(posterior.label)
    if condition is None:
        class_log_prob, log_u = _of_class(draws.logits, draws.uniform, index)
    else:
        log_probs = tf.nn.log_softmax(condition([tf.constant(columns) for columns in draws.log_probs]))
        class_log_prob = log_probs[:, index].numpy().astype(np.float64)
        log_u = _own_log_uniform(posterior, draws, run)
    log_weight = class_log_prob / float(posterior.temperature)
    if posterior.has_energy:
        log_weight = log_weight + posterior.networks.discriminator_weight * draws.energy.astype(np.float64)
    return Weighed(class_log_prob, np.where(np.isfinite(log_weight), log_weight, -np.inf), log_u)


def _of_class(log_probs: np.ndarray, uniform: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(class), and the log of each row's uniform number as measured from the upper end of the class (see above)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        prob = np.exp(log_probs.astype(np.float64))
        total = prob.sum(1)  # 1 up to float32 rounding, which must not leave a rare class out
        below = uniform - prob[:, : index + 1].sum(1) / total
        # In (0, 1], multiples of about 2^-53, so that nothing below -36 nats is accepted by rounding.
        from_end = np.where(below < 0, -below, 1.0 - below)
        return np.minimum(log_probs[:, index] - np.log(total), 0.0), np.log(from_end)


def _own_log_uniform(posterior: ClassPosterior, draws: PriorDraws, run: RunConfig) -> np.ndarray:
    """Return the logs of the label's own uniform numbers, by the indices of `draws` in the pool."""
    seed = fold_in(posterior.own_seed(run.seed), Stream.REJECTION)
    start, stop = draws.first // CHUNK, -(-(draws.first + len(draws.z)) // CHUNK)
    whole = np.concatenate([log_uniform([CHUNK], fold_in(seed, number)).numpy() for number in range(start, stop)])
    inside = draws.first - start * CHUNK
    own: np.ndarray = whole[inside : inside + len(draws.z)].astype(np.float64)
    return own
