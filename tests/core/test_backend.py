"""Compiled functions: many of the same code are no reason for TensorFlow's warning about retracing."""

import logging
from typing import Any

import pytest
import tensorflow as tf

from tfgradgen.core.backend import compile_fn


def warned(compile_one: Any, caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether TensorFlow warns when ten functions with the same code are traced once each, by a user's logger."""
    logger = tf.get_logger()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger.name):
        logger.addHandler(caplog.handler)
        try:
            for factor in range(10):
                scaled = compile_one(lambda x, factor=factor: factor * x)
                assert scaled(tf.constant(2.0)).numpy() == 2.0 * factor
        finally:
            logger.removeHandler(caplog.handler)
    return "retracing" in caplog.text


def test_functions_of_many_models_are_not_taken_for_one_that_is_retraced(caplog: pytest.LogCaptureFixture) -> None:
    assert warned(lambda fn: tf.function(fn, autograph=False), caplog)
    assert not warned(compile_fn, caplog)


def test_loops_over_tensors_and_settings_are_taken() -> None:
    def total(count: tf.Tensor) -> tf.Tensor:
        found = tf.constant(0)
        for k in tf.range(count):
            found += k
        return found

    assert compile_fn(total, autograph=True, jit_compile=True)(tf.constant(5)).numpy() == 10
