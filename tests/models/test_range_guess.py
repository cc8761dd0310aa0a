"""The unknown image range of a classifier is guessed from a generator's images."""

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import load_models
from tfgradgen.cli.options import parse_sample
from tfgradgen.models.classifier import guess_image_range, load_classifier
from tfgradgen.models.fitting import choose_range, range_score
from tfgradgen.models.generator import load_generator
from tfgradgen.posterior import ClassPosterior

pytestmark = pytest.mark.usefixtures("quick_runs")

QUICK = ["--kernel=rejection", "--num_chains=4", "--num_results=2"]
UNIT, SYMMETRIC, BYTES = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)
NUM_CLASSES, SIZE = 5, 8


def images(z: tf.Tensor) -> tf.Tensor:
    """Map z [B, 6] to images [B, 8, 8, 3] in [-1, 1]: a uniform colour with a ripple."""
    colour = tf.tanh(z[:, :3])[:, None, None, :]
    ripple = tf.sin(tf.range(SIZE, dtype=tf.float32))[None, :, None, None] * tf.reshape(z[:, 3], [-1, 1, 1, 1])
    return tf.clip_by_value(colour + 0.1 * ripple + tf.zeros([1, SIZE, SIZE, 3]), -1.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("ranges")
    toy.save(base / "generator", images, [None, 6], {"image_range": [-1, 1], "prior": "normal"})
    return base


@functools.cache
def train(case: str, seed: int = 3) -> Callable[[Any], Any]:
    """Train a small network, on images in the range of the case, to say which of five colours an image is nearest to."""
    (low, high), scale_fn = CASES[case]
    rng = np.random.default_rng(seed)
    centres = tf.constant([[0.8, -0.6, -0.6], [-0.6, 0.8, -0.6], [-0.6, -0.6, 0.8], [0.7, 0.7, 0.7], [-0.7, -0.7, -0.7]])
    shapes = {"kernel": [3, 3, 3, 16], "bias": [16], "dense": [16, NUM_CLASSES], "last": [NUM_CLASSES]}
    values = {
        name: tf.Variable((rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]), 1))).astype(np.float32))
        for name, shape in shapes.items()
    }

    def logits(x: tf.Tensor) -> tf.Tensor:
        hidden = tf.nn.relu(tf.nn.conv2d(scale_fn(x), values["kernel"], 1, "SAME") + values["bias"])
        return tf.matmul(tf.reduce_mean(hidden, [1, 2]), values["dense"]) + values["last"]

    moments = {name: (tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for name, v in values.items()}

    @tf.function
    def step(number: tf.Tensor) -> None:
        image = images(tf.random.stateless_normal([64, 6], tf.stack([seed, number])))
        label = tf.argmin(tf.norm(tf.reduce_mean(image, [1, 2])[:, None] - centres, axis=-1), 1)
        with tf.GradientTape() as tape:
            found = logits((image + 1) / 2 * (high - low) + low)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(label, found))
        for (name, value), slope in zip(values.items(), tape.gradient(loss, list(values.values())), strict=True):
            first, second = moments[name]  # Adam
            first.assign(0.9 * first + 0.1 * slope)
            second.assign(0.99 * second + 0.01 * slope**2)
            value.assign_sub(0.02 * first / (tf.sqrt(second) + 1e-6))

    for number in range(150):
        step(tf.constant(number))
    frozen = {name: tf.constant(value) for name, value in values.items()}
    values.update(frozen)
    return logits


BY_255 = "first operation x / 255"
CASES: dict[str, tuple[tuple[float, float], Callable[[Any], Any]]] = {
    "trained on 0 to 1": (UNIT, tf.identity),
    "trained on -1 to 1": (SYMMETRIC, tf.identity),
    BY_255: (BYTES, lambda x: x / 255.0),
    "rescaled by x / 127.5 - 1": (BYTES, lambda x: x / 127.5 - 1.0),
}


@pytest.mark.parametrize("ending", ["logits", "softmax"])
@pytest.mark.parametrize("case", CASES)
def test_the_range_that_a_network_was_trained_in_is_found(case: str, ending: str, folder: Path, tmp_path: Path) -> None:
    truth, _ = CASES[case]
    logits = train(case)
    fn = logits if ending == "logits" else lambda x: tf.nn.softmax(logits(x))
    classifier = load_classifier(toy.save(tmp_path / "c", fn, [None, SIZE, SIZE, 3]))
    assert classifier.image_range_is_guessed
    generator = load_generator(folder / "generator")
    guess = guess_image_range(generator, classifier)
    assert guess.image_range == truth, guess
    assert guess == guess_image_range(generator, classifier)
    found = classifier.for_generator(generator)
    assert (found.image_range, found.output) == (truth, "logits" if ending == "logits" else "probabilities")
    assert not found.image_range_is_guessed
    assert found.for_generator(generator) is found


def prepared(folder: Path, place: Path, fn: Callable[[Any], Any]) -> list[str]:
    toy.save(place / "c", fn, [None, SIZE, SIZE, 3])
    return [f"--generator={folder / 'generator'}", f"--classifier={place / 'c'}"]


def test_the_guess_is_said_recorded_and_the_same_for_all(folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    flags = prepared(folder, tmp_path, train(BY_255))
    main(["sample", "--label=1", *QUICK, *flags, "--out=run"])
    assert "image_range [0, 255] with score " in capsys.readouterr().err
    record = json.loads(Path("run/run.json").read_text())["classifier"]
    assert record["image_range"] == [0, 255]
    assert "image_range" in record["assumed"]
    assert record["range_scores"][0][0] == [0, 255]
    main(["sample", "--label=1", *QUICK, *flags, "--out=run", "--resume"])
    assert "kept" in capsys.readouterr().out, "the same guess again"
    main(["check", "--label=1", *flags])
    assert "image 8 x 8 in [0, 255]" in capsys.readouterr().out
    main(["sample", "--label=1", *QUICK, *flags, "--out=told", "--classifier_range=0,255"])
    told = json.loads(Path("told/run.json").read_text())["classifier"]
    assert (told["image_range"], "range_scores" in told) == ([0, 255], False)
    capsys.readouterr()
    main(["labels", flags[1]])
    assert "guessed" not in capsys.readouterr().err, "without a generator nothing is tried"


def test_a_posterior_of_the_library_guesses_alike(folder: Path, tmp_path: Path) -> None:
    flags = prepared(folder, tmp_path, train(BY_255))
    options = parse_sample({"label": "1", "kernel": "mala", **dict(flag.lstrip("-").split("=", 1) for flag in flags)})
    loaded = load_models(options.models)
    generator, classifier = load_generator(folder / "generator"), load_classifier(tmp_path / "c")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = ClassPosterior(generator, classifier, 1)
        again = ClassPosterior(generator, classifier, 2)
    assert posterior.classifier.image_range == loaded.classifiers[0].image_range == BYTES
    assert posterior.networks.classifier is again.networks.classifier, "compiled once for both"
    z = tf.random.stateless_normal([4, 6], [1, 2])
    theirs = ClassPosterior.of(loaded.networks(loaded.targets("1")[0]), 1)
    np.testing.assert_allclose(posterior.class_log_prob(z), theirs.class_log_prob(z), rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (
            lambda x: 0.0 * tf.reduce_mean(x, [1, 2]) + [2.0, 1.5, -1.0],
            "predictions hardly differ between draws in any common range",
        ),
        (lambda x: 3.0 * tf.reduce_mean(x, [1, 2]), "which is close; give --classifier_range=LOW,HIGH"),
    ],
    ids=["flat", "close"],
)
def test_a_guess_that_may_be_wrong_is_doubted(
    fn: Any, text: str, folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = prepared(folder, tmp_path, fn)
    with pytest.raises(SystemExit) as code:
        main(["sample", "--label=1", "--kernel=rejection", "--num_results=1", *flags, "--out=run", "--strict"])
    assert code.value.code == 1
    assert text in capsys.readouterr().err
    assert any(text in line for line in json.loads(Path("run/run.json").read_text())["doubts"])
    with pytest.warns(UserWarning, match="hardly differ|is close"):
        ClassPosterior(load_generator(folder / "generator"), load_classifier(tmp_path / "c"), 1)


def test_a_network_that_takes_any_range_raises_no_doubt(folder: Path, tmp_path: Path) -> None:
    """The network standardizes its images itself."""
    even = lambda x: 3.0 * tf.reduce_mean(tf.image.per_image_standardization(x), [1, 2])  # noqa: E731
    classifier = load_classifier(toy.save(tmp_path / "c", even, [None, SIZE, SIZE, 3]))
    assert guess_image_range(load_generator(folder / "generator"), classifier).warning == ""


def test_a_class_conditional_generator_shows_several_classes(folder: Path, tmp_path: Path) -> None:
    """With images of the target's class alone, all predictions would be alike."""

    def of_class(z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": images(tf.concat([0.1 * z[:, :3] + 2.0 * z[:, 3:] - 0.7, z[:, :3]], 1))}

    one_hot = toy.save_signature(
        tmp_path / "g", of_class, tf.TensorSpec([None, 6], tf.float32, "z"), card={"image_range": [-1, 1]}
    )
    logits = train(BY_255)
    classifier = load_classifier(toy.save(tmp_path / "c", logits, [None, SIZE, SIZE, 3]))
    guess = guess_image_range(load_generator(one_hot, class_slice="3:6"), classifier)
    assert guess.image_range == BYTES
    assert guess.scores[0][1] > 0.5


def test_what_a_score_rises_with() -> None:
    """Different and moderately confident predictions score high; equal, uniform or saturated ones do not."""
    rng = np.random.default_rng(0)
    logits = 3.0 * rng.standard_normal([64, NUM_CLASSES])
    as_logs = lambda x: np.asarray(tf.nn.log_softmax(tf.constant(x, tf.float32)))  # noqa: E731
    right = range_score(as_logs(logits), True)
    for worse in (logits * 1e-3, logits * 0 + logits[:1], logits * 100, np.zeros_like(logits)):
        assert range_score(as_logs(worse), True) < 0.5 * right
    assert range_score(np.full([64, 3], np.nan), True) == 0
    tied = choose_range({UNIT: as_logs(logits), SYMMETRIC: as_logs(logits[::-1] * 0.95), BYTES: as_logs(logits * 0)}, True, "x")
    assert "is close" in tied.warning


@pytest.mark.parametrize(
    ("low", "high", "truth"),
    [
        (-0.005, 1.005, UNIT),
        (0.0, 1.015, UNIT),
        (-1.03, 1.0, SYMMETRIC),
        (-0.1, 1.0, SYMMETRIC),
        (-3.0, 258.0, BYTES),
        (0.0, 1.5, SYMMETRIC),  # no usual range: the result is reported as a guess
    ],
)
def test_a_generator_may_overshoot_its_range(low: float, high: float, truth: tuple[float, float], tmp_path: Path) -> None:
    scaled = lambda z: tf.clip_by_value((images(z) + 1) / 2 * (high - low) * 1.001 + low, low, high)  # noqa: E731
    generator = load_generator(toy.save(tmp_path / "g", scaled, [None, 6]))
    assert generator.image_range == truth
    assert "image_range" in generator.assumed
