"""The checks at prior draws that judge what a classifier returns."""

from typing import Any

import pytest
import tensorflow as tf

from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.core.config import RunConfig
from tfgradgen.diagnostics.model_checks import admit
from tfgradgen.posterior import ClassPosterior


@pytest.mark.parametrize(("of_logits", "is_said"), [(tf.nn.softmax, True), (tf.nn.log_softmax, False), (tf.identity, False)])
def test_probabilities_in_the_place_of_logits_are_said(of_logits: Any, is_said: bool) -> None:
    class Classifier(ToyClassifier):
        def __call__(self, image: Any) -> Any:
            return of_logits(super().__call__(image))

    lines = admit(ClassPosterior(ToyGenerator(), Classifier(), 1), RunConfig(), takes_gradients=False).warnings
    assert any(line.startswith("logits: ") and "softmax" in line for line in lines) == is_said
