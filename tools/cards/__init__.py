"""The figures of the model cards."""
