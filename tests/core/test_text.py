"""The functions through which text from outside passes, and the errors that contain it."""

import shlex

import pytest
import yaml

from tfgradgen.core.checks import check_choice, check_int, check_real, fail
from tfgradgen.core.text import CUT, MESSAGE_LENGTH, markdown_text, printable, shell_word, value_text

ESCAPES = ["\x1b[31m", "\x9b2J", "a\nb", "a\rb", "\u202e", "\u2028", "\x00", "\u200b", "\ud800", "\ufeff", "\x7f"]


@pytest.mark.parametrize("text", ESCAPES)
def test_escapes_are_shown_not_sent(text: str) -> None:
    for shown in (printable(text), value_text(text), markdown_text(text), str(fail(text, text, text, text))):
        assert shown.isprintable()
        assert shown.isascii()


def test_letters_of_any_language_stay() -> None:
    for text in ("Zürich", "金魚", "рыба", "naïve café", "e\u0301"):
        assert printable(text) == text


def test_marks_that_pile_up_are_escaped() -> None:
    assert printable("a" + "\u0301" * 50, None).count("\u0301") == 4


@pytest.mark.parametrize("length", [1, 2, 3, 10, 99, 100, 101, 10**6])
def test_names_are_bounded(length: int) -> None:
    shown = printable("x" * length)
    assert len(shown) == min(length, 100)
    assert (CUT in shown) == (length > 100)


def test_values_that_repr_cannot_finish_are_shown_at_once() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    for value in (yaml.safe_load("\n".join(lines)), 10**5000, "x" * 10**7, [10**4400] * 3, {"a" * 10**6: b"b" * 10**6}):
        assert len(value_text(value)) <= 100
        for error in (fail("name", "a number", value, "give one"), _error_of(check_int, value), _error_of(check_real, value)):
            assert len(str(error)) <= MESSAGE_LENGTH
            assert str(error).endswith(".")


def _error_of(check: object, value: object) -> Exception:
    with pytest.raises(ValueError, match="expected") as caught:
        check("n", value, 0, 5)  # type: ignore[operator]
    return caught.value


def test_a_message_keeps_its_remedy_and_both_ends_of_a_path() -> None:
    line = str(fail("model /" + "x" * 500 + "/end", "a folder " + "y" * 500, "z" * 500, "give another one"))
    assert line.startswith("model /x")
    assert "/end: expected a folder y" in line
    assert line.endswith("; give another one.")
    assert len(line) <= MESSAGE_LENGTH + 20


def test_a_choice_of_many_is_not_listed_whole() -> None:
    with pytest.raises(ValueError, match="did you mean flag77") as caught:
        check_choice("flag", "flag777", [f"flag{k}" for k in range(100)])
    assert len(str(caught.value)) <= MESSAGE_LENGTH + 20


@pytest.mark.parametrize("text", ["a b", "$(touch x)", "`id`", "';rm -rf x;'", "a\nb", "", "--label=x", '"'])
def test_a_shell_reads_one_word(text: str) -> None:
    assert shlex.split(shell_word(text)) == [printable(text, None)]


def test_markdown_holds_no_html_and_no_cell() -> None:
    shown = markdown_text("<script>|[a](b)`x`")
    assert "<script>" not in shown
    for c in "|[`":
        assert f"\\{c}" in shown
