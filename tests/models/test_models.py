"""Loading SavedModels: conventions, recorded guesses, and errors in one line."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.core.checks import UserError
from tfgradgen.media.resize import interpolation_matrix, resize
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.models.labels import resolve_labels
from tfgradgen.models.loading.metadata import Label, fingerprint, parse_labels


def pixels(z: tf.Tensor) -> tf.Tensor:
    return tf.reshape(z, [-1, 2, 2, 1])


def test_generator_from_callable_and_from_signature_agree(tmp_path: Path) -> None:
    z = tf.constant([[0.1, -0.2, 0.3, 0.4]])
    for kind in (False, True):
        generator = load_generator(toy.save(tmp_path / str(kind), pixels, [None, 4], signature=kind))
        assert (generator.latent_dim, generator.image_shape, generator.assumed) == (4, (2, 2, 1), ("prior", "image_range"))
        np.testing.assert_allclose(generator(z), pixels(z))


def test_image_range_is_mapped_to_minus_one_to_one(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "g", pixels, [None, 4], {"image_range": [0, 1], "latent_dim": 4, "prior": "normal"})
    z = tf.constant([[0.0, 0.25, 0.5, 1.0]])
    np.testing.assert_allclose(load_generator(folder)(z)[0, :, :, 0], [[-1, -0.5], [0, 1]])
    np.testing.assert_allclose(load_generator(folder, image_range=(0, 2))(z)[0, 1, 1, 0], 0.0)
    assert load_generator(folder).assumed == ()


@pytest.mark.parametrize(
    ("fn", "shape", "card", "text"),
    [
        (pixels, [None, 4], {"prior": "beta"}, "prior: expected one of normal"),
        (pixels, [None, 4], {"image_range": [0, 10**400]}, "image_range: expected two finite numbers"),
        (pixels, [None, 4], {"image_range": [1, -1]}, "image_range: expected two finite numbers"),
        (pixels, [None, 4], {"latent_dim": 5}, "latent_dim: expected 4, as in its signature, got 5"),
        (pixels, [None, 4], {"latent_dim": 0}, r"latent_dim: expected an integer in 1\.\.1048576, got 0"),
        (pixels, None, {"latent_dim": 10**12}, r"latent_dim: expected an integer in 1\.\.1048576, got 10"),
        (
            lambda z: pixels(tf.matmul(z, tf.eye(4))),
            None,
            {"latent_dim": 5},
            r"a float32 tensor \(16, 5\), got Matrix size-incompatible",
        ),
        (pixels, [None, None], None, "latent_dim"),
        (lambda z: pixels(z)[0], [None, 4], None, r"latent points to images, got .*float32 \[2, 2, 1\]"),
        (lambda z: {"a": pixels(z), "b": pixels(z)}, [None, 4], None, "expected one suitable output, got a, b"),
    ],
)
def test_generators_that_cannot_be_used(tmp_path: Path, fn: Any, shape: Any, card: Any, text: str) -> None:
    with pytest.raises(UserError, match=text) as error:
        load_generator(toy.save(tmp_path / "g", fn, shape, card))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_a_saved_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_generator(tmp_path / "none")
    with pytest.raises(UserError, match=r"saved_model\.pb"):
        load_generator(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"not a protobuf")
    with pytest.raises(UserError, match="a SavedModel that loads"):
        load_generator(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="a readable JSON file"):
        load_generator(tmp_path)


def brightness(image: tf.Tensor) -> tf.Tensor:
    mean = tf.reduce_mean(image, [1, 2, 3])
    return tf.stack([mean, -mean], -1)


@pytest.fixture(scope="module")
def saved_brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.save(tmp_path_factory.mktemp("brightness") / "c", brightness, [None, 4, 4, 1])


@pytest.fixture
def two_outputs(saved_brightness: Path, tmp_path: Path) -> Path:
    """Save a classifier of two classes without a model.json."""
    return Path(shutil.copytree(saved_brightness, tmp_path / "c"))


def test_classifier_takes_its_own_range_and_size(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "c", brightness, [None, 4, 4, 1], {"image_range": [0, 255], "labels": ["day", "night"]})
    classifier = load_classifier(folder)
    assert classifier.image_size == (4, 4)
    assert classifier.assumed == ("output",)
    np.testing.assert_allclose(classifier(tf.ones([1, 8, 8, 1])), [[255, -255]], rtol=1e-6)


def test_probabilities_become_logits(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "c", lambda x: tf.nn.softmax(brightness(x)), [None, 4, 4, 1], {"output": "probabilities"})
    classifier = load_classifier(folder)
    assert [label.name for label in classifier.labels] == ["0", "1"]
    assert "labels" in classifier.assumed
    logits = classifier(tf.fill([1, 4, 4, 1], 0.5))
    np.testing.assert_allclose(tf.nn.softmax(logits), tf.nn.softmax([[0.5, -0.5]]), rtol=1e-6)


def test_labels_next_to_the_folder_and_from_arguments(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "c", brightness, [None, 4, 4, 1])
    (tmp_path / "labels.json").write_text(json.dumps(["day", "night"]))
    assert [label.name for label in load_classifier(folder).labels] == ["day", "night"]
    assert [label.name for label in load_classifier(folder, labels=["a", "b"]).labels] == ["a", "b"]
    for labels, text in ((["a"], "expected 2 labels"), (["a", "a"], "distinct"), ([1, 2], "class names")):
        with pytest.raises(UserError, match=text):
            load_classifier(folder, labels=labels)


def test_a_card_may_only_name_files_of_its_model(tmp_path: Path) -> None:
    """A caller may name any regular file; reading a pipe would never end."""
    folder = toy.save(tmp_path / "c", brightness, [None, 4, 4, 1])
    secret, pipe = tmp_path / "secret.txt", tmp_path / "pipe"
    secret.write_text("user\npassword\n")
    (folder / "names.txt").write_text("Tag\nNächte\n")
    (folder / "link.txt").symlink_to(secret)
    (folder / "circle.txt").symlink_to("circle.txt")
    os.mkfifo(pipe)
    os.mkfifo(folder / "pipe.txt")
    for name in (
        str(secret),
        "../secret.txt",
        "link.txt",
        "circle.txt",
        "pipe.txt",
        str(pipe),
        "none.txt",
        "assets",
        "",
        "a\0b",
    ):
        (folder / "model.json").write_text(json.dumps({"labels": name}))
        with pytest.raises(UserError, match=r"the name of a file in the model's folder, got '.*labels=FILE"):
            load_classifier(folder)
    assert [label.name for label in load_classifier(folder, labels=str(secret)).labels] == ["user", "password"]
    for name, text in ((pipe, "not a regular file"), ("~nobody-of-that-name/x", "no such file"), ("a\0b", "no such file")):
        with pytest.raises(UserError, match=text):
            load_classifier(folder, labels=str(name))
    (folder / "model.json").write_text(json.dumps({"labels": "names.txt"}))
    assert [label.name for label in load_classifier(folder).labels] == ["Tag", "Nächte"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 100_000, "a readable JSON file"),
        ('{"labels": [[[[1]]]]}', "a list of class names"),
        ('{"labels": "day, night"}', "the name of a file"),
        ('{"labels": {"day": 0, "night": "1"}}', "names by index, or indices by name"),
        ('{"labels": [{"name": 1}, "b"]}', "a list of class names"),
        ('{"labels": [{"name": "a", "wnid": 1}, "b"]}', "a list of class names"),
        ('{"labels": [{"name": "a", "synset": null}, "b"]}', "a list of class names"),
        ('{"labels": [{"name": ["a"]}, "b"]}', "a list of class names"),
        ('{"labels": 7}', "a list of class names"),
    ],
    ids=range(9),
)
def test_labels_that_cannot_be_read(content: str, text: str, two_outputs: Path) -> None:
    (two_outputs / "model.json").write_text(content)
    with pytest.raises(UserError, match=text) as error:
        load_classifier(two_outputs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff"], ids=["nested", "no UTF-8"])
def test_label_files_that_cannot_be_read(content: bytes, two_outputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"labels .*names\.json: expected imagenet, or a file"):
        load_classifier(two_outputs, labels=str(file))


@pytest.mark.parametrize(
    "content", [b"index,display_name\n0,\xff\n", b"display_name\n" + b"x" * 200_000], ids=["no UTF-8", "huge"]
)
def test_class_maps_that_cannot_be_read(content: bytes, two_outputs: Path) -> None:
    (two_outputs / "assets").mkdir(exist_ok=True)
    (two_outputs / "assets" / "yamnet_class_map.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"class_map\.csv: expected a CSV file in UTF-8"):
        load_classifier(two_outputs)


def test_names_that_could_steer_a_terminal_are_escaped() -> None:
    labels = parse_labels(["a\x1b[2J", "b\n\a", "größer als 1", {"name": "\ud800", "wnid": "n\r", "synset": "\u202ex"}], "here")
    assert [label.name for label in labels] == ["a\\x1b[2J", "b\\n\\x07", "größer als 1", "\\ud800"]
    assert (labels[3].wnid, labels[3].synset) == ("n\\r", "\\u202ex")
    assert resolve_labels(labels, r"b\n\x07") == [1], "what is shown is what is typed"


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    first = toy.save(tmp_path / "a", pixels, [None, 4])
    second = Path(shutil.copytree(first, tmp_path / "b"))
    assert fingerprint(first) == fingerprint(second)
    (second / "saved_model.pb").write_bytes((second / "saved_model.pb").read_bytes() + b"\0")
    assert fingerprint(first) != fingerprint(second)


LABELS = (Label("goldfish", "n01443537"), Label("king_penguin", "n02056570"), Label("alp"))


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ("goldfish", [0]),
        ("King Penguin", [1]),
        ("n02056570", [1]),
        (2, [2]),
        ("2", [2]),
        ("goldfish,alp", [0, 2]),
        (("alp", 0), [2, 0]),
        (["goldfish", 0], [0]),
        ("all", [0, 1, 2]),
    ],
)
def test_labels_resolve(wanted: Any, indices: list[int]) -> None:
    assert resolve_labels(LABELS, wanted) == indices


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("goldfsh", r"did you mean goldfish\?"),
        ("zebra", "the classes: goldfish, "),
        (3, r"0\.\.2"),
        (-1, r"0\.\.2"),
        (1.0, "got 1.0"),
        (True, "got True"),
        ("", "at least one class"),
        ((), "at least one class"),
        (None, "got None"),
    ],
)
def test_labels_that_do_not_resolve(wanted: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        resolve_labels(LABELS, wanted)


def test_resizing_is_bilinear_and_differentiable() -> None:
    image = tf.random.stateless_normal([2, 5, 7, 3], [1, 2])
    np.testing.assert_allclose(resize(image, 10, 14), tf.image.resize(image, (10, 14)), atol=1e-5)
    shrunk = tf.image.resize(image, (3, 4), antialias=True)
    np.testing.assert_allclose(resize(image, 3, 4), shrunk, atol=1e-5)
    assert resize(image, 5, 7) is image
    with tf.GradientTape() as tape:
        tape.watch(image)
        total = tf.reduce_sum(resize(image, 3, 4))
    np.testing.assert_allclose(tf.reduce_sum(tape.gradient(total, image)), 2 * 3 * 3 * 4, rtol=1e-5)
    np.testing.assert_allclose(interpolation_matrix(9, 4).sum(1), 1, rtol=1e-6)


def test_names_of_foreign_models_resolve_exactly() -> None:
    labels = (Label("king penguin"), Label("T-shirt/top"), Label("monarch, monarch butterfly"), Label("7"), Label("0"))
    for index, label in enumerate(labels):
        assert resolve_labels(labels, label.name) == [index]
    assert resolve_labels(labels, 7) == [3]
    assert resolve_labels(labels, 1) == [1]


def test_all_leaves_out_the_background() -> None:
    labels = parse_labels(["alp", {"name": "other", "background": True}, {"name": "pizza", "wnid": "n1"}], "here")
    assert labels == (Label("alp"), Label("other", background=True), Label("pizza", "n1"))
    assert resolve_labels(labels, "all") == [0, 2]
    assert resolve_labels(labels, "other") == [1], "it can be asked for by name"
    with pytest.raises(UserError, match="other than background"):
        resolve_labels(labels[1:2], "all")
