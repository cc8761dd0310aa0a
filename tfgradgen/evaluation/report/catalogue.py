"""The measures of a comparison: what each says, and which way is better."""

from typing import NamedTuple


class Value(NamedTuple):
    """A figure and its standard error over chains, None where there is none."""

    value: float
    error: float | None


class Measure(NamedTuple):
    """head: of a column. better: 'up' or 'down', '' where neither is. about: one line with the unit and the range."""

    head: str
    better: str
    about: str


MEASURES = {
    "log_natural": Measure("log p(natural)", "up", "the discriminator's mean log-probability that a picture is natural, nats"),
    "judge_accuracy": Measure("judge names it", "up", "share of the pictures that the judge gives the wanted class, 0 to 1"),
    "judge_log_prob": Measure("judge's log p", "up", "the judge's mean log-probability of the wanted class, nats"),
    "kid": Measure(
        "KID", "down", "kernel distance to held-out photographs of the same classes, judge's features, 0 for equal laws"
    ),
    "fid": Measure("FID", "down", "Frechet distance to the same, all classes pooled; biased upwards by few pictures"),
    "density": Measure("density", "up", "pictures per neighbourhood of a photograph, about 1 for equal laws"),
    "coverage": Measure("coverage", "up", "share of the photographs' neighbourhoods with a picture in them, 0 to 1"),
    "vendi": Measure("Vendi score", "up", "effective number of different pictures of a class, 1 to the number of chains"),
    "feature_distance": Measure("distance within", "up", "mean distance of two pictures of a class in the judge's features"),
    "ms_ssim": Measure("MS-SSIM", "down", "mean structural similarity of two pictures of a class, 1 for the same picture"),
    "repeats": Measure("repeats", "down", "share of the pictures that are nearly another picture of their class, 0 to 1"),
    "mmd": Measure(
        "MMD", "down", "squared kernel distance to exact draws of the same class, judge's features, 0 for equal laws"
    ),
    "mmd_p": Measure("p of MMD", "", "permutation p-value of the MMD: small where the law is not the posterior's"),
    "c2st": Measure(
        "C2ST", "down", "held-out accuracy of a linear classifier that tells pictures from exact draws, 0.5 for equal laws"
    ),
    "c2st_p": Measure("p of C2ST", "", "its permutation p-value"),
    "ess_per_1000": Measure("ESS", "up", "effective draws of 1000 gradients"),
}
