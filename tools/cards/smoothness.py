"""How steep a generator is: MCMC lives on smoothness."""

import numpy as np
import tensorflow as tf


def spectral_norms(generator_fn, z):
    """The spectral norm of d image / d z at each row of `z [N, latent_dim]`, from the whole Jacobian."""
    dim = z.shape[1]

    @tf.function(autograph=False)
    def largest(tiled):
        # d image / d z times each unit vector: the derivative of a vector-Jacobian product by its vector.
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
