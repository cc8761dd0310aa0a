"""The text of composed conditions: how it is parsed and written, and the errors for invalid text."""

from typing import Any

import pytest

from tfgradgen.core.checks import UserError
from tfgradgen.models.condition import is_condition, parse_condition
from tfgradgen.models.loading.metadata import Label

ANIMALS = (
    Label("goldfish", "n01443537"),
    Label("king_penguin", "n02056570"),
    Label("monarch", "", "monarch, milkweed butterfly"),
)
SOUNDS = (Label("Bark"), Label("Police car (siren)"), Label("goldfish"), Label("R&B"), Label("R&B & soul"), Label("!"))
LABELLED = (ANIMALS, SOUNDS)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Goldfish&!King Penguin", "goldfish & !king_penguin"),
        (" king-penguin ", "king_penguin"),
        ("n02056570 | 0", "king_penguin | goldfish"),
        ("milkweed butterfly", "monarch"),
        ("0.50*monarch & 1e3*goldfish", "0.5*monarch & 1000*goldfish"),
        ("monarch | goldfish & 2 * !king penguin", "monarch | goldfish & 2*!king_penguin"),
        ("(monarch | goldfish) & king_penguin", "(monarch | goldfish) & king_penguin"),
        ("2*3*monarch", "2*3*monarch"),
        ("!(2*monarch) & !!goldfish", "!(2*monarch) & !!goldfish"),
        ("0.5*(monarch & goldfish)", "0.5*(monarch & goldfish)"),
        ("((monarch | (goldfish | (king_penguin))))", "monarch | goldfish | king_penguin"),
        ("monarch & (goldfish & king_penguin)", "monarch & goldfish & king_penguin"),
        ("goldfish@2 & goldfish@1 & bark", "goldfish@2 & goldfish & Bark@2"),
        ("R&B & soul & R&B & bark", "R&B & soul@2 & R&B@2 & Bark@2"),
        ("! & !!", "!@2 & !!@2"),
        ("!police car (siren) | R&B@2&(R&B)", "!Police car (siren)@2 | R&B@2 & R&B@2"),
    ],
)
def test_texts_are_read_and_written_in_one_form(text: str, normal: str) -> None:
    expression = parse_condition(text, LABELLED)
    assert str(expression) == normal
    assert parse_condition(normal, LABELLED) == expression


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a class name, got the end at character 1 of ''; write one there"),
        ("goldfish & ", "a class name, got the end at character 12"),
        ("goldfish & | monarch", r"a class name, got '\|' at character 12"),
        ("goldfish | ()", r"a class name, got '\)' at character 13"),
        ("@2", "a class name, got '@' at character 1"),
        (
            "(goldfish & monarch",
            r"& or \| or \), got the end at character 20 of '\(goldfish & monarch'; close each bracket once",
        ),
        ("goldfish)", r"& or \| or the end, got '\)' at character 9"),
        ("goldfish (monarch)", r"or the end, got '\(' at character 10"),
        ("goldfish !monarch", "or the end, got '!' at character 10"),
        ("goldfish & monarhc", r"index 0\.\.5, got 'monarhc' at character 12 of 'goldfish & monarhc'; did you mean monarch"),
        ("goldfish & monarch@2", r"index 0\.\.5, got 'monarch' at character 12"),
        ("goldfish@", "after @, got the end at character 10"),
        ("goldfish & bark@3", r"a classifier's number, 1 to 2, after @, got '3' at character 17"),
        ("goldfish@ & bark", "after @, got '&' at character 11"),
        ("0*goldfish", r"a weight of 1e-06 to 1e\+06 before \*, got '0' at character 1 of '0\*goldfish'; write it as in"),
        ("monarch & -1*goldfish", r"before \*, got '-1' at character 11"),
        ("nan*goldfish", r"before \*, got 'nan'"),
        ("*goldfish", r"before \*, got '\*' at character 1"),
        ("goldfish*2", r"before \*, got 'goldfish'"),
        ("!0.5*goldfish", r"got '\*' at character 5 of '!0.5\*goldfish'; put a weighted operand in brackets"),
        ("!" * 51 + "goldfish", "nested at most 50 deep"),
        ("(" * 10_000, "nested at most 50 deep"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_condition(text, LABELLED)
    assert "\n" not in str(error.value)


def test_with_one_classifier_its_number_is_1() -> None:
    with pytest.raises(UserError, match="a classifier's number, 1, as there is one classifier, after @, got '2'"):
        parse_condition("goldfish@2", LABELLED[:1])


def test_many_operands_are_not_deep() -> None:
    text = " & ".join(["!goldfish"] * 1000)
    assert str(parse_condition(text, LABELLED)) == text


def test_a_word_of_several_classes_is_refused_in_a_condition_too() -> None:
    labels = (Label("crane_bird", "", "crane"), Label("crane_machine", "", "crane"))
    with pytest.raises(UserError, match=r"a word that names one class.*did you mean crane_bird, crane_machine\?"):
        parse_condition("!crane", [labels])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("goldfish", False),
        ("goldfish,monarch", False),
        ("Police car (siren)", False),
        ("police car (siren), goldfish", False),
        ("R&B", False),
        ("R&B & goldfish", True),
        ("goldfish@2", True),
        ("!goldfish", True),
        ("2*goldfish", True),
        ("goldfish | monarhc", True),
        ("goldfish, !monarch", True),
        (3, False),
        (None, False),
        (("goldfish", "!monarch"), False),
    ],
)
def test_conditions_and_names_are_distinguished(text: Any, expected: bool) -> None:
    assert is_condition(text, LABELLED) is expected
