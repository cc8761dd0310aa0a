"""Measurements for the model cards."""
