"""Smoothness of a generator, on which gradient-based MCMC depends."""

import numpy as np
import tensorflow as tf


def spectral_norms(generator_fn, z):
    """Return the spectral norm of d image / d z at each row of `z [N, latent_dim]`, from the full Jacobian."""
    dim = z.shape[1]

    @tf.function(autograph=False)
    def largest(tiled):
        # d image / d z times each unit vector, as the derivative of a vector-Jacobian product with respect to its vector.
        with tf.GradientTape() as outer:
            dummy = tf.zeros_like(generator_fn(tiled))
            outer.watch(dummy)
            with tf.GradientTape() as inner:
                inner.watch(tiled)
                image = generator_fn(tiled)
            back = inner.gradient(image, tiled, output_gradients=dummy)
        columns = tf.reshape(outer.gradient(back, dummy, output_gradients=tf.eye(dim)), [dim, -1])
        return tf.sqrt(tf.linalg.eigvalsh(columns @ tf.transpose(columns))[-1])

    return np.array([float(largest(tf.tile(point[None], [dim, 1]))) for point in tf.constant(z, tf.float32)])
