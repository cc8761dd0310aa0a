"""The measures of a row: their values for known distributions, and their errors over chains."""

import numpy as np
import pytest

from tfgradgen.evaluation.efficiency import jackknife
from tfgradgen.evaluation.measures import References, halves, measure, two_sample_tests
from tfgradgen.evaluation.scored_images import ScoredImages

CLASSES = {"a": 0.0, "b": 20.0}
NUM, DIM = 16, 6


def drawn(rng: np.random.Generator, num: int, shift: float = 0.0, scale: float = 1.0) -> dict[str, ScoredImages]:
    """Return `num` images of each class, whose features are normal around its centre plus `shift`."""
    row = {}
    for name, place in CLASSES.items():
        features = place + shift + scale * rng.standard_normal((num, DIM))
        log_natural = rng.standard_normal(num) - 5
        row[name] = ScoredImages(
            features, log_natural, log_natural, log_natural > -5, np.eye(num), np.zeros((0, 2, 2, 3), np.uint8)
        )
    return row


@pytest.fixture(scope="module")
def references() -> References:
    rng = np.random.default_rng(0)
    return References(drawn(rng, 200), drawn(rng, 64))


def test_the_same_distribution_is_indistinguishable_from_photographs_and_exact_draws(references: References) -> None:
    row = drawn(np.random.default_rng(1), NUM)
    found = measure(row, references) | two_sample_tests(row, references)
    for name in ("kid", "mmd"):
        assert found[name].error is not None
        assert abs(found[name].value) < 4 * found[name].error, name
    assert abs(found["density"].value - 1) < 0.3
    assert found["mmd_p"].value > 0.01
    assert found["c2st_p"].value > 0.01
    assert found["repeats"].value == 0
    assert found["log_natural"].value == pytest.approx(np.mean([p.log_natural.mean() for p in row.values()]))


def test_another_distribution_is_distinguished(references: References) -> None:
    same, row = (drawn(np.random.default_rng(2), NUM, shift) for shift in (0.0, 1.5))
    found, plain = measure(row, references) | two_sample_tests(row, references), measure(same, references)
    for name in ("kid", "fid", "mmd"):
        assert found[name].value > plain[name].value + 4 * (found[name].error or 0), name
    assert found["density"].value < 0.7 * plain["density"].value
    assert found["coverage"].value < plain["coverage"].value
    assert found["mmd_p"].value < 0.01
    assert found["c2st_p"].value < 0.01
    assert found["c2st"].value > 0.6


def test_a_collapsed_row_is_natural_and_not_diverse(references: References) -> None:
    row = {k: p._replace(features=np.repeat(p.features[:1], NUM, 0)) for k, p in drawn(np.random.default_rng(3), NUM).items()}
    found = measure(row, references)
    assert found["repeats"].value == 1
    assert found["vendi"].value == pytest.approx(1)
    assert found["feature_distance"].value == pytest.approx(0, abs=1e-6)
    assert found["coverage"].value < 0.2
    spread = measure(drawn(np.random.default_rng(3), NUM), references)
    assert spread["feature_distance"].value > 1


def test_without_standards_the_rest_is_measured() -> None:
    row = drawn(np.random.default_rng(4), NUM)
    found = measure(row, References({}, {}))
    assert {"log_natural", "vendi"} <= set(found)
    assert not {"kid", "fid", "density", "mmd"} & set(found)
    assert two_sample_tests(row, References({}, {})) == {}


def test_the_error_of_a_mean_is_its_standard_error_over_chains() -> None:
    """Chains of different classes with the same index count as one chain, because they share their seeds."""
    rng = np.random.default_rng(5)
    row = drawn(rng, NUM)
    by_chain = np.mean([p.log_natural for p in row.values()], axis=0)
    found = measure(row, References({}, {}))["log_natural"]
    assert found.error == pytest.approx(by_chain.std(ddof=1) / np.sqrt(NUM))


def test_the_jackknife_of_a_smooth_statistic_has_its_spread() -> None:
    """The square of a mean of n normals around 3 has error 6 / sqrt(n); the jackknife estimates it to about 1 / sqrt(2 n)."""
    rng = np.random.default_rng(6)
    errors = []
    for _ in range(50):
        x = 3 + rng.standard_normal(40)
        errors.append(jackknife(lambda rows, x=x: float(x[rows].mean() ** 2), 40).error)
    expected = 6 / np.sqrt(40)
    assert np.mean(errors) == pytest.approx(expected, abs=4 * expected / np.sqrt(2 * 40 * 50) + 0.02 * expected)
    assert jackknife(lambda rows: 1.0, 1).error is None


def test_halves_share_nothing_and_lose_nothing() -> None:
    row = drawn(np.random.default_rng(7), 9)
    some, others = halves(row)
    assert (len(some["a"].features), len(others["a"].features)) == (5, 4)
    assert some["a"].similarity.shape == (5, 5)
    joined = np.concatenate([some["a"].log_natural, others["a"].log_natural])
    assert sorted(joined) == sorted(row["a"].log_natural)
