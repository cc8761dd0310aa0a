"""A text as a probability: its value by the formula in all formats; tokens; and refused models and files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import standins_text as standins
from tests.support import toy
from tests.support.standins_text import CAPTIONS, probability
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.models.text import TextClassifier, load_text_model
from tfgradgen.models.tokens import LONGEST, MAX_CAPTIONS, Pairs, Words, read_captions
from tfgradgen.posterior import ClassPosterior

RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(-1, 1, (5, 16, 16, 3)).astype(np.float32) * 0.2 + RNG.uniform(-0.6, 0.6, (5, 1, 1, 3)).astype(np.float32)
FORMATS = {
    "tf2": standins.clip,
    "tf1": standins.tf1_clip,
    "strings": standins.clip_of_strings,
    "masked": standins.masked_clip,
    "batches of 2": lambda folder: standins.clip(folder, batch=2),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return standins.clip(tmp_path_factory.mktemp("text") / "clip")


def prob_of(classifier: TextClassifier, image: Any = IMAGES) -> np.ndarray:
    return np.exp(classifier.log_probs(tf.constant(image)).numpy()[:, 1])


@pytest.mark.parametrize("name", FORMATS)
def test_the_probability_is_the_share_among_the_captions(name: str, tmp_path: Path) -> None:
    model = load_text_model(FORMATS[name](tmp_path / "model"))
    found = prob_of(model.classifier("a red fish"))
    np.testing.assert_allclose(found, probability("a red fish", IMAGES), rtol=2e-4)
    assert found.max() - found.min() > 0.2, "the images differ"
    few = model.classifier("a red fish", ["a blue sky"])
    np.testing.assert_allclose(prob_of(few), probability("a red fish", IMAGES, ("a blue sky",)), rtol=2e-4)


def test_case_and_punctuation_do_not_count_and_the_text_is_no_caption(clip: Path) -> None:
    model = load_text_model(clip)
    other = model.classifier(" A Green, FISH! ")
    assert other.captions == CAPTIONS[1:]
    np.testing.assert_allclose(prob_of(other), probability("a green fish", IMAGES, CAPTIONS[1:]), rtol=2e-4)
    assert other.labels[1].name == other.text == "A Green, FISH!"
    assert other.about["num_captions"] == 3
    assert other.about["captions_sha256"] != model.classifier("a red fish").about["captions_sha256"]


def test_no_probability_rounds_to_zero(tmp_path: Path) -> None:
    """With CLIP's scale, log p can be far below the logarithm of the least float32."""
    model = load_text_model(standins.clip(tmp_path / "clip", scale=None))
    classifier = model.classifier("a black sky", ["a white sky"])
    assert (model.scale, classifier.assumed) == (100.0, ("scale",))
    image = tf.constant(np.full((1, 16, 16, 3), 0.9, np.float32) + np.float32([0.0, 0.05, 0.1]))
    with tf.GradientTape() as tape:
        tape.watch(image)
        log_prob = classifier.log_probs(image)[:, 1]
    assert -250 < float(log_prob[0]) < -150
    assert float(tf.reduce_max(tf.abs(tape.gradient(log_prob, image)))) > 1e-3


def test_a_text_is_the_class_of_a_posterior(clip: Path, toy_pair: tuple[Path, Path]) -> None:
    generator, classifier = load_generator(toy_pair[0]), load_classifier(toy_pair[1])
    text = load_text_model(clip).classifier("a red fish")
    z = tf.random.stateless_normal([6, 6], [1, 2])
    alone, label = ClassPosterior(generator, text, "a red fish"), ClassPosterior(generator, classifier, "goldfish")
    both = ClassPosterior(generator, text.with_label(classifier, "goldfish"), 1)
    np.testing.assert_allclose(both.class_log_prob(z), alone.class_log_prob(z) + label.class_log_prob(z), rtol=1e-4)
    assert both.label_names == ["goldfish & a red fish"]
    either = text.with_label(classifier, "goldfish | alp")
    assert either.labels[1].name == "(goldfish | alp) & a red fish"
    with pytest.raises(UserError, match="one class or condition, got 2"):
        text.with_label(classifier, "goldfish,alp")


def test_a_text_with_operators_stands_in_quotation_marks(clip: Path, toy_pair: tuple[Path, Path]) -> None:
    text = load_text_model(clip).classifier("red & blue")
    assert text.with_label(load_classifier(toy_pair[1]), "alp").labels[1].name == 'alp & "red & blue"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a redd fish", "words that the text model knows, got redd; did you mean red?"),
        ("a xylophone", "got xylophone; .*vocabulary.txt lists them"),
        ("...", "expected words"),
        ("", "words that an image shows"),
        ("red\x1b[2J", "without hidden characters"),
        ("red " * LONGEST, f"at most {LONGEST} characters"),
        ("a " * 100, "at most 77 tokens"),
        (None, "words that an image shows"),
    ],
)
def test_a_text_that_the_model_cannot_take_is_refused(clip: Path, text: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_text_model(clip).classifier(text)


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def _outside(folder: Path) -> Path:
    (folder.parent / "secret.txt").write_text("red\n")
    (folder / "vocabulary.txt").unlink()
    (folder / "vocabulary.txt").symlink_to(folder.parent / "secret.txt")
    return folder


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "widths": (lambda f: standins.clip(f, width=2), "embeddings of images .batch, 2."),
    "scale NaN": (lambda f: standins.clip(f, scale=float("nan")), "scale: expected a number above 0"),
    "scale huge": (lambda f: standins.clip(f, scale=1e9), "scale: expected a number above 0 and at most 10000"),
    "scale of text": (lambda f: standins.clip(f, scale="6"), "scale: expected a number"),
    "deviation 0": (lambda f: standins.clip(f, deviation=[0, 1, 1]), "deviation: expected a number of at least"),
    "deviation of two": (lambda f: standins.clip(f, deviation=[1, 1]), "deviation: expected 3 numbers"),
    "no deviation": (lambda f: standins.clip(f, deviation=None), "deviation: expected a number for each channel"),
    "link out": (lambda f: _outside(standins.clip(f)), "the name of a file in the model's folder"),
    "path out": (lambda f: standins.clip(f, vocabulary="../../etc/passwd"), "the name of a file in the model's folder"),
    "captions out": (lambda f: standins.clip(f, captions="/etc/passwd"), "the name of a file in the model's folder"),
    "vocabulary of numbers": (lambda f: standins.clip(f, vocabulary=3), "the name of a file of tokens"),
    "no vocabulary": (lambda f: standins.clip(f, vocabulary=None), "vocabulary: FILE or merges: FILE"),
    "missing file": (lambda f: _without(standins.clip(f), "vocabulary.txt"), "the name of a file in the model's folder"),
    "no such token": (lambda f: standins.clip(f, end_token="[STOP]"), "the token .STOP."),
    "no such signature": (lambda f: standins.clip(f, text_signature="embed"), "a signature encode_text that takes"),
    "the other's signature": (lambda f: standins.clip(f, text_signature="encode_image"), "a signature encode_text that takes"),
    "no encoder": (lambda f: toy.save(f, lambda x: x[:, 0, 0], [None, 8, 8, 3], {}), "a signature encode_text that takes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, said = HOSTILE[name]
    folder = make(tmp_path / "model")
    with pytest.raises(UserError, match=said) as error:
        load_text_model(folder).classifier("a red fish")
    assert "\n" not in str(error.value)


def test_a_folder_names_its_signatures(tmp_path: Path) -> None:
    folder = standins.masked_clip(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    named = {"text_signature": "get_text_features:text_embeds", "image_signature": "see"}
    (folder / "model.json").write_text(json.dumps(card | named))
    np.testing.assert_allclose(prob_of(load_text_model(folder).classifier("red")), probability("red", IMAGES), rtol=2e-4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n# nothing\n", "1 to 1000 captions"),
        (b"a red fish\n" * (MAX_CAPTIONS + 1), "1 to 1000 captions"),
        (b"x" * (2 << 20), "more than 1,048,576 bytes"),
        (b"red\n" + b"y" * 400, "line 2: expected a text of at most 300"),
        (b"\xff\xfe\x00", "a text file"),
        (b"red\x07", "without hidden characters"),
    ],
)
def test_hostile_captions_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_captions(file)


def test_captions_are_read_once_each(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("\ufeff# comment\n a red fish \n\na red fish\na sky\n", encoding="utf-8")
    assert read_captions(file) == ("a red fish", "a sky")
    with pytest.raises(UserError, match="no such file"):
        read_captions(tmp_path / "none.txt")


def test_clip_pairs_of_bytes() -> None:
    """Expected by hand: CLIP numbers 256 letters, 256 letters that end a word, the merges, and two special tokens."""
    pairs = Pairs([("r", "e"), ("re", "d</w>"), ("e", "d</w>")])
    letters = list(pairs.letters)
    end = lambda letter: 256 + letters.index(letter)  # noqa: E731
    rows = pairs.encode(["Red bed", "é"], ["text", "text"], 8)
    bed = [letters.index("b"), 514]
    assert rows.ids[0].tolist() == [515, 513, *bed, 516, 0, 0, 0]
    assert rows.mask[0].tolist() == [1] * 5 + [0] * 3
    first, second = (chr(byte) for byte in "é".encode())
    assert rows.ids[1, :4].tolist() == [515, letters.index(first), end(second), 516]
    with pytest.raises(UserError, match="at most 8 tokens"):
        pairs.encode(["bedbedbed"], ["text"], 8)


def test_a_repeated_pair_is_merged_from_the_left() -> None:
    pairs = Pairs([("a", "a"), ("a", "a</w>")])
    aa, aa_end = 512, 513
    assert pairs.encode(["aaaa", "aaa"], ["t", "t"], 6).ids[:, 1:4].tolist() == [[aa, aa_end, 515], [aa, 256 + 64, 515]]


def test_a_file_of_merges_makes_a_clip_of_bytes(tmp_path: Path) -> None:
    folder = standins.clip(tmp_path / "model", vocabulary=None, merges="merges.txt", num_tokens=515)
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\ne d</w>\n")
    with pytest.raises(UserError, match=r"an encoder of texts|not finite"):  # the table of the stand-in is shorter
        load_text_model(folder).classifier("red", ["blue"])
    (folder / "merges.txt").write_text("r e d\n")
    with pytest.raises(UserError, match="two pieces a line"):
        load_text_model(folder)


def test_padding_is_the_token_of_that_name() -> None:
    words = Words(["red", "[PAD]"], None, None, "here")
    assert words.encode(["red"], ["text"], 3).ids.tolist() == [[0, 1, 1]]
