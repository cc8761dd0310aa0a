"""Resolution of a label (a name, an index, a condition or a list) to a classifier and an index of its outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgradgen.core.checks import check_int, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.condition import ConditionClassifier, is_condition, parse_condition
from tfgradgen.models.expression import Class, Expression
from tfgradgen.models.labels import resolve_labels, split_names
from tfgradgen.models.loading.metadata import Label


def outputs_of(classifier: Any, wanted: Any) -> tuple[Any, int | list[int]]:
    """Return the classifier that answers `wanted` and the index of its output, or one index per chain for several labels.

    Args:
      classifier: Has `num_classes`. Names also need `labels`, one per class; conditions need a classifier from
        `load_classifier`.
      wanted: An index; one or several names (see `resolve_labels`); a condition such as `goldfish & !orange`; or a list, tuple,
        range or array of indices and names, with repetitions allowed.

    Raises:
      UserError: `wanted` is none of these, or the classifier does not have it.
    """
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist()
    if isinstance(wanted, list | tuple | range):
        return _exclusive(classifier, [_index(classifier, item) for item in _not_empty(wanted)])
    if isinstance(wanted, str):
        if not wanted.strip():
            raise fail("label", "the name of a class, an index or a condition", value_text(wanted), "give one")
        labels = _labels_for(classifier, wanted)
        if is_condition(wanted, [labels]):
            parts = split_names([labels], wanted)
            if len(parts) > 1:
                raise fail("label", "one condition, or a list of names", wanted, "create a posterior for each condition")
            return _condition(classifier, parse_condition(parts[0], [labels]))
        found = resolve_labels(labels, wanted)
        return _exclusive(classifier, found if len(found) > 1 else found[0])
    return _exclusive(classifier, _index(classifier, wanted))


def labels_of(classifier: Any) -> Sequence[Label]:
    """Return the labels of `classifier`, whose `labels` may be plain strings; [] if it has none.

    Raises:
      UserError: They are not one per class.
    """
    given = getattr(classifier, "labels", None)
    labels = [] if given is None else [label if isinstance(label, Label) else Label(str(label)) for label in given]
    if labels and len(labels) != classifier.num_classes:
        got = f"{len(labels)} labels for {classifier.num_classes} classes"
        raise fail("classifier", "a label for each class", got, "set its labels to one name for each class")
    return labels


def names_of_classes(classifier: Any) -> list[str]:
    """Return the names of the classes of `classifier`; their indices if it has no labels."""
    return [label.name for label in labels_of(classifier)] or [str(k) for k in range(classifier.num_classes)]


def _labels_for(classifier: Any, wanted: str) -> Sequence[Label]:
    """Return the labels by which `wanted` is resolved; raise `UserError` if there are none."""
    labels = labels_of(classifier)
    if not labels:
        expected = f"an index in 0..{classifier.num_classes - 1}, because the classifier has no labels"
        raise fail("label", expected, wanted, "give an index, or a classifier with labels")
    return labels


def _not_empty(wanted: Sequence[Any]) -> Sequence[Any]:
    if not len(wanted):
        raise fail("label", "at least one label", "none", "give one label for each chain")
    return wanted


def _index(classifier: Any, item: Any) -> int:
    """Return the index of one label, given as an index or a name."""
    if not isinstance(item, str):
        return check_int("label", item, 0, classifier.num_classes - 1)
    labels = _labels_for(classifier, item)
    if is_condition(item, [labels]):
        raise fail("label", "names and indices in a list of labels", item, "create a posterior for each condition")
    return resolve_labels(labels, [item])[0]


def _exclusive(classifier: Any, index: int | list[int]) -> tuple[Any, int | list[int]]:
    """Turn a class of a classifier with scores, whose classes do not exclude one another, into a condition."""
    if getattr(classifier, "is_exclusive", True):
        return classifier, index
    if isinstance(index, list):
        raise fail("label", "one class of a classifier with scores", f"{len(index)} classes", "create one for each class")
    return _condition(classifier, Class(0, index, classifier.labels[index].name))


def _condition(classifier: Any, expression: Expression) -> tuple[Any, int]:
    if not hasattr(classifier, "log_probs"):
        remedy = "load the classifier with tfgradgen.load_classifier, or name one class"
        expected = f"one that supports the condition {expression}"
        raise fail("classifier", expected, type(classifier).__name__, remedy)
    return ConditionClassifier([classifier], expression), 1
