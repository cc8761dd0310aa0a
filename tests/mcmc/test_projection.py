"""The latent point whose image is nearest to a photograph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfgradgen.core.checks import UserError
from tfgradgen.core.contracts import Networks
from tfgradgen.mcmc import projection
from tfgradgen.mcmc.projection import project, read_photograph
from tfgradgen.media.image import to_uint8
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator


class Grey:
    """A generator of images [B, 8, 8, 1] in which each coordinate of z is a block of pixels."""

    latent_dim = 16

    def __call__(self, z: Any) -> tf.Tensor:
        blocks = tf.reshape(tf.tanh(z), [-1, 4, 1, 4, 1])
        return tf.reshape(tf.tile(blocks, [1, 1, 2, 1, 2]), [-1, 8, 8, 1])


class Sound(Grey):
    def __call__(self, z: Any) -> tf.Tensor:
        return tf.tanh(z)


class Steps(Grey):
    """A generator without a gradient."""

    def __call__(self, z: Any) -> tf.Tensor:
        return tf.stop_gradient(super().__call__(z))


@pytest.fixture
def networks(toy_pair: tuple[Path, Path]) -> Networks:
    return Networks(load_generator(toy_pair[0]), load_classifier(toy_pair[1]))


def test_it_finds_the_point_of_an_image_of_the_generator(networks: Networks, tmp_path: Path) -> None:
    """An image of the generator is found again; a photograph that it cannot make is not, and the record says so."""
    z = tf.random.stateless_normal([1, 6], [2, 3])
    z *= np.sqrt(6) / tf.norm(z)
    Image.fromarray(to_uint8(networks.generator(z))[0]).save(tmp_path / "own.png")
    own = project(networks, tmp_path / "own.png", 0)
    assert np.corrcoef(own.z, z[0])[0, 1] > 0.98, "the steps end before the last digits"
    assert own.record["pixel_rmse"] < 0.05 < 0.2 < own.record["prior_pixel_rmse"]
    assert own.record["norm"] == pytest.approx(1, abs=0.1)
    assert own.record["feature_distance"] is None, "this classifier has no features"
    np.testing.assert_array_equal(project(networks, tmp_path / "own.png", 0).z, own.z)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert project(networks, tmp_path / "noise.png", 0).record["pixel_rmse"] > 0.2


def test_no_gradient_is_eager(networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One would rewrite the SavedModels, and the chains that start there would draw other bits than in another process."""
    eager, gradient = list[bool](), tf.GradientTape.gradient

    def seen(self: tf.GradientTape, *args: Any, **options: Any) -> Any:
        eager.append(tf.executing_eagerly())
        return gradient(self, *args, **options)

    monkeypatch.setattr(tf.GradientTape, "gradient", seen)
    monkeypatch.setattr(projection, "NUM_STEPS", projection.CHUNK)
    Image.new("RGB", (8, 8), (200, 20, 20)).save(tmp_path / "red.png")
    project(networks, tmp_path / "red.png", 0)
    assert len(eager) > 1
    assert not any(eager)


def test_grey_generators_take_the_luma_and_others_are_refused(
    networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (16, 16), (255, 0, 0)).save(path)
    grey = read_photograph(Grey(), path)
    assert grey.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(grey, 2 * 0.299 - 1, atol=0.01)
    with pytest.raises(UserError, match=r"init: expected a generator of images, .* got one whose outputs have shape \[16\]"):
        read_photograph(Sound(), path)
    monkeypatch.setattr(projection, "NUM_STEPS", 10)
    with pytest.raises(UserError, match="init: expected a generator with a gradient"):
        project(networks._replace(generator=Steps()), path, 0)
