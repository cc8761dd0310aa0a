"""Comparison of methods: how natural and diverse their images of a class are, by the same measures for all."""
