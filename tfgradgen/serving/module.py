"""The module that is exported: every row of a batch is a label and a seed, and a chain of its own.

A row is evaluated by itself, with noise from its own seed, so that its bits are the same in any batch, at any place in it. Rows
through the networks together would be faster on one core, but a network adds up a picture's numbers in another order at another
place or in another size of batch, and after some tens of accepted and refused proposals a last bit has become another picture.
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

# A server rejects nothing, so a chain that goes on from a given z has that stream: other noise than the one that led there.
START_STREAM, CHAIN_STREAM, CONTINUE_STREAM = int(Stream.STARTS), int(Stream.CHAINS), int(Stream.REJECTION)
MAX_NAMED = 1000  # bytes of class names in an error: gRPC carries a message in 8 KB of metadata, each byte as up to three
MAX_LABEL = 4 * MAX_NAME  # bytes of a label that can be one
MAX_SHOWN = 100  # bytes of an unknown label that an error repeats
_SHOWN = r"[\pL\pM\pN _.,;:'&()+|!*@/-]*"  # a label that an error repeats: nothing that could steer a terminal
_NOT_SHOWN = "a text that is too long or not printable"
NUM_COLUMNS = 4  # of a sheet, and as many rows
PARALLEL_ROWS = 16  # chains under way at once, which cores share; a chain's evaluations are in turn


class Plan(NamedTuple):
    """What an export fixes.

    labels: the classes that can be asked for. indices: their outputs of the classifier. step_sizes: theirs, distances in z.
    num_leapfrog_steps: in one transition. temperature: of the likelihood. num_steps: transitions of
    `serving_default`; max_steps: most that a request can ask for. num_start_draws: prior draws that a start is picked from.
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
    """What a request asks of each row. index: int32 [B], output of the classifier. step_size: [B]. seed: int32 [B, 2].
    num_steps: int32 [B], in 0..max_steps."""

    index: tf.Tensor
    step_size: tf.Tensor
    seed: tf.Tensor
    num_steps: tf.Tensor


def spec(name: str, dtype: Any, *inner: int) -> tf.TensorSpec:
    """Of an input [B, *inner]."""
    return tf.TensorSpec([None, *inner], dtype, name)


class Serving(tf.Module):  # type: ignore[misc]
    """Chains as functions of tensors; `signatures` has them by name.

    Args:
      networks: what every label's chains evaluate, with pictures [height, width, 1, 3 or 4 channels].
      models: the loaded SavedModels behind them, whose variables are saved along.
      plan: see there.
    """

    def __init__(self, networks: Networks, models: Any, plan: Plan):
        super().__init__(name="serving")
        self._networks, self._plan, self._models = networks, plan, list(models)
        names = [(as_key(name), k) for k, label in enumerate(plan.labels) for name in (label.name, label.wnid) if name]
        if not isinstance(networks.classifier, ConditionClassifier):  # a composed condition is no output of a model
            names += [(str(index), k) for k, index in enumerate(plan.indices)]
        self._keys = [key for key, _ in names]
        self._entry_of_match = [*range(len(plan.labels)), *(k for _, k in names)]
        rows = Rows(
            spec("index", tf.int32), spec("step_size", tf.float32), spec("row_seed", tf.int32, 2), spec("steps", tf.int32)
        )
        z = spec("z", tf.float32, networks.generator.latent_dim)

        def compiled(fn: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
            return tf.function(fn, list(specs), autograph=False)

        # One function each, so that the graph holds the networks once, whatever the signatures.
        self._start_fn = compiled(self._start, rows.index, rows.seed)
        self._chains_fn = compiled(self._chains, *rows, z, tf.TensorSpec([], tf.int32, "stream"))

    def signatures(self, xla: bool = False) -> dict[str, Any]:
        """Name -> function of named tensors, each [B, ...], to named tensors [B, ...].

        serving_default: label (a name, WordNet id or index), seed int64 -> image_bytes (PNG), class_prob, target_log_prob
        (nats), accept_rate (mean acceptance probability, 0 of no steps) and z, after `Plan.num_steps` transitions.
        sample: the same of label, seed and num_steps int32, in 0..`Plan.max_steps`.
        continue: label, seed, num_steps and z, to go on from; its noise is not that of `sample` with that seed, and each call
        is to have a seed of its own.
        grid: label, seed, num_steps -> image_bytes, a sheet for each row: the pictures of seed, seed + 1, ..., row by row.
        serving_xla: serving_default compiled by XLA, which draws other numbers from a seed; only with `xla`.

        An INVALID_ARGUMENT, short and printable, is: an unknown label, which names those there are; inputs of different
        lengths, or of none; num_steps out of its range; a z of another width or one that is not finite.
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
        """Of the labels that can be asked for."""
        return [label.name for label in self._plan.labels]

    def _default(self, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._sample(label, seed, tf.fill(tf.shape(seed), self._plan.num_steps))

    def _sample(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return as_outputs(*self._from_start(*self._rows(label, seed, num_steps)))

    def _continue(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor, z: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self._rows(label, seed, num_steps)
        width = self._networks.generator.latent_dim
        # What the signature promises of its width is taken for granted, and a check of that left out, unless it is hidden.
        z = tf.compat.v1.placeholder_with_default(z, [None, None])
        is_fit = (tf.size(z) == width * tf.size(rows.seed) // 2) & tf.reduce_all(tf.math.is_finite(z))
        checks = [_checked(is_fit, f"z: expected {width} finite numbers a row")]
        with tf.control_dependencies(checks):
            z = tf.reshape(z, [-1, width])
        return as_outputs(*self._chains_fn(*rows, z, CONTINUE_STREAM))

    def _grid(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        count = NUM_COLUMNS**2
        asked = Rows(*(tf.repeat(each, count, 0) for each in self._rows(label, seed, num_steps)))
        own_seed = tf.reshape(tf.reshape(seed, [-1, 1]) + tf.range(count, dtype=tf.int64), [-1])
        image = self._from_start(*asked._replace(seed=tf.bitcast(own_seed, tf.int32)))[0]
        height, width, channels = image.shape[1:]
        tiles = tf.reshape(image, [-1, NUM_COLUMNS, NUM_COLUMNS, height, width, channels])
        tiles = tf.transpose(tiles, [0, 1, 3, 2, 4, 5])
        return {"image_bytes": tf.io.encode_png(tf.reshape(tiles, [-1, NUM_COLUMNS * height, NUM_COLUMNS * width, channels]))}

    def _xla(self, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        # Text and PNG stay outside: XLA knows neither.
        compiled = tf.function(self._from_start, autograph=False, jit_compile=True)
        return as_outputs(*compiled(*self._rows(label, seed, tf.fill(tf.shape(seed), self._plan.num_steps))))

    def _rows(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> Rows:
        sizes = [tf.size(each) for each in (label, seed, num_steps)]
        is_even = tf.reduce_all(tf.equal(sizes, sizes[0])) & (sizes[0] > 0)
        with tf.control_dependencies([_checked(is_even, "label, seed, num_steps: expected one of each for every row")]):
            label, seed, num_steps = (tf.reshape(each, [-1]) for each in (label, seed, num_steps))
        # What is no UTF-8 is unknown like any other text; `lower` would raise an error of its own.
        is_short = tf.strings.length(label) <= MAX_LABEL
        text = tf.strings.unicode_transcode(tf.where(is_short, label, ""), "UTF-8", "UTF-8")
        key = tf.strings.regex_replace(tf.strings.lower(tf.strings.strip(text), "utf-8"), "[ -]", "_")  # `labels.as_key`
        # Exact names first: two may differ in their case alone.
        is_match = tf.concat([text[:, None] == tf.constant(self.names), key[:, None] == tf.constant(self._keys)], 1)
        is_match &= is_short[:, None]
        is_known = tf.reduce_any(is_match, 1)
        unknown = tf.boolean_mask(label, ~is_known)[:3]
        is_plain = (tf.strings.length(unknown) <= MAX_SHOWN) & tf.strings.regex_full_match(unknown, _SHOWN)
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
        """What `_chains` gives, from starts of the rows' own."""
        asked = Rows(*rows)
        chains: tuple[tf.Tensor, ...] = self._chains_fn(*asked, self._start_fn(asked.index, asked.seed), CHAIN_STREAM)
        return chains

    def _start(self, index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """z [B, latent_dim], row after row, so that no more than one row's draws are held at once."""

        def of_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            posterior = self._posterior(row[0])
            seed = fold_in(posterior.own_seed(row[1]), START_STREAM)
            return start_point(posterior, self._plan.num_start_draws, seed)

        point = tf.TensorSpec([self._networks.generator.latent_dim])
        return tf.map_fn(of_row, (index, seed), fn_output_signature=point, parallel_iterations=1)

    def _chains(self, *given: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """A chain for each of `Rows`, from z [B, latent_dim], its noise of `stream`, which come last.

        Returns:
          uint8 pictures [B, height, width, channels], and class_prob [B], z [B, latent_dim], target_log_prob [B] and
          accept_rate [B] after the rows' own numbers of steps.
        """
        *rows, stream = given
        generator, scalar = self._networks.generator, tf.TensorSpec([])
        picture = tf.TensorSpec(generator.image_shape, tf.uint8)  # type: ignore[attr-defined]
        chains: tuple[tf.Tensor, ...] = tf.map_fn(
            lambda row: self._chain(Rows(*row[:-1]), row[-1], stream),
            tuple(rows),
            fn_output_signature=(picture, scalar, tf.TensorSpec([generator.latent_dim]), scalar, scalar),
            parallel_iterations=PARALLEL_ROWS,
        )
        return chains

    def _chain(self, row: Rows, z: tf.Tensor, stream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What `_chains` gives, of one row: a batch of one through the networks."""
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
        # As `images.to_uint8`, which is no graph.
        image = tf.saturate_cast(tf.round((self._networks.generator(end.z) + 1.0) * 127.5), tf.uint8)
        return image[0], class_prob[0], end.z[0], end.target_log_prob[0], accept_rate[0]


def _checked(is_right: tf.Tensor, text: str) -> tf.Operation:
    """An INVALID_ARGUMENT that says `text` where it is not."""
    return tf.debugging.Assert(is_right, [text])


def noise_of(seed: tf.Tensor, latent_dim: int) -> Noise:
    """Noise of one transition of one chain, from a stateless `seed` int32 [2]."""
    return Noise(
        tf.random.stateless_normal([1, latent_dim], fold_in(seed, 0)),
        log_uniform([1], fold_in(seed, 1)),
    )


def named_labels(labels: tuple[Label, ...]) -> str:
    """The start of the error for an unknown label; names the labels as far as they fit."""
    sizes = itertools.accumulate(len(label.name.encode()) + 2 for label in labels)
    count = sum(size <= MAX_NAMED for size in sizes)
    listed = ", ".join(label.name for label in labels[:count])
    if count < len(labels):
        listed = f"{listed} and {len(labels) - count} more, all of which stand in export.json" if count else "export.json"
    return f"label: expected a name, WordNet id or index of {listed}; got"


def as_outputs(
    image: tf.Tensor, class_prob: tf.Tensor, z: tf.Tensor, target_log_prob: tf.Tensor, accept_rate: tf.Tensor
) -> dict[str, tf.Tensor]:
    """What a signature gives of uint8 pictures and their chains."""
    return {
        "image_bytes": tf.io.encode_png(image),  # TF Serving gives names in _bytes as base64
        "class_prob": class_prob,
        "target_log_prob": target_log_prob,
        "accept_rate": accept_rate,
        "z": z,
    }
