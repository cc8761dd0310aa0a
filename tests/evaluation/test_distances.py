"""Distances of feature rows and tests of equal distributions: closed forms, reference implementations, false alarms."""

import itertools
import warnings

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import binom

from tfgradgen.evaluation import distances
from tfgradgen.evaluation.distances import (
    classifier_two_sample_test,
    density_and_coverage,
    fid,
    fit_logistic,
    kid,
    median_distance,
    mmd,
    mmd_test,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from prdc import compute_prdc
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
    from sklearn.model_selection import PredefinedSplit, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler


def most_by_chance(repeats: int, level: float = 0.05) -> int:
    """Return the number of rejections that a valid test at that level exceeds with probability 1e-3."""
    return int(binom.ppf(0.999, repeats, level))


def unbiased(kernel, x: np.ndarray, y: np.ndarray) -> float:
    """Return the squared MMD by its definition as a sum over pairs of different rows."""
    terms = [kernel(a[None], b[None])[0, 0] for a, b in itertools.permutations(x, 2)]
    others = [kernel(a[None], b[None])[0, 0] for a, b in itertools.permutations(y, 2)]
    return float(np.mean(terms) + np.mean(others) - 2 * kernel(x, y).mean())


def test_kid_is_the_squared_distance_of_kernel_means() -> None:
    rng = np.random.default_rng(0)
    same = [kid(rng.standard_normal((200, 8)), rng.standard_normal((200, 8))) for _ in range(30)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(30), "unbiased: zero on average for equal distributions"
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


def test_density_and_coverage_distinguish_missing_modes_and_outliers() -> None:
    rng = np.random.default_rng(0)
    draw = lambda n: rng.standard_normal((n, 4))  # noqa: E731
    density, coverage = density_and_coverage(draw(1000), draw(1000))
    assert density == pytest.approx(1, abs=0.15)
    assert coverage > 0.9  # 1 - 2^-5 in expectation, with 5 neighbours
    two_modes = np.concatenate([draw(500), draw(500) + 20])
    assert density_and_coverage(draw(1000), two_modes)[1] == pytest.approx(0.5, abs=0.05)
    outliers = np.concatenate([draw(500), draw(500) + 20])
    assert density_and_coverage(outliers, draw(1000))[0] == pytest.approx(0.5, abs=0.1)


def test_kernel_distances_agree_with_scikit_learns_kernels() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((9, 5)), rng.standard_normal((7, 5)) + 0.5
    cubic = lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1)  # noqa: E731
    assert kid(x, y) == pytest.approx(unbiased(cubic, x, y), rel=1e-9)
    gaussian = lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * 1.7**2))  # noqa: E731
    assert mmd(x, y, 1.7) == pytest.approx(unbiased(gaussian, x, y), rel=1e-9)


def test_frechet_distance_agrees_with_a_matrix_square_root() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((60, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((50, 6)) + 1
    c, d = np.cov(x.T), np.cov(y.T)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert fid(x, y) == pytest.approx(expected, rel=1e-6)
    assert fid(x[:, :1], x[:, :1] + 3) == pytest.approx(9), "one column will do"


@pytest.mark.parametrize("neighbours", [1, 5])
def test_density_and_coverage_agree_with_prdc(neighbours: int) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((80, 4)) * 0.7, rng.standard_normal((60, 4))
    theirs = compute_prdc(y, x, neighbours)
    assert density_and_coverage(x, y, neighbours) == pytest.approx((theirs["density"], theirs["coverage"]))


def test_mmd_of_two_gaussians_in_closed_form() -> None:
    """E exp(-|x - y|^2 / 2b^2) of unit normals whose means are s apart: (1 + 2 / b^2)^(-D/2) exp(-s^2 / 2(b^2 + 2))."""
    rng = np.random.default_rng(4)
    width, shift, bandwidth = 3, 0.8, 1.5
    values = [mmd(rng.standard_normal((50, width)) + shift, rng.standard_normal((70, width)), bandwidth) for _ in range(200)]
    share = np.exp(-width * shift**2 / (2 * (bandwidth**2 + 2)))
    expected = 2 * (1 + 2 / bandwidth**2) ** (-width / 2) * (1 - share)
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error
    assert error < expected / 40, "the comparison says something"
    null = [mmd(rng.standard_normal((10, width)), rng.standard_normal((8, width)), bandwidth) for _ in range(200)]
    assert abs(np.mean(null)) < 4 * np.std(null) / np.sqrt(200), "unbiased also for few rows"


def test_median_distance_is_of_pairs_that_differ() -> None:
    assert median_distance(np.array([[0.0], [1.0], [3.0], [7.0]])) == 3.5  # of 1, 2, 3, 4, 6, 7
    rng = np.random.default_rng(5)
    # Squared distances of unit normals are 2 chi^2 with D degrees, the median of which is near D (1 - 2 / 9D)^3.
    assert median_distance(rng.standard_normal((800, 50))) == pytest.approx(np.sqrt(100 * (1 - 2 / 450) ** 3), rel=0.01)
    assert median_distance(np.repeat([[0.0], [2.0]], [9, 2], axis=0)) == 2.0, "not 0, though most pairs are copies"
    assert median_distance(np.ones((5, 2))) == 0.0


def test_mmd_test_is_the_share_of_all_splits_that_are_as_far_apart() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((4, 2)) + 0.7, rng.standard_normal((5, 2))
    rows = np.concatenate([x, y])
    bandwidth = median_distance(rows)
    splits = [list(chosen) for chosen in itertools.combinations(range(9), 4)]
    values = [mmd(rows[chosen], np.delete(rows, chosen, axis=0), bandwidth) for chosen in splits]
    statistic, p_value = mmd_test([(x, y)], 4000, rng)
    assert statistic == pytest.approx(values[0]), "the first split is the given one"
    share = np.mean(np.array(values) >= values[0] - 1e-12)
    assert 0.02 < share < 0.9
    assert p_value == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000) + 1 / 4000)


def test_mmd_test_takes_the_mean_over_groups_and_ignores_where_they_lie() -> None:
    rng = np.random.default_rng(7)
    groups = [(rng.standard_normal((6, 3)) + 0.8, rng.standard_normal((20, 3))) for _ in range(5)]
    statistic, p_value = mmd_test(groups, 199, np.random.default_rng(0))
    alone = [mmd(x, y, median_distance(np.concatenate([x, y]))) for x, y in groups]
    assert statistic == pytest.approx(np.mean(alone))
    assert p_value == 1 / 200, "together, the groups tell what few rows of one could not"
    moved = [(x + 100 * k, y + 100 * k) for k, (x, y) in enumerate(groups)]
    assert mmd_test(moved, 199, np.random.default_rng(0)) == pytest.approx((statistic, p_value))


def test_mmd_test_has_its_nominal_level() -> None:
    rng = np.random.default_rng(8)
    draw = lambda n, k: rng.exponential(size=(n, 3)) + 5 * k  # noqa: E731
    p_values = [mmd_test([(draw(4, k), draw(9, k)) for k in range(3)], 19, rng)[1] for _ in range(400)]
    assert np.sum(np.array(p_values) <= 0.05) <= most_by_chance(400)
    assert np.sum(np.array(p_values) <= 0.05) >= binom.ppf(0.001, 400, 0.05), "nor is it timid"
    assert np.mean(p_values) == pytest.approx(0.525, abs=4 * np.sqrt(1 / 12 / 400)), "uniform on 1/20, 2/20 ... 1"


def test_mmd_test_of_copies() -> None:
    rng = np.random.default_rng(9)
    one, other = np.zeros((16, 3)), np.ones((64, 3))
    assert mmd_test([(one, other)], 99, rng)[1] == 0.01, "two points, though most pairs of rows are copies"
    assert mmd_test([(one, one)], 99, rng) == pytest.approx((0.0, 1.0)), "ties count as being as large"


def test_logistic_regression_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(10)
    rows = rng.standard_normal((120, 6))
    labels = (rows[:, :2] + rng.logistic(size=(120, 2)) + 0.5 > 0).astype(float)
    for penalty in (0.5, 6.0):
        weights, intercepts = fit_logistic(rows, labels, penalty)
        for k in range(2):
            theirs = LogisticRegression(C=1 / penalty, tol=1e-8).fit(rows, labels[:, k])
            np.testing.assert_allclose(weights[:, k], theirs.coef_[0], atol=2e-3)
            assert intercepts[k] == pytest.approx(theirs.intercept_[0], abs=2e-3)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_two_sample_accuracy_agrees_with_scikit_learn_on_the_same_folds(shift: float) -> None:
    rng = np.random.default_rng(11)
    x, y = rng.standard_normal((50, 8)) + shift, rng.standard_normal((50, 8)) * np.arange(1, 9)
    accuracy, _ = classifier_two_sample_test(x, y, np.random.default_rng(3), num_permutations=1)
    again = np.random.default_rng(3)
    folds = np.concatenate([distances._folds(np.zeros(50, int), again) for _ in range(2)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / 8))
    theirs = cross_val_score(model, np.concatenate([x, y]), np.repeat([1, 0], 50), cv=PredefinedSplit(folds)).mean()
    assert accuracy == pytest.approx(theirs, abs=0.0101), "one row of the hundred may lie on the boundary"


@pytest.mark.parametrize("num_classes", [1, 4])
def test_two_sample_classifier_has_its_nominal_level(num_classes: int) -> None:
    """A binomial test does not: the folds share training rows, so the accuracy varies more than it assumes."""
    rng = np.random.default_rng(12)
    groups = np.arange(40) % num_classes
    draw = lambda: rng.standard_normal((40, 8)) + 4 * groups[:, None]  # noqa: E731
    results = np.array([classifier_two_sample_test(draw(), draw(), rng, groups, num_permutations=39) for _ in range(400)])
    accuracy, p_values = results.T
    assert binom.ppf(0.001, 400, 0.05) <= np.sum(p_values <= 0.05) <= most_by_chance(400)
    assert np.mean(p_values) > 0.5125 - 4 * np.sqrt(1 / 12 / 400), "uniform on 1/40 ... 1, or above where accuracies tie"
    assert abs(accuracy.mean() - 0.5) < 4 * accuracy.std() / np.sqrt(400)
    assert accuracy.var() > (1 + 3 * np.sqrt(2 / 400)) * 0.25 / 80, "wider than the binomial distribution of 80 rows"


def test_labels_are_permuted_within_cells() -> None:
    rng = np.random.default_rng(16)
    cells = np.array([0, 3, 0, 3, 7, 7, 0, 0, 3])
    labels = np.array([1.0, 1, 0, 0, 0, 1, 1, 0, 0])
    permuted = distances._permuted_labels(labels, cells, 2000, rng)
    np.testing.assert_array_equal(permuted[:, 0], labels)
    for cell in (0, 3, 7):
        within = cells == cell
        np.testing.assert_array_equal(permuted[within].sum(0), labels[within].sum())
        share = labels[within].mean()
        np.testing.assert_allclose(permuted[within].mean(1), share, atol=4 * np.sqrt(share * (1 - share) / 2000))


def test_two_sample_classifier_learns_nothing_from_the_rows_it_is_tested_on() -> None:
    """With more columns than rows, any labels can be fitted; held-out rows are still classified at random."""
    rng = np.random.default_rng(13)
    draw = lambda: rng.standard_normal((15, 60))  # noqa: E731
    rows, labels = np.concatenate([draw(), draw()]), np.repeat([[1.0], [0.0]], 15, axis=0)
    weights, intercept = fit_logistic(rows, labels, 0.1)
    assert np.all((rows @ weights + intercept > 0) == labels)
    accuracy = [classifier_two_sample_test(draw(), draw(), rng, num_permutations=1, penalty=0.1)[0] for _ in range(60)]
    assert abs(np.mean(accuracy) - 0.5) < 4 * np.std(accuracy) / np.sqrt(60)
    train = np.arange(30) % 5 > 0
    spoilt = np.where(train[:, None], rows, 1e3)
    classes = np.tile([0, 1], 15)
    before, after = (distances._standardized(values, classes, train)[train] for values in (rows, spoilt))
    np.testing.assert_array_equal(before, after)
    for c in range(2):
        np.testing.assert_allclose(before[classes[train] == c].mean(0), 0, atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 3, 5])
def test_folds_hold_each_class_evenly(num_classes: int) -> None:
    classes = np.arange(22) % num_classes
    folds = distances._folds(classes, np.random.default_rng(0))
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    for c in range(num_classes):
        assert np.ptp(np.bincount(folds[classes == c], minlength=5)) <= 1
    assert not np.array_equal(folds, distances._folds(classes, np.random.default_rng(1)))


def test_differences_between_classes_drown_nothing() -> None:
    rng = np.random.default_rng(14)
    groups = np.repeat(np.arange(10), 16)
    places = 30 * rng.standard_normal((10, 6))[groups]
    x, y = rng.standard_normal((160, 6)) + places + 0.7, rng.standard_normal((160, 6)) + places
    with_classes, p_value = classifier_two_sample_test(x, y, rng, groups)
    without, _ = classifier_two_sample_test(x, y, rng)
    # The best linear classifier of unit normals s apart is right with probability Phi(s / 2), here s = 0.7 sqrt(6).
    assert with_classes == pytest.approx(0.804, abs=4 * np.sqrt(0.8 * 0.2 / 320))
    assert p_value == 1 / 200
    assert without < with_classes - 0.15
    renamed = np.array(list("abcdefghij"))[groups]
    again = classifier_two_sample_test(x, y, np.random.default_rng(0), renamed)
    assert again == classifier_two_sample_test(x, y, np.random.default_rng(0), groups), "only which rows share a class counts"


def test_four_rows_will_do_and_fewer_are_refused() -> None:
    rng = np.random.default_rng(15)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    assert 0 < mmd_test([(x, y)], 9, rng)[1] <= 1
    accuracy, p_value = classifier_two_sample_test(x, y, rng, num_permutations=9)
    assert 0 <= accuracy <= 1
    assert 0 < p_value <= 1
    constant = np.concatenate([x, np.ones((4, 1))], 1)
    assert classifier_two_sample_test(constant, constant, rng, num_permutations=9)[1] > 0.1, "a constant column says nothing"
    same = np.ones((4, 2))
    assert classifier_two_sample_test(same, same, rng, num_permutations=9) == (0.5, 1.0), "ties count"
    bad = np.where(np.eye(4, 3) > 0, np.nan, x)
    for wrong, measure in [
        ("at least 4 rows", lambda: mmd(x[:3], y, 1.0)),
        ("at least 4 rows", lambda: mmd_test([(x, y), (x, y[:3])], 9, rng)),
        ("finite", lambda: mmd_test([(x, bad)], 9, rng)),
        ("at least 4 rows", lambda: classifier_two_sample_test(x[:3], y[:3], rng)),
        ("as many rows", lambda: classifier_two_sample_test(np.repeat(x, 2, axis=0), y, rng)),
        ("at least 4 times", lambda: classifier_two_sample_test(x, y, rng, np.array([0, 0, 1, 1]))),
        ("a class for each", lambda: classifier_two_sample_test(x, y, rng, np.zeros(8))),
        ("as many columns", lambda: kid(x, y[:, :2])),
        ("above 0", lambda: mmd(x, y, 0.0)),
        ("0 groups", lambda: mmd_test([], 9, rng)),
        ("0 permutations", lambda: mmd_test([(x, y)], 0, rng)),
        (r"1\.\.3", lambda: density_and_coverage(x, y)),
    ]:
        with pytest.raises(ValueError, match=f"^.*expected.*{wrong}.*$"):
            measure()
