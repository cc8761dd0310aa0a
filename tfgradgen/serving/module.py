"""The exported module: each row of a batch is a label and a seed, and runs its own chain.

Each row has noise from its own seed, so that its bits depend neither on the batch nor on its position in it; `chains` says how
that is kept when rows go through the networks together.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfgradgen.core.backend import Stream, fold_in
from tfgradgen.core.contracts import Networks
from tfgradgen.mcmc.starts import start_point
from tfgradgen.media.encoded import bytes_name, encoder_of
from tfgradgen.media.registry import medium_of
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.labels import as_key
from tfgradgen.models.loading.metadata import MAX_NAME, Label
from tfgradgen.posterior import ClassPosterior
from tfgradgen.serving.chains import Ends, Plan, Rows, distinct, place_of, places_of, run_together

# A server does no rejection sampling, so a chain that continues from a given z uses that stream. It needs fresh noise.
START_STREAM, CHAIN_STREAM, CONTINUE_STREAM = int(Stream.STARTS), int(Stream.CHAINS), int(Stream.REJECTION)
MAX_NAMED = 1000  # bytes of class names in an error: gRPC allows 8 KB of metadata, and encodes a byte as up to three
MAX_LABEL = 4 * MAX_NAME  # bytes of the longest possible label
MAX_SHOWN = 100  # bytes of an unknown label that an error repeats
_SHOWN = r"[\pL\pM\pN _.,;:'&()+|!*@/-]*"  # labels that an error repeats; none can control a terminal
_NOT_SHOWN, _EMPTY = "a text that is too long or not printable", "an empty text"
MAX_Z = 1000  # largest coordinate of a z to go on from: z is standard normal, and the square of 1e38 overflows
NUM_COLUMNS = 4  # columns, and rows, of a grid
PARALLEL_ROWS = 16  # chains that run in parallel; the evaluations of one chain are sequential
BATCHED = "batched"  # of the names of signatures whose rows go through the networks together


def spec(name: str, dtype: Any, *inner: int) -> tf.TensorSpec:
    """Return the spec of an input [B, *inner]."""
    return tf.TensorSpec([None, *inner], dtype, name)


class Serving(tf.Module):  # type: ignore[misc]
    """Chains as functions of tensors (see `signatures`).

    Args:
      networks: The networks of all labels. Images and clips have 1, 3 or 4 channels.
      models: The loaded SavedModels of the networks, whose variables are exported too.
      plan: The fixed settings.
    """

    def __init__(self, networks: Networks, models: Any, plan: Plan):
        super().__init__(name="serving")
        self._networks, self._plan, self._models = networks, plan, list(models)
        self._medium = medium_of(networks.generator, networks.generator.image_shape)  # type: ignore[attr-defined]
        self._encoder = encoder_of(self._medium)
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

        # Each is one function, so that the graph contains the networks only once for all signatures that call it.
        self._start_fn = compiled(self._start, rows.index, rows.seed)
        stream = tf.TensorSpec([], tf.int32, "stream")
        self._alone_fn = compiled(self._alone, *rows, z, stream)
        self._together_fn = compiled(self._together, *rows, z, stream) if plan.batched else None

    def signatures(self, xla: bool = False) -> dict[str, Any]:
        """Return name -> function from named tensors [B, ...] to named tensors [B, ...].

        serving_default: label (a name, WordNet id or index), seed int64 -> image_bytes (PNG), class_prob, target_log_prob
        (nats), accept_rate (mean acceptance probability, 0 without steps) and z, after `Plan.num_steps` transitions. A
        generator of sounds gives sound_bytes (WAV), one of clips video_bytes (GIF).
        sample: the same from label, seed and num_steps int32, in 0..`Plan.max_steps`.
        continue: the same from label, seed, num_steps and a starting point z. Its noise differs from that of `sample` with the
        same seed; give each call another seed.
        grid: label, seed, num_steps -> image_bytes, one grid per row with the images of seed, seed + 1, ..., row by row; sounds
        one after another.
        serving_batched, sample_batched, continue_batched, grid_batched: the same, with `Plan.batched` rows at a time in the
        networks, from the same noise; only if it is not None.
        serving_xla: serving_default compiled by XLA, whose random numbers for a seed differ; only with `xla`.

        Errors are INVALID_ARGUMENT with a short, printable message: an unknown label (the message lists the labels), inputs of
        different or zero length or of another rank, num_steps out of range, or z of another width, beyond `MAX_Z`, or where the
        density is not finite.
        """
        chosen = self._answers(self._alone_fn)
        if self._together_fn:
            together = self._answers(self._together_fn)
            chosen |= {f"{name.removesuffix('_default')}_{BATCHED}": answer for name, answer in together.items()}
        if xla:
            chosen["serving_xla"] = self._xla, chosen["serving_default"][1]
        return {
            name: tf.function(fn, list(specs), autograph=False).get_concrete_function() for name, (fn, specs) in chosen.items()
        }

    def _answers(self, run_fn: Any) -> dict[str, tuple[Callable[..., Any], tuple[tf.TensorSpec, ...]]]:
        """Return the functions of signatures whose chains `run_fn` runs, with the specs of their inputs."""
        label, seed = spec("label", tf.string), spec("seed", tf.int64)
        steps, z = spec("num_steps", tf.int32), spec("z", tf.float32, self._networks.generator.latent_dim)
        num_steps = self._plan.num_steps
        # The names of arguments are those of the inputs.
        return {
            "serving_default": (
                lambda label, seed: self._sample(run_fn, label, seed, tf.fill(tf.shape(seed), num_steps)),
                (label, seed),
            ),
            "sample": (
                lambda label, seed, num_steps: self._sample(run_fn, label, seed, num_steps),
                (label, seed, steps),
            ),
            "continue": (
                lambda label, seed, num_steps, z: self._continue(run_fn, label, seed, num_steps, z),
                (label, seed, steps, z),
            ),
            "grid": (
                lambda label, seed, num_steps: self._grid(run_fn, label, seed, num_steps),
                (label, seed, steps),
            ),
        }

    @property
    def names(self) -> list[str]:
        """Names of the labels that can be requested."""
        return [label.name for label in self._plan.labels]

    def _sample(self, run_fn: Any, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._outputs(self._from_start(run_fn, self._rows(label, seed, num_steps)))

    def _continue(
        self, run_fn: Any, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor, z: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        rows = self._rows(label, seed, num_steps)
        width = self._networks.generator.latent_dim
        z = _of_any_shape(z)
        # The zeros let a shape of any rank be compared.
        shape = tf.concat([tf.shape(z), [0, 0]], 0)[:2]
        is_fit = (_rank(z) == 2) & tf.reduce_all(tf.equal(shape, [tf.size(rows.index), width]))
        is_fit &= tf.reduce_all(tf.abs(z) <= MAX_Z)  # NaN is not
        with tf.control_dependencies([_checked(is_fit, f"z: expected {width} finite numbers per row, in -{MAX_Z}..{MAX_Z}")]):
            z = tf.reshape(z, [-1, width])
        ends = Ends(*run_fn(*rows, z, CONTINUE_STREAM))
        is_finite = tf.reduce_all(tf.math.is_finite(ends.target_log_prob) & tf.math.is_finite(ends.class_prob))
        with tf.control_dependencies([_checked(is_finite, "z: expected a point of finite density to go on from")]):
            return self._outputs(Ends(*map(tf.identity, ends)))

    def _grid(self, run_fn: Any, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        count = NUM_COLUMNS**2
        rows = Rows(*(tf.repeat(each, count, 0) for each in self._rows(label, seed, num_steps)))
        first = tf.reshape(tf.bitcast(rows.seed, tf.int64), [-1, count])
        own_seed = tf.reshape(first + tf.range(count, dtype=tf.int64), [-1])
        stored = self._from_start(run_fn, rows._replace(seed=tf.bitcast(own_seed, tf.int32))).values
        sheet = self._encoder.sheet_fn(
            tf.reshape(stored, [-1, count, *self._medium.shape]), NUM_COLUMNS, self._medium.used_rate
        )
        return {bytes_name(self._medium): self._encoder.files_fn(sheet, self._medium.used_rate)}

    def _xla(self, label: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        # XLA supports neither strings nor PNG, so they stay outside.
        compiled = tf.function(lambda *rows: self._from_start(self._alone_fn, Rows(*rows)), autograph=False, jit_compile=True)
        return self._outputs(compiled(*self._rows(label, seed, tf.fill(tf.shape(seed), self._plan.num_steps))))

    def _outputs(self, ends: Ends) -> dict[str, tf.Tensor]:
        """Return the outputs of a signature from stored values and their chains."""
        values, *_ = ends
        files = {bytes_name(self._medium): self._encoder.files_fn(values, self._medium.used_rate)}
        return files | {name: value for name, value in ends._asdict().items() if name != "values"}

    def _rows(self, label: tf.Tensor, seed: tf.Tensor, num_steps: tf.Tensor) -> Rows:
        label, seed, num_steps = map(_of_any_shape, (label, seed, num_steps))
        sizes, ranks = ([fn(each) for each in (label, seed, num_steps)] for fn in (tf.size, _rank))
        is_even = tf.reduce_all(tf.equal(sizes, sizes[0])) & (sizes[0] > 0) & tf.reduce_all(tf.equal(ranks, 1))
        with tf.control_dependencies(
            [_checked(is_even, "label, seed, num_steps: expected one of each per row, each as a list of the rows' values")]
        ):
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
        is_empty = tf.strings.length(tf.strings.strip(unknown)) == 0
        shown = tf.where(is_empty, _EMPTY, tf.where(is_plain, unknown, _NOT_SHOWN))
        shown = tf.strings.reduce_join(shown, separator=", ")
        text_of_error = tf.strings.reduce_join([named_labels(self._plan.labels), shown], separator=" ")
        named = _checked(tf.reduce_all(is_known), text_of_error)
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

    def _from_start(self, run_fn: Any, rows: Rows) -> Ends:
        """Run chains from a new start for each row."""
        return Ends(*run_fn(*rows, self._start_fn(rows.index, rows.seed), CHAIN_STREAM))

    def _start(self, index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return z [B, latent_dim], computed row by row, so that only one row's prior draws are in memory."""

        def of_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            posterior = self._posterior(row[0])
            seed = fold_in(posterior.own_seed(row[1]), START_STREAM)
            return start_point(posterior, self._plan.num_start_draws, seed)

        point = tf.TensorSpec([self._networks.generator.latent_dim])
        return tf.map_fn(of_row, (index, seed), fn_output_signature=point, parallel_iterations=1)

    def _alone(self, *given: tf.Tensor) -> Ends:
        """Run one chain per row, each row by itself.

        Args:
          *given: The fields of `Rows`, z [B, latent_dim] to start from, and the stream of the noise.

        Returns:
          Where the chains end, with stored values.
        """
        *rows, stream = given
        batches = [each[:, None] for each in (*rows, self._noise_seeds(Rows(*rows[:-1]), stream))]
        ends = self._run_batches(batches, 1, PARALLEL_ROWS)
        return Ends(*(each[:, 0] for each in ends))

    def _together(self, *given: tf.Tensor) -> Ends:
        """Do as `_alone`, in batches of `Plan.batched` rows. A row has the same place in any request."""
        *rows, z, stream = given
        numbers, equal = distinct(Rows(*rows), z)
        *rows, z = (tf.gather(each, numbers) for each in (*rows, z))
        asked = Rows(*rows)
        size: int = self._plan.batched  # type: ignore[assignment]
        places = places_of(place_of(asked, size), size)
        # At a free place there is a copy of the first row, which takes no steps.
        taken = tf.maximum(places.rows, 0)
        index, step_size, seed, steps, z, noise_seed = (
            tf.gather(each, taken) for each in (*asked, z, self._noise_seeds(asked, stream))
        )
        batches = (index, step_size, seed, tf.where(places.rows < 0, 0, steps), z, noise_seed)
        ends = self._run_batches(batches, size, 1)
        where = tf.gather(tf.stack([places.batch, places.place], 1), equal)
        return Ends(*(tf.gather_nd(each, where) for each in ends))

    def _run_batches(self, batches: Sequence[tf.Tensor], size: int, parallel: int) -> Ends:
        """Run `run_together` on batches [R, size, ...] of the fields of `Rows`, z and seeds of noise. The values are stored."""
        latent_dim = self._networks.generator.latent_dim

        def run(batch: tuple[tf.Tensor, ...]) -> Ends:
            *rows, z, noise_seed = (tf.ensure_shape(each, [size, *each.shape[1:]]) for each in batch)
            ends = run_together(self._networks, self._plan, Rows(*rows), z, noise_seed)
            return ends._replace(values=self._encoder.stored_fn(ends.values))

        one = tf.TensorSpec([size])
        stored = tf.TensorSpec([size, *self._medium.shape], self._encoder.dtype)
        specs = Ends(stored, one, tf.TensorSpec([size, latent_dim]), one, one)
        ends: Ends = tf.map_fn(run, tuple(batches), fn_output_signature=specs, parallel_iterations=parallel)
        return ends

    def _noise_seeds(self, rows: Rows, stream: tf.Tensor) -> tf.Tensor:
        """Return the seed int32 [B, 2] of the noise of each row's chain, which depends on the row and on nothing else."""
        return tf.map_fn(
            lambda row: fold_in(self._posterior(row[0]).own_seed(row[1]), stream),
            (rows.index, rows.seed),
            fn_output_signature=tf.TensorSpec([2], tf.int32),
        )


def _of_any_shape(given: tf.Tensor) -> tf.Tensor:
    """Hide the static shape of an input. Otherwise TensorFlow trusts the signature and drops checks of the shape."""
    return tf.compat.v1.placeholder_with_default(given, None)


def _rank(given: tf.Tensor) -> tf.Tensor:
    """Return the rank that an input has when the graph runs; `tf.rank` would be replaced by that of the signature."""
    return tf.size(tf.shape(given))


def _checked(is_right: tf.Tensor, text: str | tf.Tensor) -> tf.Operation:
    """Return an op that fails with INVALID_ARGUMENT and `text` unless `is_right`."""
    return tf.debugging.Assert(is_right, [text])


def named_labels(labels: tuple[Label, ...]) -> str:
    """Return the beginning of the error for an unknown label, which lists as many labels as fit."""
    sizes = itertools.accumulate(len(label.name.encode()) + 2 for label in labels)
    count = sum(size <= MAX_NAMED for size in sizes)
    listed = ", ".join(label.name for label in labels[:count])
    if count < len(labels):
        listed = f"{listed} and {len(labels) - count} more (all are in export.json)" if count else "export.json"
    return f"label: expected a name, WordNet id or index of {listed}; got"
