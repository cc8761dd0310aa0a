"""Classifiers with one output, outputs that contradict their declaration, and inputs of other types and channels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import refused
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import load_models
from tfgradgen.cli.options import parse_sample
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import fitted, load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.generator import load_generator

pytestmark = pytest.mark.usefixtures("quick_runs")

QUICK = ["--kernel=rejection", "--num_chains=4", "--num_results=2"]
IMAGE = tf.random.stateless_uniform([5, 8, 8, 3], [1, 2], -1, 1)


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def red(x: tf.Tensor) -> tf.Tensor:
    """Return a logit [B, 1]: how red an image is."""
    return 6.0 * tf.reduce_mean(x[..., :1] - 0.5 * x[..., 1:2], [1, 2])


FORMS: dict[str, Any] = {
    "logit": red,
    "logit without axis": lambda x: red(x)[:, 0],
    "sigmoid": lambda x: tf.sigmoid(red(x)),
    "sigmoid without axis": lambda x: tf.sigmoid(red(x)[:, 0]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_said", [True, False], ids=["said", "guessed"])
def test_one_output_separates_two_classes(form: str, is_said: bool, tmp_path: Path) -> None:
    """The probability is sigmoid(logit), or the output itself; a softmax of one output would be 1 for every image."""
    output = "logits" if "logit" in form else "probabilities"
    folder = toy.save(tmp_path / "c", FORMS[form], [None, 8, 8, 3], {"image_range": [-1, 1]})
    classifier = load_classifier(folder, **({"output": output} if is_said else {}))
    assert (classifier.output, classifier.num_classes, classifier.is_exclusive) == (output, 2, True)
    assert [label.name for label in classifier.labels] == ["negative", "positive"]
    prob = tf.sigmoid(red(IMAGE))
    np.testing.assert_allclose(tf.exp(classifier.log_probs(IMAGE)), tf.concat([1 - prob, prob], 1), rtol=1e-4)
    np.testing.assert_allclose(tf.nn.softmax(classifier(IMAGE)), tf.concat([1 - prob, prob], 1), rtol=1e-4)
    with tf.GradientTape() as tape:
        tape.watch(IMAGE)
        value = classifier(IMAGE)[:, 1]
    assert np.abs(tape.gradient(value, IMAGE)).max() > 1e-3


def test_the_classes_of_one_output_have_the_names_that_are_given(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "c", red, [None, 8, 8, 3], {"image_range": [-1, 1], "output": "logits"})
    assert [label.name for label in load_classifier(folder, labels=["green", "red"]).labels] == ["green", "red"]
    one = load_classifier(folder, labels=["red"])
    assert [label.name for label in one.labels] == ["not red", "red"]
    assert one.labels[0].background
    with pytest.raises(UserError, match="expected 2 labels, one per class, got 3"):
        load_classifier(folder, labels=["a", "b", "c"])


def test_prior_draws_are_not_exact_draws_of_one_output(toy_flags: list[str], capsys: Any) -> None:
    toy.save(Path("c"), red, [None, 8, 8, 3], {"image_range": [-1, 1]})
    command = ["sample", "--kernel=rejection", "--num_chains=4", "--num_results=200", toy_flags[0], "--classifier=c"]
    rates = {}
    for label in ("positive", "negative"):
        main([*command, f"--label={label}", f"--out={label}"])
        rates[label] = json.loads(Path(label, "run.json").read_text())["accept_rate"]
    said = capsys.readouterr().err
    assert "one output, the logit of positive" in said
    assert all(rate < 0.9 for rate in rates.values()), "a softmax of one accepts every draw"
    generator = load_generator(toy_flags[0].split("=", 1)[1])
    prob = tf.sigmoid(red(generator(tf.random.stateless_normal([20_000, 6], [5, 6])))).numpy().mean()
    for label, truth in (("positive", prob), ("negative", 1 - prob)):
        assert abs(rates[label] - truth) < 5 * np.sqrt(truth * (1 - truth) / (800 / truth))


def test_a_condition_on_one_output_and_its_opposite(toy_flags: list[str]) -> None:
    toy.save(Path("c"), red, [None, 8, 8, 3], {"image_range": [-1, 1], "output": "logits", "labels": ["green", "red"]})
    flags = {"generator": toy_flags[0].split("=", 1)[1], "classifier": "c"}
    loaded = load_models(parse_sample({"label": "red", "kernel": "mala", **flags}).models)
    shown = loaded.generator(tf.random.stateless_normal([5, 6], [1, 2]))
    (negated,), (opposite,) = loaded.targets("!red"), loaded.targets("green")
    found = [target.classifier(shown) for target in (negated, opposite)]
    first, second = (tf.nn.log_softmax(x)[:, t.index] for x, t in zip(found, (negated, opposite), strict=True))
    np.testing.assert_allclose(first, second, rtol=1e-4)
    np.testing.assert_allclose(first, tf.math.log_sigmoid(-red(shown))[:, 0], rtol=1e-4)


def test_a_discriminator_of_one_logit(tmp_path: Path) -> None:
    card = {"labels": ["natural"], "image_range": [-1, 1], "output": "logits"}
    discriminator = load_discriminator(toy.save(tmp_path / "d", red, [None, 8, 8, 3], card))
    np.testing.assert_allclose(natural_log_odds(discriminator)(IMAGE), red(IMAGE)[:, 0], rtol=1e-5)


def logits(x: tf.Tensor) -> tf.Tensor:
    return 4.0 * tf.reduce_mean(x, [1, 2])


@pytest.mark.parametrize(
    ("fn", "said", "text"),
    [
        (logits, "probabilities", r"probabilities from 0 to 1, got .* at prior draws; give output='logits'"),
        (logits, "scores", r"scores from 0 to 1, got .* at prior draws; give output='logits'"),
        (lambda x: tf.sigmoid(logits(x)), "probabilities", r"sum to one, got sums of .*output='scores'"),
        (red, "probabilities", r"probabilities from 0 to 1"),
    ],
)
def test_outputs_that_are_not_what_was_said_are_refused(
    fn: Any, said: str, text: str, toy_flags: list[str], capsys: Any
) -> None:
    toy.save(Path("c"), fn, [None, 8, 8, 3], {"image_range": [-1, 1], "output": said})
    line = refused(["check", toy_flags[0], "--classifier=c"], capsys)
    assert np.char.find(line, "model c output: expected ") >= 0
    with pytest.raises(UserError, match=text):
        fitted(load_classifier("c"), load_generator(toy_flags[0].split("=", 1)[1]))


def test_logits_that_look_like_probabilities_are_noticed(toy_flags: list[str], capsys: Any) -> None:
    card = {"image_range": [-1, 1], "output": "logits", "labels": ["a", "b", "c"]}
    toy.save(Path("c"), lambda x: tf.nn.softmax(logits(x)), [None, 8, 8, 3], card)
    command = ["sample", "--label=a", *QUICK, toy_flags[0], "--classifier=c"]
    main([*command, "--out=run"])
    assert "its logits lie in [0, 1] and sum to one, as probabilities do" in capsys.readouterr().err
    assert any("as probabilities do" in line for line in json.loads(Path("run/run.json").read_text())["doubts"])
    with pytest.raises(SystemExit) as code:
        main([*command, "--out=strict", "--strict"])
    assert code.value.code == 1
    capsys.readouterr()
    main([*command, "--out=right", "--classifier_output=probabilities"])
    assert "as probabilities do" not in capsys.readouterr().err


def test_an_image_without_its_channel_axis(tmp_path: Path) -> None:
    flat = lambda x: {"y": tf.stack([tf.reduce_mean(x[:, :14], [1, 2]), tf.reduce_mean(x[:, 14:], [1, 2])], 1)}  # noqa: E731
    card = {"image_range": [0, 1], "output": "logits"}
    folder = toy.save_signature(tmp_path / "c", flat, spec("x", None, 28, 28), card=card)
    classifier = load_classifier(folder)
    assert (classifier.image_size, classifier.channels) == ((28, 28), 1)
    image = tf.random.stateless_uniform([2, 28, 28, 1], [1, 2], -1, 1)
    np.testing.assert_allclose(classifier(image), flat((image[..., 0] + 1) / 2)["y"], rtol=1e-5)
    with pytest.raises(UserError, match="give channels='grey'"):
        classifier(tf.zeros([2, 28, 28, 3]))


@pytest.mark.parametrize("dtype", [tf.uint8, tf.int32, tf.int64])
def test_a_classifier_of_whole_numbers_takes_bytes(dtype: tf.DType, tmp_path: Path) -> None:
    fn = lambda x: {"y": tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])}  # noqa: E731
    folder = toy.save_signature(tmp_path / "c", fn, spec("x", None, 8, 8, 3, dtype=dtype), card={"output": "logits"})
    classifier = load_classifier(folder)
    assert (classifier.image_range, "image_range" in classifier.assumed) == ((0, 255), False)
    found = classifier(tf.fill([1, 8, 8, 3], 1.2)), classifier(tf.fill([1, 8, 8, 3], 0.0))
    np.testing.assert_allclose(found[0], [[255] * 3], err_msg="a value beyond the range does not wrap round")
    np.testing.assert_allclose(found[1], [[128] * 3], err_msg="rounded, not cut")


def test_grey_images_for_a_classifier_of_colours(tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "c", logits, [None, 8, 8, 3], {"image_range": [-1, 1], "output": "logits"})
    grey = IMAGE[..., :1]
    np.testing.assert_allclose(load_classifier(folder)(grey), logits(tf.repeat(grey, 3, -1)), rtol=1e-5)


def test_colours_for_a_classifier_of_grey_images_by_a_flag(toy_flags: list[str], capsys: Any) -> None:
    means = lambda x: tf.stack([6.0 * tf.reduce_mean(x, [1, 2, 3]), tf.zeros(tf.shape(x)[0])], 1)  # noqa: E731
    card = {"image_range": [-1, 1], "output": "logits", "labels": ["light", "dark"]}
    toy.save(Path("c"), means, [None, 8, 8, 1], card)
    command = [toy_flags[0], "--classifier=c", "--label=light"]
    assert "give --classifier_channels=grey" in refused(["check", *command], capsys)
    main(["sample", *command, *QUICK, "--classifier_channels=grey", "--out=run"])
    capsys.readouterr()
    luma = tf.reduce_sum(IMAGE * [0.299, 0.587, 0.114], -1, keepdims=True)
    np.testing.assert_allclose(load_classifier("c", channels="grey")(IMAGE), means(luma), rtol=1e-4, atol=1e-6)
    assert "channels: expected one of grey, rgb" in refused(["check", *command, "--classifier_channels=red"], capsys)


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ([224, 224, 3], tf.float32, r"x float32 \[224, 224, 3\], an image without a batch axis"),
        ([None], tf.string, r"x string \[\?\], for the bytes of image files; export a function of a float32 tensor"),
        ([None, 784], tf.int32, r"x int32 \[\?, 784\], not an image \[\?, height, width, channels\]"),
    ],
)
def test_inputs_that_no_image_fits_are_named(shape: list[int | None], dtype: tf.DType, text: str, tmp_path: Path) -> None:
    fn = lambda x: {"y": tf.zeros([tf.shape(x)[0], 3])}  # noqa: E731
    with pytest.raises(UserError, match=text):
        load_classifier(toy.save_signature(tmp_path / "c", fn, spec("x", *shape, dtype=dtype)))
