"""What a run samples: a class of a classifier, or a condition on the classes of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier, is_condition, parse_condition
from tfgradgen.models.expression import And, Class, Expression, Phrase
from tfgradgen.models.labels import find_label, resolve_labels, split_names
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

    @property
    def is_class(self) -> bool:
        """Whether it is a class of a classifier, not a condition."""
        return not isinstance(self.classifier, ConditionClassifier)

    @property
    def alone(self) -> str | None:
        """What names this target alone for `targets_of`, beside the text if it has one; None for a text alone."""
        if not isinstance(self.classifier, ConditionClassifier):
            is_own = resolve_labels(self.classifier.labels, self.label.name) == [self.index]  # a class may have the name 'all'
            return self.label.name if is_own else str(self.index)
        expression, is_always = self.classifier.expression, not self.classifier.classifiers[0].is_exclusive
        if isinstance(expression, Phrase):
            return None
        if isinstance(expression, And) and isinstance(expression.of[-1], Phrase):
            others, is_always = expression.of[:-1], True
            expression = And(others) if len(others) > 1 else others[0]
        # Without brackets, the name of a class is the class unless it is always a condition; and 'all' is all classes.
        is_name = isinstance(expression, Class) and (not is_always or str(expression).lower() == "all")
        return f"({expression})" if is_name else str(expression)


def targets_of(classifiers: Sequence[Classifier], wanted: Any, text: Any = None) -> list[Target]:
    """Return the targets that `wanted` names: classes of the first classifier, or conditions on the classes of all.

    A class that is named beside conditions is the same target as by itself. In brackets, as in `(goldfish)`, it is a condition.
    With a text, or if the classes of the first classifier do not exclude each other, each target is a condition. No target
    occurs twice.

    Args:
      classifiers: At least one.
      wanted: What `labels.resolve_labels` takes, or conditions. None for the text alone.
      text: A `text.TextClassifier`; its text is then a further condition of each target. None for no text.

    Raises:
      UserError: No classifier has such a class, or the condition has a syntax error.
    """
    if text is not None:
        return [Target(each, 1, each.labels[1]) for each in with_text(classifiers, wanted, text)]
    if not classifiers[0].is_exclusive:
        return [_condition(classifiers, each) for each in _expressions(classifiers, wanted)]
    labelled = [classifier.labels for classifier in classifiers]
    if not is_condition(wanted, labelled):
        return [_class(classifiers, index) for index in resolve_labels(labelled[0], wanted)]
    found = [_class_or_condition(labelled, part) for part in split_names(labelled, wanted)]
    return [
        _class(classifiers, each) if isinstance(each, int) else _condition(classifiers, each) for each in dict.fromkeys(found)
    ]


def with_text(classifiers: Sequence[Classifier], wanted: Any, text: Any) -> list[ConditionClassifier]:
    """Return each condition that `wanted` names together with a text; for None the text alone. See `targets_of`."""
    if wanted is None:
        return [ConditionClassifier([text], Phrase(0, 1, text.text))]
    phrase = Phrase(len(classifiers), 1, text.text)
    parts = [each.of if isinstance(each, And) else (each,) for each in _expressions(classifiers, wanted)]
    return [ConditionClassifier([*classifiers, text], And((*part, phrase))) for part in parts]


def _class(classifiers: Sequence[Classifier], index: int) -> Target:
    return Target(classifiers[0], index, classifiers[0].labels[index])


def condition_target(classifiers: Sequence[Classifier], text: str) -> Target:
    """Return the target of one condition. Here the name of a class, too, is a condition.

    Raises:
      UserError: No classifier has such a class, or the condition has a syntax error.
    """
    return _condition(classifiers, parse_condition(text, [classifier.labels for classifier in classifiers]))


def _condition(classifiers: Sequence[Classifier], expression: Expression) -> Target:
    made = ConditionClassifier(classifiers, expression)
    return Target(made, 1, made.labels[1])


def _class_or_condition(labelled: Sequence[Sequence[Label]], part: str) -> int | Expression:
    """Return the index of the class of the first classifier that `part` names, otherwise the condition."""
    index = None if is_condition(part, labelled) else find_label(labelled[0], part.strip())
    return parse_condition(part, labelled) if index is None else index


def _expressions(classifiers: Sequence[Classifier], wanted: Any) -> list[Expression]:
    """Return what `wanted` names as conditions; each class is one of its own."""
    labelled = [classifier.labels for classifier in classifiers]
    if is_condition(wanted, labelled):
        return [parse_condition(part, labelled) for part in split_names(labelled, wanted)]
    return [Class(0, index, labelled[0][index].name) for index in resolve_labels(labelled[0], wanted)]
