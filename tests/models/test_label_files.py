"""Files of class names: where they are found, which formats are known, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import refused
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.label_files import parse_content, read_label_file

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Save a classifier of three classes without a model.json in its own folder."""
    fn = lambda x: tf.reduce_mean(x, [1, 2])  # noqa: E731
    return toy.save(tmp_path / "models" / "c", fn, [None, 4, 4, 3])


def names(folder: Path) -> list[str]:
    return [label.name for label in load_classifier(folder).labels]


@pytest.mark.parametrize("place", ["labels.txt", "assets/labels.txt", "../labels.txt", "class_names.txt", "assets/classes.txt"])
def test_a_file_of_names_with_a_model_is_used(place: str, model: Path) -> None:
    (model / "assets").mkdir(exist_ok=True)
    (model / place).write_text("rock\npaper\nscissors\n")
    classifier = load_classifier(model)
    assert [label.name for label in classifier.labels] == ["rock", "paper", "scissors"]
    assert "labels" not in classifier.assumed


TEXTS: dict[str, tuple[bytes, list[str]]] = {
    "plain": (b"rock\npaper\nscissors", ["rock", "paper", "scissors"]),
    "numbered": (b"0 Rock\n1 Paper\n2 Scissors\n", ["Rock", "Paper", "Scissors"]),
    "numbered from one": (b"1 Rock\n2 Paper\n3 Scissors\n", ["Rock", "Paper", "Scissors"]),
    "numbered with colons": (b"0: Rock\n1: Paper\n2: Scissors\n", ["Rock", "Paper", "Scissors"]),
    "numbered, not in order": (b"2 Scissors\n0 Rock\n1 Paper\n", ["Rock", "Paper", "Scissors"]),
    "not all numbered": (b"0 Rock\nPaper\n2 Scissors\n", ["0 Rock", "Paper", "2 Scissors"]),
    "numbers with a gap": (b"0 Rock\n1 Paper\n3 Scissors\n", ["0 Rock", "1 Paper", "3 Scissors"]),
    "amounts": (b"1 stars\n2 stars\n3 stars\n", ["1 stars", "2 stars", "3 stars"]),
    "measures": (b"5 mm\n10 mm\n15 mm\n", ["5 mm", "10 mm", "15 mm"]),
    "mere numbers": (b"0\n1\n2\n", ["0", "1", "2"]),
    "byte order mark": (b"\xef\xbb\xbf0 Rock\r\n1 Paper\r\n2 Scissors\r\n\r\n", ["Rock", "Paper", "Scissors"]),
    "comments": (b"# from a course\nrock\n\n# the second\npaper\nscissors\n\n", ["rock", "paper", "scissors"]),
    "WordNet ids": (
        b"n01443537 goldfish, Carassius auratus\nn02056570 penguin\nn09193705 alp\n",
        ["goldfish", "penguin", "alp"],
    ),
}


@pytest.mark.parametrize("form", TEXTS)
def test_the_lines_of_a_text_file(form: str, tmp_path: Path) -> None:
    content, expected = TEXTS[form]
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    assert [label.name for label in read_label_file(file).labels] == expected


def test_wordnet_ids_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("n01443537 goldfish, Carassius auratus\nn02056570 penguin\n")
    assert [label.wnid for label in read_label_file(file).labels] == ["n01443537", "n02056570"]


CONTENTS: dict[str, Any] = {
    "a list": ["goldfish", "tench", "alp"],
    "names by index": {"0": "goldfish", "2": "alp", "1": "tench"},
    "indices by name": {"alp": 2, "goldfish": 0, "tench": 1},
    "pairs": [["n01443537", "goldfish"], ["n01440764", "tench"], ["n09193705", "alp"]],
    "Keras's index": {"0": ["n01443537", "goldfish"], "1": ["n01440764", "tench"], "2": ["n09193705", "alp"]},
    "objects by index": {"0": {"name": "goldfish"}, "1": {"name": "tench"}, "2": {"name": "alp"}},
    "a configuration": {"id2label": {"0": "goldfish", "1": "tench", "2": "alp"}, "label2id": {"goldfish": 0}, "hidden": 8},
}


@pytest.mark.parametrize("form", CONTENTS)
def test_the_forms_of_a_json_file(form: str, tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(CONTENTS[form]).encode())
    labels = read_label_file(file).labels
    assert [label.name for label in labels] == ["goldfish", "tench", "alp"]
    if form in ("pairs", "Keras's index"):
        assert labels[0].wnid == "n01443537"


def test_a_card_takes_the_same_forms(model: Path) -> None:
    (model / "model.json").write_text(json.dumps({"labels": {"0": "a", "1": "b", "2": "c"}}))
    assert names(model) == ["a", "b", "c"]


def test_names_of_hugging_face(model: Path) -> None:
    (model / "config.json").write_text("not even JSON")
    assert names(model) == ["0", "1", "2"], "other programs have files of that name"
    (model / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert names(model) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"0": "a", "2": "b"}, "each index from 0 to 1 once, got none for 1"),
        ({"a": 0, "b": 0}, "each index from 0 to 1 once"),
        ({"1": "a", "2": "b"}, "each index from 0 to 1 once, got none for 0"),
        ({"n01443537": "goldfish"}, "names by index, or indices by name"),
        ({}, "a list of class names"),
        ({"0": 1.5}, "a list of class names"),
        ([["a", "b"]], "a list of class names"),
        (["a", "b", "a", "c", "b"], "distinct class names, got a in entries 1 and 3; b in entries 2 and 5"),
    ],
)
def test_content_that_is_not_a_list_of_names_is_refused(content: Any, text: str) -> None:
    with pytest.raises(UserError, match=text) as error:
        parse_content(content, "here")
    assert "\n" not in str(error.value)


def test_names_that_occur_twice_are_given_with_their_lines(model: Path) -> None:
    (model / "labels.txt").write_text("# birds and machines\ncrane\n\nmaillot\ncrane\n")
    with pytest.raises(UserError, match=r"labels\.txt: expected distinct class names, got crane in lines 2 and 5"):
        load_classifier(model)


def test_a_wrong_number_of_names_is_refused_with_both_numbers(model: Path, capsys: Any) -> None:
    (model / "labels.txt").write_text("a\nb\n")
    said = refused(["labels", f"--classifier={model}"], capsys)
    assert "expected 3 labels, one per class, got 2 in " in said
    assert "labels.txt" in said
    (model.parent / "right.txt").write_text("0 a\n1 b\n2 c\n")
    main(["labels", f"--classifier={model}", f"--classifier_labels={model.parent / 'right.txt'}"])
    assert capsys.readouterr().out.split() == ["0", "-", "a", "1", "-", "b", "2", "-", "c"]


def test_a_link_out_of_a_model_is_not_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x\ny\nz\n")
    (model / "labels.txt").symlink_to(tmp_path / "secret")
    assert names(model) == ["0", "1", "2"]
