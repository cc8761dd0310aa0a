"""What a run samples: a class of a classifier, or a condition on the classes of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier, is_condition, parse_condition
from tfgradgen.models.expression import And, Class, Expression, Phrase
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


def targets_of(classifiers: Sequence[Classifier], wanted: Any, text: Any = None) -> list[Target]:
    """Return the targets that `wanted` names: classes of the first classifier, or conditions on the classes of all.

    Args:
      classifiers: At least one.
      wanted: What `labels.resolve_labels` takes, or conditions. None for the text alone.
      text: A `text.TextClassifier`; its text is then a further condition of each target. None for no text.

    Raises:
      UserError: No classifier has such a class, or the condition has a syntax error.
    """
    if text is not None:
        return [Target(each, 1, each.labels[1]) for each in with_text(classifiers, wanted, text)]
    first = classifiers[0]
    if is_condition(wanted, [classifier.labels for classifier in classifiers]) or not first.is_exclusive:
        found = [ConditionClassifier(classifiers, each) for each in _expressions(classifiers, wanted)]
        return [Target(each, 1, each.labels[1]) for each in found]
    return [Target(first, index, first.labels[index]) for index in resolve_labels(first.labels, wanted)]


def with_text(classifiers: Sequence[Classifier], wanted: Any, text: Any) -> list[ConditionClassifier]:
    """Return each condition that `wanted` names together with a text; for None the text alone. See `targets_of`."""
    if wanted is None:
        return [ConditionClassifier([text], Phrase(0, 1, text.text))]
    phrase = Phrase(len(classifiers), 1, text.text)
    parts = [each.of if isinstance(each, And) else (each,) for each in _expressions(classifiers, wanted)]
    return [ConditionClassifier([*classifiers, text], And((*part, phrase))) for part in parts]


def _expressions(classifiers: Sequence[Classifier], wanted: Any) -> list[Expression]:
    """Return what `wanted` names as conditions; each class is one of its own."""
    labelled = [classifier.labels for classifier in classifiers]
    if is_condition(wanted, labelled):
        return [parse_condition(part, labelled) for part in split_names(labelled, wanted)]
    return [Class(0, index, labelled[0][index].name) for index in resolve_labels(labelled[0], wanted)]
