"""Measures the compiled samplers on a machine that has a GPU and JAX but no TensorFlow."""
