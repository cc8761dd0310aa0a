"""What a user types reaches a command unchanged, and each flag once."""

from pathlib import Path

import pytest

from tests.support.command import FAST, refused
from tfgradgen.cli.arguments import evaluated, normalized
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.models.labels import resolve_labels, split_names
from tfgradgen.models.loading.metadata import Label

ODD_NAMES = [
    "C#",
    "C",
    "None",
    "1.0",
    "True",
    "1e3",
    "a, b",
    "b",
    "007",
    "0x10",
    "[1]",
    "a",
    "x=y",
    "#",
    "(c), d & e",
    "é",
    "A",
]


def test_numbers_and_bools_are_evaluated_and_nothing_else() -> None:
    found = {
        **{"3": 3, "-1": -1, "1e3": 1000.0, ".5": 0.5, "True": True, "false": False},
        **{"0,1": (0, 1), "-1, 1": (-1, 1), "[64,64]": [64, 64]},
    }
    for text, value in found.items():
        assert evaluated(text) == value
        assert type(evaluated(text)) is type(value)
    for text in ("10#0", "None", "a,b", "2+2", "__import__('os')", "007", "(1", "{1}", "1" * 5000, "inf", "[" * 5000, "1j", ""):
        assert evaluated(text) == text


def test_every_spelling_of_a_flag_is_one() -> None:
    for words in (["--num-results", "3"], ["--num_results=3"], ["-num_results", "3"], ["-num-results=3"]):
        assert normalized(["sample", *words]) == ["sample", "--num_results=3"]
    assert normalized(["sample", "--strict", "--seed", "-1", "fish"]) == ["sample", "--strict=True", "--seed=-1", "fish"]
    assert normalized(["sample", "--label=--x=y#z"]) == ["sample", "--label=--x=y#z"]


@pytest.mark.parametrize(
    "again",
    [
        *(["--seed=1", "--seed=1"], ["--seed=1", "--seed", "2"], ["-seed=1", "--seed=1"]),
        *(["--num-results=1", "--num_results=2"], ["--strict", "--strict=false"], ["--out=a", "--out", "b"]),
    ],
)
def test_a_flag_twice_is_refused(again: list[str], toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "once, got it more than once" in refused(["sample", "--label=alp", *again, *toy_flags], capsys)


@pytest.mark.parametrize("word", ["--=3", "--", "---", "--a b=3", "-é=1", "--\x1b[31m=1"])
def test_no_flag_has_such_a_name(word: str) -> None:
    if word == "-é=1":  # Fire does not take it as a flag either
        assert normalized([word]) == [word]
        return
    with pytest.raises(UserError, match="flags such as") as error:
        normalized(["sample", word])
    assert str(error.value).isprintable()


@pytest.mark.parametrize("flag", ["label", "kernel", "out", "generator", "generator_signature", "init", "schedule"])
def test_text_without_a_value_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{flag}: expected a value, got --{flag} without one" in refused(["sample", f"--{flag}"], capsys)
    assert f"{flag}: expected a value" in refused(["sample", f"--{flag}", "--seed=1"], capsys)


def test_a_negated_flag_is_no_flag(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--nostrict", "--nolabel", "--nokernel"):
        assert f"unknown flag {word};" in refused(["sample", word, *toy_flags], capsys)


def test_a_number_with_a_comment_is_no_number(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "num_results: expected an integer" in refused(["sample", "--label=alp", "--num_results=10#0", *toy_flags], capsys)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_class_is_named_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name goes through Fire and the commands, down to the index of the class."""
    asked: list[str] = []
    monkeypatch.setattr("tfgradgen.cli.early.check_sample", lambda options: None)
    monkeypatch.setattr("tfgradgen.cli.sample.run_sample", lambda options: asked.append(options.label))
    main(["sample", f"--label={name}"])
    main(["sample", name])
    labels = [Label(each) for each in ODD_NAMES]
    for text in asked:
        assert resolve_labels(labels, text) == [ODD_NAMES.index(name)]
    assert len(asked) == 2


def test_names_with_commas_stand_in_lists_and_conditions() -> None:
    labels = [[Label("a, b"), Label("c"), Label("a, b,c d"), Label("x&y, z")]]
    for text, parts in {
        "a, b": ["a, b"],
        "A,_B,c": ["A,_B", "c"],
        "a, b,c d,c": ["a, b,c d", "c"],
        "c,a, b & c,c": ["c", "a, b & c", "c"],
        "x&y, z,c": ["x&y, z", "c"],
        "!(a, b) | c,c": ["!(a, b) | c", "c"],
        "a,b": ["a", "b"],
        ",,": [],
    }.items():
        assert split_names(labels, text) == parts
    assert len(split_names(labels, "a," * 20_000)) == 20_000


def test_a_folder_may_be_named_like_a_number_or_a_bool(toy_flags: list[str]) -> None:
    for name in ("1e3", "True", "a#b"):
        main(["sample", "--label=alp", "--kernel=rejection", f"--out={name}", *toy_flags, "--num_results=2", FAST[2]])
        assert (Path(name) / "run.json").exists()
