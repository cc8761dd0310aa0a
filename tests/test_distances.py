"""Distances between sets of features: closed forms, negative controls, and the same from other people's code."""

import numpy as np
import prdc
import pytest
from scipy.linalg import sqrtm
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from tfgradgen.evaluation.distances import (
    NUM_FOLDS,
    PENALTY,
    classifier_two_sample_test,
    density_and_coverage,
    fid,
    kid,
    logistic_regression,
    median_distance,
    mmd,
    mmd_test,
)

DIM = 5


def normal(seed: int, num: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).standard_normal((num, DIM))


def mean_over(kernel: np.ndarray) -> float:
    return (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))


def test_kid_is_the_squared_distance_of_kernel_means() -> None:
    rng = np.random.default_rng(0)
    same = [kid(rng.standard_normal((200, 8)), rng.standard_normal((200, 8))) for _ in range(30)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(30), "unbiased: zero on average for equal laws"
    apart = kid(rng.standard_normal((200, 8)) + 1, rng.standard_normal((200, 8)))
    assert apart > 10 * np.std(same)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50_000, 3))
    y = rng.standard_normal((50_000, 3)) * [1, 2, 3] + [1, 0, 0]
    assert fid(x, y) == pytest.approx(1 + (1 - 2) ** 2 + (1 - 3) ** 2, rel=0.03)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert fid(x @ turn, y @ turn) == pytest.approx(fid(x, y), rel=1e-6), "no basis is special"
    assert fid(x, x) == pytest.approx(0, abs=1e-8)


def test_density_and_coverage_tell_missing_modes_from_outliers() -> None:
    rng = np.random.default_rng(0)
    draw = lambda n: rng.standard_normal((n, 4))  # noqa: E731
    density, coverage = density_and_coverage(draw(1000), draw(1000))
    assert density == pytest.approx(1, abs=0.15)
    assert coverage > 0.9  # 1 - 2^-5 in expectation, with 5 neighbours
    two_modes = np.concatenate([draw(500), draw(500) + 20])
    assert density_and_coverage(draw(1000), two_modes)[1] == pytest.approx(0.5, abs=0.05)
    outliers = np.concatenate([draw(500), draw(500) + 20])
    assert density_and_coverage(outliers, draw(1000))[0] == pytest.approx(0.5, abs=0.1)


def test_distances_are_those_of_other_peoples_kernels() -> None:
    x, y = normal(0, 40), normal(1, 60, 0.3)
    for ours, kernel in (
        (kid(x, y), lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / DIM, coef0=1)),
        (mmd(x, y, 1.7), lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * 1.7**2))),
    ):
        theirs = mean_over(kernel(x, x)) + mean_over(kernel(y, y)) - 2 * kernel(x, y).mean()
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_frechet_distance_by_the_matrix_square_root() -> None:
    x, y = normal(0, 200), normal(1, 300, 0.5, 1.3) @ np.triu(np.ones((DIM, DIM)))
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    theirs = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * np.real(sqrtm(c @ d)))
    assert fid(x, y) == pytest.approx(theirs, rel=1e-8)


def test_density_and_coverage_are_those_of_their_authors() -> None:
    x, y = normal(0, 150), normal(1, 100, 0.4)
    theirs = prdc.compute_prdc(real_features=y, fake_features=x, nearest_k=5)
    assert density_and_coverage(x, y) == pytest.approx((theirs["density"], theirs["coverage"]))


def test_mmd_of_two_normals_in_closed_form() -> None:
    """E k(x, y) = (w^2 / (w^2 + 2))^(d/2) exp(-|m|^2 / (2 (w^2 + 2))) for unit normals with means m apart."""
    width, shift = 2.0, 0.4
    same = (width**2 / (width**2 + 2)) ** (DIM / 2)
    expected = 2 * same * (1 - np.exp(-DIM * shift**2 / (2 * (width**2 + 2))))
    found = [mmd(normal(2 * k, 100), normal(2 * k + 1, 100, shift), width) for k in range(60)]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(60)
    assert expected > 10 * np.std(found) / np.sqrt(60), "the test could see half of it"
    null = [mmd(normal(2 * k, 100), normal(2 * k + 1, 100), width) for k in range(60)]
    assert abs(np.mean(null)) < 4 * np.std(null) / np.sqrt(60), "unbiased"


def test_the_permutation_test_has_its_level_and_its_statistic() -> None:
    rng = np.random.default_rng(0)
    pairs = [(normal(1, 10), normal(2, 20)), (normal(3, 10, 5.0), normal(4, 20, 5.0))]
    statistic, _ = mmd_test(pairs, 10, rng)
    assert statistic == pytest.approx(np.mean([mmd(x, y, median_distance(np.concatenate([x, y]))) for x, y in pairs]))
    p_values = [
        mmd_test([(normal(4 * k, 8), normal(4 * k + 1, 16)), (normal(4 * k + 2, 8, 9.0), normal(4 * k + 3, 16, 9.0))], 99, rng)[
            1
        ]
        for k in range(200)
    ]
    for level in (0.05, 0.5):
        reached = sum(p <= level for p in p_values)
        assert binom.cdf(reached, 200, level) > 1e-4
        assert binom.sf(reached - 1, 200, level) > 1e-4
    shifted = [(x + 1.5, y) for x, y in pairs]
    assert mmd_test(shifted, 999, rng)[1] == 1 / 1000


def test_classes_far_apart_do_not_hide_a_shift_within_them() -> None:
    """The rows change places within their class; a test that pooled the classes would see their distance only."""
    pairs = [(normal(k, 16, 50.0 * k + 1.2), normal(k + 100, 32, 50.0 * k)) for k in range(4)]
    assert mmd_test(pairs, 999, np.random.default_rng(0))[1] < 0.01
    ours, theirs = (np.concatenate([pair[side][:16] for pair in pairs]) for side in (0, 1))
    groups = np.repeat(np.arange(4), 16)
    accuracy, p = classifier_two_sample_test(ours, theirs, np.random.default_rng(0), groups)
    assert accuracy > 0.7
    assert p < 1e-3


def test_the_classifier_test_does_not_cry_wolf() -> None:
    """Equal laws, more features than rows in a class: a share of at most 5 % below 0.05, but for binomial chance."""
    num_rejected, accuracies = 0, []
    for k in range(60):
        rng = np.random.default_rng(k)
        ours, theirs = rng.standard_normal((2, 40, 12))
        accuracy, p = classifier_two_sample_test(ours, theirs, rng, np.repeat(np.arange(4), 10))
        accuracies.append(accuracy)
        num_rejected += p < 0.05
    assert binom.sf(num_rejected - 1, 60, 0.05) > 1e-3
    assert abs(np.mean(accuracies) - 0.5) < 4 * np.std(accuracies) / np.sqrt(60) + 0.01, "no fold tells of another"


def test_the_logistic_regression_is_the_one_of_a_library() -> None:
    x = np.concatenate([normal(0, 50), normal(1, 50, 0.5)])
    is_one = np.arange(100) < 50
    weights, bias = logistic_regression(x, is_one)
    theirs = LogisticRegression(C=1 / PENALTY, tol=1e-8).fit(x, is_one)
    np.testing.assert_allclose(weights, theirs.coef_[0], atol=1e-3)
    assert bias == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two rows of either set, got 1 and 5"):
        mmd(normal(0, 1), normal(1, 5), 1.0)
    with pytest.raises(ValueError, match=f"{NUM_FOLDS} or more, got 4, 4"):
        classifier_two_sample_test(normal(0, 4), normal(1, 4), np.random.default_rng(0))
    with pytest.raises(ValueError, match="got 10, 12"):
        classifier_two_sample_test(normal(0, 10), normal(1, 12), np.random.default_rng(0))
