"""Diversity of the images in a set, compared with closed forms, the authors' code, and SSIM in NumPy."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import correlate

from tfgradgen.evaluation.diversity import (
    mean_distance,
    mean_similarity,
    repeat_rate,
    vendi_score,
)
from tfgradgen.media.similarity import POWER_FACTORS, ms_ssim_pairs, num_scales


def test_vendi_score_counts_directions() -> None:
    assert vendi_score(np.ones((6, 3))) == pytest.approx(1)
    assert vendi_score(np.diag([1.0, 2.0, 30.0, 4.0])) == pytest.approx(4), "lengths play no part"
    assert vendi_score(np.repeat(np.eye(3), 5, axis=0)) == pytest.approx(3), "copies count once"
    unequal = np.repeat(np.eye(2), [3, 1], axis=0)  # eigenvalues 3/4 and 1/4
    assert vendi_score(unequal) == pytest.approx(4 / 3**0.75)
    angle = np.array([[1.0, 0.0], [np.cos(1), np.sin(1)]])  # eigenvalues (1 +- cos 1) / 2
    high, low = (1 + np.cos(1)) / 2, (1 - np.cos(1)) / 2
    assert vendi_score(angle) == pytest.approx(high**-high * low**-low)


def test_a_row_of_zeros_is_its_own_direction() -> None:
    assert vendi_score(np.zeros((4, 2))) == pytest.approx(1)
    assert vendi_score(np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [5.0, 0.0]])) == pytest.approx(2)
    assert vendi_score(np.array([[2.0, 1.0]])) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(30, 4), (8, 40)])
def test_vendi_score_agrees_with_its_authors(shape: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from vendi_score import vendi

        features = np.random.default_rng(0).standard_normal(shape) + 0.5
        theirs = vendi.score_X(features)
    assert vendi_score(features) == pytest.approx(theirs, rel=1e-6)


def test_mean_distance_is_over_pairs_of_different_rows() -> None:
    assert mean_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    assert mean_distance(np.ones((3, 2))) == 0.0
    rng = np.random.default_rng(1)
    # The distance of two unit normals in two dimensions is Rayleigh with scale sqrt 2: mean sqrt pi, variance 4 - pi.
    pairs = [mean_distance(rng.standard_normal((2, 2))) for _ in range(2000)]
    assert np.mean(pairs) == pytest.approx(np.sqrt(np.pi), abs=4 * np.sqrt((4 - np.pi) / 2000))


def test_repeat_rate_counts_rows_with_a_near_one() -> None:
    rows = np.array([[0.0, 0.0], [0.0, 0.0], [0.3, 0.4], [5.0, 5.0]])
    assert repeat_rate(rows, 0.0) == 0.5, "copies"
    assert repeat_rate(rows, 0.49) == 0.5
    assert repeat_rate(rows, 0.5) == 0.75, "the threshold is within"
    assert repeat_rate(rows, 10.0) == 1.0
    assert repeat_rate(rows[1:], 0.1) == 0.0, "a row does not repeat itself"


@pytest.mark.parametrize("measure", [mean_distance, lambda rows: repeat_rate(rows, 1.0)])
def test_one_row_has_no_other(measure) -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        measure(np.ones((1, 3)))


def scored(num: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return images that share most of their content, so that no similarity is cut off at 0."""
    rng = np.random.default_rng(2)
    shared = rng.integers(60, 190, (1, height, width, channels))
    return np.clip(shared + rng.integers(-60, 61, (num, height, width, channels)), 0, 255).astype("uint8")


def ssim_written_out(x: np.ndarray, y: np.ndarray, scales: int) -> float:
    """Return the MS-SSIM (Wang et al. 2003) of [H, W, C] in 0..255, whose sides can be halved `scales - 1` times, in NumPy."""
    x, y = x / 255.0, y / 255.0
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = (np.outer(taps, taps) / taps.sum() ** 2)[:, :, None]
    local = lambda a: correlate(a, window)[5:-5, 5:-5]  # noqa: E731
    powers = np.array(POWER_FACTORS[:scales]) / sum(POWER_FACTORS[:scales])
    value = np.ones(x.shape[-1])
    for k, power in enumerate(powers):
        if k:
            x, y = ((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4 for a in (x, y))
        means = local(x), local(y)
        variances = local(x * x) - means[0] ** 2 + local(y * y) - means[1] ** 2
        structure = (2 * (local(x * y) - means[0] * means[1]) + 0.03**2) / (variances + 0.03**2)
        light = (2 * means[0] * means[1] + 0.01**2) / (means[0] ** 2 + means[1] ** 2 + 0.01**2)
        last = k == scales - 1
        value *= (structure * light if last else structure).mean((0, 1)) ** power
    return value.mean()


def ms_ssim(image: np.ndarray) -> float:
    pairs = ms_ssim_pairs(image)
    assert pairs is not None
    return mean_similarity(pairs)


@pytest.mark.parametrize(("side", "scales"), [(16, 1), (24, 2), (48, 3)])
def test_ms_ssim_is_what_its_formula_says(side: int, scales: int) -> None:
    image = scored(4, side, side + 8)
    pairs = ms_ssim_pairs(image)
    assert pairs is not None
    expected = [[ssim_written_out(x, y, scales) for x in image] for y in image]
    np.testing.assert_allclose(pairs, expected, atol=1e-5)
    np.testing.assert_array_equal(pairs, pairs.T)
    np.testing.assert_array_equal(np.diag(pairs), 1)
    assert 0.1 < pairs.min() < 0.9
    assert ms_ssim(image) == pytest.approx((pairs.sum() - 4) / 12)


def test_ms_ssim_of_constant_images_in_closed_form() -> None:
    """Only the luminance differs, which counts at the coarsest scale alone, with the power of that scale."""
    image = np.stack([np.full((64, 64, 1), grey, "uint8") for grey in (51, 204)])
    light = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    # In TensorFlow's float32, structure differs from 1 by rounding: about 1e-7 over the constant 9e-4.
    assert ms_ssim(image) == pytest.approx(light ** (0.3001 / (0.0448 + 0.2856 + 0.3001)), abs=5e-4)


def test_ms_ssim_is_1_for_copies_and_0_for_negatives() -> None:
    image = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3)).astype("uint8")
    assert ms_ssim(np.repeat(image, 3, axis=0)) == pytest.approx(1, abs=1e-5)
    assert ms_ssim(np.concatenate([image, 255 - image])) == 0.0, "not NaN, though structure is opposite"
    alike, unlike = scored(3, 32, 32), np.random.default_rng(4).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    assert ms_ssim(alike) > ms_ssim(unlike) + 0.2


def test_ms_ssim_in_batches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = scored(5, 21, 23)
    whole = ms_ssim_pairs(image)
    monkeypatch.setattr("tfgradgen.media.similarity.BATCH_VALUES", 3 * image[0].size)
    np.testing.assert_allclose(ms_ssim_pairs(image), whole, atol=1e-6)


def test_ms_ssim_of_what_has_none() -> None:
    assert [num_scales(side) for side in (10, 11, 20, 21, 64, 160, 161, 999)] == [0, 1, 1, 2, 3, 4, 5, 5]
    image = scored(3, 16, 10)
    assert ms_ssim_pairs(image) is None
    assert np.isnan(ms_ssim(scored(1, 16, 16)))
    np.testing.assert_array_equal(ms_ssim_pairs(scored(1, 16, 16)), [[1]])
    with pytest.raises(ValueError, match="expected uint8"):
        ms_ssim(scored(2, 16, 16) / 255)
