"""What labels name as targets: classes stay classes beside conditions, and each target has a name of its own."""

from collections.abc import Sequence
from typing import Any

import pytest

from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.loading.metadata import Label
from tfgradgen.models.targets import Target, condition_target, targets_of

ANIMALS = (Label("goldfish", "n01443537"), Label("king_penguin"), Label("monarch", "", "monarch, milkweed butterfly"))
SOUNDS = (Label("Bark"), Label("Police car (siren)"), Label("R&B"), Label("all"), Label("Horn, honking"))


def make(labels: Sequence[Label], output: str = "logits", path: str = "") -> Classifier:
    return Classifier(lambda image: image[:, 0, 0, : len(labels)], tuple(labels), (1, 1), output=output, path=path)


FIRST, SECOND = make(ANIMALS), make(SOUNDS)
PAIR = (FIRST, SECOND)


def seen(targets: Sequence[Target]) -> list[Any]:
    """Return the index of each class, and the text of each condition."""
    return [
        str(each.classifier.expression) if isinstance(each.classifier, ConditionClassifier) else each.index for each in targets
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("goldfish,goldfish & monarch", [0, "goldfish & monarch"]),
        ("goldfish & monarch, King Penguin ,2", ["goldfish & monarch", 1, 2]),
        ("milkweed butterfly,!goldfish,n01443537", [2, "!goldfish", 0]),
        ("bark,goldfish & bark", ["Bark@2", "goldfish & Bark@2"]),
        ("horn, honking,goldfish & bark,goldfish", ["Horn, honking@2", "goldfish & Bark@2", 0]),
        ("(goldfish),goldfish@1,goldfish,0,!goldfish,!0", ["goldfish", 0, "!goldfish"]),
        ("(goldfish)", ["goldfish"]),
        ("goldfish,monarch", [0, 2]),
        ("all", [0, 1, 2]),
    ],
)
def test_a_class_beside_conditions_is_that_class(wanted: str, found: list[Any]) -> None:
    targets = targets_of(PAIR, wanted)
    assert seen(targets) == found
    assert [each.is_class for each in targets] == [isinstance(each, int) for each in found]
    for each in targets:
        if each.is_class:
            assert [each] == targets_of(PAIR, each.index)


def test_an_unknown_class_beside_conditions_is_refused() -> None:
    with pytest.raises(UserError, match=r"label: expected a class name.*, got 'goldfsh' at character 1"):
        targets_of(PAIR, "goldfsh,goldfish & monarch")


def test_classes_of_scores_stay_conditions() -> None:
    scores = (make(SOUNDS, "scores"),)
    assert seen(targets_of(scores, "bark,R&B,bark & !R&B")) == ["Bark", "R&B", "Bark & !R&B"]
    assert [each.alone for each in targets_of(scores, "bark,R&B,bark & !R&B")] == ["Bark", "R&B", "Bark & !R&B"]


@pytest.mark.parametrize("classifiers", [PAIR, (SECOND,), (make(SOUNDS, "scores"),), (SECOND, FIRST)])
@pytest.mark.parametrize("texts", [False, True])
def test_the_name_of_a_target_alone_names_it(classifiers: tuple[Classifier, ...], texts: bool) -> None:
    text: Any = make((Label("other"), Label("a red fish")))
    if texts:
        object.__setattr__(text, "text", "red & blue")
    names = [label.name if label.name != "all" else str(k) for k, label in enumerate(classifiers[0].labels)]
    more = [f"{names[0]} & !{names[1]}", f"{names[0]} | {names[1]}", f"0.5*{names[2]}", f"({names[0]})"]
    more += ["0@2 & 1", "0@2"] if len(classifiers) > 1 else []
    targets = targets_of(classifiers, ",".join([*names, *more]), text if texts else None)
    assert len(targets) >= len(names) + len(more) - 1
    for each in targets:
        (again,) = targets_of(classifiers, each.alone, text if texts else None)
        assert seen([again]) == seen([each])
        assert again.label == each.label


def test_a_text_alone_has_no_label() -> None:
    text: Any = make((Label("other"), Label("a red fish")))
    object.__setattr__(text, "text", "a red fish")
    (target,) = targets_of(PAIR, None, text)
    assert target.alone is None


@pytest.mark.parametrize("text", ["goldfish", "Police car (siren)", "Horn, honking@2", "goldfish & !monarch"])
def test_a_condition_may_be_of_one_class(text: str) -> None:
    target = condition_target(PAIR, text)
    assert not target.is_class
    assert (target.index, target.label.name) in ((1, text), (1, f"{text}@2"))
