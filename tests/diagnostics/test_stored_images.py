"""p(class) beside a stored image belongs to that image: this is checked at the end of a run, and a failure is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.command import FAST
from tfgradgen import ClassPosterior, RunConfig
from tfgradgen.cli.commands import main
from tfgradgen.core.contracts import Draws, collect
from tfgradgen.diagnostics.stored_images import last_images
from tfgradgen.mcmc.rejection import exact_chunks, sample_exact

pytestmark = pytest.mark.usefixtures("quick_runs")

WEIGHTS = tf.random.stateless_normal([6, 192], [3, 4])


class Generator:
    """A generator z [B, 6] -> image [B, 8, 8, 3]; `change` maps (image, B) to an image."""

    latent_dim = 6

    def __init__(self, change: Any = lambda image, size: image):
        self.change = change

    def __call__(self, z: Any) -> tf.Tensor:
        image = 0.9 * tf.tanh(tf.reshape(tf.matmul(z, WEIGHTS), [-1, 8, 8, 3]))
        return self.change(image, z.shape[0])


class Classifier:
    """A classifier whose logit has this `slope` in the mean red of the image, so that rounding moves it."""

    num_classes = 2

    def __init__(self, slope: float = 8.0):
        self.slope = slope

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        logit = self.slope * tf.reduce_mean(image[..., 0], [1, 2])
        return tf.stack([tf.zeros_like(logit), logit], -1)


def exact(num_chains: int = 64) -> Draws:
    return sample_exact(ClassPosterior(Generator(), Classifier(), 1), 2, RunConfig(num_chains=num_chains))[0]


def said(generator: Any = None, classifier: Any = None, draws: Draws | None = None, max_batch: int | None = None) -> list[str]:
    posterior = ClassPosterior(generator or Generator(), classifier or Classifier(), 1)
    return last_images(posterior, draws or exact(), max_batch)[1]


@pytest.mark.parametrize("max_batch", [None, 1, 7])
def test_a_sound_pair_has_its_images(max_batch: int | None) -> None:
    draws = exact()
    posterior = ClassPosterior(Generator(), Classifier(), 1)
    images, lines = last_images(posterior, draws, max_batch)
    assert lines == []
    assert (images.shape, images.dtype) == ((64, 8, 8, 3), np.uint8)
    seen = tf.nn.softmax(Classifier()(images.astype(np.float32) / 127.5 - 1.0))[:, 1]
    # The mean of 64 rounding errors, uniform within half of 1 / 127.5, times the slope, has this standard deviation in nats.
    std = 8.0 / 127.5 / np.sqrt(12 * 64)
    np.testing.assert_allclose(seen, draws.class_prob[-1], atol=5 * std / 4)


def test_a_classifier_that_sees_every_bit_is_not_blamed_for_rounding() -> None:
    sharp = Classifier(8000.0)
    draws = sample_exact(ClassPosterior(Generator(), sharp, 1), 2, RunConfig(num_chains=64))[0]
    assert said(classifier=sharp, draws=draws) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image, size: image + 0.1 * tf.random.normal(tf.shape(image)),
        lambda image, size: image + 0.3 * tf.random.normal([]),
        lambda image, size: image - tf.reduce_mean(image, 0),
        lambda image, size: image * (1.0 if size == 64 else 0.5),
    ],
    ids=["noise", "one noise", "mean of the batch", "size of the batch"],
)
def test_images_that_are_not_those_of_the_draws_are_said(change: Any) -> None:
    lines = said(Generator(change), max_batch=16)
    assert "stored images is not that of their draws" in lines[0]
    assert "random or depends on the whole batch" in lines[0]


def test_images_that_are_cut_off_are_said() -> None:
    """Their p(class) belongs to pixel values that no stored image has."""
    wide = Generator(lambda image, size: 4.0 * image)
    draws = collect(exact_chunks(ClassPosterior(wide, Classifier(), 1), 2, RunConfig(num_chains=64))).draws
    lines = said(wide, draws=draws)
    assert len(lines) == 1
    assert "outside [-1, 1]" in lines[0]


def test_sounds_are_compared_as_they_are_stored() -> None:
    class Sounds(Generator):
        def __call__(self, z: Any) -> tf.Tensor:
            return tf.reshape(super().__call__(z), [-1, 192])

    class Hearing(Classifier):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(tf.reshape(image, [-1, 8, 8, 3]))

    draws = sample_exact(ClassPosterior(Sounds(), Hearing(), 1), 2, RunConfig(num_chains=8))[0]
    images, lines = last_images(ClassPosterior(Sounds(), Hearing(), 1), draws)
    assert (images.shape, images.dtype, lines) == ((8, 192), np.int16, [])


def test_a_run_stores_images_with_their_p(toy_flags: list[str], toy_pair: tuple[Path, Path]) -> None:
    """For each method, the last p(class) is that of the stored image by the saved classifier."""
    classify = tf.saved_model.load(str(toy_pair[1]))
    for kernel in ("rejection", "elliptical_slice", "smc", "mala", "map"):
        fast = FAST if kernel in ("mala", "elliptical_slice", "map") else ["--num_results=4", "--num_chains=3"]
        main(["sample", "--label=goldfish", f"--kernel={kernel}", *toy_flags, *fast, f"--out={kernel}"])
        with np.load(f"{kernel}/samples.npz") as file:
            image, prob = file["image"], file["class_prob"][-1]
        seen = tf.nn.softmax(classify(tf.constant(image / 127.5 - 1.0, tf.float32)))[:, 0]
        # The mean of a colour's 64 pixels is moved by half a step at most, and the logits by four times that.
        np.testing.assert_allclose(seen, prob, atol=2 * 4 * 0.5 / 127.5 / 4)
        record = json.loads(Path(kernel, "run.json").read_text())
        assert not [line for line in record["problems"] if "stored images" in line]
        with Image.open(f"{kernel}/grid.png") as grid:
            assert grid.size[0] > 0


def test_a_run_that_stores_other_images_says_so_and_strict_fails(
    toy_flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is one whose noise begins after the checks."""
    from tfgradgen.models.generator import Generator as Loaded

    call = Loaded.__call__

    def noisy(self: Any, z: Any) -> tf.Tensor:
        return call(self, z) * (1.0 if z.shape[0] != 3 else 0.2)  # batches of three chains; the checks use other sizes

    monkeypatch.setattr(Loaded, "__call__", noisy)
    with pytest.raises(SystemExit) as exit_:
        main(["sample", "--label=goldfish", "--kernel=rejection", *toy_flags, "--num_chains=3", "--out=other", "--strict"])
    assert exit_.value.code == 1
    assert "of 3 stored images is not that of their draws" in capsys.readouterr().out
    assert "stored images" in json.loads(Path("other/run.json").read_text())["problems"][0]
