"""A function of a batch, evaluated a few rows at a time: models of one fixed batch size, and memory that is short."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def by_parts(fn: Callable[[Any], Any], size: int) -> Callable[[Any], Any]:
    """`fn`, rows [B, ...] float32 -> [B, ...] float32, each for itself, as calls with exactly `size` rows one after another.

    Rows that fill up the last call repeat the last row and are thrown away. Values and gradients are those of one call but for
    rounding. Neither pass holds more than one call's intermediates: the gradient evaluates `fn` again, part by part, which
    costs a further forward pass.
    """

    def apply(part_fn: Callable[..., Any], *rows: tf.Tensor) -> tf.Tensor:
        first = rows[0]
        num_rows = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        num_parts = -(-num_rows // size)
        spare = num_parts * size - num_rows

        def parts_of(x: tf.Tensor) -> tf.Tensor:
            filler = tf.repeat(x[-1:], spare, axis=0)
            return tf.reshape(tf.concat([x, filler], 0), [num_parts, size, *x.shape[1:]])

        spec = tf.function(part_fn, autograph=False).get_concrete_function(
            *(tf.TensorSpec([size, *x.shape[1:]], x.dtype) for x in rows)
        )
        out = tf.map_fn(
            lambda xs: spec(*xs),
            tuple(parts_of(x) for x in rows),
            parallel_iterations=1,  # one part's intermediates at a time is the purpose
            fn_output_signature=tf.TensorSpec(spec.output_shapes, spec.output_dtypes),
        )
        return tf.reshape(out, tf.concat([[num_parts * size], out.shape[2:]], 0))[:num_rows]

    def gradient_part(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = fn(x)
        gradient = tape.gradient(out, x, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return gradient

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def split(x: tf.Tensor) -> Any:
        def backward(upstream: tf.Tensor, variables: Any = None) -> Any:
            gradient = apply(gradient_part, x, upstream)
            return gradient if variables is None else (gradient, [None] * len(variables))

        return apply(fn, x), backward

    return lambda x: split(tf.convert_to_tensor(x, tf.float32))
