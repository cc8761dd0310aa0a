"""The measures of one row of a comparison: pictures of each class against photographs and against exact draws."""

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
from tfgradgen.evaluation.pictures import Pictures
from tfgradgen.evaluation.report.catalogue import Value

NUM_PERMUTATIONS = 1000
TEST_SEED = 0
# Of the binomial error: the answers of folds that share training rows hang together, on equal laws by 1.14 to 1.28.
FOLD_INFLATION = 1.25
REPEAT = 0.25  # of the mean distance of two photographs of a class: nearer pictures are the same one, by eye

ByClass = Mapping[str, Pictures]


class Standards(NamedTuple):
    """What rows are held against, by class: held-out photographs, and exact draws of the posterior; either may be empty."""

    photographs: ByClass
    truth: ByClass

    @property
    def scale(self) -> float:
        """The factor that gives the features of the photographs unit mean square: KID's kernel has a fixed offset."""
        features = _pooled(self.photographs or self.truth)
        return float(1 / np.sqrt(np.mean(features**2)))


def measure(row: ByClass, standards: Standards) -> dict[str, Value]:
    """Each measure of the catalogue that pictures alone can tell, but for the tests, with its standard error over chains.

    row: of each class the same number of pictures, one a chain. The error is that of leaving out the chains of one index,
    in all classes at once.
    """
    num_chains = min(len(pictures.features) for pictures in row.values())
    statistics_fn = _statistics_fn(row, standards)
    return jackknife_all(lambda chains: statistics_fn({k: p.part(chains) for k, p in row.items()}), num_chains)


def _statistics_fn(row: ByClass, standards: Standards) -> Callable[[ByClass], dict[str, float]]:
    """All statistics of a part of `row`; what they are held against, and every scale, is that of the whole row."""
    photographs, truth = standards.photographs, standards.truth
    if photographs:
        scale, pooled = standards.scale, _pooled({k: photographs[k] for k in row})
        near = {k: REPEAT * mean_distance(photographs[k].features) for k in row}
    if truth:
        width = {k: median_distance(np.concatenate([p.features, truth[k].features])) for k, p in row.items()}

    def statistics(part: ByClass) -> dict[str, float]:
        def mean(fn: Callable[[str, Pictures], float]) -> float:
            return float(np.mean([fn(k, pictures) for k, pictures in part.items()]))

        found = {
            "log_natural": mean(lambda _, p: p.log_natural.mean()),
            "judge_accuracy": mean(lambda _, p: p.judge_is_right.mean()),
            "judge_log_prob": mean(lambda _, p: p.judge_log_prob.mean()),
            "vendi": mean(lambda _, p: vendi_score(p.features)),
            "feature_distance": mean(lambda _, p: mean_distance(p.features)),
            "ms_ssim": mean(lambda _, p: mean_similarity(p.similarity)),
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


def told_apart(row: ByClass, standards: Standards) -> dict[str, Value]:
    """Whether the law of `row` can be told from that of exact draws: p-value of the MMD, and the classifier two-sample test."""
    if not standards.truth:
        return {}
    rng = np.random.default_rng(TEST_SEED)
    pairs = [(p.features, standards.truth[k].features) for k, p in row.items()]
    found = {"mmd_p": Value(mmd_test(pairs, NUM_PERMUTATIONS, rng)[1], None)}
    # The classifier wants as many of either.
    size = min(len(rows) for pair in pairs for rows in pair)
    ours, theirs = (np.concatenate([pair[k][:size] for pair in pairs]) for k in (0, 1))
    classes = np.repeat(np.arange(len(pairs)), size)
    accuracy, c2st_p = classifier_two_sample_test(ours, theirs, rng, groups=classes)
    error = FOLD_INFLATION * float(np.sqrt(accuracy * (1 - accuracy) / (2 * len(ours))))
    return found | {"c2st": Value(accuracy, error), "c2st_p": Value(c2st_p, None)}


def halves(photographs: ByClass) -> tuple[ByClass, ByClass]:
    """Every other photograph, and the others: what photographs measure against photographs."""
    return tuple({k: p.part(np.arange(first, len(p.features), 2)) for k, p in photographs.items()} for first in (0, 1))  # type: ignore[return-value]


def _pooled(row: ByClass) -> np.ndarray:
    return np.concatenate([pictures.features for pictures in row.values()])
