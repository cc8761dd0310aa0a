"""The exported module: each row of a batch is a label and a seed, and runs its own chain.

Each row is evaluated by itself, with noise from its own seed, so that its bits depend neither on the batch nor on its position
in it. Evaluating rows together would be faster on one core. But a network sums the values of an image in an order that depends
on position and batch size, and after a few dozen accepted and rejected proposals a difference in the last bit becomes another
image.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.core.backend import Stream, fold_in, log_uniform
from tfgradgen.core.contracts import Networks
from tfgradgen.mcmc.starts import start_point
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.labels import as_key
from tfgradgen.models.loading.metadata import MAX_NAME, Label
from tfgradgen.posterior import ClassPosterior
from tfgradgen.serving.rules import Noise, Point, hamiltonian_step, point_at

# A server does no rejection sampling, so a chain that continues from a given z uses that stream. It needs fresh noise.
START_STREAM, CHAIN_STREAM, CONTINUE_STREAM = int(Stream.STARTS), int(Stream.CHAINS), int(Stream.REJECTION)
MAX_NAMED = 1000  # bytes of class names in an error: gRPC allows 8 KB of metadata, and encodes a byte as up to three
MAX_LABEL = 4 * MAX_NAME  # bytes of the longest possible label
MAX_SHOWN = 100  # bytes of an unknown label that an error repeats
_SHOWN = r"[\pL\pM\pN _.,;:'&()+|!*@/-]*"  # labels that an error repeats; none can control a terminal
_NOT_SHOWN = "a text that is too long or not printable"
NUM_COLUMNS = 4  # columns, and rows, of a grid
PARALLEL_ROWS = 16  # chains that run in parallel; the evaluations of one chain are sequential


class Plan(NamedTuple):
    """The fixed settings of an export.

    Attributes:
      labels: The classes that can be requested.
      indices: Their outputs of the classifier.
      step_sizes: Their step sizes, distances in z.
      num_leapfrog_steps: Leapfrog steps of one transition.
      temperature: Temperature of the likelihood.
      num_steps: Transitions of `serving_default`.
      max_steps: Largest number of transitions of a request.
      num_start_draws: Prior draws from which a start is chosen.
    """

    labels: tuple[Label, ...]
    indices: tuple[int, ...]
    step_sizes: tuple[float, ...]
    num_leapfrog_steps: int
    temperature: float
    num_steps: int
    max_steps: int
    num_start_draws: int


class Rows(NamedTuple):
    """A request.

    Attributes:
      index: int32 [B], output of the classifier.
      step_size: [B], distance in z.
      seed: int32 [B, 2].
      num_steps: int32 [B], in 0..max_steps.
    """

    index: tf.Tensor
    step_size: tf.Tensor
    seed: tf.Tensor
    num_steps: tf.Tensor


def spec(name: str, dtype: Any, *inner: int) -> tf.TensorSpec:
    """Return the spec of an input [B, *inner]."""
    return tf.TensorSpec([None, *inner], dtype, name)


class Serving(tf.Module):  # type: ignore[misc]
    """Chains as functions of tensors (see `signatures`).

    Args:
      networks: The networks of all labels, with images [height, width, 1, 3 or 4 channels].
      models: The loaded SavedModels of the networks, whose variables are exported too.
      plan: The fixed settings.
    """

    def __init__(self, networks: Networks, models: Any, plan: Plan):
        super().__init__(name="serving")
        self._networks, self._plan, self._models = networks, plan, list(models)
        names = [(as_key(name), k) for k, label in enumerate(plan.labels) for name in (label.name, label.wnid) if name]
        if not isinstance(networks.classifier, ConditionClassifier):  # a condition is not an output of a model
            names += [(str(index), k) for k, index in enumerate(plan.indices)]
        self._keys = [key for key, _ in names]
        self._entry_of_match = [*range(len(plan.labels)), *(k for _, k in names)]
        rows = Rows(
            spec("index", tf.int32), spec("step_size", tf.float32), spec("row_seed", tf.int32, 2), spec("steps", tf.int32)
        )
        z = spec("z", tf.float32, networks.generator.latent_dim)

        def compiled(fn: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
            return tf.function(fn, list(specs), autograph=False)

        # Each is one function, so that the graph contains the networks only once for all signatures.
        self._start_fn = compiled(self._start, rows.index, rows.seed)
        self._chains_fn = compiled(self._chains, *rows, z, tf.TensorSpec([], tf.int32, "stream"))

    def signatures(self, xla: bool = False) -> dict[str, Any]:
        """Return name -> function from named tensors [B, ...] to named tensors [B, ...].

        serving_default: label (a name, WordNet id or index), seed int64 -> image_bytes (PNG), class_prob, target_log_prob
        (nats), accept_rate (mean acceptance probability, 0 without steps) and z, after `Plan.num_steps` transitions.
        sample: the same from label, seed and num_steps int32, in 0..`Plan.max_steps`.
        continue: the same from label, seed, num_steps and a starting point z. Its noise differs from that of `sample` with the
        same seed; give each call another seed.
        grid: label, seed, num_steps -> image_bytes, one grid per row with the images of seed, seed + 1, ..., row by row.
        serving_xla: serving_default compiled by XLA, whose random numbers for a seed differ; only with `xla`.

        Errors are INVALID_ARGUMENT with a short, printable message: an unknown label (the message lists the labels), inputs of
        different or zero length, num_steps out of range, or z of another width or not finite.
        """
        label, seed = spec("label", tf.string), spec("seed", tf.int64)
        steps, z = spec("num_steps", tf.int32), spec("z", tf.float32, self._networks.generator.latent_dim)
        chosen = {
            "serving_default": (self._default, (label, seed)),
            "sample": (self._sample, (label, seed, steps)),
            "continue": (self._continue, (label, seed, steps, z)),
            "grid": (self._grid, (label, seed, steps)),
            **({"serving_xla": (self._xla, (label, seed))} if xla else {}),
        }
        return {
            name: tf.function(fn, list(specs), autograph=False).get_concrete_function() for name, (fn, specs) in chosen.items()
        }

    @property
    def names(self) -> list[str]:
        """Names of the labels that can be requested."""
        return [label.name for label in self._plan.labels]

    def _default(self, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._sample(label, seed, tf.fill(tf.shape(seed), self._plan.num_steps))

    def _sample(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return as_outputs(*self._from_start(*self._rows(label, seed, num_steps)))

    def _continue(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor, z: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self._rows(label, seed, num_steps)
        width = self._networks.generator.latent_dim
        # Hide the static shape of z. Otherwise TensorFlow trusts the signature and drops the check of the width.
        z = tf.compat.v1.placeholder_with_default(z, [None, None])
        is_fit = (tf.size(z) == width * tf.size(rows.seed) // 2) & tf.reduce_all(tf.math.is_finite(z))
        checks = [_checked(is_fit, f"z: expected {width} finite numbers per row")]
        with tf.control_dependencies(checks):
            z = tf.reshape(z, [-1, width])
        return as_outputs(*self._chains_fn(*rows, z, CONTINUE_STREAM))

    def _grid(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        count = NUM_COLUMNS**2
        rows = Rows(*(tf.repeat(each, count, 0) for each in self._rows(label, seed, num_steps)))
        own_seed = tf.reshape(tf.reshape(seed, [-1, 1]) + tf.range(count, dtype=tf.int64), [-1])
        image = self._from_start(*rows._replace(seed=tf.bitcast(own_seed, tf.int32)))[0]
        height, width, channels = image.shape[1:]
        tiles = tf.reshape(image, [-1, NUM_COLUMNS, NUM_COLUMNS, height, width, channels])
        tiles = tf.transpose(tiles, [0, 1, 3, 2, 4, 5])
        return {"image_bytes": tf.io.encode_png(tf.reshape(tiles, [-1, NUM_COLUMNS * height, NUM_COLUMNS * width, channels]))}

    def _xla(self, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        # XLA supports neither strings nor PNG, so they stay outside.
        compiled = tf.function(self._from_start, autograph=False, jit_compile=True)
        return as_outputs(*compiled(*self._rows(label, seed, tf.fill(tf.shape(seed), self._plan.num_steps))))

    def _rows(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> Rows:
        sizes = [tf.size(each) for each in (label, seed, num_steps)]
        is_even = tf.reduce_all(tf.equal(sizes, sizes[0])) & (sizes[0] > 0)
        with tf.control_dependencies([_checked(is_even, "label, seed, num_steps: expected one of each per row")]):
            label, seed, num_steps = (tf.reshape(each, [-1]) for each in (label, seed, num_steps))
        # Invalid UTF-8 is an unknown label like any other; `lower` would raise its own error.
        is_short = tf.strings.length(label) <= MAX_LABEL
        text = tf.strings.unicode_transcode(tf.where(is_short, label, ""), "UTF-8", "UTF-8")
        key = tf.strings.regex_replace(tf.strings.lower(tf.strings.strip(text), "utf-8"), "[ -]", "_")  # `labels.as_key`
        # Exact names first: two names may differ only in case.
        is_match = tf.concat([text[:, None] == tf.constant(self.names), key[:, None] == tf.constant(self._keys)], 1)
        is_match &= is_short[:, None]
        is_known = tf.reduce_any(is_match, 1)
        unknown = tf.boolean_mask(label, ~is_known)[:3]
        # The pattern is a tensor: with a constant one the op would be one of savers, which `serve` could not tell from them.
        is_plain = (tf.strings.length(unknown) <= MAX_SHOWN) & tf.strings.regex_full_match(unknown, tf.constant(_SHOWN))
        shown = tf.where(is_plain, unknown, _NOT_SHOWN)
        named = tf.debugging.Assert(tf.reduce_all(is_known), [named_labels(self._plan.labels), shown], summarize=3)
        most = self._plan.max_steps
        counted = _checked(tf.reduce_all((num_steps >= 0) & (num_steps <= most)), f"num_steps: expected 0 to {most}")
        with tf.control_dependencies([named, counted]):
            entry = tf.gather(self._entry_of_match, tf.argmax(is_match, 1))
            seed, num_steps = tf.identity(seed), tf.identity(num_steps)
        return Rows(
            tf.gather(self._plan.indices, entry),
            tf.gather(tf.constant(self._plan.step_sizes, tf.float32), entry),
            tf.bitcast(seed, tf.int32),
            num_steps,
        )

    def _posterior(self, index: tf.Tensor) -> ClassPosterior:
        return ClassPosterior.of(self._networks, index, self._plan.temperature)

    def _from_start(self, *rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Run `_chains` from a new start for each row."""
        given = Rows(*rows)
        chains: tuple[tf.Tensor, ...] = self._chains_fn(*given, self._start_fn(given.index, given.seed), CHAIN_STREAM)
        return chains

    def _start(self, index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return z [B, latent_dim], computed row by row, so that only one row's prior draws are in memory."""

        def of_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            posterior = self._posterior(row[0])
            seed = fold_in(posterior.own_seed(row[1]), START_STREAM)
            return start_point(posterior, self._plan.num_start_draws, seed)

        point = tf.TensorSpec([self._networks.generator.latent_dim])
        return tf.map_fn(of_row, (index, seed), fn_output_signature=point, parallel_iterations=1)

    def _chains(self, *given: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Run one chain per row.

        Args:
          *given: The fields of `Rows`, z [B, latent_dim] to start from, and the stream of the noise.

        Returns:
          uint8 images [B, height, width, channels], and class_prob [B], z [B, latent_dim], target_log_prob [B] and
          accept_rate [B] after each row's number of steps.
        """
        *rows, stream = given
        generator, scalar = self._networks.generator, tf.TensorSpec([])
        image = tf.TensorSpec(generator.image_shape, tf.uint8)  # type: ignore[attr-defined]
        chains: tuple[tf.Tensor, ...] = tf.map_fn(
            lambda row: self._chain(Rows(*row[:-1]), row[-1], stream),
            tuple(rows),
            fn_output_signature=(image, scalar, tf.TensorSpec([generator.latent_dim]), scalar, scalar),
            parallel_iterations=PARALLEL_ROWS,
        )
        return chains

    def _chain(self, row: Rows, z: tf.Tensor, stream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Run the chain of one row, as a batch of one."""
        posterior = self._posterior(row.index)
        seed = fold_in(posterior.own_seed(row.seed), stream)

        def step(i: tf.Tensor, point: Point, total: tf.Tensor) -> tuple[tf.Tensor, Point, tf.Tensor]:
            noise = noise_of(fold_in(seed, i), posterior.latent_dim)
            point, log_accept_ratio = hamiltonian_step(posterior, self._plan.num_leapfrog_steps, row.step_size, point, noise)
            return i + 1, point, total + tf.exp(tf.minimum(log_accept_ratio, 0.0))

        _, end, total = tf.while_loop(
            lambda i, *_: i < row.num_steps,
            step,
            (tf.constant(0), point_at(posterior, z[None]), tf.zeros([1])),
            parallel_iterations=1,
        )
        accept_rate = tf.math.divide_no_nan(total, tf.cast(row.num_steps, tf.float32))
        class_prob = posterior.class_prob_of(end.z, end.target_log_prob)
        # The same as `images.to_uint8`, which uses NumPy.
        image = tf.saturate_cast(tf.round((self._networks.generator(end.z) + 1.0) * 127.5), tf.uint8)
        return image[0], class_prob[0], end.z[0], end.target_log_prob[0], accept_rate[0]


def _checked(is_right: tf.Tensor, text: str) -> tf.Operation:
    """Return an op that fails with INVALID_ARGUMENT and `text` unless `is_right`."""
    return tf.debugging.Assert(is_right, [text])


def noise_of(seed: tf.Tensor, latent_dim: int) -> Noise:
    """Return the noise of one transition of one chain, from a stateless `seed` int32 [2]."""
    return Noise(
        tf.random.stateless_normal([1, latent_dim], fold_in(seed, 0)),
        log_uniform([1], fold_in(seed, 1)),
    )


def named_labels(labels: tuple[Label, ...]) -> str:
    """Return the beginning of the error for an unknown label, which lists as many labels as fit."""
    sizes = itertools.accumulate(len(label.name.encode()) + 2 for label in labels)
    count = sum(size <= MAX_NAMED for size in sizes)
    listed = ", ".join(label.name for label in labels[:count])
    if count < len(labels):
        listed = f"{listed} and {len(labels) - count} more (all are in export.json)" if count else "export.json"
    return f"label: expected a name, WordNet id or index of {listed}; got"


def as_outputs(
    image: tf.Tensor, class_prob: tf.Tensor, z: tf.Tensor, target_log_prob: tf.Tensor, accept_rate: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the outputs of a signature from uint8 images and their chains."""
    return {
        "image_bytes": tf.io.encode_png(image),  # TF Serving encodes outputs named *_bytes as base64
        "class_prob": class_prob,
        "target_log_prob": target_log_prob,
        "accept_rate": accept_rate,
        "z": z,
    }
