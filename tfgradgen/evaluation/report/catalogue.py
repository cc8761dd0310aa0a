"""The measures of a comparison: their definitions, and which direction is better."""

from typing import NamedTuple


class Value(NamedTuple):
    """A value and its standard error over chains; None if unknown."""

    value: float
    error: float | None


class Measure(NamedTuple):
    """A measure.

    Attributes:
      head: Heading of its column.
      better: 'up' or 'down'; '' if neither is better.
      about: One line with unit and range; {plural} stands for what the medium calls several.
    """

    head: str
    better: str
    about: str


MEASURES = {
    "log_natural": Measure("log p(natural)", "up", "the discriminator's mean log-probability of `natural`, nats"),
    "judge_accuracy": Measure("judge accuracy", "up", "share of {plural} that the judge assigns to the class, 0 to 1"),
    "judge_log_prob": Measure("judge log p", "up", "the judge's mean log-probability of the class, nats"),
    "kid": Measure(
        "KID",
        "down",
        "kernel distance to held-out photographs of the same classes, in the judge's features, 0 for equal distributions",
    ),
    "fid": Measure("FID", "down", "Frechet distance to these photographs, all classes pooled; biased upwards for few images"),
    "density": Measure("density", "up", "images per neighbourhood of a photograph, about 1 for equal distributions"),
    "coverage": Measure("coverage", "up", "share of the photographs' neighbourhoods that contain an image, 0 to 1"),
    "vendi": Measure("Vendi score", "up", "effective number of different {plural} of a class, 1 to the number of chains"),
    "feature_distance": Measure("mean distance", "up", "mean distance between two {plural} of a class in the judge's features"),
    "ms_ssim": Measure("MS-SSIM", "down", "mean structural similarity of two {plural} of a class, 1 for identical ones"),
    "log_spectral_distance": Measure(
        "LSD", "up", "log-spectral distance: mean root mean square difference of the mel spectra of two sounds of a class, dB"
    ),
    "repeats": Measure("repeats", "down", "share of images that nearly equal another image of their class, 0 to 1"),
    "mmd": Measure(
        "MMD",
        "down",
        "squared kernel distance to exact draws of the same class, in the judge's features, 0 for equal distributions",
    ),
    "mmd_p": Measure("p (MMD)", "", "permutation p-value of the MMD; small if the distribution is not the posterior"),
    "c2st": Measure(
        "C2ST",
        "down",
        "held-out accuracy of a linear classifier of {plural} against exact draws, 0.5 for equal distributions",
    ),
    "c2st_p": Measure("p (C2ST)", "", "permutation p-value of the C2ST"),
    "ess_per_1000": Measure("ESS", "up", "effective sample size (ESS) per 1000 gradients"),
}
OF_PHOTOGRAPHS = ("kid", "fid", "density", "coverage", "repeats")  # measures that need photographs
