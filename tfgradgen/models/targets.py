"""What a run samples: a class of a classifier, or a condition on the classes of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier, is_condition, parse_condition
from tfgradgen.models.labels import resolve_labels, split_names
from tfgradgen.models.loading.metadata import Label


@dataclass(frozen=True)
class Target:
    """What one run samples.

    Attributes:
      classifier: The classifier.
      index: One of its outputs.
      label: The label of that output.
    """

    classifier: Classifier | ConditionClassifier
    index: int
    label: Label


def targets_of(classifiers: Sequence[Classifier], wanted: Any) -> list[Target]:
    """Return the targets that `wanted` names: classes of the first classifier, or conditions on the classes of all.

    Raises:
      UserError: No classifier has such a class, or the condition has a syntax error.
    """
    labelled = [classifier.labels for classifier in classifiers]
    if is_condition(wanted, labelled):
        return [_condition(classifiers, part, labelled) for part in split_names(labelled, wanted)]
    first = classifiers[0]
    indices = resolve_labels(first.labels, wanted)
    if not first.is_exclusive:  # each class is a condition of its own
        return [_condition(classifiers, str(index), labelled) for index in indices]
    return [Target(first, index, first.labels[index]) for index in indices]


def _condition(classifiers: Sequence[Classifier], text: str, labelled: Sequence[Sequence[Label]]) -> Target:
    classifier = ConditionClassifier(classifiers, parse_condition(text, labelled))
    return Target(classifier, 1, classifier.labels[1])
