"""Scripts for one short call on a machine with a GPU that has JAX and no TensorFlow."""
