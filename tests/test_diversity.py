"""Diversity of a set: closed forms, and the same from other people's code."""

import numpy as np
import pytest
import tensorflow as tf
from vendi_score import vendi

from tfgradgen.evaluation.diversity import mean_distance, ms_ssim_pairs, repeat_rate, vendi_score


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pictures(seed: int, num: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def test_the_vendi_score_counts_what_is_different() -> None:
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    assert vendi_score(np.ones((7, 3))) == pytest.approx(1)
    assert vendi_score(np.repeat(np.eye(3), 4, 0)) == pytest.approx(3), "three pictures, four times each"
    assert vendi_score(np.zeros((3, 2))) == pytest.approx(1), "nothing differs from nothing"
    assert vendi_score(5 * noise(0, 9, 4)) == pytest.approx(vendi_score(noise(0, 9, 4))), "of directions only"


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of how it imports SciPy
def test_the_vendi_score_is_that_of_its_authors() -> None:
    x = noise(1, 16, 6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert vendi_score(x) == pytest.approx(vendi.score_K(unit @ unit.T), rel=1e-6)


def test_mean_distance_and_repeats_of_points_on_a_line() -> None:
    line = np.array([[0.0], [1.0], [3.0]])
    assert mean_distance(line) == pytest.approx((1 + 3 + 2) / 3)
    assert repeat_rate(line, 0.5) == 0
    assert repeat_rate(line, 1.0) == pytest.approx(2 / 3)
    assert repeat_rate(line, 2.0) == 1


def test_similarity_is_1_for_the_same_picture_and_small_for_noise() -> None:
    image = np.concatenate([pictures(0, 2, 64), pictures(0, 1, 64)])  # the third is the first
    found = ms_ssim_pairs(image)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1)
    assert found[0, 2] == pytest.approx(1, abs=1e-5)
    assert found[0, 1] < 0.1
    brighter = np.clip(image[:1].astype(int) // 2 + 90, 0, 255).astype(np.uint8)
    assert 0.1 < ms_ssim_pairs(np.concatenate([brighter, image[:1] // 2]))[0, 1] < 1


def test_with_one_scale_it_is_plain_ssim() -> None:
    """16 pixels leave room for one scale; the closed form of constant pictures is (2 a b + c) / (a^2 + b^2 + c)."""
    image = pictures(3, 3, 16) // 4 + 60
    theirs = tf.image.ssim(tf.constant(image[:1]), tf.constant(image[1:2]), 255).numpy()[0]
    assert ms_ssim_pairs(image)[0, 1] == pytest.approx(theirs, abs=1e-6)
    flat = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (100, 200)])
    c = (0.01 * 255) ** 2
    assert ms_ssim_pairs(flat)[0, 1] == pytest.approx((2 * 100 * 200 + c) / (100**2 + 200**2 + c), abs=1e-3)  # float32


def test_pictures_too_small_for_the_window_have_none() -> None:
    assert np.isnan(ms_ssim_pairs(pictures(4, 3, 8))).all()
