"""The measures of one row of a comparison: images of each class, compared with photographs and with exact draws."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tfgradgen.evaluation.distances import (
    classifier_two_sample_test,
    density_and_coverage,
    fid,
    kid,
    median_distance,
    mmd,
    mmd_test,
)
from tfgradgen.evaluation.diversity import mean_distance, mean_similarity, repeat_rate, vendi_score
from tfgradgen.evaluation.efficiency import jackknife_all
from tfgradgen.evaluation.report.catalogue import Value
from tfgradgen.evaluation.scored_images import ScoredImages

NUM_PERMUTATIONS = 1000
TEST_SEED = 0
# Factor on the binomial standard error. Folds share training rows, so their errors are correlated; for equal distributions the
# factor is 1.14 to 1.28.
FOLD_INFLATION = 1.25
REPEAT = 0.25  # in units of the mean distance of two photographs of a class; images closer than this look the same

ByClass = Mapping[str, ScoredImages]


class References(NamedTuple):
    """References of a comparison, by class: held-out photographs, and exact draws of the posterior. Either may be empty.

    Attributes:
      photographs: Held-out photographs.
      truth: Exact draws.
      distance_name: What the `similarity` of scored images is (`Medium.distance_name`).
    """

    photographs: ByClass
    truth: ByClass
    distance_name: str = "ms_ssim"

    @property
    def scale(self) -> float:
        """The factor that gives the features of the photographs unit mean square, as the kernel of KID has a fixed offset."""
        features = _pooled(self.photographs or self.truth)
        return float(1 / np.sqrt(np.mean(features**2)))


def measure(row: ByClass, references: References) -> dict[str, Value]:
    """Return all measures of images, except for the tests, with their standard errors over chains.

    Args:
      row: The same number of images for each class, one per chain. The jackknife leaves out one chain of all classes at a time.
      references: Photographs and exact draws.
    """
    num_chains = min(len(scored.features) for scored in row.values())
    statistics_fn = _statistics_fn(row, references)
    return jackknife_all(lambda chains: statistics_fn({k: p.part(chains) for k, p in row.items()}), num_chains)


def _statistics_fn(row: ByClass, references: References) -> Callable[[ByClass], dict[str, float]]:
    """Return a function for all statistics of a part of `row`; references and scales are those of the whole row."""
    photographs, truth = references.photographs, references.truth
    if photographs:
        scale, pooled = references.scale, _pooled({k: photographs[k] for k in row})
        near = {k: REPEAT * mean_distance(photographs[k].features) for k in row}
    if truth:
        width = {k: median_distance(np.concatenate([p.features, truth[k].features])) for k, p in row.items()}

    def statistics(part: ByClass) -> dict[str, float]:
        def mean(fn: Callable[[str, ScoredImages], float]) -> float:
            return float(np.mean([fn(k, scored) for k, scored in part.items()]))

        found = {
            "log_natural": mean(lambda _, p: p.log_natural.mean()),
            "judge_accuracy": mean(lambda _, p: p.judge_is_right.mean()),
            "judge_log_prob": mean(lambda _, p: p.judge_log_prob.mean()),
            "vendi": mean(lambda _, p: vendi_score(p.features)),
            "feature_distance": mean(lambda _, p: mean_distance(p.features)),
            references.distance_name: mean(lambda _, p: mean_similarity(p.similarity)),
        }
        if photographs:
            ours, theirs = scale * _pooled(part), scale * pooled
            density, coverage = density_and_coverage(ours, theirs)
            found |= {
                "kid": mean(lambda k, p: kid(scale * p.features, scale * photographs[k].features)),
                "fid": fid(ours, theirs),
                "density": density,
                "coverage": coverage,
                "repeats": mean(lambda k, p: repeat_rate(p.features, near[k])),
            }
        if truth:
            found["mmd"] = mean(lambda k, p: mmd(p.features, truth[k].features, width[k]))
        return found

    return statistics


def two_sample_tests(row: ByClass, references: References) -> dict[str, Value]:
    """Test whether `row` and exact draws have the same distribution: MMD, and the classifier two-sample test (C2ST)."""
    if not references.truth:
        return {}
    rng = np.random.default_rng(TEST_SEED)
    pairs = [(p.features, references.truth[k].features) for k, p in row.items()]
    found = {"mmd_p": Value(mmd_test(pairs, NUM_PERMUTATIONS, rng)[1], None)}
    # The classifier needs as many rows from both sets.
    size = min(len(rows) for pair in pairs for rows in pair)
    ours, theirs = (np.concatenate([pair[k][:size] for pair in pairs]) for k in (0, 1))
    classes = np.repeat(np.arange(len(pairs)), size)
    accuracy, c2st_p = classifier_two_sample_test(ours, theirs, rng, groups=classes)
    error = FOLD_INFLATION * float(np.sqrt(accuracy * (1 - accuracy) / (2 * len(ours))))
    return found | {"c2st": Value(accuracy, error), "c2st_p": Value(c2st_p, None)}


def halves(photographs: ByClass) -> tuple[ByClass, ByClass]:
    """Split photographs into two halves, to compare photographs with photographs."""
    return tuple({k: p.part(np.arange(first, len(p.features), 2)) for k, p in photographs.items()} for first in (0, 1))  # type: ignore[return-value]


def _pooled(row: ByClass) -> np.ndarray:
    return np.concatenate([scored.features for scored in row.values()])
