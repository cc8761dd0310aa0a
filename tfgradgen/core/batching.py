"""Evaluation of a function on a batch a few rows at a time, for models of a fixed batch size and for little memory."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def batched_rows(fn: Callable[..., Any], size: int, *rows: tf.Tensor, num_parallel: int = 1) -> tf.Tensor:
    """Return `fn(*rows)`, evaluated on exactly `size` rows at a time.

    The results do not depend on `num_parallel`, which bounds how many calls keep their intermediates at the same time.

    Use `map_batched` where a gradient is wanted.

    Args:
      fn: See `map_batched`; it may take several tensors.
      size: Rows of a call. The last call is padded with copies of the last row, whose results are dropped.
      *rows: Tensors [B, ...] of the same B.
      num_parallel: Maximum number of calls that run at the same time.
    """
    first = rows[0]
    num_rows = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
    num_parts = -(-num_rows // size)
    spare = num_parts * size - num_rows

    def parts_of(x: tf.Tensor) -> tf.Tensor:
        filler = tf.repeat(x[-1:], spare, axis=0)
        return tf.reshape(tf.concat([x, filler], 0), [num_parts, size, *x.shape[1:]])

    spec = tf.function(fn, autograph=False).get_concrete_function(*(tf.TensorSpec([size, *x.shape[1:]], x.dtype) for x in rows))
    out = tf.map_fn(
        lambda xs: spec(*xs),
        tuple(parts_of(x) for x in rows),
        parallel_iterations=num_parallel,
        fn_output_signature=tf.TensorSpec(spec.output_shapes, spec.output_dtypes),
    )
    return tf.reshape(out, tf.concat([[num_parts * size], out.shape[2:]], 0))[:num_rows]


def map_batched(fn: Callable[[Any], Any], size: int) -> Callable[[Any], Any]:
    """Return `fn` as a function that calls it on exactly `size` rows at a time.

    Values and gradients agree with a single call up to rounding. Neither pass keeps the intermediates of more than one call:
    the gradient evaluates `fn` again, which costs one more forward pass.

    Args:
      fn: [B, ...] float32 -> [B, ...] float32; each row of its result depends on the same row of its argument only.
      size: Rows of a call. The last call is padded with copies of the last row, whose results are dropped.
    """

    def gradient_part(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = fn(x)
        gradient = tape.gradient(out, x, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return gradient

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def split(x: tf.Tensor) -> Any:
        def backward(upstream: tf.Tensor, variables: Any = None) -> Any:
            gradient = batched_rows(gradient_part, size, x, upstream)
            return gradient if variables is None else (gradient, [None] * len(variables))

        return batched_rows(fn, size, x), backward

    return lambda x: split(tf.convert_to_tensor(x, tf.float32))
